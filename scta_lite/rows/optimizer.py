"""`RowAdamW`: what torch's AdamW does to dense tables, at the cost of the rows that a step reads.

What a row has missed is made up when it is read: `ledger` holds the equations. Here is what makes
of it a `torch.optim.Optimizer`: groups, steps, states. Nothing waits for a GPU. Left out: betas
that change, AMSGrad, maximize, gradient scaling, copies, and averages of weights (`swa_utils`),
which look for parameters.
"""

import math
import sys
import weakref
from collections.abc import Callable, Iterable
from threading import RLock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw  # public in the module; a test says so, and that it is AdamW's

from scta_lite import checks
from scta_lite.rows.ledger import Ledger
from scta_lite.rows.table import Borrowed, VocabTable

Settings = dict[str, float | Tensor]  # of a step of AdamW: lr, eps, weight_decay

_PLAIN = {"amsgrad": False, "maximize": False}  # variants of AdamW that are not here
_ASKED = {"is_leaf", "requires_grad", "is_floating_point", "device", "dtype", "__repr__"}


class Stand(Tensor):
    """Stands for a table in the groups: has no rows and no gradient, and tells who asks for them.

    What walks the groups, as Lightning's clipping does, would otherwise do nothing, in silence.
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(getattr(function, "__self__", None), "__name__", function.__name__)
        if name not in _ASKED:
            expected = "expected table.weight, or optimizer.touched() for clipping"
            raise RuntimeError(f"{name} of a VocabTable in param_groups: {expected}")
        return super().__torch_function__(function, types, args, kwargs or {})


class RowAdamW(torch.optim.Optimizer):
    """AdamW over `VocabTable`s at the cost of the rows used; a `torch.optim.Optimizer`.

    It gives what AdamW gives, but for ε over the steps that a row has missed: see `ledger`.

    `tables`: VocabTables, or groups `{"params": tables, "lr": …}`. The look-ups of a table between
    two steps are merged, each with the gradient that its backward passes gave it. `step` moves
    their rows and uses their gradients up: without a `zero_grad` they do not add up over steps, as
    those of a dense table would. `touched` gives the rows to move, for clipping. `flush` brings
    every row up to date; so do `table.weight`, `state`, `state_dict`, and the end of the optimizer.
    The last optimizer that was made over a table has it, and one before no longer moves it. Threads
    may read the tables while one trains.

    On a GPU the gradients of an id that stands several times are added in no fixed order: equal
    trainings differ in last digits.

    ValueError for settings outside AdamW's range, for betas for which the missed steps have no
    finite sum, and for betas that change. RuntimeError for a backward pass through rows that were
    read before the last step, for a `state` that was replaced, where `param_groups` are walked for
    gradients or rows, and in a training on several ranks, whose tables would drift apart.

    >>> table = VocabTable(1_000_000, 2)
    >>> optimizer = RowAdamW([table], lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> table(torch.tensor([3, 14])).square().sum().backward()
    >>> norm = torch.nn.utils.clip_grad_norm_(optimizer.touched(), 1.0)
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.zero_grad()
    """

    _lock = RLock()  # a read brings rows up to date: it writes

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
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise RuntimeError("ranks: expected one, as none would see the others' gradients")
        self._ledgers: dict[VocabTable, Ledger] = {}
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        groups = list(tables)
        if not groups or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        groups = [{**group, "params": vocab_tables(group["params"])} for group in groups]
        vocab_tables(table for group in groups for table in group["params"])  # none in two groups
        for group in groups:  # all are right, or no table leaves the optimizer that it has
            checked({**defaults, **group})
        super().__init__(groups, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Adds VocabTables with settings of their own; what is not given is as for the others."""
        tables = vocab_tables(param_group["params"])
        vocab_tables([*tables, *self._ledgers])
        checked({**self.defaults, **param_group})
        # of no float dtype: a state that is loaded keeps its own
        stands = [torch.empty(0, dtype=torch.int8).as_subclass(Stand) for _ in tables]
        super().add_param_group({**param_group, "params": stands})
        for table, its in zip(tables, stands, strict=True):
            earlier = table.owner()  # a table has one optimizer, the last
            used = earlier.let_go(table) if earlier is not None else {}
            table.lender = weakref.ref(self)
            ledger = Ledger(table, tuple(self.param_groups[-1]["betas"]), its)
            self._ledgers[table] = ledger
            if used:  # gradients that no step has used
                self.begin(ledger)
                ledger.take_over(used)

    @property
    def state(self) -> dict[Stand, dict[str, Tensor]]:
        """What `torch.optim.AdamW` has: step, exp_avg, exp_avg_sq; all rows are up to date."""
        self.flush()
        return self._state

    @state.setter
    def state(self, state: dict) -> None:
        self._state = state

    def owns(self, table: VocabTable) -> bool:
        """Whether this optimizer has the table."""
        return table in self._ledgers

    def borrow(self, table: VocabTable, ids: Tensor) -> Tensor:
        """Rows (…, dim) of ids (…), current, whose gradient `step` will use, for `table(ids)`."""
        with self._lock:
            ledger = self._ledgers[table]
            if torch.is_grad_enabled() and not ledger.era:
                self.begin(ledger)
            return ledger.borrow(ids)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients that no step has used."""
        if not set_to_none:
            raise ValueError("set_to_none=False: expected True, as by gradients of 0 all rows move")
        for ledger in self._ledgers.values():
            ledger.zero_grad()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of AdamW on every table with a gradient; rows not read make it up later."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._lock:
            stand_for = {ledger.stand: ledger for ledger in self._ledgers.values()}
            moves = []
            for group in self.param_groups:
                owned = map(stand_for.get, group["params"])
                ledgers = [ledger for ledger in owned if ledger.used]
                if ledgers:
                    self._require_own_state(ledgers)
                    moves.append((group, ledgers, checked(group, ledgers)))
            for group, ledgers, settings in moves:  # once all are checked
                self.move(group, ledgers, settings)
        return loss

    def move(self, group: dict, ledgers: list[Ledger], settings: Settings) -> None:
        """One step of tables of a group, on the device and in their ledgers."""
        for ledger, rows in move_rows(ledgers, settings).items():
            ledger.record(**settings)
            ledger.write(rows)

    def touched(self) -> list[Tensor]:
        """For each table with a gradient the rows that the next step moves, (U, dim).

        `.grad` is their gradient. Look-ups of a table are merged, so that the gradient's norm is
        that of a dense table. To change `.grad` is to change the step.
        """
        return [ledger.touched().w for ledger in self._ledgers.values() if ledger.used]

    @torch.no_grad()
    def flush(self) -> None:
        """Makes up all missed steps of all rows; a pass over the tables, at most one a step."""
        with self._lock:
            for ledger in self._ledgers.values():
                ledger.flush()

    def state_dict(self) -> dict:
        """What `torch.optim.AdamW` over dense tables gives: step, exp_avg, exp_avg_sq.

        It can take the place of that. All rows are brought up to date first. The rows themselves
        are in the model's state_dict.
        """
        self._require_own_state(self._ledgers.values())
        return super().state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes the state of a RowAdamW, or of torch's AdamW, over such tables in the same order.

        ValueError for a state of other sizes, or of an AdamW with `amsgrad` or `maximize`.
        """
        for group in state_dict["param_groups"]:
            _plain(group, "the state of an AdamW without it")
        for i, ledger in enumerate(self._ledgers.values()):
            m = state_dict["state"].get(i, {}).get("exp_avg")
            expected = tuple(ledger.table.stored.shape)
            if m is not None and m.shape != expected:
                raise ValueError(f"exp_avg of shape {tuple(m.shape)}: expected {expected}")
        super().load_state_dict(state_dict)  # which calls __setstate__

    def let_go(self, table: VocabTable) -> dict[int, Borrowed]:
        """Gives the table up, all rows current; its look-ups whose gradients wait for a step."""
        self.flush()
        ledger = self._ledgers.pop(table)
        for group in self.param_groups:
            group["params"] = [other for other in group["params"] if other is not ledger.stand]
        self._state.pop(ledger.stand, None)
        ledger.era += 1  # what was read and has no gradient yet cannot be trained any more
        return ledger.used

    def __del__(self):
        if getattr(self, "_ledgers", None) and not sys.is_finalizing():
            self.flush()  # no one else could make up what the rows have missed

    def __getstate__(self) -> dict:
        raise TypeError("a RowAdamW is neither copied nor pickled: expected its state_dict()")

    def __setstate__(self, state: dict) -> None:
        self.flush()  # by the rates of the state that goes
        others = dict(state)
        loaded = others.pop("state")
        super().__setstate__(others)
        groups = {its: group for group in self.param_groups for its in group["params"]}
        for ledger in self._ledgers.values():
            ledger.betas = tuple(groups[ledger.stand]["betas"])
            read = loaded.get(ledger.stand)
            if read or ledger.era:
                used = ledger.used
                self.begin(ledger, steps=int(read["step"]) if read else 0)
                for name, own in self._state[ledger.stand].items():
                    own.copy_(torch.as_tensor(read[name] if read else 0))
                ledger.take_over(used)

    def begin(self, ledger: Ledger, steps: int = 0) -> None:
        """Makes the ledger's moments, which `state` shows as AdamW's does."""
        ledger.begin(steps)
        self._state[ledger.stand] = dict(ledger.state)

    def _require_own_state(self, ledgers: Iterable[Ledger]) -> None:
        for ledger in ledgers:
            shown = self._state.get(ledger.stand, {})
            if any(shown.get(name) is not tensor for name, tensor in ledger.state.items()):
                expected = "expected load_state_dict, or a new RowAdamW to begin anew"
                raise RuntimeError(f"optimizer.state was replaced: {expected}")


def vocab_tables(params: VocabTable | Iterable[VocabTable]) -> list[VocabTable]:
    """The tables of a group; ValueError for what is none, or is there twice."""
    tables = [params] if isinstance(params, VocabTable) else list(params)
    kinds = {type(table).__name__: isinstance(table, VocabTable) for table in tables}
    if not all(kinds.values()) or len(set(tables)) < len(tables):
        expected = "expected VocabTables, each once; torch's AdamW takes all else"
        raise ValueError(f"tables of type {', '.join(kinds)}: {expected}")
    return tables


def move_rows(ledgers: list[Ledger], settings: Settings) -> dict[Ledger, Borrowed]:
    """One step as the device does it: torch's AdamW on the rows that have a gradient.

    Gives the rows that it moved, which are not written back yet.
    """
    read = {ledger: ledger.touched() for ledger in ledgers}
    parts = [(rows.w, rows.gradient(), *rows.moments) for rows in read.values()]
    w, g, m, v = map(list, zip(*parts, strict=True))
    steps = [ledger.step for ledger in ledgers]
    beta1, beta2 = ledgers[0].betas
    adamw(w, g, m, v, [], steps, fused=True, beta1=beta1, beta2=beta2, **settings, **_PLAIN)
    for ledger in ledgers:
        ledger.used.clear()
    return read


def checked(group: dict, ledgers: Iterable[Ledger] = ()) -> Settings:
    """The settings of a group, if AdamW can use them, and the ledgers began with its betas."""
    settings = {name: float(group[name]) for name in ("lr", "eps", "weight_decay")}
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={group[name]!r}: expected a finite number from 0 up")
    _plain(group, "False; RowAdamW does not have it")
    betas = tuple(group["betas"])
    checks.row_betas(betas, settings["lr"] * settings["weight_decay"])
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
