"""Tensors in a safetensors file: written whole or not at all, and read only if as written.

safetensors is imported where it is needed: a sweep's parent, and reading runs, do without it.
"""

import zlib
from pathlib import Path

import torch
from torch import Tensor

from scta_lab.base.files import becoming


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Writes the tensors, with a header of text; OSError, which names the file, if that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
    try:
        header = {**(header or {}), "crc32": _checksum(tensors)}
        with becoming(path) as part:
            save_file(tensors, part, header)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path.name}: cannot be written ({error})") from None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the header; ValueError names a file that is not as written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name}: no file of tensors ({error})") from None
    written = header.pop("crc32", None)  # earlier versions wrote none
    if written not in (None, _checksum(tensors)):
        raise ValueError(f"{path.name}: damaged, its tensors are not those that were written")
    return tensors, header


def _checksum(tensors: dict[str, Tensor]) -> str:
    """The CRC-32 of all names and bytes, in the order of the names."""
    crc = 0
    for name, x in sorted(tensors.items()):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(x.cpu().contiguous().flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
