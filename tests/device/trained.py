"""The checks of this device that train: checkpoints, precision, waits for the GPU, and captured steps."""

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from scta_lab import Spec, text, train
from scta_lab.base.spec import METHODS
from scta_lab.run.capture import CapturedRun
from scta_lab.run.hooks import Checkpoint
from scta_lab.run.loop import LabRun
from scta_lite.timing import finish
from scta_lite.train import fit

CPU = torch.device("cpu")
WAITS = ("adaptive",)  # torch's clusters ask which of them are used
Checks = Iterator[tuple[str, float, float]]  # name, error, the most allowed
SIZES = {"vocab": 300, "hidden": 16, "semantic_dim": 8, "negatives": 4, "examples": 96, "batch": 4, "seq_len": 8}


def apart(results: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, over the largest number that is meant, or over 1 where that is smaller."""
    errors = []
    for a, b in zip(results, exact, strict=True):
        scale = b.abs().max().clamp_min(1)
        errors.append(((a - b).abs().max() / scale).item())
    return max(errors)


def small(method: str, device: torch.device, **changes) -> Spec:
    return Spec(method=method, corpus="zipf", device=str(device), **SIZES, **changes)


def training(spec: Spec, device: torch.device) -> LabRun:
    examples = text.load(spec.corpus).examples(spec.vocab, spec.seq_len, spec.examples)
    kind = CapturedRun if spec.capture else LabRun
    return kind(replace(spec, device=str(device)), examples)


def weights(run: LabRun) -> list[Tensor]:
    return [w.cpu() for w in run.model.state_dict().values()]


def methods_and_optimizers() -> Iterator[tuple[str, str]]:
    for method in METHODS:
        yield method, "dense"
        if method != "backbone":  # it has no table
            yield method, "rows"


def resuming(device: torch.device) -> Checks:
    """A training that goes on from a checkpoint of its seventh step ends as one that was not interrupted."""
    names = {False: "losses and weights after a checkpoint"}
    if device.type == "cuda":
        names[True] = "losses and weights after a checkpoint, captured"
    for capture, name in names.items():
        for kind in ("dense", "rows"):
            spec = small("semantic", device, optimizer=kind, steps=24, capture=capture)
            whole, first, again = (training(spec, device) for _ in range(3))
            fit(whole)
            batches = first.batches()
            for _ in range(7):
                first.step(batches)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"{spec.run_id('')}.checkpoint.safetensors")
                Checkpoint(path).save(first)
                Checkpoint(path).restore(again)
            fit(again)
            assert again.is_captured == capture
            results = ([run.losses.cpu(), *weights(run)] for run in (again, whole))
            yield f"{name}, {kind}", apart(*results), 5e-5


def moving(device: torch.device) -> Checks:
    """A checkpoint of this device goes on on the CPU, with the same weights."""
    for kind in ("dense", "rows"):
        spec = small("semantic", device, optimizer=kind, steps=12)
        there = training(spec, device)
        here = training(spec, CPU)
        batches = there.batches()
        for _ in range(5):
            there.step(batches)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the negatives go on from a new seed
            Checkpoint(Path(folder, "state")).save(there)
            Checkpoint(Path(folder, "state")).restore(here)
        yield f"weights of a checkpoint on the CPU, {kind}", apart(weights(there), weights(here)), 1e-6


def precision(device: torch.device) -> Checks:
    """Under autocast the GRU stays in float32; on a GPU torch would take float16, on a CPU nothing else."""
    model = training(small("ce", device), device).model
    ids = torch.arange(32, device=device).view(4, 8)
    with torch.autocast(device.type, torch.bfloat16):
        states = model(ids)
    yield "states of the GRU under autocast", apart([states.float()], [model(ids)]), 1e-6


def waiting(device: torch.device) -> Checks:
    """Ten steps of every method in which nothing waits for the GPU; torch raises where something does."""
    for method, kind in methods_and_optimizers():
        for capture in (False, device.type == "cuda" and method not in WAITS):
            settings = {"optimizer": kind, "steps": 20, "clip": 1.0, "capture": capture}
            waits = _waits(training(small(method, device, **settings), device), device)
            expected = method in WAITS and device.type == "cuda"
            says = "does not wait" if expected else "waits"
            captured = ", captured" if capture else ""
            yield f"{method} on {kind}{captured}: {says}", abs(waits - expected), 0


def _waits(run: LabRun, device: torch.device) -> bool:
    batches = run.batches()
    for _ in range(6):  # what is made once is made, and a step captured
        run.step(batches)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            run.step(batches)
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return True
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        finish(device)
    return False


def captured(device: torch.device) -> Checks:
    """A step as one CUDA graph trains what a step does, with a rate that changes, clipping, and fresh negatives."""
    if device.type != "cuda":
        return
    for method, kind in methods_and_optimizers():
        if method in WAITS:
            continue
        settings = {"optimizer": kind, "steps": 40, "epochs": 2, "clip": 0.05, "schedule": "cosine", "warmup": 8}
        plain = training(small(method, device, capture=False, **settings), device)
        graphed = training(small(method, device, capture=True, **settings), device)
        for run in (plain, graphed):
            fit(run)
        assert getattr(plain, "graph", None) is None
        assert graphed.graph is not None
        results = ([run.losses.cpu(), *weights(run)] for run in (plain, graphed))
        yield f"captured {method} on {kind}: losses and weights", apart(*results), 5e-5
    beyond = {"optimizer": "rows", "steps": 30, "epochs": 2, "evaluate": True, "eval_every": 10}
    for settings in ({"precision": "bfloat16"}, {"backbone": "transformer", "heads": 2}, {}):
        both = [train(small("semantic", device, capture=c, **beyond, **settings)) for c in (False, True)]
        nlls = ([torch.tensor([look["nll"] for look in run.validation])] for run in both)
        yield f"captured, looked at, {settings}: NLL", apart(*nlls), 1e-2 if "precision" in settings else 5e-5
        assert both[1].peak_memory_bytes > 0.5 * both[0].peak_memory_bytes
    by_default = train(small("semantic", device, steps=30, epochs=2))
    yield "captured by default (0: it is)", float(not by_default.captured), 0
