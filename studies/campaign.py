"""What one machine measures within some minutes: which run comes next, and whether it fits."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from scta_lab import Spec, sweep, text
from scta_lab.base import machine
from scta_lab.base.files import replace_file
from scta_lab.judge import cost
from scta_lab.run.processes import is_done
from scta_lab.study import figures
from scta_lite import PAPER

BEGIN_S = 20  # seconds that a run's process takes before its first step, until one was measured
TINY = {
    "hidden": 16,
    "semantic_dim": 8,
    "negatives": 4,
    "examples": 96,
    "batch": 4,
    "seq_len": 8,
    "epochs": 1,
}


class Campaign:
    """The runs of a folder, what was left out of it, and what is known of times."""

    def __init__(self, out: Path, minutes: float, device: torch.device, corpus: str, tiny: bool):
        self.out = out
        self.device = device
        self.corpus = corpus
        self.tiny = tiny
        self.until = perf_counter() + 60 * minutes
        self.step_ms: dict[tuple, float] = {}  # of each `kind`
        self.begin_s = BEGIN_S
        self.left_out: list[str] = []
        self.runs: dict[str, list[dict]] = {}  # of each part those that are there
        self.fingerprint = cache(lambda corpus: text.load(corpus, progress=False).fingerprint)
        self.ceilings = in_a_process(device, machine.ceilings, device, 3)
        replace_file(out / "found" / "ceilings.json", json.dumps(self.ceilings).encode())
        self.vocabs = (300, 600) if tiny else PAPER.vocabs
        self.captures = False  # whether a step as a CUDA graph was checked and is right

    def spec(self, method: str, vocab: int, optimizer: str = "dense", **changes) -> Spec:
        """Captured, unless the checks say that it is wrong, or no graph can hold its step."""
        own = {"method": method, "vocab": vocab, "optimizer": optimizer, "device": str(self.device)}
        own["corpus"] = "zipf" if self.tiny else self.corpus.format(vocab=vocab)
        own["capture"] = self.captures and method != "adaptive"
        if self.tiny:
            own |= TINY
        return Spec(**own | changes)

    def seconds(self, spec: Spec) -> float:
        """What the run takes, by the step times so far; where none is known, by twice the floor."""
        step_ms = self.step_ms.get(kind(spec))
        if step_ms is None:
            step_ms = 2 * cost.floor(spec, self.ceilings).sum()
        return self.begin_s + step_ms * (spec.steps or spec.steps_total) / 1e3

    def run(self, part: str, specs: list[Spec]) -> None:
        """Those that were done before, or that the minutes are enough for, one after the other."""
        runs = []
        for number, spec in enumerate(specs, 1):
            name = f"{part} {number}/{len(specs)}: {described(spec)}"
            path = self.out / part / f"{spec.run_id(self.fingerprint(spec.corpus))}.json"
            was_done = is_done(path)
            left = self.until - perf_counter()
            needed = 0 if was_done else self.seconds(spec)
            if not was_done and needed > left:
                times = f"it needs about {needed:.0f} s of {max(left, 0):.0f} s"
                self.left_out.append(f"{name}: left out, {times}")
                continue
            times = f"about {needed:.0f} s of {left:.0f} s that are left"
            print(f"{name}, {'was done before' if was_done else times}", flush=True)
            runs.append(self._measured(spec, path.parent, was_done))
        print(f"{part}: {len(runs)} of {len(specs)} runs are there")
        self.runs.setdefault(part, []).extend(runs)

    def _measured(self, spec: Spec, folder: Path, was_done: bool) -> dict:
        began = perf_counter()
        (run,) = sweep([spec], folder, progress=False).to_dict("records")
        took = perf_counter() - began
        if run["status"] != "ok":
            print(f"  {run['status']}: {run['reason']}")
            return run
        fastest = self.step_ms.get(kind(spec), np.inf)
        self.step_ms[kind(spec)] = min(run["step_ms"], fastest)
        if not was_done:
            before_steps = took - run["step_ms"] * run["steps_run"] / 1e3
            self.begin_s = 0.5 * self.begin_s + 0.5 * max(1.0, before_steps)
        return run


def kind(spec: Spec) -> tuple:
    """Runs of one kind have the same time of a step."""
    return spec.vocab, spec.method, spec.optimizer, spec.precision, spec.capture


def described(spec: Spec) -> str:
    captured = ", captured" if spec.capture else ""
    how = f"{spec.optimizer}{captured}, {spec.precision}"
    return f"{spec.method} {how}, V = {figures.short(spec.vocab)}"


def in_a_process(device: torch.device, work: Callable, *arguments: Any) -> Any:
    """What `work` gives, on a GPU made by a process that ends with it.

    This process would keep a GPU's context, and all memory it had once taken, from the runs.
    """
    if device.type == "cpu":
        return work(*arguments)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
