"""What public functions ask of their arguments: the name, the value, and what would be right.

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
CLOSEST = 0.9997  # of RowAdamW, β1 to β2 (1 - λ): up to this a sum is final after 140,000 steps


def shape(name: str, value: Any, letters: str, dtypes: tuple = FLOATS, **sizes: int) -> None:
    """Raises ValueError unless `value` is a tensor with one dimension a letter, none of them empty.

    The dimensions named in `sizes` are as large as it says, and the dtype is one of `dtypes`.

    >>> shape("positive", torch.zeros(5, 1), "N D", N=5, D=64)
    Traceback (most recent call last):
        ...
    ValueError: positive of shape (5, 1): expected (N, D) = (5, 64)
    """
    names = letters.split()
    expected = _tuple(names)
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}={value!r}: expected a tensor of shape {expected}")
    actual = tuple(value.shape)
    wanted = [sizes.get(letter, size) for letter, size in zip(names, actual, strict=False)]
    if len(actual) != len(names) or wanted != list(actual):
        if sizes:
            numbers = [sizes.get(letter, letter) for letter in names]
            expected += f" = {_tuple(numbers)}"
        raise ValueError(f"{name} of shape {actual}: expected {expected}")
    if 0 in actual:
        raise ValueError(f"{name} of shape {actual}: expected {expected} with each from 1 up")
    dtype(name, value, dtypes)


def dtype(name: str, value: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raises ValueError unless the value is a tensor of one of the dtypes."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}={value!r}: expected a tensor of any shape")
    if value.dtype not in dtypes:
        raise ValueError(f"{name} of {value.dtype}: expected one of {', '.join(map(str, dtypes))}")


def _tuple(parts: list) -> str:
    """As Python writes a tuple, with names as they are: "(N, 64)", "(N,)"."""
    comma = "," if len(parts) == 1 else ""
    return f"({', '.join(map(str, parts))}{comma})"


def is_number(value: Any) -> bool:
    """Whether the value is a finite real number; a bool is none, an array neither."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(value)
    except (ArithmeticError, TypeError, ValueError):  # it is larger than any float, or an array
        return False


def integer(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless the value is an integer from `least` up."""
    # numpy's integers are Integral too; a bool is, and is none here
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: expected an integer from {least} up")


def positive(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a finite number above 0.

    A tensor of one number is let through, and not read.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: expected a finite number above 0")


def row_betas(betas: tuple, decay: float) -> None:
    """Raises ValueError for betas for which a row's missed steps have no finite sum."""
    most = CLOSEST * betas[-1] * (1 - decay)
    if not (len(betas) == 2 and 0 <= betas[0] < most and betas[1] < 1):
        expected = f"expected 0 ≤ β1 < {CLOSEST} β2 (1 - λ) and β2 < 1"
        raise ValueError(f"betas={betas}: {expected}, with λ = lr · weight_decay = {decay:g}")


def is_out_of_memory(error: Exception) -> bool:
    """True too for the plain RuntimeError of torch on a CPU, and for cuBLAS's and cuDNN's."""
    words = ("not enough memory", "can't allocate memory", "out of memory", "alloc_failed")
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(word in message for word in words)


def device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one.

    ValueError for one that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"cpu|cuda(:(0|[1-9]\d*))?", name, re.A)
    if match is None:
        raise ValueError(f'device={name!r}: expected "auto", "cpu", "cuda" or "cuda:1", …')
    gpus = torch.cuda.device_count()
    if name != "cpu" and int(match[2] or 0) >= gpus:
        raise ValueError(f'device={name!r}: {gpus} GPUs are here; expected "auto" or "cpu"')
    return torch.device(name)
