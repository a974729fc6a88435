"""`Ledger`: what RowAdamW keeps of a table, and how a row that missed some steps is made current.

A dense AdamW moves all V rows at every step, those without a gradient too: their momentum goes on,
and so does their decay (`naive` shows it). RowAdamW makes those moves up at once, when a row is
next read. Let lr_j and λ_j = lr_j · weight_decay be what step j used, and a row, with moments m and
v, be last current after step s. AdamW's steps s+1 … t without a gradient sum up to (derived in
notebook 04)

    w ← P(s,t) [w - A · m / (√v + B/A)],    m ← β1^(t-s) m,    v ← β2^(t-s) v,

    P(s,t) = Π_{j=s+1…t} (1-λ_j),    r = β1/√β2,    a(j) = lr_j √(1-β2^j) / (1-β1^j),

    A = Σ_{j=s+1…t} r^(j-s) a(j) / P(s,j),
    B = Σ_{j=s+1…t} (r/√β2)^(j-s) a(j) / P(s,j) · ε √(1-β2^j).

A and B depend on s alone, not on the row: each step adds a term to those of the last few hundred s,
and all that is older is final. The rates may change from step to step, by any scheduler. The host
keeps the sums, and a step sends the few hundred that it changed. On the device a row costs the
exponentials of five numbers and five operations on its vectors.

The sums are exact for ε = 0; ε itself is met by its mean over the missed steps. Where |g| ≫ ε that
is exact to first order. Where |g| ≪ ε, at the default betas and a constant rate, a row read once
moves wrongly by 11% if that was at step 1, 1% at step 31, 0.013% at step 501. With a smaller β2
that fades more slowly, or not at all: at step 501 it is 0.2% for β2 = 0.99, 1% for 0.98, 9% for
0.95. Rates that rise quickly add to it.

Nothing here has V rows but the table, its moments, and two integers a row. The sums take 24 bytes a
step on the host, and 40 on the device.
"""

import math
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scta_lite.rows.table import Borrowed, VocabTable, distinct, merged

_NOTHING = 1e-18  # of a sum, a share that no float64 shows
_ZERO = 1e-300  # for 0 where its logarithm is taken
_LOG_ZERO = -1e3  # a logarithm of what is 0 in every type
_LOOK_UPS = 8  # that wait for a step, each with rows of its own; more are merged
_FLUSHED = 1 << 14  # rows brought up to date at a time


