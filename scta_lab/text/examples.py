"""What a model is trained and judged on: a corpus at one V, cut into examples of exactly T ids.

The ids stay on disk. Only the examples of the next steps are read, so that a million take no more memory than a few.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scta_lab.base.files import becoming, seal
from scta_lite import checks

BLOCK = 1 << 20  # ids that are read or made at a time
SEEN = 0.02  # of held-out words that training may have in runs, before it is said


def examples(ids: np.ndarray, seq_len: int) -> np.ndarray:
    """Examples (n, T) of exactly T = `seq_len` consecutive ids; what is left at the end is dropped."""
    checks.integer("seq_len", seq_len, 1)
    return ids[: len(ids) // seq_len * seq_len].reshape(-1, seq_len)


class Stored:
    """Ids (n,) in a .npy file, from `start` to `stop`, which `rows` and `blocks` read without keeping them.

    A mapped array would do, but the pages that it has touched count as the process's memory. ValueError for a file that
    is no such array.
    """

    def __init__(self, path: Path, start: int = 0, stop: int | None = None):
        mapped = np.load(path, mmap_mode="r")
        if not mapped.flags.c_contiguous:
            raise ValueError("an array in Fortran's order")
        self.path, self.dtype, self.start = path, mapped.dtype, start
        self.size = len(range(*slice(start, stop).indices(mapped.size)))
        self._offset = mapped.offset + start * mapped.itemsize

    def __len__(self) -> int:
        return self.size

    def array(self) -> np.ndarray:
        """All of them, mapped."""
        return np.load(self.path, mmap_mode="r").reshape(-1)[self.start : self.start + self.size]

    def blocks(self, stop: int | None = None) -> Iterator[np.ndarray]:
        """The ids up to `stop`, some at a time, (≤ BLOCK,)."""
        stop = min(self.size, self.size if stop is None else stop)
        for start in range(0, stop, BLOCK):
            count = min(BLOCK, stop - start)
            yield np.fromfile(self.path, self.dtype, count, offset=self._offset + start * self.dtype.itemsize)

    def rows(self, rows: np.ndarray, seq_len: int) -> np.ndarray:
        """Of the ids cut into examples of T = `seq_len`, those of the numbers `rows` (R,): (R, T)."""
        found = np.empty((len(rows), seq_len), dtype=self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for row, into in zip(rows.tolist(), found, strict=True):
                file.seek(self._offset + row * into.nbytes)
                if file.readinto(into) != into.nbytes:
                    raise ValueError(f"{self.path.name}: ends before example {row}; remove it, and it is made again")
        return found


def save(path: Path, ids: np.ndarray) -> None:
    """Writes an array as a .npy file, whole or not at all, and seals it."""
    with becoming(path) as part:
        np.save(part, ids)
    seal(path)


@dataclass(frozen=True)
class Examples:
    """Training examples of T ids each, and what goes with them. `len` counts those that the text has."""

    corpus: str  # its name
    ids: Stored
    seq_len: int
    counts: Tensor  # (V,), how often each token comes in the examples used
    heldout: np.ndarray  # (n, T)
    lengths: Tensor | None  # (2, V), characters and bytes of each token; None where there is no text
    documents: np.ndarray  # (n, T), of each held-out id the number of its document; without text, of its example
    seen: float = 0.0  # the share of held-out words in runs of 13 that training has

    def __len__(self) -> int:
        return len(self.ids) // self.seq_len

    def rows(self, rows: Tensor, device: torch.device) -> Tensor:
        """The examples of these numbers (R,), (R, T) int64 on the device."""
        found = torch.from_numpy(self.ids.rows(rows.numpy(), self.seq_len).astype(np.int64))
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)

    def caveats(self, wanted: int, evaluate: bool) -> list[str]:
        """What to know, in words, of a training with epochs of so many examples, and of its quality if measured."""
        there, heldout, found = f"{len(self):,} examples of {self.seq_len} tokens", len(self.heldout), []
        if wanted > len(self):
            times = f"an epoch of {wanted:,} goes through them {wanted / len(self):.1f} times"
            found.append(f"it has {there} at V = {len(self.counts):,}; {times}")
        if evaluate and heldout < 2:
            found.append(f"its held-out text has {heldout} examples; to measure quality 2 are needed")
        elif evaluate and self.seen > SEEN:
            share = f"{self.seen:.0%} of its held-out words lie in runs of 13 that training has too"
            found.append(f"{share}: what is measured is partly memory")
        return [f"corpus={self.corpus!r}: {words}" for words in found]
