"""What looks on while a model trains, and may end it. The loop knows none of these."""

import json
import math
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import FrameType

import torch
from scta_lite.rows import RowAdamW
from scta_lite.timing import finish
from torch import Tensor
from torch.optim import Optimizer, SparseAdam

from scta_lab.base import machine, weights
from scta_lab.base.files import set_aside
from scta_lab.judge.evaluate import HeldOut
from scta_lab.run import rows
from scta_lab.run.loop import LabRun

Progress = Callable[[int, int, float | None], None]  # step, steps, loss
SHOW_EVERY = 1.0  # seconds
FORMAT = "3"  # of checkpoints: what they hold, and under which names
LEAST_STEPS = 4  # that are run before a budget ends a training


def forget_first_peak(run: LabRun) -> None:
    """Forgets a GPU's peak of memory after the first step, in which libraries choose kernels.

    A captured step takes its memory when it is captured, before the first replay.
    """
    if len(run.timer.steps) == 1 and not run.is_captured and run.device.type == "cuda":
        machine.reset_peak_memory(run.device)


class Watch:
    """About once a second reports step, steps and loss; ends a training whose loss is not finite.

    The loss is one whose copy to the host began a second before: nothing waits for a GPU.
    """

    def __init__(self, progress: Progress | None, device: torch.device):
        self.progress = progress
        self.next_s = perf_counter()
        self.loss = torch.zeros(1, pin_memory=device.type == "cuda")
        self.is_copied = False

    def __call__(self, run: LabRun) -> bool:
        steps = len(run.losses)
        if perf_counter() < self.next_s and run.done < steps:
            return False
        self.next_s = perf_counter() + SHOW_EVERY
        loss = self.loss.item() if self.is_copied else None
        self.loss.copy_(run.losses[run.done - 1 : run.done], non_blocking=True)
        self.is_copied = True
        if self.progress is not None:
            self.progress(run.done, steps, loss)
        return loss is not None and not math.isfinite(loss)


def budget(run: LabRun) -> bool:
    """Ends the training after the Spec's seconds, once a few steps are done."""
    seconds = run.spec.budget_s
    return seconds is not None and run.done >= LEAST_STEPS and run.clock.seconds() > seconds


class Looks:
    """Measures quality on the validation half at the Spec's marks; `last` once more at the end."""

    def __init__(self, held: HeldOut | None):
        self.held = held

    def __call__(self, run: LabRun) -> None:
        every = run.spec.eval_every
        if every is not None and run.done % every == 0 and run.done < len(run.losses):
            self.look(run)

    def last(self, run: LabRun) -> None:
        """After the last step: where looks were asked for, or an epoch or more was run."""
        has_looked = bool(run.validation) and run.validation[-1]["step"] == run.done
        is_finite = run.losses[: run.done].isfinite().all().item()
        is_due = run.spec.eval_every is not None or run.done >= run.spec.epoch_steps
        if is_due and is_finite and not has_looked:
            self.look(run)

    def look(self, run: LabRun) -> None:
        """Without the memory for it the training goes on, and looks no more."""
        if self.held is None:
            return
        finish(run.device)  # what the host has only queued is training too
        seconds = run.clock.seconds()
        with run.clock.paused():
            run.peak_bytes = run.peak()["peak_memory_bytes"]
            try:
                metrics = self.held.to(run.model.device).look(run.model)
                run.validation.append({"step": run.done, "seconds": seconds, **metrics})
            except (MemoryError, RuntimeError) as error:
                if not machine.is_out_of_memory(error):
                    raise
                when = f"after step {run.done}: {error}"
                warnings.warn(f"no memory was left to measure quality {when}", stacklevel=2)
                self.held = None
            machine.reset_peak_memory(run.device)  # a look's memory is not the training's


