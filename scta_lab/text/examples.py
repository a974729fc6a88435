"""What a model is trained and judged on: a corpus at one V, cut into examples of exactly T ids.

The ids stay on disk. Only the examples of the next steps are read, so that a million take no more
memory than a few.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scta_lite import checks
from torch import Tensor

from scta_lab.base.files import becoming, seal
from scta_lab.text.vocabulary import BYTES

BLOCK = 1 << 20  # ids that are read or made at a time
SPELLED = 0.2  # of tokens that may be single bytes, before a caveat says so
SEEN = 0.02  # of held-out words that training may have in runs, before a caveat says so


def examples(ids: np.ndarray, seq_len: int) -> np.ndarray:
    """Examples (n, T) of exactly T = `seq_len` consecutive ids; what is left at the end is dropped.

    >>> examples(np.arange(7), 3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    checks.integer("seq_len", seq_len, 1)
    whole = len(ids) // seq_len * seq_len
    return ids[:whole].reshape(-1, seq_len)


class Stored:
    """Ids (n,) in a .npy file, from `start` to `stop`, which are read without being kept.

    A mapped array would do, but the pages that it has touched count as the process's memory.
    ValueError for a file that is no such array.
    """

    def __init__(self, path: Path, start: int = 0, stop: int | None = None):
        mapped = np.load(path, mmap_mode="r")
        if not mapped.flags.c_contiguous:
            raise ValueError("an array in Fortran's order")
        self.path = path
        self.dtype = mapped.dtype
        self.start, self.stop, _ = slice(start, stop).indices(mapped.size)
        self._first_byte = mapped.offset + start * mapped.itemsize

    def __len__(self) -> int:
        return self.stop - self.start

    def array(self) -> np.ndarray:
        """All of them, mapped."""
        return np.load(self.path, mmap_mode="r").reshape(-1)[self.start : self.stop]

    def blocks(self, stop: int | None = None) -> Iterator[np.ndarray]:
        """The ids up to `stop`, some at a time, (≤ BLOCK,)."""
        stop = len(self) if stop is None else min(stop, len(self))
        for start in range(0, stop, BLOCK):
            yield np.array(self.array()[start : min(start + BLOCK, stop)])  # mapped anew each time

    def rows(self, rows: np.ndarray, seq_len: int) -> np.ndarray:
        """The examples of T = `seq_len` ids with the numbers `rows` (R,), as (R, T)."""
        ids = np.empty((len(rows), seq_len), dtype=self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for row, example in zip(rows.tolist(), ids, strict=True):
                file.seek(self._first_byte + row * example.nbytes)
                if file.readinto(example) != example.nbytes:
                    reason = f"ends before example {row}; remove it, and it is made again"
                    raise ValueError(f"{self.path.name}: {reason}")
        return ids


def save(path: Path, ids: np.ndarray) -> None:
    """Writes an array as a .npy file, whole or not at all, and seals it."""
    with becoming(path) as part:
        np.save(part, ids)
    seal(path)


@dataclass(frozen=True)
class Examples:
    """Training examples of T ids each, and what goes with them. `len` counts those of the text."""

    corpus: str  # its name
    ids: Stored
    seq_len: int
    counts: Tensor  # (V,), how often each token comes in the examples used
    heldout: np.ndarray  # (n, T)
    lengths: (
        Tensor | None
    )  # (2, V), characters and bytes of each token; None where there is no text
    documents: np.ndarray  # (n, T), the document of each held-out id; without text, its example
    seen: float = 0.0  # the share of held-out words in runs of 13 that training has

    def __len__(self) -> int:
        return len(self.ids) // self.seq_len

    def rows(self, rows: Tensor, device: torch.device) -> Tensor:
        """The examples of these numbers (R,), (R, T) int64 on the device."""
        ids = self.ids.rows(rows.numpy(), self.seq_len)  # (R, T)
        ids = torch.from_numpy(ids.astype(np.int64))
        if device.type == "cuda":
            return ids.pin_memory().to(device, non_blocking=True)
        return ids.to(device)

    def caveats(self, wanted: int, evaluate: bool) -> list[str]:
        """What to know of a training with epochs of `wanted` examples, and of its judging."""
        caveats = []
        spelled = self.counts[:BYTES].sum() / self.counts.sum().clamp(min=1)
        if self.lengths is not None and spelled >= SPELLED:
            share = f"{spelled:.0%} of its tokens at V = {len(self.counts):,} are single bytes"
            caveats.append(f"{share}; ids of another tokenizer may be given instead (docs/use.md)")
        if wanted > len(self):
            there = f"{len(self):,} examples of {self.seq_len} tokens at V = {len(self.counts):,}"
            passes = f"goes through them {wanted / len(self):.1f} times"
            caveats.append(f"it has {there}; an epoch of {wanted:,} {passes}")
        if evaluate and len(self.heldout) < 2:
            there = f"its held-out text has {len(self.heldout)} examples"
            caveats.append(f"{there}; to measure quality 2 are needed")
        elif evaluate and self.seen > SEEN:
            share = f"{self.seen:.0%} of its held-out words lie in runs of 13 that training has too"
            caveats.append(f"{share}: what is measured is partly memory")
        return [f"corpus={self.corpus!r}: {caveat}" for caveat in caveats]
