"""`Ledger`: what RowAdamW keeps of a table, and how a row that missed some steps is brought up to date.

A dense AdamW moves all V rows at every step, those without a gradient too: their momentum goes on, and so does their
decay. RowAdamW makes those moves up at once, when a row is next read. Let lr_j and λ_j = lr_j · weight_decay be what
step j used, and a row, with moments m and v, be last current after step s. AdamW's steps s+1 … t without a gradient sum
up to (derived in notebook 05)

    w ← P(s,t) [w - A · m / (√v + B/A)],    m ← β1^(t-s) m,    v ← β2^(t-s) v,

    P(s,t) = Π_{j=s+1…t} (1-λ_j),    r = β1/√β2,    a(j) = lr_j √(1-β2^j) / (1-β1^j),

    A = Σ_{j=s+1…t} r^(j-s) a(j) / P(s,j),    B = ε Σ_{j=s+1…t} (r/√β2)^(j-s) a(j) √(1-β2^j) / P(s,j).

A and B depend on s alone, not on the row: each step adds a term to those of the last few hundred s, and all that is
older is final. The rates may change from step to step, by any scheduler. The sums are exact for ε = 0; ε itself is met
by its mean over the missed steps. Where |g| ≫ ε that is exact to first order. Where |g| ≪ ε, at the default betas and a
constant rate, a row read once moves wrongly by 11% if that was at step 1, 1% at step 31, 0.013% at step 501; by a few
times that with other betas, or rates that rise quickly.

Nothing here has V rows but the table, its moments, and one integer a row.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from scta_lite.tables import Borrowed, VocabTable, merged

_NOTHING = 1e-18  # of a sum, a share that no float64 shows


@dataclass
class Ledger:
    """What RowAdamW keeps of one table; `begin` makes its tensors, on the table's device, when they are first used."""

    table: VocabTable
    betas: tuple[float, float]  # which may not change
    used: dict[int, Borrowed] = field(default_factory=dict)  # look-ups that a backward pass gave a gradient
    had_gradient: bool = False  # since the last zero_grad to None
    zeros: bool = False  # the gradients were set to 0: without a look-up a step moves the rows all the same
    began: int = 0  # times that the moments were made anew: at first, and where others were loaded
    steps: int = 0  # steps done, as `step` has it, without asking the device
    log_kept: float = 0.0  # Σ ln(1-λ_j) over them

    def begin(self, steps: int) -> None:
        stored = self.table.stored
        self.began, self.steps, self.log_kept, self.used = self.began + 1, steps, 0.0, {}
        self.m, self.v = torch.zeros_like(stored), torch.zeros_like(stored)  # (rows + 1, dim)
        self.last = stored.new_full((len(stored),), steps, dtype=torch.int32)  # the step after which a row is current
        self.step = stored.new_full((), steps, dtype=torch.float32)
        self.sums = self._lines(0, steps + 256)
        self.beta1 = 1 - self.rounded(1 - self.betas[0])  # torch moves m by (1 - β1) (g - m)
        self.beta2 = self.rounded(self.betas[1])
        self.powers = stored.new_zeros(2, 0, dtype=torch.float64)  # of r and of r/√β2: …, second, first
        self.tiny, *betas = (
            stored.new_full((), x, dtype=torch.float64)
            for x in (torch.finfo(stored.dtype).tiny, self.beta1, self.beta2)
        )
        self.bases = torch.stack(betas)

    def _lines(self, start: int, stop: int) -> Tensor:
        """For each s from start up: A, B, Σ_{j≤s} ln(1-λ_j), s, and two places that a look-up's copy works in.

        A begins at the least number there is: a row without a gap divides by it, and does not move.
        """
        lines = self.table.stored.new_zeros(stop - start, 6, dtype=torch.float64)
        lines[:, 0] = torch.finfo(self.table.stored.dtype).tiny
        lines[:, 3] = torch.arange(start, stop, device=lines.device)
        return lines

    @property
    def begun(self) -> bool:
        return self.began > 0

    @torch.no_grad()
    def take_over(self, used: dict[int, Borrowed]) -> None:
        """Keeps look-ups whose gradients wait for a step, with the moments that now hold."""
        for key, rows in used.items():
            m, v = (F.embedding(rows.ids, stored) for stored in (self.m, self.v))
            self.used[key] = rows._replace(m=m, v=v)

    def rounded(self, number: float) -> float:
        """As the table's dtype has it: by this a dense AdamW multiplies."""
        return torch.tensor(number, dtype=self.table.stored.dtype).item()

    def rows(self) -> Borrowed:
        """The rows that a gradient came to, each once."""
        if len(self.used) > 1:
            rows = merged(list(self.used.values()), self.table.rows)
            self.used = {id(rows.w): rows}
        return next(iter(self.used.values()))

    def current(self, ids: Tensor) -> Borrowed:
        """Copies of rows and moments, with the steps made up that they have missed; ids: (U,)."""
        w, m, v = (F.embedding(ids, stored) for stored in (self.table.stored, self.m, self.v))  # (U, dim)
        x = self.sums.index_select(0, self.last.index_select(0, ids))  # (U, 6): the line of each row's own s
        since, shrunk = x[:, 2:4], x[:, 4:]
        torch.sub(self.sums[self.steps, 2:4], since, out=since)  # ln P(s,t) and the gap t - s
        torch.pow(self.bases, since[:, 1:], out=shrunk)  # of m and of v
        since[:, 0].exp_()
        torch.addcdiv(self.tiny, x[:, 1], x[:, 0], out=x[:, 1])  # B/A; a row never used has 0 / tiny
        A, ratio, P, _, of_m, of_v = x.to(w.dtype).unsqueeze(2).unbind(1)  # each (U, 1)
        root = v.sqrt().add_(ratio)
        w.addcmul_(torch.div(m, root, out=root), A, value=-1).mul_(P)
        return Borrowed(ids, w, m.mul_(of_m), v.mul_(of_v))

    def give_back(self, rows: Borrowed) -> None:
        """Writes the rows, current after the last step, into the table and its moments."""
        for stored, new in ((self.table.stored, rows.w), (self.m, rows.m), (self.v, rows.v)):
            _wide(stored).index_copy_(0, rows.ids, _wide(new))
        self.last.index_fill_(0, rows.ids, self.steps)

    def count(self, lr: float, eps: float, weight_decay: float) -> None:
        """Adds the step that was just done to the sums of those before it."""
        beta1, beta2 = self.betas
        self.steps = t = self.steps + 1
        kept = self.rounded(1 - lr * weight_decay)  # 1 - λ_t
        self.log_kept += math.log(kept)
        self._reach(self.beta1 / (self.beta2 * kept))
        if t == len(self.sums):
            self.sums = torch.cat([self.sums, self._lines(t, 2 * t)])
        n = min(t, self.powers.shape[1])
        A, B, log_kept, *_ = self.sums[t - n : t].unbind(1)  # of s = t-n … t-1
        grown = (log_kept - self.log_kept).exp_()  # 1 / P(s,t)
        correction = math.sqrt(1 - beta2**t)
        a = lr * correction / (1 - beta1**t)
        A.addcmul_(self.powers[0, -n:], grown, value=a)
        B.addcmul_(self.powers[1, -n:], grown, value=eps * correction * a)
        self.sums[t, 2].fill_(self.log_kept)

    def _reach(self, ratio: float) -> None:
        """Makes the powers long enough for terms that shrink by the ratio a step: what is beyond them is nothing."""
        needed = 1 + int(math.log(_NOTHING) / math.log(ratio)) if ratio > 0 else 1
        if needed > self.powers.shape[1]:
            r = self.beta1 / math.sqrt(self.beta2)
            k = torch.arange(needed, 0, -1, dtype=torch.float64, device=self.powers.device)
            self.powers = torch.stack([r**k, (r / math.sqrt(self.beta2)) ** k])  # (2, W)

    def tensors(self) -> dict[str, Tensor]:
        sums = self.sums[: self.steps + 1]
        return {"stored": self.table.stored, "m": self.m, "v": self.v, "last": self.last, "step": self.step,
                "sums": sums}  # fmt: skip

    def restore(self, tensors: dict[str, Tensor]) -> None:
        mine = self.tensors()
        for name in ("stored", "m", "v", "last", "step"):
            mine[name].copy_(tensors[name])
        self.sums[: self.steps + 1, :3] = tensors["sums"][:, :3]
        self.sums[:, 0].clamp_(min=torch.finfo(self.table.stored.dtype).tiny)
        self.log_kept = float(tensors["sums"][-1, 2])
        self.table.behind = self.steps > 0


def _wide(rows: Tensor) -> Tensor:
    """The same memory in numbers of 16 bytes, where a row divides into them: a copy moves a number at a time."""
    return rows.view(torch.complex128) if rows.shape[1] * rows.element_size() % 16 == 0 else rows
