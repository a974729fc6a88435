"""How long a step takes, phase by phase, without disturbing it: marks are taken in the loop, read
after it.

On a GPU a mark is a CUDA event, on a CPU the clock. Nothing waits for a GPU before `summary`.
"""

from itertools import pairwise
from time import perf_counter

import numpy as np
import torch

PHASES = ("data", "forward", "backward", "optimizer")
Mark = torch.cuda.Event | float
MOST_WARM = 10  # steps that are left out at the start, at most


class StepTimer:
    """`start()` opens a step; `mark(phase)` closes each of its phases in turn.

    >>> timer = StepTimer(torch.device("cpu"))
    >>> for _ in range(20):
    ...     timer.start()
    ...     for phase in PHASES:
    ...         timer.mark(phase)
    >>> timer.summary()["steps_measured"]  # of 20 steps the first third, 6, warm up
    14
    """

    def __init__(self, device: torch.device, phases: tuple[str, ...] = PHASES):
        self.device = device
        self.phases = phases
        self.steps: list[list] = []  # for each step its start, and the end of each phase

    def start(self) -> None:
        """Opens a step."""
        self.steps.append([self._now()])

    def mark(self, phase: str) -> None:
        """Closes a phase of the open step; phases come in their order."""
        done = len(self.steps[-1]) - 1
        assert phase == self.phases[done], phase
        self.steps[-1].append(self._now())

    def summary(self) -> dict[str, float]:
        """Milliseconds: the median step, its quartiles, the median of each phase, after a warm-up.

        The warm-up is the first third of the steps, from 1 to 10: allocators and caches settle
        slowly.
        """
        finish(self.device)
        third = max(1, len(self.steps) // 3)
        warm = min(MOST_WARM, third, len(self.steps) - 1)
        ms = np.array([self._lengths(step) for step in self.steps[warm:]])  # (steps, phases)
        q1, median, q3 = np.percentile(ms.sum(axis=1), [25, 50, 75])
        summary = {"steps_measured": len(ms), "step_ms": float(median)}
        summary |= {"step_ms_q1": float(q1), "step_ms_q3": float(q3)}
        for phase, column in zip(self.phases, ms.T, strict=True):
            summary[f"{phase}_ms"] = float(np.median(column))
        return summary

    def _lengths(self, marks: list) -> list[float]:
        return [self._between(a, b) for a, b in pairwise(marks)]

    def _now(self) -> Mark:
        if self.device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _between(self, a: Mark, b: Mark) -> float:
        if self.device.type == "cuda":
            return a.elapsed_time(b)
        return 1e3 * (b - a)


def finish(device: torch.device) -> None:
    """Waits until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
