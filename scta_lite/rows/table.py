"""`VocabTable`: an embedding table whose training costs the rows that a step reads, not V. `RowAdamW` trains it.

A look-up borrows rows: it copies the distinct ones with their moments, brought up to date, and hands them to autograd
as a leaf. The optimizer moves the leaves that got a gradient and writes them back. Left out of `nn.Embedding`:
padding_idx, max_norm and scale_grad_by_freq.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scta_lite import checks

if TYPE_CHECKING:
    from scta_lite.rows.optimizer import RowAdamW


class VocabTable(nn.Module):
    """An embedding table (rows, dim), drawn from N(0, 1) as `nn.Embedding` is, that a `RowAdamW` trains.

    `table(ids)` gives (…, dim) for integer ids of any shape. While gradients are recorded it needs its optimizer, and
    raises RuntimeError without one. `weight` is the whole table, (rows, dim), up to date and outside autograd; a change
    in place sets the rows, but not those that were read since the last step, which the next step writes. A copy of the
    table alone is up to date and has no optimizer. A table has no parameters: `model.zero_grad()` and
    `model.requires_grad_(False)` do not see it: `optimizer.zero_grad()` forgets gradients, and one that is not to be
    trained is read under `torch.no_grad()`.

    >>> from scta_lite import RowAdamW
    >>> table = VocabTable(1_000_000, 2)
    >>> optimizer = RowAdamW([table], lr=0.1)
    >>> table(torch.tensor([[7, 7], [7, 9]])).sum().backward()
    >>> optimizer.step()  # moves the rows 7 and 9
    """

    def __init__(self, rows: int, dim: int):
        super().__init__()
        checks.integer("rows", rows, 1)
        checks.integer("dim", dim, 1)
        self.rows, self.dim = rows, dim
        self.register_buffer("stored", nn.init.normal_(torch.empty(rows, dim)), persistent=False)
        self.optimizer, self.behind = _nobody, False  # behind: some rows have missed steps

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> VocabTable:
        """A table with the rows of an `nn.Embedding`, on its device, in its dtype; `to_embedding` is the way back.

        ValueError for an embedding that does more than look up: padding_idx, max_norm, scale_grad_by_freq.

        >>> VocabTable.from_embedding(nn.Embedding(5, 2)).to_embedding()
        Embedding(5, 2)
        """
        for name in ("padding_idx", "max_norm", "scale_grad_by_freq"):
            if getattr(embedding, name) is not None and getattr(embedding, name) is not False:
                raise ValueError(f"embedding.{name}={getattr(embedding, name)!r}: expected an embedding without it")
        table = cls(*embedding.weight.shape).to(embedding.weight.device, embedding.weight.dtype)
        with torch.no_grad():
            table.weight.copy_(embedding.weight)
        return table

    def to_embedding(self) -> nn.Embedding:
        """An `nn.Embedding` with a copy of the rows."""
        return nn.Embedding.from_pretrained(self.weight.clone(), freeze=False)

    @property
    def weight(self) -> Tensor:
        if (optimizer := self.owner()) is not None:
            optimizer.flush()
        return self.stored.detach()

    def forward(self, ids: Tensor) -> Tensor:
        checks.dtype("ids", ids, (torch.int64, torch.int32))
        optimizer = self.owner()
        if torch.is_grad_enabled():
            if optimizer is None:
                raise RuntimeError("optimizer=None: this table's rows cannot be trained; expected a RowAdamW([table]), "
                                   "or torch.no_grad() to read them only")  # fmt: skip
            return optimizer.borrow(self, ids)
        return F.embedding(ids, self.weight)

    def owner(self) -> RowAdamW | None:
        """The optimizer that has the table, if any."""
        optimizer = self.optimizer()
        return optimizer if optimizer is not None and optimizer.owns(self) else None

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.dim}"

    def __getstate__(self) -> dict:
        _ = self.weight  # a copy has no optimizer that could bring it up to date
        return {**self.__dict__, "optimizer": _nobody}

    def _apply(self, fn, recurse: bool = True) -> VocabTable:
        self.stored.data = fn(self.stored.data)  # in place, as a parameter is moved: an optimizer holds on to it
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight  # the name that nn.Embedding gives it

    def _load_from_state_dict(self, state: dict, prefix: str, *others) -> None:
        if (weight := state.get(f"{prefix}weight")) is None:
            others[2].append(f"{prefix}weight")  # the missing keys
        elif weight.shape != (self.rows, self.dim):
            others[4].append(f"{prefix}weight of shape {tuple(weight.shape)}: expected {(self.rows, self.dim)}")
        else:
            with torch.no_grad():
                self.weight.copy_(weight)


class Borrowed(NamedTuple):
    """Rows as one look-up read them, all current."""

    ids: Tensor  # (U,)
    first: Tensor | None  # (U,), where ids may repeat: of each its first place among them, whose gradient is the sum
    w: Tensor  # (U, dim), a leaf of autograd
    moments: Tensor  # (2, U, dim)

    def gradient(self) -> Tensor:
        """(U, dim), the same for equal ids: so they move alike, and it does not matter which of them is kept."""
        return self.w.grad if self.first is None else self.w.grad.index_select(0, self.first)


def distinct(ids: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows to read for ids (n,), and where each id is among them (n,); `seen`: (rows,) int32, of any values.

    On a GPU how many ids are distinct would have to come to the host: there all are read, equal ones at their first.

    >>> distinct(torch.tensor([5, 3, 5]), torch.empty(9, dtype=torch.int32))
    (tensor([3, 5]), tensor([1, 0, 1]))
    """
    if ids.device.type != "cpu":
        return distinct_unsorted(ids, seen)
    once, places = ids.unique(return_inverse=True)
    if len(once) and not 0 <= once[0] <= once[-1] < len(seen):
        raise IndexError(f"ids from {once[0]} to {once[-1]}: expected ids from 0 up and below {len(seen)}")
    return once, places


def distinct_unsorted(ids: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a GPU: the ids themselves, and of each its first place; nothing is sorted, nothing depends on data.

    >>> distinct_unsorted(torch.tensor([5, 3, 5]), torch.empty(9, dtype=torch.int32))
    (tensor([5, 3, 5]), tensor([0, 1, 0], dtype=torch.int32))
    """
    order = _order(len(ids).bit_length(), ids.device)[: len(ids)]
    seen.scatter_reduce_(0, ids, order, "amin", include_self=False)
    return ids, seen.index_select(0, ids)


@torch.no_grad()
def merged(used: list[Borrowed], seen: Tensor) -> Borrowed:
    """The rows of several look-ups as of one, with the sum of their gradients; the look-ups' leaves lose theirs."""
    ids, _, w, moments = zip(*used, strict=True)
    ids, w, moments = torch.cat(ids), torch.cat(w), torch.cat(moments, 1)
    once, places = distinct(ids, seen)
    U, at = len(once), places.long()
    # a row's copies are equal, so that it does not matter which one stays
    rows = Borrowed(once, places if once is ids else None,
                    w[:U].index_copy(0, at, w), moments[:, :U].index_copy(1, at, moments))  # fmt: skip
    rows.w.grad = torch.zeros_like(rows.w).index_add_(0, at, torch.cat([look_up.w.grad for look_up in used]))
    for look_up in used:
        look_up.w.grad = None
    return rows


@cache
def _order(bits: int, device: torch.device) -> Tensor:
    """0 … 2^bits - 1, kept for ever: a CUDA graph reads it where it stood as the graph was captured."""
    return torch.arange(1 << bits, dtype=torch.int32, device=device)


def _nobody() -> None:
    """The reference to an optimizer of a table that has none."""