class Checkpoint:
    """Writes all that the next step depends on, every so many seconds; `restore` goes back.

    Inside its `with`, Ctrl-C and SIGTERM wait until the step is done and a checkpoint is written.
    """

    def __init__(self, path: Path, every_s: float = 600):
        self.path = path
        self.every_s = every_s
        self.saved_s = 0.0  # the seconds of training that the last checkpoint holds
        self.measured: dict | None = None  # by the steps, once all are done
        self.asked: int | None = None  # the signal that came
        self.handlers: dict = {}  # of signals, as they were before

    def __call__(self, run: LabRun) -> None:
        if run.done == len(run.losses):
            return
        if self.asked or run.clock.seconds() - self.saved_s >= self.every_s:
            self.save(run)
        if self.asked:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # others cannot set a handler
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.handlers[number] = signal.signal(number, self._ask)

    def __exit__(self, *_) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.asked:
            signal.raise_signal(self.asked)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked = number

    def save(self, run: LabRun) -> None:
        """Writes the checkpoint, whole or not at all: on a full disk the last one stays."""
        with run.clock.paused():
            seconds = run.clock.seconds()
            state = {"done": run.done, "seconds": seconds, "validation": run.validation}
            state["measured"] = self.measured
            tensors = {"losses": run.losses[: run.done], "generator": run.generator.get_state()}
            for name, parameter in run.model.named_parameters():
                tensors[f"model.{name}"] = parameter.detach()
            for i, optimizer in enumerate(run.optimizers):
                for name, tensor in snapshot(optimizer).items():
                    tensors[f"optimizer{i}.{name}"] = tensor
            try:
                weights.write(self.path, tensors, {"format": FORMAT, "state": json.dumps(state)})
            except OSError as error:
                warnings.warn(f"{error}; the training goes on", stacklevel=2)
        self.saved_s = seconds

    def restore(self, run: LabRun) -> None:
        """Puts the run where it was.

        A checkpoint that is damaged, of another version or of another run is set aside, and the run
        begins anew.
        """
        try:
            tensors, header = weights.read(self.path)
            if header.get("format") != FORMAT:  # what it holds has other names
                raise ValueError(f"{self.path.name}: of an earlier version")
            state = json.loads(header["state"])
        except (ValueError, KeyError) as error:
            new_name = set_aside(self.path).name
            warnings.warn(f"{error}; it is {new_name} now, and the run begins anew", stacklevel=2)
            return
        run.done, run.validation = state["done"], state["validation"]
        run.clock.set(state["seconds"])
        self.saved_s, self.measured = state["seconds"], state.get("measured")
        self._restore_generator(run, tensors["generator"])
        with torch.no_grad():
            run.losses[: run.done] = tensors["losses"]
            for name, parameter in run.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        for i, optimizer in enumerate(run.optimizers):
            put_back(optimizer, _with_prefix(tensors, f"optimizer{i}."))

    def _restore_generator(self, run: LabRun, state: Tensor) -> None:
        if len(state) == len(run.generator.get_state()):
            run.generator.set_state(state)
            return
        run.generator.manual_seed(run.spec.seed + run.done)  # a GPU's for a CPU, or the reverse
        kind = f"{self.path.name} is of another kind of device"
        warnings.warn(f"{kind}: its negatives go on from a new seed", stacklevel=3)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in names}


def snapshot(optimizer: Optimizer) -> dict[str, Tensor]:
    """All that an optimizer keeps, in a flat dictionary of tensors; `put_back` is the way back."""
    if isinstance(optimizer, RowAdamW):
        return rows.snapshot(optimizer)
    tensors = {}
    for i, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"{i}.{key}"] = torch.as_tensor(value)
    return tensors


def put_back(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Gives an optimizer over the same parameters what `snapshot` gave."""
    if isinstance(optimizer, RowAdamW):
        rows.restore(optimizer, tensors)
        return
    states: dict[int, dict] = {}
    for name, value in tensors.items():
        i, _, key = name.partition(".")
        is_number = key == "step" and isinstance(optimizer, SparseAdam)  # one of Python's
        states.setdefault(int(i), {})[key] = int(value) if is_number else value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