class Ledger:
    """What RowAdamW keeps of one table. `begin` makes its tensors, when the table is first used."""

    def __init__(self, table: VocabTable, betas: tuple[float, float], stand: Tensor):
        self.table = table
        self.stand = stand  # what the optimizer's groups hold of it
        self.betas = betas  # which may not change
        self.steps = 0  # done
        self.era = 0  # times that the moments were made anew; rows of an earlier one are void
        self.used: dict[int, Borrowed] = {}  # look-ups that a backward pass gave a gradient
        self.behind = False  # some rows have missed steps
        self.state: dict[str, Tensor] = {}

    def begin(self, steps: int = 0) -> None:
        """Moments of 0, and all rows current, after so many steps; on the table's device."""
        stored = self.table.stored
        self.era += 1
        self.used = {}
        self.steps = steps
        self.step = stored.new_full((), steps, dtype=torch.float32)  # the same, on the device
        self.moments = stored.new_zeros(2, *stored.shape)
        m, v = self.moments
        self.state = {"step": self.step, "exp_avg": m, "exp_avg_sq": v}  # as AdamW has it
        self.last = stored.new_full((len(stored),), steps, dtype=torch.int32)  # s of each row
        self.seen = torch.empty_like(self.last)  # where `distinct` finds an id's first place
        self.beta1 = 1 - self.rounded(1 - self.betas[0])  # torch moves m by (1 - β1) (g - m)
        self.beta2 = self.rounded(self.betas[1])
        self.sums = np.zeros((3, steps + 256))  # of each s: A, B, ln P(0,s)
        self.logs = stored.new_zeros(steps + 256, 5, dtype=torch.float64)  # of each s, for `send`
        self.now = stored.new_zeros(5, dtype=torch.float64)  # the same of the last step
        self.send(0)

    def rounded(self, number: float) -> float:
        """As the table's dtype has it: by this a dense AdamW multiplies."""
        return torch.tensor(number, dtype=self.table.stored.dtype).item()

    def borrow(self, ids: Tensor) -> Tensor:
        """Rows (…, dim) of ids (…), current; a backward pass leaves them in `used`."""
        trains = torch.is_grad_enabled()
        if not trains and not self.behind:
            return F.embedding(ids, self.table.stored)
        if torch.compiler.is_exporting():
            expected = "expected flush() before it, and torch.no_grad()"
            raise RuntimeError(f"torch.export of rows that wait for steps: {expected}")
        flat = ids.flatten().long()  # (n,)
        once, places = distinct(flat, self.seen)  # (U,), (n,)
        rows = self.current(once, first=places if once is flat else None)
        leaf = rows.w.requires_grad_(trains)
        if trains:
            # without the leaf: held by its own hook, only the garbage collector would free it
            waiting = partial(self.take_gradient, rows._replace(w=None), self.era, self.steps)
            leaf.register_post_accumulate_grad_hook(waiting)
        return leaf.index_select(0, places).view(*ids.shape, self.table.dim)

    def take_gradient(self, rows: Borrowed, era: int, steps: int, leaf: Tensor) -> None:
        """Keeps a look-up made after so many steps, once its leaf has a gradient."""
        if era != self.era:
            cause = "load_state_dict, restore, or a new RowAdamW"
            expected = "expected their backward pass before that"
            raise RuntimeError(f"rows read before {cause}: {expected}")
        if steps != self.steps:
            expected = f"expected their backward pass before step {steps + 1}"
            raise RuntimeError(f"rows read after step {steps}: {expected}")
        self.used[id(leaf)] = rows._replace(w=leaf)
        if len(self.used) > _LOOK_UPS:
            self.touched()

    @torch.no_grad()
    def current(self, ids: Tensor, first: Tensor | None = None) -> Borrowed:
        """Copies of rows and moments, with the steps made up that they have missed; ids: (U,)."""
        w = self.table.stored.index_select(0, ids)  # (U, dim)
        moments = self.moments.index_select(1, ids)  # (2, U, dim)
        m, v = moments
        last = self.last.index_select(0, ids)  # (U,)
        logs = self.logs.index_select(0, last).sub_(self.now)  # (U, 5)
        missed = torch.exp(logs, out=w.new_empty(logs.shape))  # in the table's dtype
        missed = missed.T.unsqueeze(2)  # (5, U, 1)
        A, B_over_A, P = missed[:3]  # (U, 1) each
        decays = missed[3:]  # β1^(t-s) and β2^(t-s): (2, U, 1)
        root = v.sqrt().add_(B_over_A)
        w.addcmul_(torch.div(m, root, out=root), A, value=-1).mul_(P)
        return Borrowed(ids, first, w, moments.mul_(decays))

    @torch.no_grad()
    def touched(self) -> Borrowed:
        """The rows that a gradient came to, as of one look-up."""
        if len(self.used) > 1:
            rows = merged(list(self.used.values()), self.seen)
            self.used = {id(rows.w): rows}
        return next(iter(self.used.values()))

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for rows in self.used.values():
            rows.w.grad = None
        self.used.clear()

    def give_back(self, rows: Borrowed) -> None:
        """Writes the rows into the table and its moments; `stamp` says that they are current."""
        _wide(self.table.stored).index_copy_(0, rows.ids, _wide(rows.w))
        _wide(self.moments).index_copy_(1, rows.ids, _wide(rows.moments))

    def stamp(self, ids: Tensor) -> None:
        """Writes down that these rows, (U,), are current after the last step."""
        self.last.index_fill_(0, ids, self.steps)

    def write(self, rows: Borrowed) -> None:
        """Gives rows back and stamps them, both or neither: else their steps were made up twice."""
        try:
            self.give_back(rows)
            self.stamp(rows.ids)
        except BaseException:  # Ctrl-C: once more, which changes nothing where it was done
            self.give_back(rows)
            self.stamp(rows.ids)
            raise

    def flush(self) -> None:
        """Brings all rows up to date."""
        if self.behind:
            for ids in torch.arange(self.table.rows, device=self.last.device).split(_FLUSHED):
                self.write(self.current(ids))
        self.behind = False

    def record(self, lr: float, eps: float, weight_decay: float) -> None:
        """Writes step t down: adds its terms to A(s) and B(s)."""
        self.steps += 1
        self.behind = True
        t = self.steps
        if t == self.sums.shape[1]:
            self.reserve(2 * t)
        A, B, log_P = self.sums  # views
        shrink = self.rounded(1 - lr * weight_decay)  # 1 - λ_t
        log_P[t] = log_P[t - 1] + math.log(shrink)
        beta1, beta2 = self.betas
        correction = math.sqrt(1 - beta2**t)
        a = lr * correction / (1 - beta1**t)
        root = math.sqrt(self.beta2)
        r = self.beta1 / root
        n = min(t, _terms(self.beta1 / (self.beta2 * shrink)))
        s = slice(t - n, t)  # older ones are final
        a_over_P = np.exp(log_P[s] - log_P[t]) * a  # a(t) / P(s,t), (n,)
        A[s] += _powers(r, n) * a_over_P
        B[s] += _powers(r / root, n) * a_over_P * (eps * correction)
        self.send(t - n)

    def send(self, start: int) -> None:
        """Sends the device what rows current after step `start` or a later one have missed.

        Of each s the logarithms of A, B/A, 1/P(0,s), β1^-s and β2^-s. Less those of now, of which
        the first two are 0, they are those of A, B/A, P(s,t), β1^(t-s) and β2^(t-s).
        """
        A, B, log_P = self.sums[:, start : self.steps + 1]  # (n,) each
        A = np.maximum(A, _ZERO)
        # so that a row without moments, or that has missed nothing, moves by 0 / tiny, not 0 / 0
        B_over_A = B / A + torch.finfo(self.table.stored.dtype).tiny
        s = np.arange(start, self.steps + 1)
        log_beta1 = math.log(self.beta1) if self.beta1 > 0 else _LOG_ZERO
        log_beta2 = math.log(self.beta2)
        columns = [np.log(A), np.log(B_over_A), -log_P, -s * log_beta1, -s * log_beta2]
        logs = np.stack(columns, axis=1)  # (n, 5)
        now = logs[-1] * [0, 0, 1, 1, 1]  # (5,)
        # written in place: a CUDA graph reads both where they were at its capture
        self.now.copy_(torch.from_numpy(now), non_blocking=True)
        self.logs[start : self.steps + 1].copy_(torch.from_numpy(logs), non_blocking=True)

    def reserve(self, steps: int) -> None:
        """Makes the memory for so many steps in all, so that none of it moves before."""
        more = steps + 1 - self.sums.shape[1]
        if more > 0:
            self.sums = np.pad(self.sums, ((0, 0), (0, more)))
            self.logs = torch.cat([self.logs, self.logs.new_zeros(more, 5)])

    @torch.no_grad()
    def take_over(self, used: dict[int, Borrowed]) -> None:
        """Keeps look-ups whose gradients wait for a step, with the moments that now hold."""
        for key, rows in used.items():
            self.used[key] = rows._replace(moments=self.moments.index_select(1, rows.ids))


def _terms(ratio: float) -> int:
    """How many terms of a sum count, each this ratio of the one before."""
    if ratio == 0:
        return 1
    return 1 + int(math.log(_NOTHING) / math.log(ratio))


@lru_cache(maxsize=8)
def _powers(base: float, n: int) -> np.ndarray:
    """base^n … base^1, (n,)."""
    return base ** np.arange(n, 0, -1)


def _wide(rows: Tensor) -> Tensor:
    """The same memory in numbers of 16 bytes, where a row divides into them, for faster copies."""
    whole = rows.shape[-1] * rows.element_size() % 16 == 0
    return rows.view(torch.complex128) if whole else rows
