"""A step on a GPU as one CUDA graph: captured once, then launched at once.

`CapturedRun` is a training of such steps; phases inside a step have no times. `CapturedRows` is the
optimizer that it needs for tables of which a step reads rows.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from scta_lite.rows import RowAdamW, VocabTable
from scta_lite.rows.ledger import Ledger
from scta_lite.rows.optimizer import Settings, checked, move_rows
from scta_lite.timing import StepTimer
from torch import Tensor
from torch.optim import Optimizer

from scta_lab.base.spec import Spec
from scta_lab.run.loop import LabRun, optimizers
from scta_lab.run.rows import ledgers

WARM = 4  # steps before one is captured, in which libraries choose kernels and take their memory
AHEAD = 8  # replays that wait on a GPU, at most: budgets and losses are to be about now
SHORT = 20  # steps of a training, at most, that are done one by one


@dataclass
class GroupStep:
    """What a graph holds of the step of one group of tables."""

    group: dict
    rate: Tensor  # (), where the graph reads it
    moved: dict[Ledger, Tensor]  # ids (U,) of the rows that each replay moves
    settings: Settings


@dataclass
class Captured:
    """What a graph holds of an optimizer's step."""

    steps: int  # in all, for which there is memory
    rates: list[Tensor]  # () for each group
    ledgers: dict[Ledger, int]  # and the era of each
    groups: list[GroupStep] = field(default_factory=list)


