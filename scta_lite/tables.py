"""Embedding tables whose training costs the rows that a step touches, not V: `VocabTable`, and `RowAdamW` for it.

A dense AdamW moves all V rows at every step, those without a gradient too: their momentum goes on, and so does their
decay. RowAdamW makes those moves up at once, when a row is next read. Of a row last current after step s, with moments
m and v, AdamW's steps s+1 … t without a gradient, g = t - s of them, sum up to (derived in notebook 05)

    w ← (1-λ)^g [w - lr · A · m / (√v + ε B/A)],    m ← β1^g m,    v ← β2^g v,

    A = Σ_{k=1…g} ρ^k c(s+k) = T(s) - ρ^g T(t),    T(s) = Σ_{k≥1} ρ^k c(s+k),    c(t) = √(1-β2^t) / (1-β1^t),

with λ = lr · weight_decay and ρ = β1 / (√β2 (1-λ)); B is the same with ρ/√β2 for ρ and c(t) √(1-β2^t) for c(t). That is
exact for ε = 0 and to first order in ε/√v. The step itself is torch's AdamW on the rows that were read. Nothing waits
for a GPU, nothing has V rows but the tables, their moments, and one integer a row. Left out: a learning rate that
changes, and AMSGrad.
"""

import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

_FLUSHED = 1 << 14  # rows brought up to date at a time


class VocabTable(nn.Module):
    """An embedding table (rows, dim), drawn from N(0, 1) as `nn.Embedding` is, that a `RowAdamW` trains.

    `table(ids)` gives (…, dim) for ids of any shape. While gradients are recorded it needs its optimizer, and raises
    RuntimeError without one. `weight` is the whole table, (rows, dim), up to date and outside autograd; to change it in
    place sets the rows, but not those that were read since the last step, which the next step writes. A copy is up to
    date and has no optimizer.

    >>> table = VocabTable(1_000_000, 2)
    >>> optimizer = RowAdamW([table], lr=0.1)
    >>> table(torch.tensor([[7, 7], [7, 9]])).sum().backward()
    >>> optimizer.step()  # moves the rows 7 and 9
    """

    def __init__(self, rows: int, dim: int):
        super().__init__()
        for name, value in (("rows", rows), ("dim", dim)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: expected an integer from 1 up")
        self.rows, self.dim = rows, dim
        self.register_buffer("stored", torch.zeros(rows + 1, dim), persistent=False)  # the last row is for padding
        nn.init.normal_(self.stored[:rows])
        self.optimizer, self.behind = _nobody, False  # behind: some rows have missed steps

    @property
    def weight(self) -> Tensor:
        if (optimizer := self._optimizer()) is not None:
            optimizer.flush()
        return self.stored[: self.rows]

    def forward(self, ids: Tensor) -> Tensor:
        optimizer = self._optimizer()
        if torch.is_grad_enabled():
            if optimizer is None:
                raise RuntimeError("optimizer=None: this table's rows cannot be trained; expected a RowAdamW([table])")
            return optimizer.borrow(self, ids)
        return F.embedding(ids, self.weight)

    def __getstate__(self) -> dict:
        _ = self.weight  # a copy has no optimizer that could bring it up to date
        return {**self.__dict__, "optimizer": _nobody}

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.dim}"

    def _optimizer(self) -> "RowAdamW | None":
        optimizer = self.optimizer()
        owned = optimizer is not None and self in optimizer.state
        if self.behind and not owned:
            raise RuntimeError("optimizer=None: it is gone, and some rows have missed steps; "
                               "expected optimizer.flush() before that")  # fmt: skip
        return optimizer if owned else None

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
    w: Tensor  # (U, dim), a leaf of autograd
    m: Tensor
    v: Tensor


@dataclass
class RowState:
    """What RowAdamW keeps of one table."""

    m: Tensor  # (rows + 1, dim), the mean of the gradients
    v: Tensor  # (rows + 1, dim), that of their squares
    last: Tensor  # (rows + 1,), the step after which a row was last current
    step: Tensor  # scalar, steps done
    decays: tuple[float, float, float]  # β1, β2, 1 - λ: by what the table's dtype lets a dense AdamW multiply
    tails: list[tuple[float, Tensor]]  # ρ and T(s) of A, and of B; s = 0, 1, … to where T no longer changes
    steps: int = 0  # the same, known without asking the device
    used: dict[int, Borrowed] = field(default_factory=dict)  # look-ups that a backward pass gave a gradient


