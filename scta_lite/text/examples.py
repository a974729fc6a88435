"""What a model is trained and judged on: a corpus at one V, cut into examples of exactly T ids.

The ids stay on disk. Only the examples of the next steps are read, so that a million take no more memory than a few.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scta_lite import checks

_BLOCK = 1 << 22  # ids that are read at a time


def examples(ids: np.ndarray, seq_len: int) -> np.ndarray:
    """Examples (n, T) of exactly T = `seq_len` consecutive ids; what is left at the end is dropped."""
    checks.integer("seq_len", seq_len, 1)
    return ids[: len(ids) // seq_len * seq_len].reshape(-1, seq_len)


class Stored:
    """Ids (n,) in a .npy file, from `start` to `stop`, of which nothing stays in memory.

    A mapped array would do, but the pages that it has touched count as the process's memory.
    """

    def __init__(self, path: Path, start: int = 0, stop: int | None = None):
        mapped = np.load(path, mmap_mode="r").reshape(-1)
        self.path, self.dtype, self.start = path, mapped.dtype, start
        self.size = len(range(*slice(start, stop).indices(len(mapped))))
        self._offset = (mapped.offset or 0) + start * mapped.itemsize  # of a file without ids there is none

    def __len__(self) -> int:
        return self.size

    def array(self) -> np.ndarray:
        """All of them, mapped."""
        return np.load(self.path, mmap_mode="r").reshape(-1)[self.start : self.start + self.size]

    def blocks(self, stop: int | None = None):
        """The ids up to `stop`, some at a time, (≤ 4M,)."""
        stop = min(self.size, self.size if stop is None else stop)
        for start in range(0, stop, _BLOCK):
            count = min(_BLOCK, stop - start)
            yield np.fromfile(self.path, self.dtype, count, offset=self._offset + start * self.dtype.itemsize)

    def rows(self, rows: np.ndarray, seq_len: int) -> np.ndarray:
        """Of the ids cut into examples of T = `seq_len`, those of the numbers `rows` (R,): (R, T)."""
        found = np.empty((len(rows), seq_len), dtype=self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for row, into in zip(rows.tolist(), found, strict=True):
                file.seek(self._offset + row * into.nbytes)
                file.readinto(into)
        return found


@dataclass(frozen=True)
class Examples:
    """Training examples of T ids each, and what goes with them. `len` counts those that the text has."""

    corpus: str  # its name
    fingerprint: str
    ids: Stored
    seq_len: int
    counts: Tensor  # (V,), how often each token comes in the examples used
    heldout: np.ndarray  # (n, T)
    lengths: Tensor | None  # (2, V), characters and bytes of each token; None where there is no text

    def __len__(self) -> int:
        return len(self.ids) // self.seq_len

    def rows(self, rows: Tensor, device: torch.device) -> Tensor:
        """The examples of these numbers (R,), (R, T) int64 on the device."""
        found = torch.from_numpy(self.ids.rows(rows.numpy(), self.seq_len).astype(np.int64))
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)

    def too_few(self, wanted: int) -> str | None:
        """In words, that an epoch of so many examples goes through the text more than once; None if it does not."""
        if wanted <= len(self):
            return None
        times = f"goes through them {wanted / len(self):.1f} times"
        there = f"it has {len(self):,} examples of {self.seq_len} tokens at V = {len(self.counts):,}"
        return f"corpus={self.corpus!r}: {there}; an epoch of {wanted:,} {times}"