class CapturedRows(RowAdamW):
    """A RowAdamW whose step a CUDA graph can hold. It holds one graph."""

    captured: Captured | None = None
    being_captured: Captured | None = None

    @contextmanager
    def capturing(self, steps: int) -> Iterator[None]:
        """Inside, a `torch.cuda.graph` is captured: its one step is written down and not counted.

        Then `replay` does it, until `steps` steps were done in all. The rate may change from step
        to step; eps and weight decay may not. The look-ups have the sizes that they had here, no
        state may be loaded, and the tables are not read whole inside. RuntimeError for gradients
        that no step has used.
        """
        held = ledgers(self)
        self._require_no_gradients()
        if self.captured is not None:
            expected = "expected one for each RowAdamW, as it holds the rates of one graph"
            raise RuntimeError(f"a second capture: {expected}")
        for ledger in held:
            ledger.reserve(steps)
        device = held[0].moments.device
        rates = [torch.zeros((), device=device) for _ in self.param_groups]
        self.being_captured = Captured(steps, rates, eras(held))
        try:
            yield
            self.captured = self.being_captured
        finally:
            self.being_captured = None

    def move(self, group: dict, ledgers: list[Ledger], settings: Settings) -> None:
        """One step of tables of a group; in a capture by a rate that the device reads."""
        held = self.being_captured
        if held is None:
            super().move(group, ledgers, settings)
            return
        rate = held.rates[len(held.groups)]
        moved = {}
        for ledger, rows in move_rows(ledgers, {**settings, "lr": rate}).items():
            ledger.give_back(rows)
            moved[ledger] = rows.ids
        held.groups.append(GroupStep(group, rate, moved, settings))

    @torch.no_grad()
    def replay(self, graph: Callable[[], None]) -> None:
        """The step that was captured, by the graph's `replay`, at the rates of the groups now.

        RuntimeError where it would not be that step: after more steps than it was captured for, a
        loaded state, another eps or weight decay, or with gradients that no step has used.
        """
        self._require_no_gradients()
        held = self.captured
        if held is None:
            raise RuntimeError(
                "replay without a step that was captured: expected `capturing` before"
            )
        if held.ledgers != eras(ledgers(self)):
            cause = "load_state_dict, restore, or a new RowAdamW"
            raise RuntimeError(f"replay after {cause}: expected a new capture")
        now = [unchanged(step, held.steps) for step in held.groups]
        for step, settings in zip(held.groups, now, strict=True):
            step.rate.fill_(settings["lr"])
        graph()
        for step, settings in zip(held.groups, now, strict=True):
            for ledger, ids in step.moved.items():
                ledger.record(**settings)
                ledger.stamp(ids)

    def flush(self) -> None:
        self._require_no_capture()
        super().flush()

    def borrow(self, table: VocabTable, ids: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            self._require_no_capture()
        return super().borrow(table, ids)

    def _require_no_capture(self) -> None:
        if self.being_captured is not None:
            expected = "expected look-ups with gradients alone"
            raise RuntimeError(f"a table is read whole in a captured step: {expected}")

    def _require_no_gradients(self) -> None:
        if any(ledger.used for ledger in ledgers(self)):
            expected = "expected `step` or `zero_grad` before a captured step"
            raise RuntimeError(f"gradients that no step has used: {expected}")


def eras(ledgers: list[Ledger]) -> dict[Ledger, int]:
    """Of each ledger how often its memory was made anew."""
    return {ledger: ledger.era for ledger in ledgers}


def unchanged(step: GroupStep, steps: int) -> Settings:
    """The settings of the group now; RuntimeError where the graph holds others."""
    settings = checked(step.group, step.moved)
    now, then = ([s["eps"], s["weight_decay"]] for s in (settings, step.settings))
    if now != then:
        expected = f"expected {then}, with which the step was captured"
        raise RuntimeError(f"eps, weight_decay={now}: {expected}")
    if any(ledger.steps >= steps for ledger in step.moved):
        raise RuntimeError(f"steps={steps}: as many were done; expected a graph captured for more")
    return settings


class CapturedRun(LabRun):
    """A run whose steps are replays of one, from the fifth on.

    Where a capture fails that was not asked for, the steps go on one by one, with a warning.
    """

    may_capture = True
    graph: torch.cuda.CUDAGraph | None

    def make_optimizers(self) -> list[Optimizer]:
        return optimizers(self.spec, self.model, CapturedRows, capturable=True)

    def step(self, batches: Iterator[Tensor]) -> None:
        if self.may_capture and len(self.timer.steps) == WARM:
            self.may_capture = False
            self.is_captured = self._capture()
        super().step(batches)
        if self.is_captured and self.device.type == "cuda" and len(self.timer.steps) > AHEAD:
            self.timer.steps[-AHEAD][-1].synchronize()  # a replay is queued at once: not too many

    def update(self, ids: Tensor) -> Tensor:
        self.set_rates()
        if self.is_captured:
            loss = self._replay(ids)
            self.timer.mark("graph")
            return loss
        self.ids = ids
        return self.work(ids)

    def measured(self) -> dict:
        found = super().measured()
        if self.is_captured:
            self.graph.reset()  # its memory is for what judges the model
        return found

    def _capture(self) -> bool:
        """Whether a step could be captured; RuntimeError where it could not, but was asked for."""
        state, stream = self.generator.get_state(), torch.cuda.current_stream(self.device)
        try:
            self._record()
        except RuntimeError as error:
            if self.spec.capture:
                raise
            warnings.warn(f"the steps are not captured: {error.__context__ or error}", stacklevel=2)
            self.graph = None  # with the memory that was taken for it
            torch.cuda.set_stream(stream)  # a capture that fails at its end stays on its own
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            self.generator = torch.Generator(self.device)  # the other may still wait for the graph
            self.generator.set_state(state)
            return False
        self.timer = StepTimer(self.device, ("data", "graph"))
        return True

    def _record(self) -> None:
        """Records the work of a step, which reads `self.ids` and leaves its loss in `self.loss`."""
        self.graph = torch.cuda.CUDAGraph()
        self.ids = self.ids.clone()  # of the step before: here the shape counts alone
        self.graph.register_generator_state(self.generator)
        tables = self.table_optimizers()
        capturing = tables[0].capturing(len(self.losses)) if tables else nullcontext()
        stream = torch.cuda.Stream(self.device)  # the default one is the current device's
        with self._unmarked(), capturing, torch.cuda.graph(self.graph, stream=stream):
            self.loss = self.work(self.ids)

    def _replay(self, ids: Tensor) -> Tensor:
        self.ids.copy_(ids)
        tables = self.table_optimizers()
        if tables:
            tables[0].replay(self.graph.replay)
        else:
            self.graph.replay()
        return self.loss

    @contextmanager
    def _unmarked(self) -> Iterator[None]:
        """No event can be recorded for a time inside a graph."""
        timer = self.timer
        self.timer = StepTimer(torch.device("cpu"))
        self.timer.start()
        self.timer.mark("data")
        try:
            yield
        finally:
            self.timer = timer


def kind_of_run(spec: Spec, device: torch.device) -> type[LabRun]:
    """What does the Spec's steps: on a GPU, where nothing else is asked for, as a CUDA graph.

    Not so a few steps, which are done before a capture pays; and with a warning what cannot be.
    """
    if spec.capture is not None:
        return CapturedRun if spec.capture else LabRun
    if device.type != "cuda" or (spec.steps or spec.steps_total) <= SHORT:
        return LabRun
    if spec.why_not_captured:
        warnings.warn(f"the steps are not captured: {spec.why_not_captured}", stacklevel=3)
        return LabRun
    return CapturedRun
