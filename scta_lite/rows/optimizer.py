"""`RowAdamW`: what torch's AdamW does to dense tables, at the cost of the rows that a step reads.

What a row has missed is made up when it is read: `ledger` holds the equations. Here is what makes
of it a `torch.optim.Optimizer`: groups, steps, states, copies. Nothing waits for a GPU. Left out:
betas that change, AMSGrad, maximize, gradient scaling, and averages of weights (`swa_utils`), which
look for parameters.
"""

import math
import sys
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw  # public in the module; a test says so, and that it is AdamW's

from scta_lite.rows.ledger import Ledger
from scta_lite.rows.table import Borrowed, VocabTable

Settings = dict[str, float | Tensor]  # of a step of AdamW: lr, eps, weight_decay

_PLAIN = {"amsgrad": False, "maximize": False}  # variants of AdamW that are not here
_CLOSEST = 0.9997  # β1 to β2 (1 - λ): up to this a sum is final after 140,000 steps


class RowAdamW(torch.optim.Optimizer):
    """AdamW over `VocabTable`s at the cost of the rows used; a `torch.optim.Optimizer`.

    It gives what AdamW gives, but for ε over the steps that a row has missed: see `ledger`.

    `tables`: VocabTables, or groups `{"params": tables, "lr": …}`. The look-ups of a table between
    two steps are merged, each with the gradient that its backward passes gave it. `step` moves
    their rows and uses their gradients up: without a `zero_grad` they do not add up over steps, as
    those of a dense table would. `touched` gives the rows to move, for clipping. `flush` brings
    every row up to date; so do `table.weight`, `state_dict`, and the end of the optimizer. The last
    optimizer that was made over a table has it, and one before no longer moves it.

    On a GPU the gradients of an id that stands several times are added in no fixed order: equal
    trainings differ in last digits.

    ValueError for settings outside AdamW's range, for betas for which the missed steps have no
    finite sum, and for betas that change; RuntimeError for a backward pass through rows that were
    read before the last step.

    >>> table = VocabTable(1_000_000, 2)
    >>> optimizer = RowAdamW([table], lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> table(torch.tensor([3, 14])).square().sum().backward()
    >>> norm = torch.nn.utils.clip_grad_norm_(optimizer.touched(), 1.0)
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.zero_grad()
    """

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
        self._ledgers: dict[Tensor, Ledger] = {}  # by `table.stored`, a parameter to the groups
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(tables, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Adds VocabTables with settings of their own; what is not given is as for the others."""
        tables = param_group["params"]
        tables = [tables] if isinstance(tables, VocabTable) else list(tables)
        kinds = {type(table).__name__: isinstance(table, VocabTable) for table in tables}
        if not all(kinds.values()) or len(set(tables)) < len(tables):
            expected = "expected VocabTables, each once; torch's AdamW takes all else"
            raise ValueError(f"tables of type {', '.join(kinds)}: {expected}")
        checked({**self.defaults, **param_group})
        super().add_param_group({**param_group, "params": [table.stored for table in tables]})
        for table in tables:
            earlier = table.owner()  # a table has one optimizer, the last
            used = earlier.let_go(table) if earlier is not None else {}
            ledger = self._adopt(table, self.param_groups[-1])
            if used:  # gradients that no step has used
                self.begin(ledger)
                ledger.take_over(used)

    def owns(self, table: VocabTable) -> bool:
        """Whether this optimizer has the table."""
        return table.stored in self._ledgers

    def borrow(self, table: VocabTable, ids: Tensor) -> Tensor:
        """Rows (…, dim) of ids (…), current, whose gradient `step` will use, for `table(ids)`."""
        ledger = self._ledgers[table.stored]
        if not ledger.era:
            self.begin(ledger)
        return ledger.borrow(ids)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients that no step has used; or sets them to 0, and rows go on moving."""
        for ledger in self._ledgers.values():
            ledger.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of AdamW on every table with a gradient; rows not read make it up later."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moves = []
        for group in self.param_groups:
            owned = [self._ledgers[stored] for stored in group["params"]]
            ledgers = [ledger for ledger in owned if ledger.moves()]
            if ledgers:
                moves.append((group, ledgers, checked(group, ledgers)))
        for group, ledgers, settings in moves:  # once all are checked
            self.move(group, ledgers, settings)
        return loss

    def move(self, group: dict, ledgers: list[Ledger], settings: Settings) -> None:
        """One step of tables of a group, on the device and in their ledgers."""
        for ledger, ids in move_rows(ledgers, settings).items():
            ledger.record(ids, **settings)

    def touched(self) -> list[Tensor]:
        """For each table with a gradient the rows that the next step moves, (U, dim).

        `.grad` is their gradient. Look-ups of a table are merged, so that the gradient's norm is
        that of a dense table. To change `.grad` is to change the step.
        """
        return [ledger.touched().w for ledger in self._ledgers.values() if ledger.used]

    @torch.no_grad()
    def flush(self) -> None:
        """Makes up all missed steps of all rows; a pass over the tables, at most one a step."""
        for ledger in self._ledgers.values():
            ledger.flush()

    def state_dict(self) -> dict:
        """What `torch.optim.AdamW` over dense tables gives: step, exp_avg, exp_avg_sq.

        It can take the place of that. All rows are brought up to date first. The rows themselves
        are in the model's state_dict.
        """
        self.flush()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes the state of a RowAdamW, or of torch's AdamW, over such tables in the same order.

        ValueError for a state of other sizes, or of an AdamW with `amsgrad` or `maximize`.
        """
        for group in state_dict["param_groups"]:
            _plain(group, "the state of an AdamW without it")
        for i, ledger in enumerate(self._ledgers.values()):
            state, expected = state_dict["state"].get(i, {}), tuple(ledger.table.stored.shape)
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state and state[name].shape != expected:
                    shape = tuple(state[name].shape)
                    raise ValueError(f"{name} of shape {shape}: expected {expected}")
        self.flush()
        super().load_state_dict(state_dict)  # which calls __setstate__

    def ledgers(self) -> list[Ledger]:
        """Of each table, in order; with its tensors, if it was not used yet too."""
        for ledger in self._ledgers.values():
            if not ledger.era:
                self.begin(ledger)
        return list(self._ledgers.values())

    def let_go(self, table: VocabTable) -> dict[int, Borrowed]:
        """Gives the table up, all rows current; its look-ups whose gradients wait for a step."""
        self.flush()
        for group in self.param_groups:
            group["params"] = [other for other in group["params"] if other is not table.stored]
        self.state.pop(table.stored, None)
        ledger = self._ledgers.pop(table.stored)
        ledger.era += 1  # what was read and has no gradient yet cannot be trained any more
        return ledger.used

    def __del__(self):
        if getattr(self, "_ledgers", None) and not sys.is_finalizing():
            self.flush()  # no one else could make up what the rows have missed

    def __getstate__(self) -> dict:
        self.flush()
        tables = [ledger.table for ledger in self._ledgers.values()]
        return {**super().__getstate__(), "_copied": tables}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        groups = {stored: group for group in self.param_groups for stored in group["params"]}
        if "_copied" in state:  # load_state_dict gives none
            self._ledgers = {}
            for table in vars(self).pop("_copied"):
                self._adopt(table, groups[table.stored])
        for stored, ledger in self._ledgers.items():
            ledger.betas = tuple(groups[stored]["betas"])
            read = self.state.get(stored)
            if read or ledger.era:
                used = ledger.used
                self.begin(ledger, steps=int(read["step"]) if read else 0)
                for name, own in self.state[stored].items():
                    own.copy_(torch.as_tensor(read[name] if read else 0))
                ledger.take_over(used)

    def _adopt(self, table: VocabTable, group: dict) -> Ledger:
        table.lender = weakref.ref(self)
        ledger = Ledger(table, tuple(group["betas"]))
        self._ledgers[table.stored] = ledger
        return ledger

    def begin(self, ledger: Ledger, steps: int = 0) -> None:
        """Makes the ledger's moments, which `state` shows as AdamW's does."""
        ledger.begin(steps)
        m, v = ledger.moments
        self.state[ledger.table.stored] = {"step": ledger.step, "exp_avg": m, "exp_avg_sq": v}


def move_rows(ledgers: list[Ledger], settings: Settings) -> dict[Ledger, Tensor]:
    """One step as the device does it: torch's AdamW on the rows that have a gradient.

    Gives the ids (U,) of the rows of each table that it moved.
    """
    read = {ledger: ledger.touched() for ledger in ledgers}
    w = [rows.w for rows in read.values()]
    g = [rows.gradient() for rows in read.values()]
    m = [rows.moments[0] for rows in read.values()]
    v = [rows.moments[1] for rows in read.values()]
    steps = [ledger.step for ledger in ledgers]
    beta1, beta2 = ledgers[0].betas
    adamw(w, g, m, v, [], steps, fused=True, beta1=beta1, beta2=beta2, **settings, **_PLAIN)
    for ledger, rows in read.items():
        ledger.give_back(rows)
        ledger.used.clear()
    return {ledger: rows.ids for ledger, rows in read.items()}


def checked(group: dict, ledgers: Iterable[Ledger] = ()) -> Settings:
    """The settings of a group, if AdamW can use them, and the ledgers began with its betas."""
    settings = {name: float(group[name]) for name in ("lr", "eps", "weight_decay")}
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={group[name]!r}: expected a finite number from 0 up")
    _plain(group, "False; RowAdamW does not have it")
    betas = tuple(group["betas"])
    decay = settings["lr"] * settings["weight_decay"]  # λ
    if len(betas) != 2 or not 0 <= betas[0] < _CLOSEST * betas[1] * (1 - decay) or betas[1] >= 1:
        expected = f"expected 0 ≤ β1 < {_CLOSEST} β2 (1 - λ) and β2 < 1"
        raise ValueError(f"betas={betas}: {expected}, with λ = lr · weight_decay = {decay:g}")
    for ledger in ledgers:
        if betas != ledger.betas:
            expected = f"expected {ledger.betas}, with which the table began"
            advice = "schedulers that cycle them need cycle_momentum=False"
            raise ValueError(f"betas={betas}: {expected}; {advice}")
    return settings


def _plain(group: dict, expected: str) -> None:
    """Raises ValueError for a variant of AdamW that RowAdamW does not have."""
    for name in _PLAIN:
        if group.get(name):
            raise ValueError(f"{name}={group[name]!r}: expected {expected}")
