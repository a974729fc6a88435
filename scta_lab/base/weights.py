"""Tensors in a safetensors file: written whole or not at all, and read only if as written.

A file `<run id>.….safetensors` says in its header which run it is of, and is read under no other
name: an id counts the settings and the text. Earlier versions wrote no run: theirs are taken to be
of the run that they are named after.

safetensors is imported where it is needed: a sweep's parent, and reading runs, do without it.
"""

import json
import zlib
from pathlib import Path

import torch
from torch import Tensor

from scta_lab.base.files import becoming

HEADER = "scta_lite"  # the one entry: of several safetensors keeps no order, nor a file its bytes


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Writes the tensors, with a header of text; OSError, which names the file, if that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
    header = {**(header or {}), "run": _run_id(path)}
    try:
        header["crc32"] = _checksum(tensors, header)
        with becoming(path) as part:
            save_file(tensors, part, {HEADER: json.dumps(header, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path.name}: cannot be written ({error})") from None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the header.

    ValueError names a file that is not as it was written, or that is another run's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if HEADER in header:  # earlier versions had an entry for each
                header = dict(json.loads(header[HEADER]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: no file of tensors ({error})") from None
    written, run_id = header.pop("crc32", None), header.get("run")
    has_none = not header and written is None  # as the first versions wrote it
    if not has_none and written != _checksum(tensors, header):
        raise ValueError(f"{path.name}: damaged, it is not as it was written")
    if run_id not in (None, _run_id(path)):
        raise ValueError(f"{path.name}: of the run {run_id}; expected {_run_id(path)}")
    return tensors, header


def _run_id(path: Path) -> str:
    return path.name.partition(".")[0]


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """The CRC-32 of the header and the shapes, then of all names and bytes, in the names' order."""
    crc = 0
    if "run" in header:  # earlier versions did without
        shapes = {name: [str(x.dtype), *x.shape] for name, x in tensors.items()}
        crc = zlib.crc32(json.dumps([header, shapes], sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(x.cpu().contiguous().flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
