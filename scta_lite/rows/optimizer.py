"""`RowAdamW`: what torch's AdamW does to dense tables, at the cost of the rows that a step reads.

What a row has missed is made up when it is read: `ledger` holds the equations. Here is what makes of it a
`torch.optim.Optimizer`: groups, steps, states, copies. Nothing waits for a GPU. Left out: betas that change, AMSGrad,
maximize, gradient scaling, and averages of weights (`swa_utils`), which look for parameters.
"""

import math
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor
from torch.optim.adamw import adamw  # listed as public in the module; a test says so, and that it is AdamW's step

from scta_lite.rows.ledger import Ledger
from scta_lite.rows.table import Borrowed, VocabTable, distinct

_FLUSHED = 1 << 14  # rows brought up to date at a time
_CLOSEST = 0.9997  # β1 to β2 (1 - λ): up to this a sum is final after 140,000 steps
_LOOK_UPS = 8  # that wait for a step, each with rows of its own; more are merged


class RowAdamW(torch.optim.Optimizer):
    """AdamW over `VocabTable`s at the cost of the rows used; a `torch.optim.Optimizer`, for schedulers and all.

    `tables`: VocabTables, or groups `{"params": tables, "lr": …}`. The look-ups of a table between two steps are
    merged, each with the gradient that its backward passes gave it. `step` moves their rows and uses their gradients
    up: without a `zero_grad` they do not add up over steps, as those of a dense table would. `touched` gives the rows
    to move, for clipping. `flush` brings every row up to date; so do `table.weight`, `state_dict`, and the end of the
    optimizer. The last optimizer that was made over a table has it, and one before no longer moves it. On a GPU the
    gradients of an id that stands several times are added in no fixed order: equal trainings differ in last digits.

    ValueError for settings outside AdamW's range, for betas for which the missed steps have no finite sum, and for
    betas that change; RuntimeError for a backward pass through rows that were read before the last step.

    >>> table = VocabTable(1_000_000, 2)
    >>> optimizer = RowAdamW([table], lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> table(torch.tensor([3, 14])).square().sum().backward()
    >>> norm = torch.nn.utils.clip_grad_norm_(optimizer.touched(), 1.0)
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.zero_grad()
    """

    _held = _replayed = None  # as a graph is captured, and as it holds them: of each group its rate, and what moves

    def __init__(
        self,
        tables: Iterable[VocabTable] | Iterable[dict],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        if isinstance(tables, torch.nn.Module):
            raise ValueError(f"tables={type(tables).__name__}: expected a list of VocabTables")
        self._ledgers: dict[Tensor, Ledger] = {}
        super().__init__(tables, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict) -> None:
        """Adds VocabTables with settings of their own; what is not said is as for the others."""
        tables = param_group["params"]
        tables = [tables] if isinstance(tables, VocabTable) else list(tables)
        if not all(isinstance(table, VocabTable) for table in tables) or len(set(tables)) < len(tables):
            kinds = ", ".join(dict.fromkeys(type(table).__name__ for table in tables))
            raise ValueError(f"tables of type {kinds}: expected VocabTables, each once; torch's AdamW takes all else")
        _checked({**self.defaults, **param_group})
        super().add_param_group({**param_group, "params": [table.stored for table in tables]})
        for table in tables:
            used = {}
            if (earlier := table.owner()) is not None:  # a table has one optimizer, the last
                earlier.flush()
                used = earlier._let_go(table)
            self._adopt(table, self.param_groups[-1])
            if used:  # gradients that no step has used
                self._begin(self._ledgers[table.stored])
                self._ledgers[table.stored].take_over(used)

    def owns(self, table: VocabTable) -> bool:
        """Whether this optimizer has the table."""
        return table.stored in self._ledgers

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients that no step has used, or sets them to 0: then their tables' rows go on moving."""
        for ledger in self._ledgers.values():
            for rows in ledger.used.values():
                rows.w.grad = None if set_to_none else torch.zeros_like(rows.w)
            ledger.zeros = ledger.had_gradient and not set_to_none
            if set_to_none:
                ledger.used.clear()
                ledger.had_gradient = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of AdamW on every table that has a gradient; its rows that were not read make it up later."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moves = []
        for group in self.param_groups:
            ledgers = [self._ledgers[stored] for stored in group["params"]]
            if moving := [ledger for ledger in ledgers if ledger.used or ledger.zeros]:
                moves.append((group, moving, _checked(group, moving)))  # all settings before anything moves
        for group, moving, (lr, eps, weight_decay) in moves:
            if self._held is None:
                _count(_move(moving, lr, eps, weight_decay), lr, eps, weight_decay)
            else:  # what a graph holds reads its rate on the device
                rate = self._held_rates[len(self._held)]
                self._held.append((group, rate, _move(moving, rate, eps, weight_decay), [eps, weight_decay]))
        return loss

    @contextmanager
    def capturing(self, steps: int) -> Iterator[None]:
        """Inside, a `torch.cuda.graph` is captured: its one step is written down and not counted.

        Then `replay` does it, until `steps` steps were done in all. The rate may change from step to step; eps and
        weight decay may not, the look-ups have the sizes that they had here, no state may be loaded, and the tables are
        not read whole inside. An optimizer holds one graph. RuntimeError for gradients that no step has used.
        """
        self._nothing_waits()
        if self._replayed is not None:
            raise RuntimeError("a second capture: expected one for each RowAdamW, as it holds the rates of one graph")
        for ledger in self._ledgers.values():
            if not ledger.begun:
                self._begin(ledger)
            ledger.reserve(steps)
        device = next(iter(self._ledgers)).device
        self._held_rates = [torch.zeros((), device=device) for _ in self.param_groups]
        self._held, self._most = [], steps
        self._began = [ledger.began for ledger in self._ledgers.values()]
        try:
            yield
            self._replayed = self._held
        finally:
            self._held = None

    @torch.no_grad()
    def replay(self, graph: Callable[[], None]) -> None:
        """The step that was captured, done by the graph's `replay` with the rates that the groups have now.

        RuntimeError where it would not be that step: after more steps than it was captured for, a loaded state, another
        eps or weight decay, or with gradients that no step has used.
        """
        self._nothing_waits()
        if self._replayed is None:
            raise RuntimeError("replay without a step that was captured: expected `capturing` before")
        if self._began != [ledger.began for ledger in self._ledgers.values()]:
            raise RuntimeError("replay after load_state_dict, restore, or a new RowAdamW: expected a new capture")
        moves = [(rate, moved, held, _checked(group, moved)) for group, rate, moved, held in self._replayed]
        for rate, moved, held, (lr, *others) in moves:
            if others != held:
                raise RuntimeError(f"eps, weight_decay={others}: expected {held}, with which the step was captured")
            if any(ledger.steps >= self._most for ledger in moved):
                raise RuntimeError(f"steps={self._most}: as many were done; expected a graph captured for more")
            rate.fill_(lr)
        graph()
        for _, moved, _, settings in moves:
            _count(moved, *settings)

    def _nothing_waits(self) -> None:
        if any(ledger.used for ledger in self._ledgers.values()):
            raise RuntimeError("gradients that no step has used: expected `step` or `zero_grad` before a captured step")

    def touched(self) -> list[Tensor]:
        """For each table with a gradient the rows that the next step moves, (U, dim), `.grad` their gradient.

        Look-ups of a table are merged, so that the gradient's norm is that of a dense table. To change `.grad` is to
        change the step.
        """
        return [ledger.rows().w for ledger in self._ledgers.values() if ledger.used]

    @torch.no_grad()
    def flush(self) -> None:
        """Makes up all missed steps of all rows; a pass over the tables, at most one for each step."""
        if self._held is not None:
            raise RuntimeError("a table is read whole in a captured step: expected look-ups with gradients alone")
        for ledger in self._ledgers.values():
            table = ledger.table
            if table.behind:
                for ids in torch.arange(table.rows, device=table.stored.device).split(_FLUSHED):
                    ledger.give_back(ledger.current(ids))
                    ledger.stamp(ids)
                table.behind = False

    def state_dict(self) -> dict:
        """What `torch.optim.AdamW` over dense tables gives, whose place it can take: step, exp_avg, exp_avg_sq.

        All rows are brought up to date first. The rows themselves are in the model's state_dict.
        """
        self.flush()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes the state of a RowAdamW, or of torch's AdamW, over tables of the same sizes in the same order.

        ValueError for a state of other sizes, or of an AdamW with `amsgrad` or `maximize`.
        """
        for group, name in product(state_dict["param_groups"], ("amsgrad", "maximize")):
            if group.get(name):
                raise ValueError(f"{name}={group[name]!r}: expected the state of an AdamW without it")
        for i, ledger in enumerate(self._ledgers.values()):
            for name in ("exp_avg", "exp_avg_sq"):
                found = state_dict["state"].get(i, {}).get(name)
                if found is not None and found.shape != (ledger.table.rows, ledger.table.dim):
                    expected = (ledger.table.rows, ledger.table.dim)
                    raise ValueError(f"{name} of shape {tuple(found.shape)}: expected {expected}")
        self.flush()
        super().load_state_dict(state_dict)  # which calls __setstate__

    def snapshot(self) -> dict[str, Tensor]:
        """The tables and all that the optimizer keeps as they stand, some rows behind: the tensors themselves, by name.

        A training that goes on from it is the same bit by bit, where `state_dict` would round the rows once more.
        """
        tensors = {}
        for i, ledger in enumerate(self._ledgers.values()):
            if not ledger.begun:
                self._begin(ledger)
            tensors |= {f"{i}.{name}": x for name, x in ledger.tensors().items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `snapshot` gave, of tables of the same sizes in the same order."""
        for i, ledger in enumerate(self._ledgers.values()):
            mine = {name.partition(".")[2]: x for name, x in tensors.items() if name.startswith(f"{i}.")}
            self._begin(ledger, steps=int(mine["step"]))
            ledger.restore(mine)

    def borrow(self, table: VocabTable, ids: Tensor) -> Tensor:
        """Rows (…, dim) of ids (…), current, whose gradient `step` will use; `table(ids)` calls this."""
        ledger = self._ledgers[table.stored]
        if not ledger.begun:
            self._begin(ledger)
        flat = ids.flatten().long()
        once, places = distinct(flat, ledger.seen)
        with torch.no_grad():
            _, first, w, moments = ledger.current(once, places if once is flat else None)
        read, began = ledger.steps, ledger.began

        def use(w: Tensor) -> None:
            if ledger.began != began or not self.owns(table):
                raise RuntimeError("rows read before load_state_dict, restore, or a new RowAdamW: "
                                   "expected their backward pass before that")  # fmt: skip
            if ledger.steps != read:
                raise RuntimeError(
                    f"rows read after step {read}: expected their backward pass before step {ledger.steps}"
                )
            ledger.used[id(w)], ledger.had_gradient = Borrowed(once, first, w, moments), True
            if len(ledger.used) > _LOOK_UPS:
                ledger.rows()

        w.requires_grad_().register_post_accumulate_grad_hook(use)
        # `use` holds no w of its own: only the garbage collector would free such a cycle
        return w.index_select(0, places).view(*ids.shape, table.dim)

    def __del__(self):
        if getattr(self, "_ledgers", None) and not sys.is_finalizing():
            self.flush()  # no one else could make up what the rows have missed

    def __getstate__(self) -> dict:
        self.flush()
        return {**super().__getstate__(), "tables": [ledger.table for ledger in self._ledgers.values()]}

    def __setstate__(self, state: dict) -> None:
        tables = state.get("tables", [])  # of a copy; load_state_dict gives none
        super().__setstate__({name: value for name, value in state.items() if name != "tables"})
        if tables:
            self._ledgers = {}
        groups = {stored: group for group in self.param_groups for stored in group["params"]}
        for table in tables:
            self._adopt(table, groups[table.stored])
        for stored, ledger in self._ledgers.items():
            ledger.betas = tuple(groups[stored]["betas"])
            found, used = self.state.get(stored), ledger.used
            if found or ledger.begun:
                self._begin(ledger, found, steps=int(found["step"]) if found else 0)
                ledger.take_over(used)

    def _adopt(self, table: VocabTable, group: dict) -> None:
        table.optimizer, table.behind = weakref.ref(self), False
        self._ledgers[table.stored] = Ledger(table, tuple(group["betas"]))

    def _let_go(self, table: VocabTable) -> dict[int, Borrowed]:
        for group in self.param_groups:
            group["params"] = [stored for stored in group["params"] if stored is not table.stored]
        self.state.pop(table.stored, None)
        return self._ledgers.pop(table.stored).used

    def _begin(self, ledger: Ledger, found: dict | None = None, steps: int = 0) -> None:
        """Makes the moments, or takes those `found`, after so many steps; `state` shows them as AdamW's does."""
        ledger.begin(steps)
        exp_avg, exp_avg_sq = ledger.moments
        shown = {"step": ledger.step, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        if found:
            for name, mine in shown.items():
                mine.copy_(torch.as_tensor(found[name]))
        self.state[ledger.table.stored] = shown


def _move(ledgers: list[Ledger], lr: float | Tensor, eps: float, weight_decay: float) -> dict[Ledger, Tensor | None]:
    """One step of a group's tables, as the device does it: torch's AdamW on the rows that have a gradient.

    For each table the ids of its rows that moved, or None.
    """
    read = [(ledger, ledger.rows()) for ledger in ledgers if ledger.used]
    if read:
        beta1, beta2 = ledgers[0].betas
        w, g, m, v, steps = zip(*((rows.w, rows.gradient(), *rows.moments, ledger.step) for ledger, rows in read),
                                strict=True)  # fmt: skip
        adamw(w, g, m, v, [], steps, fused=True, amsgrad=False, maximize=False,
              lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)  # fmt: skip
    for ledger in ledgers:
        if not ledger.used:
            ledger.step += 1  # as adamw does
    for ledger, rows in read:
        ledger.give_back(rows)
        ledger.used.clear()
    return dict.fromkeys(ledgers) | {ledger: rows.ids for ledger, rows in read}


def _count(moved: dict[Ledger, Tensor | None], lr: float, eps: float, weight_decay: float) -> None:
    """What the host keeps of a step that was done: the rows that did not move are behind now."""
    for ledger, ids in moved.items():
        ledger.count(lr, eps, weight_decay)
        ledger.table.behind = True
        if ids is not None:
            ledger.stamp(ids)


def _checked(group: dict, ledgers: Iterable[Ledger] = ()) -> tuple[float, float, float]:
    """The group's lr, eps and weight_decay, if AdamW can use them, and the ledgers with them and the group's betas."""
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= float(group[name]) < math.inf:
            raise ValueError(f"{name}={group[name]!r}: expected a finite number from 0 up")
    lr, eps, weight_decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
    for name in ("amsgrad", "maximize"):
        if group.get(name):
            raise ValueError(f"{name}={group[name]!r}: expected False; RowAdamW does not have it")
    betas = tuple(group["betas"])
    if not (len(betas) == 2 and 0 <= betas[0] < _CLOSEST * betas[1] * (1 - lr * weight_decay) and betas[1] < 1):
        raise ValueError(f"betas={betas}: expected 0 ≤ β1 < {_CLOSEST} β2 (1 - λ) and β2 < 1, "
                         f"with λ = lr · weight_decay = {lr * weight_decay:g}")  # fmt: skip
    for began_with in (ledger.betas for ledger in ledgers):
        if betas != began_with:
            raise ValueError(f"betas={betas}: expected {began_with}, with which the table began; "
                             "schedulers that cycle them need cycle_momentum=False")  # fmt: skip
    return lr, eps, weight_decay
