"""How long a step takes, phase by phase, without disturbing it: marks are taken in the loop, read after it.

On a GPU a mark is a CUDA event, on a CPU the clock. Nothing synchronises before `summary`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from scta_lite.runs.machine import energy_joules, finish

Progress = Callable[[int, int, float | None], None]  # step, steps, loss
_SHOW_EVERY = 1.0  # seconds
PHASES = ("data", "forward", "backward", "optimizer")
GRAPH = "graph"  # what comes after the data as one CUDA graph, in which no mark can be taken


class StepTimer:
    """`start()` opens a step; `mark(phase)` closes each of its phases in turn, or "data", then all others as "graph".

    >>> timer = StepTimer(torch.device("cpu"))
    >>> for _ in range(20):
    ...     timer.start()
    ...     for phase in PHASES:
    ...         timer.mark(phase)
    >>> timer.summary()["steps_measured"]  # of 20 steps the first third, 6, warm up
    14
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.steps: list[list] = []  # for each step its start and the end of each phase

    def start(self) -> None:
        """Opens a step."""
        self.steps.append([self._now()])

    def mark(self, phase: str) -> None:
        """Closes a phase of the open step; phases come in the order of PHASES."""
        done = len(self.steps[-1]) - 1
        assert phase == PHASES[done] or (phase, done) == (GRAPH, 1), phase
        self.steps[-1].append(self._now())

    def summary(self) -> dict:
        """Milliseconds: the median step, its quartiles, and the median of each phase, after the warm-up.

        The warm-up is the first third of the steps, at least 1 and at most 10: allocators and caches settle slowly.
        Where the last steps were a CUDA graph's, those alone count, and a phase inside it is None.
        """
        finish(self.device)
        steps = [step for step in self.steps if len(step) == len(self.steps[-1])]
        warm = min(10, max(1, len(steps) // 3), len(steps) - 1)
        ms = np.array([[self._between(a, b) for a, b in pairwise(s)] for s in steps[warm:]])
        q1, median, q3 = np.percentile(ms.sum(axis=1), [25, 50, 75])
        known = PHASES if ms.shape[1] == len(PHASES) else PHASES[:1]
        phases = {f"{phase}_ms": float(np.median(ms[:, i])) if phase in known else None
                  for i, phase in enumerate(PHASES)}  # fmt: skip
        return {"steps_measured": len(ms), "step_ms": median, "step_ms_q1": q1, "step_ms_q3": q3, **phases}

    def _now(self) -> torch.cuda.Event | float:
        if self.device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _between(self, a: torch.cuda.Event | float, b: torch.cuda.Event | float) -> float:
        return a.elapsed_time(b) if self.device.type == "cuda" else 1e3 * (b - a)


class Clock:
    """Seconds, and a GPU's joules, since it was made, less those in which it was paused."""

    def __init__(self, device: torch.device):
        self.device, self.began, self.out = device, perf_counter(), 0.0
        self.joules_began, self.joules_out = energy_joules(device), 0.0

    def set(self, seconds: float) -> None:
        """Goes on from `seconds`."""
        self.began, self.out = perf_counter() - seconds, 0.0

    def seconds(self) -> float:
        return perf_counter() - self.began - self.out

    def joules(self) -> float | None:
        """None where the device does not count them."""
        now = energy_joules(self.device)
        return None if None in (now, self.joules_began) else now - self.joules_began - self.joules_out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is not counted; what the device was given before it, is."""
        finish(self.device)
        began, joules = perf_counter(), energy_joules(self.device)
        yield
        finish(self.device)
        self.out += perf_counter() - began
        if None not in (joules, now := energy_joules(self.device)):
            self.joules_out += now - joules


class Ticker:
    """Looks about once a second at the loss whose copy from the device began at the look before: nothing waits for it.

    Reports the step with that loss, and returns whether the training should go on: whether the loss was finite.
    """

    def __init__(self, progress: Progress | None, steps: int, device: torch.device):
        self.progress, self.steps, self.next = progress, steps, perf_counter()
        self.loss = torch.zeros(1, pin_memory=device.type == "cuda")
        self.copied = False

    def __call__(self, step: int, losses: Tensor) -> bool:
        if perf_counter() < self.next and step < self.steps:
            return True
        self.next = perf_counter() + _SHOW_EVERY
        loss = self.loss.item() if self.copied else None
        self.loss.copy_(losses[step - 1 : step], non_blocking=True)
        self.copied = True
        if self.progress is not None:
            self.progress(step, self.steps, loss)
        return loss is None or math.isfinite(loss)
