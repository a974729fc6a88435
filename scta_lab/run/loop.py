"""The paper's loop with what the laboratory adds to a step: a schedule of the rates, and clipping.

What only looks on while a model trains is a hook (`scta_lab.run.hooks`).
"""

import math

import torch
from scta_lite.rows import RowAdamW, VocabTable
from scta_lite.timing import finish
from scta_lite.train import Run
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer, SparseAdam

from scta_lab.base import machine
from scta_lab.base.spec import Spec
from scta_lab.methods.model import LanguageModel
from scta_lab.run.clock import Clock
from scta_lab.run.result import loss_summary
from scta_lab.text import Examples

NOT_REACHED = ("seconds", "extrapolated", "tokens_per_s", "examples_per_s", "final_loss")


class LabRun(Run):
    """A training under way, by any method, on the examples of a text."""

    data: Examples
    spec: Spec
    is_captured = False  # whether a step is one CUDA graph

    def __init__(self, spec: Spec, data: Examples):
        super().__init__(spec, data)
        self.clock = Clock(self.device)
        self.validation: list[dict] = []  # for each look its step, its seconds and the metrics
        self.peak_bytes = 0  # of memory, before the last look

    def make_model(self) -> LanguageModel:
        return initial_model(self.spec, self.data.counts, self.device)

    def make_optimizers(self) -> list[Optimizer]:
        return optimizers(self.spec, self.model)

    def update(self, ids: Tensor) -> Tensor:
        self.set_rates()
        return self.work(ids)

    def work(self, ids: Tensor) -> Tensor:
        """All that the device does in a step with examples (B, T); gives their loss."""
        return super().update(ids)

    def gradients(self, ids: Tensor) -> Tensor:
        loss = super().gradients(ids)
        if self.spec.clip:
            rows = [row for table in self.table_optimizers() for row in table.touched()]
            clip_grad_norm_([*self.model.parameters(), *rows], self.spec.clip)
        return loss

    def set_rates(self) -> None:
        """The learning rates of the step that is being done, by the Spec's schedule."""
        factor = self.spec.rate(self.done + 1)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                set_rate(group, factor)

    def table_optimizers(self) -> list[RowAdamW]:
        return [optimizer for optimizer in self.optimizers if isinstance(optimizer, RowAdamW)]

    def measured(self) -> dict:
        """The Result's fields that the steps measured."""
        step_times = self.timer.summary()  # waits until the last step is done
        for table_optimizer in self.table_optimizers():
            table_optimizer.flush()
        finish(self.device)  # what brings the rows up to date is part of the training
        seconds, joules = self.clock.seconds(), self.clock.joules()
        losses = self.losses[: self.done].tolist()
        return {
            "captured": self.is_captured,
            **times(self.spec, step_times, self.done, seconds),
            **self.peak(),
            **loss_summary(losses, self.spec),
            "energy_joules": joules,
            **failure(losses, len(self.losses)),
        }

    def peak(self) -> dict:
        """The peak of memory, over what came before the last look too."""
        peak, owner = machine.peak_memory(self.device)
        return {"peak_memory_bytes": max(peak, self.peak_bytes), "peak_memory_of": owner}


def initial_model(spec: Spec, counts: Tensor | None, device: torch.device) -> LanguageModel:
    """The model as the seed draws it, for a text with these counts (V,) of its tokens.

    The caller's own random numbers go on as they would have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        return LanguageModel(spec, counts).to(device)


def optimizers(
    spec: Spec,
    model: LanguageModel,
    rows: type[RowAdamW] = RowAdamW,
    capturable: bool = False,
) -> list[Optimizer]:
    """AdamW for the dense parameters; for tables of which it sees rows, RowAdamW or SparseAdam.

    Those that are `capturable` by a CUDA graph have their rates on the device.
    """
    settings = {"betas": spec.betas, "eps": spec.eps, "weight_decay": spec.weight_decay}
    table_lr = spec.table_lr or spec.lr
    sparse = [module.weight for module in model.modules() if getattr(module, "sparse", False)]
    per_token = {id(weight) for weight in [model.embed.weight, *model.head.per_token()]}
    dense = [p for p in model.parameters() if all(p is not weight for weight in sparse)]
    groups = [
        {"params": [p for p in dense if id(p) not in per_token], "lr": spec.lr},
        {"params": [p for p in dense if id(p) in per_token], "lr": table_lr},
    ]
    if capturable:
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=model.device)
    adamw = AdamW(groups, lr=spec.lr, fused=True, capturable=capturable, **settings)
    tables = [module for module in model.modules() if isinstance(module, VocabTable)]
    if tables:
        return [adamw, rows(tables, lr=table_lr, **settings)]
    if sparse:
        return [adamw, SparseAdam(sparse, lr=table_lr, betas=spec.betas, eps=spec.eps)]
    return [adamw]


def set_rate(group: dict, factor: float) -> None:
    """Sets a group's learning rate to a multiple of the one that it began with."""
    if "initial_lr" not in group:
        group["initial_lr"] = float(group["lr"])  # once: for a tensor's value a GPU is waited for
    initial = group["initial_lr"]
    if isinstance(group["lr"], Tensor):  # which a graph reads
        group["lr"].fill_(factor * initial)
    else:
        group["lr"] = factor * initial


def times(spec: Spec, step_times: dict, steps_run: int, seconds: float) -> dict:
    """The Result's times; after fewer steps a whole training's seconds are extrapolated."""
    is_whole = steps_run == spec.steps_total
    if not is_whole:
        seconds = step_times["step_ms"] * spec.steps_total / 1e3
    return {
        "steps_run": steps_run,
        **{name: value for name, value in step_times.items() if name != "graph_ms"},
        "seconds": seconds,
        "extrapolated": not is_whole,
        "tokens_per_s": spec.positions * spec.steps_total / seconds,
        "examples_per_s": spec.batch * spec.steps_total / seconds,
    }


def failure(losses: list[float], steps: int) -> dict:
    """Status and reason of a run of so many steps in which a loss is not finite; else nothing.

    It has no time of a whole training, to which it would not have come.
    """
    bad_steps = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
    if not bad_steps:
        return {}
    first = bad_steps[0]
    reason = f"the loss is {losses[first]} at step {first + 1} of {steps}"
    if first > 0:
        reason += f"; it was {losses[first - 1]:.4g} before"
    return {"status": "failed", "reason": reason, **dict.fromkeys(NOT_REACHED)}
