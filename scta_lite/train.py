"""One training, from a Spec to what was measured: the loop, its batches, its optimizers.

A hook is called with the run after each step, and may end it. What the laboratory adds to the loop
(a budget of seconds, looks at quality, checkpoints) are such hooks; nothing of it stands here.
`python -m scta_lite.train --help` is the laboratory's command, with all methods and texts.
"""

import importlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scta_lite import checks
from scta_lite.losses import log_uniform
from scta_lite.model import LanguageModel
from scta_lite.rows import RowAdamW, VocabTable
from scta_lite.spec import Spec
from scta_lite.timing import StepTimer, finish

BLOCK = 256  # steps whose examples are read at once
AVERAGED = 50  # steps at the end over which the final loss is averaged


class Data(Protocol):
    """What a model is trained on: examples of T ids each."""

    fingerprint: str  # of its text

    def __len__(self) -> int: ...

    def rows(self, numbers: Tensor, device: torch.device) -> Tensor:
        """The examples of these numbers (R,), as (R, T), on the device."""
        ...


@dataclass
class DrawnIds:
    """Ids without a text, drawn by Zipf's law: enough to time a step at any V."""

    spec: Spec
    fingerprint: str = "drawn"

    def __post_init__(self):
        shape = (self.spec.examples, self.spec.seq_len)
        generator = torch.Generator().manual_seed(self.spec.seed)
        self.ids = log_uniform(shape, self.spec.vocab, generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, numbers: Tensor, device: torch.device) -> Tensor:
        return self.ids[numbers].to(device)


@dataclass
class Trained:
    """What a training measured, in the fields of a run's file, and its model."""

    spec: Spec
    fingerprint: str  # of the data
    machine: str
    step_ms: float  # the median of the steps after the warm-up, as its quartiles and phases are
    step_ms_q1: float
    step_ms_q3: float
    data_ms: float
    forward_ms: float
    backward_ms: float
    optimizer_ms: float
    steps_measured: int
    steps_run: int
    seconds: float  # of a whole training
    extrapolated: bool  # fewer steps were run: `seconds` is the median step times all of them
    tokens_per_s: float  # predicted positions over `seconds`
    losses: list[float] = field(repr=False)  # of each step, in nats
    final_loss: float  # the mean of the last ones
    model: nn.Module = field(repr=False)


class Run:
    """A training under way: its model, its optimizers, and its losses so far."""

    def __init__(self, spec: Spec, data: Data):
        self.spec, self.data = spec, data
        self.device = checks.device(spec.device)
        self.model = self.make_model()
        self.optimizers = self.make_optimizers()
        self.generator = torch.Generator(self.device).manual_seed(spec.seed)  # of the negatives
        self.losses = torch.zeros(spec.steps or spec.steps_total, device=self.device)
        self.done = 0  # steps
        self.timer = StepTimer(self.device)

    def make_model(self) -> nn.Module:
        """The model as the seed draws it; the caller's random numbers go on as they would have."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.spec.seed)
            return LanguageModel(self.spec).to(self.device)

    def make_optimizers(self) -> list[Optimizer]:
        """AdamW for the parameters, and RowAdamW for tables that are trained by rows, if any."""
        spec = self.spec
        names = ("lr", "betas", "eps", "weight_decay")
        settings = {name: getattr(spec, name) for name in names}
        dense = AdamW(self.model.parameters(), fused=True, **settings)
        tables = [module for module in self.model.modules() if isinstance(module, VocabTable)]
        return [dense, RowAdamW(tables, **settings)] if tables else [dense]

    def batches(self) -> Iterator[Tensor]:
        """Examples (B, T) of the steps that are left; each epoch has an order of its own."""
        spec, generator = self.spec, torch.Generator().manual_seed(self.spec.seed)
        for epoch in range(spec.epochs):
            order = torch.randperm(spec.examples, generator=generator)
            # whole batches alone; where there are fewer than `examples`, they come again
            used = order[: spec.epoch_steps * spec.batch] % len(self.data)
            done = max(0, self.done - epoch * spec.epoch_steps)
            for numbers in used.view(-1, spec.batch)[done:].split(BLOCK):  # (≤ BLOCK, B)
                examples = self.data.rows(numbers.flatten(), self.device)
                yield from examples.view(-1, spec.batch, spec.seq_len)

    def step(self, batches: Iterator[Tensor]) -> None:
        """One step, its phases timed. Its loss stays on the device: nothing waits for a GPU."""
        self.timer.start()
        ids = next(batches)  # (B, T)
        self.timer.mark("data")
        self.losses[self.done] = self.update(ids)
        self.done += 1

    def update(self, ids: Tensor) -> Tensor:
        """Moves the model by the gradient of these examples (B, T); gives their loss."""
        loss = self.gradients(ids)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.timer.mark("optimizer")
        return loss

    def gradients(self, ids: Tensor) -> Tensor:
        """Leaves the gradient of the loss at the parameters; gives the loss."""
        bfloat16 = self.spec.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            loss = self.model.loss(ids, self.generator)
        self.timer.mark("forward")
        loss.backward()
        self.timer.mark("backward")
        return loss.detach()


Hook = Callable[[Run], bool | None]  # called after each step; True ends the training


def train(spec: Spec, data: Data | None = None) -> Trained:
    """Trains a model as the Spec says; without `data` on ids drawn by Zipf's law, to time it.

    A text is `scta_lab.text.load("installed").examples(spec.vocab, spec.seq_len, spec.examples)`.
    With hooks, or from a subclass of `Run`: `Run`, `fit` and `measured` are the parts of this.

    >>> spec = Spec(method="semantic", vocab=500, examples=64, steps=4, hidden=8)
    >>> train(spec).steps_run
    4
    """
    if not isinstance(spec, Spec):
        raise ValueError(f"spec={spec!r}: expected a Spec")
    run = Run(spec, DrawnIds(spec) if data is None else data)
    began = perf_counter()
    fit(run)
    finish(run.device)
    return measured(run, perf_counter() - began)


def fit(run: Run, hooks: Iterable[Hook] = ()) -> None:
    """Runs the steps that are left. Each hook is called after each step, whatever another says.

    The training ends when one returns True. Gradients are gone by then: what needs them overrides
    `Run.gradients`.
    """
    batches = run.batches()
    while run.done < len(run.losses):
        run.step(batches)
        ends = [hook(run) for hook in hooks]
        if any(ends):
            break


def measured(run: Run, seconds: float) -> Trained:
    """What the run measured, in so many seconds for its steps."""
    spec, times = run.spec, run.timer.summary()
    whole = run.done == spec.steps_total
    if not whole:
        seconds = times["step_ms"] / 1e3 * spec.steps_total
    losses = run.losses[: run.done].tolist()
    last = losses[-AVERAGED:]
    return Trained(
        spec=spec,
        fingerprint=run.data.fingerprint,
        machine=device_name(run.device),
        **times,
        steps_run=run.done,
        seconds=seconds,
        extrapolated=not whole,
        tokens_per_s=spec.positions * spec.steps_total / seconds,
        losses=losses,
        final_loss=sum(last) / len(last),
        model=run.model,
    )


def device_name(device: torch.device) -> str:
    """What a figure calls the machine: the GPU's name, or the processor's with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


if __name__ == "__main__":  # the command has every method, setting and text: it is the laboratory's
    importlib.import_module("scta_lab.run.command").train_command()