class RowAdamW:
    """AdamW over `VocabTable`s at the cost of the rows used: `zero_grad()`, `step()`, and `flush()`.

    It does what `torch.optim.AdamW` does to a dense table (exactly for ε → 0). The look-ups of a table between two
    steps are merged, each with the gradient that its backward passes gave it; `step` moves their rows, `zero_grad`
    forgets the gradients. `flush` brings every row up to date, which reading `table.weight` does too. A table keeps no
    hold of its optimizer, and the last one made over it has it: flush before letting that go. The learning rate is
    constant.

    ValueError for settings outside AdamW's range, and for betas for which the missed steps have no finite sum;
    RuntimeError for a backward pass through rows that were read before the last step.
    """

    def __init__(
        self,
        tables: Iterable[VocabTable],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a finite number from 0 up")
        self.lr, self.betas, self.eps, self.weight_decay = lr, tuple(betas), eps, weight_decay
        if not (0 <= betas[0] < betas[1] * (1 - lr * weight_decay) and betas[1] <= 0.99999):
            raise ValueError(f"betas={betas}: expected 0 ≤ β1 < β2 (1 - lr · weight_decay) and β2 ≤ 0.99999")
        self.state: dict[VocabTable, RowState] = {}
        for table in tables:
            if not isinstance(table, VocabTable):
                raise ValueError(f"tables={table!r}: expected VocabTables")
            if (earlier := table._optimizer()) is not None:  # a table has one optimizer, the last
                earlier.flush()
                earlier.state.pop(table)
            self.state[table] = self._begin(table.stored)
            table.optimizer = weakref.ref(self)

    def zero_grad(self) -> None:
        """Forgets the gradients that no step has used."""
        for state in self.state.values():
            for rows in state.used.values():
                rows.w.grad = None
            state.used.clear()

    @torch.no_grad()
    def step(self) -> None:
        """One step of AdamW on every table that has a gradient; its rows that were not read make it up later."""
        beta1, beta2 = self.betas
        for table, state in self.state.items():
            if state.used:
                rows, grad = _merged(list(state.used.values()), table.rows)
                state.used.clear()
                adamw([rows.w], [grad], [rows.m], [rows.v], [], [state.step], fused=True, amsgrad=False, maximize=False,
                      lr=self.lr, beta1=beta1, beta2=beta2, eps=self.eps, weight_decay=self.weight_decay)  # fmt: skip
                _give_back(table, state, rows)  # adamw has counted the step
                state.steps += 1
                table.behind = True

    @torch.no_grad()
    def flush(self) -> None:
        """Makes up all missed steps of all rows; a pass over the tables, at most one for each step."""
        for table, state in self.state.items():
            if table.behind:
                for ids in torch.arange(table.rows, device=state.last.device).split(_FLUSHED):
                    _give_back(table, state, self._current(table, ids))
                table.behind = False

    def state_dict(self) -> dict[str, Tensor]:
        """The rows as they stand, some behind, with what brings them up to date; the tensors themselves, by name."""
        return {f"{i}.{name}": x for i, (table, state) in enumerate(self.state.items())
                for name, x in (("stored", table.stored), ("m", state.m), ("v", state.v), ("last", state.last),
                                ("step", state.step))}  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `state_dict` gave, of as many tables of the same sizes in the same order."""
        for name, x in self.state_dict().items():
            x.copy_(tensors[name])
        for table, state in self.state.items():
            state.steps = int(state.step)
            state.used.clear()
            table.behind = state.steps > 0

    def borrow(self, table: VocabTable, ids: Tensor) -> Tensor:
        """Rows (…, dim) of ids (…), current, whose gradient `step` will use; `table(ids)` calls this."""
        distinct, places = _distinct(ids.long(), pad=table.rows)
        with torch.no_grad():
            _, w, m, v = self._current(table, distinct)
        state = self.state[table]
        read = state.steps

        def use(w: Tensor) -> None:
            if state.steps != read:
                raise RuntimeError(
                    f"rows read after step {read}: expected their backward pass before step {state.steps}"
                )
            state.used[id(w)] = Borrowed(distinct, w, m, v)

        w.requires_grad_().register_post_accumulate_grad_hook(use)  # so that what no backward pass reaches is let go
        return w.index_select(0, places.flatten()).view(*ids.shape, table.dim)

    def _current(self, table: VocabTable, ids: Tensor) -> Borrowed:
        """Copies of rows and moments, with the steps made up that they have missed; ids: (U,)."""
        state, dtype = self.state[table], table.stored.dtype
        beta1, beta2, keep = state.decays
        w, m, v = (F.embedding(ids, stored) for stored in (table.stored, state.m, state.v))  # (U, dim)

        def column(numbers: Tensor) -> Tensor:
            return numbers.to(dtype).unsqueeze(1)  # (U, 1)

        s = state.last.index_select(0, ids).double()  # (U,)
        gap = state.step - s
        at_s, at_t = (t.clamp(max=len(state.tails[0][1]) - 1).long().view(-1) for t in (s, state.step))
        # (U,) and (1,): a scalar index would have to come to the host
        A, B = (T[at_s] - rho**gap * T[at_t] for rho, T in state.tails)
        tiny = torch.finfo(dtype).tiny  # 0 / tiny: a row never used, or without a gap, does not move
        root = v.sqrt().add_(column(self.eps * B / A.clamp_min(tiny) + tiny))
        w.addcmul_(torch.div(m, root, out=root), column(-self.lr * A)).mul_(column(keep**gap))
        return Borrowed(ids, w, m.mul_(column(beta1**gap)), v.mul_(column(beta2**gap)))

    def _begin(self, stored: Tensor) -> RowState:
        def rounded(number: float) -> float:
            return stored.new_tensor(number).item()

        beta1, beta2 = 1 - rounded(1 - self.betas[0]), rounded(self.betas[1])  # torch moves m by (1 - β1) (g - m)
        keep = rounded(1 - self.lr * self.weight_decay)
        rho = beta1 / (beta2**0.5 * keep)
        tails = [
            (ratio, self._tail(ratio, power).to(stored.device)) for ratio, power in ((rho, 1), (rho / beta2**0.5, 2))
        ]
        last = stored.new_zeros(len(stored), dtype=torch.int32)
        step = stored.new_zeros((), dtype=torch.float32)
        return RowState(torch.zeros_like(stored), torch.zeros_like(stored), last, step, (beta1, beta2, keep), tails)

    def _tail(self, rho: float, power: int) -> Tensor:
        """T(s) in float64, by T(s) = ρ (c(s+1) + T(s+1)) from where c is 1; c(t) = √(1-β2^t)^power / (1-β1^t)."""
        beta1, beta2 = self.betas
        t = torch.arange(math.ceil(math.log(1e-17) / math.log(beta2)), 0, -1, dtype=torch.float64)  # n, …, 1
        c = (1 - beta2**t) ** (power / 2) / (1 - beta1**t)
        backwards = accumulate(c.tolist(), lambda T, c: rho * (c + T), initial=rho / (1 - rho))  # T(n), …, T(0)
        return torch.tensor(list(backwards), dtype=torch.float64).flip(0)


def _nobody() -> None:
    """The reference to an optimizer of a table that has none."""


def _distinct(ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """The ids once each, and where each of `ids` (…) is among them.

    On a GPU how many there are would have to come to the host: there as many as ids are given, the rest `pad`.

    >>> _distinct(torch.tensor([5, 3, 5]), pad=9)
    (tensor([3, 5]), tensor([1, 0, 1]))
    """
    if ids.device.type != "cpu":
        return _distinct_padded(ids, pad)
    distinct, places = ids.unique(return_inverse=True)
    if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < pad:
        raise IndexError(f"ids from {distinct[0]} to {distinct[-1]}: expected ids from 0 up and below {pad}")
    return distinct, places


def _distinct_padded(ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    ordered, order = ids.flatten().sort()
    place = F.pad(ordered.diff() != 0, (1, 0)).cumsum(0)  # of each ordered id among the distinct
    distinct = torch.full_like(ordered, pad).scatter_(0, place, ordered)
    return distinct, torch.empty_like(place).scatter_(0, order, place).view(ids.shape)


def _merged(used: list[Borrowed], pad: int) -> tuple[Borrowed, Tensor]:
    """The rows of several look-ups, each row once, with the sum of its gradients."""
    if len(used) == 1:
        return used[0], used[0].w.grad
    ids, w, m, v = (torch.cat(parts) for parts in zip(*used, strict=True))
    distinct, places = _distinct(ids, pad)
    once = [torch.empty_like(x[: len(distinct)]).index_copy_(0, places, x) for x in (w, m, v)]  # the copies are equal
    grad = torch.zeros_like(once[0]).index_add_(0, places, torch.cat([rows.w.grad for rows in used]))
    return Borrowed(distinct, *once), grad


def _give_back(table: VocabTable, state: RowState, rows: Borrowed) -> None:
    """Writes the rows, current after the last step, into the table and its moments."""
    for stored, new in ((table.stored, rows.w), (state.m, rows.m), (state.v, rows.v)):
        _wide(stored).index_copy_(0, rows.ids, _wide(new))
    state.last.index_copy_(0, rows.ids, state.step.int().expand(len(rows.ids)))


def _wide(rows: Tensor) -> Tensor:
    """The same memory in numbers of 16 bytes, where a row divides into them: a copy moves a number at a time."""
    return rows.view(torch.complex128) if rows.shape[1] * rows.element_size() % 16 == 0 else rows
