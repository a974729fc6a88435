"""`VocabTable`: an embedding table whose training costs the rows that a step reads, not V.

A look-up borrows rows. It copies the distinct ones with their moments, brought up to date, and
hands them to autograd as a leaf. The optimizer moves the leaves that got a gradient and writes them
back. Left out of `nn.Embedding`: padding_idx, max_norm and scale_grad_by_freq.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple
from weakref import ReferenceType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from scta_lite import checks


class VocabTable(nn.Module):
    """An embedding table (rows, dim), drawn from N(0, 1) as `nn.Embedding` is, for a `RowAdamW`.

    `table(ids)` gives (…, dim) for integer ids of any shape. While gradients are recorded it needs
    its optimizer, and raises RuntimeError without one. `weight` is the whole table, (rows, dim), up
    to date and outside autograd. It may be changed in place, or by `weight.data = …`, between a
    step and the next look-up; rows that were already read are overwritten by the next step. Read it
    anew after a step: what was read before lags. A copy of the table alone is up to date and has no
    optimizer. To train on, move or cast the table before it is first read: the moments do not
    follow. `torch.export` needs `optimizer.flush()` before it.

    A table has no parameters: `model.zero_grad()` and `model.requires_grad_(False)` do not see it.
    `optimizer.zero_grad()` forgets gradients. A table that is not to be trained is read under
    `torch.no_grad()`.

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
        self.rows = rows
        self.dim = dim
        stored = nn.init.normal_(torch.empty(rows, dim))
        self.register_buffer("stored", stored, persistent=False)
        self.lender: ReferenceType[Optimizer] | None = None  # weak: it holds its tables

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> VocabTable:
        """A table with the rows of an `nn.Embedding`, on its device, in its dtype.

        `to_embedding` is the way back. ValueError for an embedding that does more than look up:
        padding_idx, max_norm, scale_grad_by_freq, a class of its own, hooks, no gradient.

        >>> VocabTable.from_embedding(nn.Embedding(5, 2)).to_embedding()
        Embedding(5, 2)
        """
        plain = type(embedding) is nn.Embedding and embedding.weight.requires_grad
        if not plain or embedding._forward_hooks or embedding._forward_pre_hooks:
            expected = "expected an nn.Embedding itself, to be trained, without hooks"
            raise ValueError(f"embedding of type {type(embedding).__name__}: {expected}")
        for name in ("padding_idx", "max_norm", "scale_grad_by_freq"):
            value = getattr(embedding, name)
            if value is not None and value is not False:
                raise ValueError(f"embedding.{name}={value!r}: expected an embedding without it")
        weight = embedding.weight.detach()
        table = cls(*weight.shape).to(weight.device, weight.dtype)
        table.weight.copy_(weight)
        return table

    def to_embedding(self) -> nn.Embedding:
        """An `nn.Embedding` with a copy of the rows."""
        return nn.Embedding.from_pretrained(self.weight.clone(), freeze=False)

    @property
    def weight(self) -> Tensor:
        lender = self.owner()
        if lender is not None:
            lender.flush()
        return self.stored

    def forward(self, ids: Tensor) -> Tensor:
        checks.dtype("ids", ids, (torch.int64, torch.int32))
        lender = self.owner()
        if lender is not None:
            return lender.borrow(self, ids)
        if torch.is_grad_enabled():
            expected = "expected a RowAdamW([table]), or torch.no_grad() to read them only"
            raise RuntimeError(f"optimizer=None: this table's rows cannot be trained; {expected}")
        return F.embedding(ids, self.stored)

    def owner(self) -> Optimizer | None:
        """The optimizer that has the table, if any: a later one may have taken it over."""
        lender = self.lender() if self.lender is not None else None
        return lender if lender is not None and lender.owns(self) else None

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.dim}"

    def __getstate__(self) -> dict:
        _ = self.weight  # a copy has no optimizer that could bring it up to date
        return {**self.__dict__, "lender": None}

    def _apply(self, fn, recurse: bool = True) -> VocabTable:
        # up to date first, by sums in the old dtype; in place, as a parameter is moved
        self.stored.data = fn(self.weight.data)
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        # the name that nn.Embedding gives it
        destination[f"{prefix}weight"] = self.weight.detach()

    def _load_from_state_dict(
        self, state, prefix, metadata, strict, missing_keys, unexpected_keys, error_messages
    ) -> None:
        name, expected = f"{prefix}weight", (self.rows, self.dim)
        if strict:
            unexpected_keys += [key for key in state if key.startswith(prefix) and key != name]
        if name not in state:
            missing_keys.append(name)
        elif state[name].shape != expected:
            shape = tuple(state[name].shape)
            error_messages.append(f"{name} of shape {shape}: expected {expected}")
        else:
            self.weight.copy_(state[name].detach())


