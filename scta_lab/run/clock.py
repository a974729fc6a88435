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
        self.began, self.paused_s = perf_counter(), 0.0
        self.joules_began, self.paused_joules = energy_joules(device), 0.0

    def set(self, seconds: float) -> None:
        """Goes on from `seconds`."""
        self.began, self.paused_s = perf_counter() - seconds, 0.0

    def seconds(self) -> float:
        return perf_counter() - self.began - self.paused_s

    def joules(self) -> float | None:
        """None where the device does not count them."""
        now = energy_joules(self.device)
        if now is None or self.joules_began is None:
            return None
        return now - self.joules_began - self.paused_joules

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is not counted; what the device was given before it, is."""
        finish(self.device)
        began, joules = perf_counter(), energy_joules(self.device)
        yield
        finish(self.device)
        self.paused_s += perf_counter() - began
        now = energy_joules(self.device)
        if now is not None and joules is not None:
            self.paused_joules += now - joules
