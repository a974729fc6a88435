"""`Ledger`: what RowAdamW keeps of a table, and how a row that missed some steps is brought up to date.

A dense AdamW moves all V rows at every step, those without a gradient too: their momentum goes on, and so does their
decay. RowAdamW makes those moves up at once, when a row is next read. Let lr_j and λ_j = lr_j · weight_decay be what
step j used, and a row, with moments m and v, be last current after step s. AdamW's steps s+1 … t without a gradient sum
up to (derived in notebook 05)

    w ← P(s,t) [w - A · m / (√v + B/A)],    m ← β1^(t-s) m,    v ← β2^(t-s) v,

    P(s,t) = Π_{j=s+1…t} (1-λ_j),    r = β1/√β2,    a(j) = lr_j √(1-β2^j) / (1-β1^j),

    A = Σ_{j=s+1…t} r^(j-s) a(j) / P(s,j),    B = ε Σ_{j=s+1…t} (r/√β2)^(j-s) a(j) √(1-β2^j) / P(s,j).

A and B depend on s alone, not on the row: each step adds a term to those of the last few hundred s, and all that is
older is final. The rates may change from step to step, by any scheduler. The host keeps the sums, and a step sends the
few hundred that it changed: on the device a row costs the exponentials of five numbers and five operations on its
vectors. The sums are exact for ε = 0; ε itself is met by its mean over the missed steps. Where |g| ≫ ε that is exact to
first order. Where |g| ≪ ε, at the default betas and a constant rate, a row read once moves wrongly by 11% if that was
at step 1, 1% at step 31, 0.013% at step 501. With a smaller β2 that fades more slowly, or not at all: at step 501 it is
0.2% for β2 = 0.99, 1% for 0.98, 9% for 0.95. Rates that rise quickly add to it.

Nothing here has V rows but the table, its moments, and two integers a row. The sums take 24 bytes a step on the
host, and 40 on the device.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scta_lite.rows.table import Borrowed, VocabTable, merged

_NOTHING = 1e-18  # of a sum, a share that no float64 shows
_ZERO, _LOG_0 = 1e-300, -1e3  # for 0 where its logarithm is taken, and a logarithm of what is 0 in every type


@dataclass(eq=False)
class Ledger:
    """What RowAdamW keeps of one table; `begin` makes its tensors, on the table's device, when they are first used."""

    table: VocabTable
    betas: tuple[float, float]  # which may not change
    used: dict[int, Borrowed] = field(default_factory=dict)  # look-ups that a backward pass gave a gradient
    had_gradient: bool = False  # since the last zero_grad to None
    zeros: bool = False  # the gradients were set to 0: without a look-up a step moves the rows all the same
    began: int = 0  # times that the moments were made anew: at first, and where others were loaded
    steps: int = 0  # steps done, as `step` has it, without asking the device

    def begin(self, steps: int) -> None:
        stored = self.table.stored
        self.began, self.steps, self.used = self.began + 1, steps, {}
        self.moments = stored.new_zeros(2, *stored.shape)  # m and v
        self.last = stored.new_full((len(stored),), steps, dtype=torch.int32)  # the step after which a row is current
        self.seen = torch.empty_like(self.last)  # where `distinct` finds an id's first place
        self.step = stored.new_full((), steps, dtype=torch.float32)
        self.sums = np.zeros((3, steps + 256))  # for each s: A, B, and Σ_{j≤s} ln(1-λ_j)
        self.missed = stored.new_zeros(steps + 257, 5, dtype=torch.float64)  # what `_send` makes of them; first, of now
        self.beta1 = 1 - self.rounded(1 - self.betas[0])  # torch moves m by (1 - β1) (g - m)
        self.beta2 = self.rounded(self.betas[1])
        self.log_betas = np.array([math.log(beta) if beta > 0 else _LOG_0 for beta in (self.beta1, self.beta2)])
        self.powers = np.zeros((2, 0))  # of r and of r/√β2: …, second, first
        self._send(0)

    @property
    def begun(self) -> bool:
        return self.began > 0

    @torch.no_grad()
    def take_over(self, used: dict[int, Borrowed]) -> None:
        """Keeps look-ups whose gradients wait for a step, with the moments that now hold."""
        for key, rows in used.items():
            self.used[key] = rows._replace(moments=self.moments.index_select(1, rows.ids))

    def rounded(self, number: float) -> float:
        """As the table's dtype has it: by this a dense AdamW multiplies."""
        return torch.tensor(number, dtype=self.table.stored.dtype).item()

    def rows(self) -> Borrowed:
        """The rows that a gradient came to, as of one look-up."""
        if len(self.used) > 1:
            rows = merged(list(self.used.values()), self.seen)
            self.used = {id(rows.w): rows}
        return next(iter(self.used.values()))

    def current(self, ids: Tensor, first: Tensor | None = None) -> Borrowed:
        """Copies of rows and moments, with the steps made up that they have missed; ids: (U,)."""
        stored, (now, missed) = self.table.stored, self.missed.split([1, len(self.missed) - 1])
        w, moments = stored.index_select(0, ids), self.moments.index_select(1, ids)  # (U, dim), (2, U, dim)
        m, v = moments
        missed = missed.index_select(0, self.last.index_select(0, ids))  # (U, 5)
        missed = torch.exp(missed.sub_(now), out=stored.new_empty(missed.shape))
        root = v.sqrt().add_(missed[:, 1:2])
        w.addcmul_(torch.div(m, root, out=root), missed[:, 0:1], value=-1).mul_(missed[:, 2:3])
        return Borrowed(ids, first, w, moments.mul_(missed[:, 3:].T.unsqueeze(2)))

    def give_back(self, rows: Borrowed) -> None:
        """Writes the rows into the table and its moments; `stamp` says that they are current."""
        _wide(self.table.stored).index_copy_(0, rows.ids, _wide(rows.w))
        _wide(self.moments).index_copy_(1, rows.ids, _wide(rows.moments))

    def stamp(self, ids: Tensor) -> None:
        """Writes down that these rows, (U,), are current after the last step."""
        self.last.index_fill_(0, ids, self.steps)

    def reserve(self, steps: int) -> None:
        """Makes the memory for so many steps in all, so that none of it moves before."""
        if steps + 1 > self.sums.shape[1]:
            more = steps + 1 - self.sums.shape[1]
            self.sums = np.concatenate([self.sums, np.zeros((3, more))], axis=1)
            self.missed = torch.cat([self.missed, self.missed.new_zeros(more, 5)])

    def count(self, lr: float, eps: float, weight_decay: float) -> None:
        """Adds the step that was just done to the sums of those before it."""
        beta1, beta2 = self.betas
        self.steps = t = self.steps + 1
        kept = self.rounded(1 - lr * weight_decay)  # 1 - λ_t
        self._reach(self.beta1 / (self.beta2 * kept))
        if t == self.sums.shape[1]:
            self.reserve(2 * t)
        self.sums[2, t] = now = self.sums[2, t - 1] + math.log(kept)
        n = min(t, self.powers.shape[1])
        A, B, log_kept = self.sums[:, t - n : t]  # of s = t-n … t-1
        correction = math.sqrt(1 - beta2**t)
        grown = np.exp(log_kept - now) * (lr * correction / (1 - beta1**t))  # a(t) / P(s,t)
        A += self.powers[0, -n:] * grown
        B += self.powers[1, -n:] * grown * (eps * correction)
        self._send(t - n)

    def _send(self, start: int) -> None:
        """Sends what rows current after step `start` or a later one miss: five logarithms a step, less those of now.

        The exponentials of the differences are A, B/A, P(s,t), β1^(t-s) and β2^(t-s). Now stands before the first s,
        where a CUDA graph finds it at every step.
        """
        A, B, log_kept = self.sums[:, start : self.steps + 1]
        A = np.maximum(A, _ZERO)
        tiny = torch.finfo(self.table.stored.dtype).tiny  # 0 / tiny: a row never used, or without a gap, does not move
        logs = np.empty((len(A) + 1, 5))
        logs[1:, 0] = np.log(A)
        logs[1:, 1] = np.log(B / A + tiny)
        logs[1:, 2] = -log_kept
        logs[1:, 3:] = -np.arange(start, self.steps + 1)[:, None] * self.log_betas
        logs[0] = 0, 0, *logs[-1, 2:]
        sent = torch.from_numpy(logs)
        self.missed[:1].copy_(sent[:1], non_blocking=True)
        self.missed[start + 1 : self.steps + 2].copy_(sent[1:], non_blocking=True)

    def _reach(self, ratio: float) -> None:
        """Makes the powers long enough for terms that shrink by the ratio a step: what is beyond them is nothing."""
        needed = 1 + int(math.log(_NOTHING) / math.log(ratio)) if ratio > 0 else 1
        if needed > self.powers.shape[1]:
            r = self.beta1 / math.sqrt(self.beta2)
            self.powers = np.array([[r], [r / math.sqrt(self.beta2)]]) ** np.arange(needed, 0, -1)  # (2, W)

    def tensors(self) -> dict[str, Tensor]:
        m, v = self.moments
        sums = torch.from_numpy(self.sums[:, : self.steps + 1]).T
        return {"stored": self.table.stored, "m": m, "v": v, "last": self.last, "step": self.step, "sums": sums}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, mine in self.tensors().items():
            read = tensors[name]
            mine.copy_(read[: len(mine)] if mine.dim() else read)  # earlier versions kept one more row, for padding
        self._send(0)
        self.table.behind = self.steps > 0


def _wide(rows: Tensor) -> Tensor:
    """The same memory in numbers of 16 bytes, where a row divides into them: a copy moves a number at a time."""
    return rows.view(torch.complex128) if rows.shape[-1] * rows.element_size() % 16 == 0 else rows
