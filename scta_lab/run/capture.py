"""A step on a GPU as one CUDA graph: captured once, then launched at once. Phases inside it have no times."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from scta_lab.run.loop import LabRun
from scta_lite.timing import StepTimer

WARM = 4  # steps before one is captured, in which libraries choose kernels and take their memory


class CapturedRun(LabRun):
    """A run whose steps are replays of one, from the fifth on."""

    graph: torch.cuda.CUDAGraph | None = None

    def step(self, batches: Iterator[Tensor]) -> None:
        if self.graph is None and len(self.timer.steps) == WARM:
            self.timer = StepTimer(self.device, ("data", "graph"))
        super().step(batches)

    def update(self, ids: Tensor) -> Tensor:
        self.set_rates()
        if self.timer.phases[-1] != "graph":
            return self.work(ids)
        if self.graph is None:
            self._capture(ids)
        loss = self._replay(ids)
        self.timer.mark("graph")
        return loss

    def _capture(self, ids: Tensor) -> None:
        """Records the work of a step, which reads `self.ids` and leaves its loss in `self.loss`."""
        self.graph, self.ids = torch.cuda.CUDAGraph(), ids.clone()
        self.graph.register_generator_state(self.generator)
        tables = self.table_optimizers()
        capturing = tables[0].capturing(len(self.losses)) if tables else nullcontext()
        with self._unmarked(), capturing, torch.cuda.graph(self.graph):
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
        timer, self.timer = self.timer, StepTimer(torch.device("cpu"))
        self.timer.start()
        self.timer.mark("data")
        yield
        self.timer = timer
