"""The loop of one run: steps that are timed, looks at quality that are not, and checkpoints from which it goes on.

The loop takes no number from the device: losses stay there until the end, and the loss that is shown was copied a
second before. A checkpoint is one safetensors file with everything that the next step depends on; its header holds the
Spec and what was measured so far, as JSON. Rows that are behind stay behind in it: brought up to date, they would be
rounded otherwise than in a training that was not interrupted.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from scta_lite.evaluate import HeldOut
from scta_lite.files import set_aside
from scta_lite.model import LanguageModel
from scta_lite.optim import RowAdamW
from scta_lite.runs import machine, weights
from scta_lite.runs.result import loss_summary
from scta_lite.runs.spec import Spec
from scta_lite.runs.timing import GRAPH, Clock, Progress, StepTimer, Ticker
from scta_lite.tables import VocabTable
from scta_lite.text import Examples

FORMAT = "2"  # of a checkpoint: what it holds, under which names
READ = 256  # steps whose examples are read from the disk at a time
WARM = 4  # steps done before one is captured, in which libraries choose their kernels and take their memory


class Training:
    """A run under way: its model and optimizers, what it drew and found so far, and its next step."""

    def __init__(self, spec: Spec, model: LanguageModel, examples: Examples, held: HeldOut | None = None):
        self.spec, self.model, self.examples, self.held = spec, model, examples, held
        self.device = model.device
        self.optimizers = optimizers(spec, model)
        self.generator = torch.Generator(self.device).manual_seed(spec.seed)
        self.losses = torch.zeros(spec.steps or spec.steps_total, device=self.device)
        self.done, self.validation, self.peak = 0, [], 0  # bytes, before the last look
        self.graph = None  # of a step, once one was captured; it reads `captured`, and leaves its loss in `found`
        self.timer, self.clock = StepTimer(self.device), Clock(self.device)

    def run(self, progress: Progress | None = None, checkpoint: Path | None = None, every_s: float = 600) -> dict:
        """The steps that are left, with a checkpoint every `every_s` seconds; the Result's fields that they measure."""
        spec, clock, device, steps = self.spec, self.clock, self.device, len(self.losses)
        show, (_, saved) = Ticker(progress, steps, device), self._agreed(True, clock.seconds())
        batches = _batches(spec, self.examples, device, self.done)
        for _ in range(self.done, steps):
            self._step(batches)
            if len(self.timer.steps) == 1 and device.type == "cuda":
                machine.reset_peak_memory(device)
            finite, seconds = self._agreed(show(self.done, self.losses), clock.seconds())
            over_budget = spec.budget_s is not None and self.done >= 4 and seconds > spec.budget_s
            last = self.done == steps or over_budget or not finite
            if self.held and finite and self._look_due(seconds, last):
                machine.finish(device)  # what the host has only queued is training too
                seconds = clock.seconds()
                with clock.paused():
                    self.peak = max(self.peak, machine.peak_memory(device)[0])
                    self._look(seconds)
                    machine.reset_peak_memory(device)  # a look's memory is not the training's
            if last:
                break
            if checkpoint and seconds - saved >= every_s:
                with clock.paused():
                    try:
                        self.save(checkpoint)
                    except OSError as error:  # a full disk: the last checkpoint is still there
                        warnings.warn(f"{error}; the training goes on", stacklevel=2)
                saved = seconds
        measured = self.timer.summary()  # waits until the last step is done
        for optimizer in self.optimizers:
            if isinstance(optimizer, RowAdamW):
                optimizer.flush()
        machine.finish(device)  # what brings the rows up to date is of the training too
        whole = len(self.timer.steps) == self.done  # of a resumed run only the last part's energy is known
        joules = clock.joules() if whole else None
        losses = self.losses[: self.done].tolist()
        found = {**_times(spec, measured, self.done, clock.seconds(), self.peak), "energy_joules": joules,
                 **loss_summary(losses, spec), "validation": self.validation}  # fmt: skip
        return found | failure(losses, steps)

    def save(self, path: Path) -> None:
        """Writes the checkpoint, whole or not at all."""
        found = {"done": self.done, "seconds": self.clock.seconds(), "validation": self.validation}
        header = {"format": FORMAT, "spec": json.dumps(asdict(self.spec)), "id": self.spec.run_id(""),
                  "found": json.dumps(found)}  # fmt: skip
        weights.write(path, self._tensors(), header)

    def resume(self, path: Path) -> None:
        """Goes back to where the checkpoint was written; ValueError if it is another version's, or another Spec's.

        A damaged one is set aside, and the run begins anew.
        """
        try:
            tensors, header = self._read(path)
        except ValueError as error:
            warnings.warn(f"{error}; it is {set_aside(path).name} now, and the run begins anew", stacklevel=2)
            return
        if header.get("format") != FORMAT:  # else what it holds under other names would be missing without a word
            raise ValueError(f"checkpoint={path.name!r}: of an earlier version; expected none, to begin again")
        if header["id"] != self.spec.run_id(""):  # which counts a first stage by its id, wherever it lies
            raise ValueError(f"checkpoint={path.name!r}: of the Spec {header['spec']}; expected {self.spec}")
        found = json.loads(header["found"])
        self.done, self.validation = found["done"], found["validation"]
        self.clock.set(found["seconds"])
        if len(tensors["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(tensors["generator"])
        else:  # a GPU's for a CPU, or the other way round
            self.generator.manual_seed(self.spec.seed + self.done)
            warnings.warn(
                f"{path.name} is of another kind of device: its negatives go on from a new seed", stacklevel=2
            )
        for i, optimizer in enumerate(self.optimizers):
            start = f"optimizer{i}."
            restore(optimizer, {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)})
        with torch.no_grad():
            self.losses[: self.done] = tensors["losses"]
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])

    def whole(self) -> LanguageModel:
        """The model; of several ranks the one that one rank would have."""
        return self.model

    def _agreed(self, finite: bool, seconds: float) -> tuple[bool, float]:
        """Whether the loss is finite, and the seconds so far, as all ranks see them."""
        return finite, seconds

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A checkpoint's tensors and header."""
        if path.is_dir():
            raise OSError(f"{path.name}: of several ranks; expected torchrun, of one rank or more, to go on from it")
        return weights.read(path)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"losses": self.losses[: self.done], "generator": self.generator.get_state()}
        tensors |= {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        for i, optimizer in enumerate(self.optimizers):
            tensors |= {f"optimizer{i}.{name}": x for name, x in snapshot(optimizer).items()}
        return tensors

    def _step(self, batches: Iterator[Tensor]) -> None:
        """One step, its phases marked; its loss stays on the device."""
        timer = self.timer
        timer.start()
        examples = next(batches)  # (B, T)
        timer.mark("data")
        self._set_rates()
        if self.spec.capture and len(timer.steps) > WARM:
            loss = self._replayed(examples)
            timer.mark(GRAPH)
        else:
            loss = self._work(examples, timer.mark)
        self.losses[self.done] = loss
        self.done += 1

    def _work(self, examples: Tensor, mark: Callable[[str], None]) -> Tensor:
        """What the device does in a step, of examples (B, T); the loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            loss = self.model.loss(examples, self.generator)
        mark("forward")
        loss.backward()
        mark("backward")
        if self.spec.clip:
            rows = [row for optimizer in self.optimizers[1:] for row in optimizer.touched()]
            torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *rows], self.spec.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mark("optimizer")
        return loss.detach()

    def _replayed(self, examples: Tensor) -> Tensor:
        """The same as one CUDA graph, captured at the first call: the host launches it at once."""
        tables = next((each for each in self.optimizers if isinstance(each, RowAdamW)), None)
        if self.graph is None:
            self.graph, self.captured = torch.cuda.CUDAGraph(), examples.clone()
            self.graph.register_generator_state(self.generator)
            with tables.capturing(len(self.losses)) if tables else nullcontext(), torch.cuda.graph(self.graph):
                self.found = self._work(self.captured, lambda phase: None)
        self.captured.copy_(examples)
        if tables:
            tables.replay(self.graph.replay)
        else:
            self.graph.replay()
        return self.found

    def _set_rates(self) -> None:
        """The learning rates of the step that is being done, by the Spec's schedule."""
        rate = self.spec.rate(self.done + 1)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            if "initial_lr" not in group:
                group["initial_lr"] = float(group["lr"])
            lr = rate * group["initial_lr"]
            if isinstance(group["lr"], Tensor):  # which a graph reads
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _look(self, seconds: float) -> None:
        """Quality on the validation half; without the memory for it the training goes on, and looks no more."""
        try:
            if (model := self.whole()) is not None:
                found = self.held.to(model.device).look(model)
                self.validation.append({"step": self.done, "seconds": seconds, **found})
        except (MemoryError, RuntimeError) as error:
            if not machine.is_out_of_memory(error):
                raise
            warnings.warn(f"no memory was left to measure quality after step {self.done}: {error}", stacklevel=2)
            self.held = None

    def _look_due(self, seconds: float, last: bool) -> bool:
        """Whether to measure quality after this step: at the Spec's marks, and at the end of an epoch or more."""
        spec = self.spec
        if last:
            return bool(spec.eval_every or spec.eval_every_s) or self.done >= spec.epoch_steps
        before = self.validation[-1]["seconds"] if self.validation else 0.0
        passed = spec.eval_every_s is not None and seconds // spec.eval_every_s > before // spec.eval_every_s
        return passed or (spec.eval_every is not None and self.done % spec.eval_every == 0)


def optimizers(spec: Spec, model: LanguageModel) -> list[torch.optim.Optimizer]:
    """AdamW for the dense parameters, then RowAdamW, or SparseAdam, for the tables of which it sees rows, if any."""
    settings = {"lr": spec.lr, "betas": spec.betas, "eps": spec.eps, "weight_decay": spec.weight_decay}
    of_tables = settings | {"lr": spec.table_lr or spec.lr}
    of_tokens = [model.embed.weight, *model.head.per_token()]
    per_token = {id(rows) for rows in of_tokens}
    sparse = [module.weight for module in model.modules() if getattr(module, "sparse", False)]
    others = [p for p in model.parameters() if all(p is not weight for weight in sparse)]
    plain, large = ([p for p in others if (id(p) in per_token) is wanted] for wanted in (False, True))
    groups = [{"params": plain, "lr": settings["lr"]}, {"params": large, "lr": of_tables["lr"]}]
    if spec.capture:  # a graph reads its rates on the device
        groups = [group | {"lr": torch.tensor(group["lr"], device=model.device)} for group in groups]
    dense = torch.optim.AdamW(groups, **settings, fused=True, capturable=spec.capture)
    if tables := [module for module in model.modules() if isinstance(module, VocabTable)]:
        return [dense, RowAdamW(tables, **of_tables)]
    if sparse:
        return [dense, torch.optim.SparseAdam(sparse, lr=of_tables["lr"], betas=spec.betas, eps=spec.eps)]
    return [dense]


def snapshot(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that an optimizer keeps, as it stands, in one flat dictionary of tensors; `restore` puts it back."""
    if isinstance(optimizer, RowAdamW):
        return optimizer.snapshot()
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(x) for i, kept in state.items() for key, x in kept.items()}


def restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `snapshot` gave, of an optimizer over the same parameters."""
    if isinstance(optimizer, RowAdamW):
        optimizer.restore(tensors)
        return
    state: dict[int, dict] = {}
    for name, x in tensors.items():
        i, _, key = name.partition(".")
        counts = isinstance(optimizer, torch.optim.SparseAdam) and key == "step"  # by a number of Python
        state.setdefault(int(i), {})[key] = int(x) if counts else x
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def failure(losses: list[float], steps: int) -> dict:
    """The status, and why, of a run that was to have so many steps, if one of its losses is not finite; else nothing.

    It has no time of a whole training, which it would not have come to.
    """
    at = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if at is None:
        return {}
    before = f"; it was {losses[at - 1]:.4g} before" if at else ""
    return {"status": "failed", "reason": f"the loss is {losses[at]} at step {at + 1} of {steps}{before}",
            **dict.fromkeys(("seconds", "extrapolated", "tokens_per_s", "examples_per_s", "final_loss"))}  # fmt: skip


def _times(spec: Spec, measured: dict, steps_run: int, seconds: float, before: int) -> dict:
    """Times and peak memory, no less than `before`; a whole training's seconds, extrapolated where fewer were run."""
    whole = seconds if steps_run == spec.steps_total else measured["step_ms"] * spec.steps_total / 1e3
    peak, peak_of = machine.peak_memory(machine.device(spec.device))
    return {
        "steps_run": steps_run, **measured, "seconds": whole, "extrapolated": steps_run < spec.steps_total,
        "tokens_per_s": spec.positions * spec.steps_total / whole,
        "examples_per_s": spec.batch * spec.steps_total / whole,
        "peak_memory_bytes": max(peak, before), "peak_memory_of": peak_of,
    }  # fmt: skip


def _batches(spec: Spec, examples: Examples, device: torch.device, done: int) -> Iterator[Tensor]:
    """Examples (B, T) of each step after those done, each epoch in an order of its own; too few are cycled."""
    generator = torch.Generator().manual_seed(spec.seed)
    for _ in range(spec.epochs):
        order = torch.randperm(spec.examples, generator=generator)[: spec.epoch_steps * spec.batch] % len(examples)
        steps = order.view(-1, spec.batch)[done:]
        done = max(0, done - spec.epoch_steps)
        for block in steps.split(READ):
            yield from examples.rows(block.flatten(), device).view(-1, spec.batch, spec.seq_len)
