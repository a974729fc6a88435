"""Seconds and joules of a training, without what is done beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from scta_lite.timing import finish

from scta_lab.base.machine import energy_joules


class Clock:
    """Seconds, and a GPU's joules, since it was made, minus those in which it was paused."""

    def __init__(self, device: torch.device):
        self.device = device
        self.began = perf_counter()
        self.paused_s = 0.0
        self.joules_began = energy_joules(device)
        self.paused_joules = 0.0

    def set(self, seconds: float) -> None:
        """Goes on from `seconds`, as a resumed training does; its joules until then are lost."""
        self.began = perf_counter() - seconds
        self.paused_s = 0.0
        self.joules_began = None

    def seconds(self) -> float:
        return perf_counter() - self.began - self.paused_s

    def joules(self) -> float | None:
        """None where the device does not count them, or where the clock was set."""
        now = energy_joules(self.device)
        if now is None or self.joules_began is None:
            return None
        return now - self.joules_began - self.paused_joules

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is not counted; the work that a GPU was given before it, is."""
        finish(self.device)
        began = perf_counter()
        joules_began = energy_joules(self.device)
        yield
        finish(self.device)
        self.paused_s += perf_counter() - began
        joules = energy_joules(self.device)
        if joules is not None and joules_began is not None:
            self.paused_joules += joules - joules_began
