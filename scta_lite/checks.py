"""What public functions ask of their arguments, in one voice: the name, the value, and what would be right.

Shapes, dtypes and plain numbers only: nothing here waits for a device.
"""

import math
import re
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64,)


def shape(name: str, value: Any, letters: str, dtypes: tuple[torch.dtype, ...] = FLOATS, **sizes: int) -> None:
    """Raises ValueError unless `value` is a tensor with one dimension a letter, none of them empty, those named in
    `sizes` as large as it says, and of one of the dtypes.

    >>> shape("positive", torch.zeros(5, 1), "N D", N=5, D=64)
    Traceback (most recent call last):
        ...
    ValueError: positive of shape (5, 1): expected (N, D) = (5, 64)
    """
    names = letters.split()
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}={value!r}: expected a tensor of shape {_tuple(names)}")
    found = tuple(value.shape)
    wanted = [sizes.get(letter, letter) for letter in names]
    different = [size for size, known in zip(found, wanted, strict=False) if known not in names and size != known]
    if len(found) != len(wanted) or different:
        numbers = f" = {_tuple(wanted)}" if sizes else ""
        raise ValueError(f"{name} of shape {found}: expected {_tuple(names)}{numbers}")
    if 0 in found:
        raise ValueError(f"{name} of shape {found}: expected {_tuple(names)} with each from 1 up")
    dtype(name, value, dtypes)


def dtype(name: str, value: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raises ValueError unless the value is a tensor of one of the dtypes."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}={value!r}: expected a tensor of any shape")
    if value.dtype not in dtypes:
        raise ValueError(f"{name} of {value.dtype}: expected one of {', '.join(map(str, dtypes))}")


def _tuple(parts: list) -> str:
    return f"({', '.join(map(str, parts))}{',' * (len(parts) == 1)})"


def is_number(value: Any) -> bool:
    """Whether the value is a finite real number; a bool is none, an array neither."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(value)
    except (ArithmeticError, TypeError, ValueError):  # larger than any float; an array
        return False


def integer(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless the value is an integer from `least` up."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:  # numpy's are integers too
        raise ValueError(f"{name}={value!r}: expected an integer from {least} up")


def positive(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a finite number above 0, or a tensor of one number, which is not read."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a finite number above 0")


def device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one. ValueError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device(name)
    match = re.fullmatch(r"cuda(:(0|[1-9]\d*))?", name, re.A)
    if match is None:
        raise ValueError(f'device={name!r}: expected "auto", "cpu", "cuda" or "cuda:1", …')
    if int(match[2] or 0) >= torch.cuda.device_count():
        here = f"{torch.cuda.device_count()} GPUs are here"
        raise ValueError(f'device={name!r}: {here}; expected "auto" or "cpu"')
    return torch.device(name)


def printable(text: str) -> str:
    r"""The text as a terminal may have it: what it would obey, such as an escape sequence, is written out.

    >>> print(printable("a token \x1b[31m, a line\nand another"))
    a token \x1b[31m, a line
    and another
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