class Borrowed(NamedTuple):
    """Rows as one look-up read them, all current.

    On a GPU ids may repeat, each with a copy of its row. Autograd then adds the gradients of all
    copies up at one of them: `first[i]` is the place that holds the summed gradient of `ids[i]`.
    """

    ids: Tensor  # (U,)
    first: Tensor | None  # (U,), or None where no id repeats
    w: Tensor  # (U, dim), a leaf of autograd
    moments: Tensor  # (2, U, dim)

    def gradient(self) -> Tensor:
        """(U, dim), the same for equal ids: their copies move alike, and any of them may stay."""
        if self.first is None:
            return self.w.grad
        return self.w.grad.index_select(0, self.first)


def distinct(ids: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows to read for ids (n,), and where each id is among them, (n,).

    `seen`: (rows,) int32, of any values. On a GPU how many ids are distinct would have to come to
    the host. There all ids are read, and an id is at its first place.

    >>> distinct(torch.tensor([5, 3, 5]), torch.empty(9, dtype=torch.int32))
    (tensor([3, 5]), tensor([1, 0, 1]))
    """
    if ids.device.type != "cpu":
        return distinct_unsorted(ids, seen)
    once, places = ids.unique(return_inverse=True)
    if len(once) and not 0 <= once[0] <= once[-1] < len(seen):
        expected = f"expected ids from 0 up and below {len(seen)}"
        raise IndexError(f"ids from {once[0]} to {once[-1]}: {expected}")
    return once, places


def distinct_unsorted(ids: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a GPU: the ids themselves, and of each its first place.

    Nothing is sorted, and no size depends on data.

    >>> distinct_unsorted(torch.tensor([5, 3, 5]), torch.empty(9, dtype=torch.int32))
    (tensor([5, 3, 5]), tensor([0, 1, 0], dtype=torch.int32))
    """
    order = _order(len(ids).bit_length(), ids.device)[: len(ids)]
    seen.scatter_reduce_(0, ids, order, "amin", include_self=False)
    return ids, seen.index_select(0, ids)


@torch.no_grad()
def merged(look_ups: list[Borrowed], seen: Tensor) -> Borrowed:
    """The rows of several look-ups as of one, with the sum of their gradients.

    The look-ups' leaves lose their gradients.
    """
    parts = [(rows.ids, rows.w, rows.w.grad) for rows in look_ups]
    all_ids, all_w, gradients = map(torch.cat, zip(*parts, strict=True))  # (n,), (n, dim) twice
    all_moments = torch.cat([rows.moments for rows in look_ups], dim=1)  # (2, n, dim)
    ids, places = distinct(all_ids, seen)  # (U,), (n,)
    first = places if ids is all_ids else None
    places, U = places.long(), len(ids)
    # a row's copies are equal, so that it does not matter which one stays
    w = all_w[:U].index_copy(0, places, all_w)  # (U, dim)
    moments = all_moments[:, :U].index_copy(1, places, all_moments)  # (2, U, dim)
    w.grad = torch.zeros_like(w).index_add_(0, places, gradients)
    for rows in look_ups:
        rows.w.grad = None
    return Borrowed(ids, first, w, moments)


@cache
def _order(bits: int, device: torch.device) -> Tensor:
    """0 … 2^bits - 1, kept for ever: a CUDA graph reads it where it stood at the capture."""
    return torch.arange(1 << bits, dtype=torch.int32, device=device)
