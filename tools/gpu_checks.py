"""Is it right on this device? Small cases against float64 on the CPU: what `tools/gpu.py` does before it measures.

Each check gives its largest error and the most that is allowed. On the CPU they check themselves.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scta_lab import Spec, text, train
from scta_lab.base import machine
from scta_lab.base.spec import METHODS
from scta_lab.judge.search import Approximate, Exact
from scta_lab.methods.samplers import weighted
from scta_lab.run.capture import CapturedRun
from scta_lab.run.hooks import Checkpoint
from scta_lab.run.loop import LabRun
from scta_lite import RowAdamW, VocabTable, cross_entropy, semantic_loss
from scta_lite.losses import log_uniform, uniform
from scta_lite.rows.table import distinct_unsorted
from scta_lite.timing import finish
from scta_lite.train import fit

EXACT, SINGLE = 1e-10, 2e-4  # the most that float64 and float32 may be off
WAITS = ("adaptive",)  # torch's clusters ask which of them are used
Found = Iterator[tuple[str, float, float]]


def checks(device: torch.device) -> list[dict]:
    """Each check: its name, the error, the most allowed, whether it is right, and whether it is `needed` to measure."""
    found = []
    parts = (context, losses, optimizer, samplers, places, resuming, precision, moving, searching, waiting,
             captured)  # fmt: skip
    for part in parts:
        needed = part not in (context, precision, moving, searching, captured)  # of which no run of ours makes use
        try:
            found += [{"check": name, "error": error, "most": most, "right": error <= most, "needed": needed}
                      for name, error, most in part(device)]  # fmt: skip
        except Exception as error:  # a check that cannot be made is not right
            found.append({"check": f"{part.__name__}: {type(error).__name__}: {error}"[:300], "error": None,
                          "most": None, "right": False, "needed": needed})  # fmt: skip
    return found


def context(device: torch.device) -> Found:
    """Whether this process has a context on the GPU once it has asked for free memory; the sweep's would keep it."""
    machine.free_memory(device)
    made = device.type == "cuda" and torch._C._cuda_hasPrimaryContext(device.index or 0)
    yield "contexts made by asking for memory (without nvidia-ml-py: 1)", int(made), int(machine.pynvml is None)


def losses(device: torch.device) -> Found:
    """Both losses and CE in chunks, with their gradients."""
    cases: dict[str, tuple[Callable, tuple[tuple[int, ...], ...]]] = {
        "semantic_loss": (lambda q, p, n: semantic_loss(q, p, n), ((40, 16), (40, 16), (40, 8, 16))),
        "semantic_loss, shared": (lambda q, p, n: semantic_loss(q, p, n), ((40, 16), (40, 16), (30, 16))),
        "cross_entropy": (lambda h, w: cross_entropy(h, w, torch.arange(40, device=h.device)), ((40, 16), (300, 16))),
        "cross_entropy in chunks":
            (lambda h, w: cross_entropy(h, w, torch.arange(40, device=h.device), chunk=7), ((40, 16), (300, 16))),
    }  # fmt: skip
    for name, (loss, shapes) in cases.items():
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

        def results(on: torch.device, dtype: torch.dtype, drawn=drawn, loss=loss) -> list[Tensor]:
            inputs = [x.to(on, dtype).requires_grad_() for x in drawn]
            value = loss(*inputs)
            return [x.double().cpu() for x in (value.detach(), *torch.autograd.grad(value, inputs))]

        exact = results(torch.device("cpu"), torch.float64)
        for dtype, most in ((torch.float64, EXACT), (torch.float32, SINGLE)):
            yield f"{name}, {dtype}".replace("torch.", ""), _apart(results(device, dtype), exact), most


def optimizer(device: torch.device) -> Found:
    """RowAdamW with a schedule, clipping and ids that stand twice, against torch's dense AdamW on the CPU."""
    torch.manual_seed(0)
    dense = torch.nn.Embedding(50, 8, dtype=torch.float64)
    table = VocabTable.from_embedding(dense).to(device)
    settings = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-30}
    both = torch.optim.AdamW(dense.parameters(), **settings), RowAdamW([table], **settings)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, T_max=60) for each in both]
    for seed in range(60):
        ids = torch.randint(50, (3, 5), generator=torch.Generator().manual_seed(seed))
        for of, each, schedule in zip((dense, table), both, schedules, strict=True):
            of(ids.to(of.weight.device)).pow(3).sum().backward()
            rows = each.touched() if isinstance(each, RowAdamW) else of.parameters()
            torch.nn.utils.clip_grad_norm_(rows, 0.5)
            each.step()
            each.zero_grad()
            schedule.step()
    yield "RowAdamW against dense AdamW, float64", _apart([table.weight.cpu()], [dense.weight.detach()]), EXACT


def samplers(device: torch.device) -> Found:
    """Chi-squared of 200,000 draws over its 19 degrees of freedom; above 2.5 in one of 2,000 trials."""
    generator, n, V = torch.Generator(device).manual_seed(3), 200_000, 20
    weights = torch.arange(1.0, V + 1, dtype=torch.float64, device=device)
    zipf = ((torch.arange(V) + 2.0) / (torch.arange(V) + 1.0)).log().double()
    draws = {
        "uniform": (uniform((n,), V, generator=generator), torch.ones(V)),
        "log_uniform": (log_uniform((n,), V, generator=generator), zipf),
        "weighted": (weighted((n,), weights.cumsum(0), generator=generator), weights.cpu()),
    }
    for name, (ids, q) in draws.items():
        expected = q / q.sum() * n
        yield (
            f"sampler {name}, χ² a degree",
            ((ids.bincount(minlength=V).cpu() - expected).square() / expected).sum().item() / (V - 1),
            2.5,
        )


def places(device: torch.device) -> Found:
    """Of each id of a look-up its first place, whatever the scratch memory holds."""
    ids = torch.randint(40, (120,), device=device)
    rows, found = distinct_unsorted(ids, torch.randint(-9, 9, (40,), dtype=torch.int32, device=device))
    first = [ids.tolist().index(i) for i in ids.tolist()]
    yield "places of a look-up's ids", int((rows != ids).sum()) + int((found.cpu() != torch.tensor(first)).sum()), 0


def resuming(device: torch.device) -> Found:
    """A training that was interrupted and goes on ends as one that was not."""

    def interrupt(step: int, *_) -> None:
        if step >= 7:
            raise KeyboardInterrupt

    for capture in (False, True)[: 1 + (device.type == "cuda")]:
        spec = _small("semantic", device, optimizer="rows", steps=12, capture=capture)
        whole = train(spec)
        with tempfile.TemporaryDirectory() as folder:
            with suppress(KeyboardInterrupt):
                train(spec, progress=interrupt, checkpoint=folder, checkpoint_s=0)
            again = train(spec, checkpoint=folder, checkpoint_s=1e9)
        yield f"loss after a checkpoint{', captured' * capture}", float(abs(again.final_loss - whole.final_loss)), 1e-5


def moving(device: torch.device) -> Found:
    """A checkpoint of this device goes on on the CPU, with the same weights."""
    for kind in ("dense", "rows"):
        spec = _small("semantic", device, optimizer=kind, steps=12)
        there, here = (_training(spec, on) for on in (device, torch.device("cpu")))
        batches = there.batches()
        for _ in range(5):
            there.step(batches)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the negatives go on from a new seed
            Checkpoint(Path(folder, "state")).save(there)
            Checkpoint(Path(folder, "state")).restore(here)
        of_both = (list(each.model.state_dict().values()) for each in (there, here))
        apart = _apart(*([w.cpu() for w in weights] for weights in of_both))
        yield f"weights of a checkpoint on the CPU, {kind}", apart, 1e-6


def precision(device: torch.device) -> Found:
    """Under autocast the GRU stays in float32; on a GPU torch would take float16, on a CPU nothing else."""
    model = _training(_small("ce", device), device).model
    ids = torch.arange(32, device=device).view(4, 8)
    with torch.autocast(device.type, torch.bfloat16):
        found = model(ids)
    yield "states of the GRU under autocast", _apart([found.float()], [model(ids)]), 1e-6


def searching(device: torch.device) -> Found:
    """The exact search, and faiss's where it is installed, find on this device what they find on the CPU."""
    generator = torch.Generator().manual_seed(5)
    vectors, queries = (torch.randn(n, 8, generator=generator) for n in (200, 20))
    wanted = (queries.double() @ vectors.double().T).argmax(1)
    for kind in (Exact, partial(Approximate, kind="IVF1,Flat")):
        with suppress(ImportError):  # faiss
            ids = kind(vectors.to(device)).search(queries.to(device), 1)[1]
            name = "faiss's" if isinstance(kind, partial) else "the exact"
            yield f"best tokens that {name} search does not find", int((ids[:, 0].cpu() != wanted).sum()), 0


def waiting(device: torch.device) -> Found:
    """Ten steps of every method in which nothing waits for the GPU; torch raises where something does."""
    for method in METHODS:
        for kind in ("dense", "rows")[: 1 if method == "backbone" else 2]:
            spec = _small(method, device, optimizer=kind, steps=20, clip=1.0)
            training = _training(spec, device)
            batches, waits = training.batches(), 0
            for step in range(13):
                if step == 3 and device.type == "cuda":  # what is made once is there
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    training.step(batches)
                except RuntimeError as error:
                    if "synchronizing" not in str(error):
                        raise
                    waits = 1
                    break
                finally:
                    if device.type == "cuda" and (waits or step == 12):
                        torch.cuda.set_sync_debug_mode("default")
            finish(device)
            known = method in WAITS and device.type == "cuda"
            yield f"{method} on {kind}: {'does not wait' if known else 'waits'}", abs(waits - known), 0


def captured(device: torch.device) -> Found:
    """A step as one CUDA graph trains what a step does, with a rate that changes, clipping, and fresh negatives."""
    if device.type != "cuda":
        return
    for method in METHODS:
        for kind in ("dense", "rows")[: 1 if method == "backbone" else 2]:
            if method in WAITS:
                continue
            settings = {"optimizer": kind, "steps": 40, "epochs": 2, "clip": 0.05, "schedule": "cosine", "warmup": 8}
            made = []
            for capture in (False, True):
                spec = _small(method, device, capture=capture, **settings)
                training = _training(spec, device)
                fit(training)
                assert (getattr(training, "graph", None) is not None) is capture
                made.append([training.losses.cpu(), *(w.cpu() for w in training.model.state_dict().values())])
            yield f"captured {method} on {kind}: losses and weights", _apart(*made), 5e-5


def _training(spec: Spec, device: torch.device) -> LabRun:
    examples = text.load(spec.corpus).examples(spec.vocab, spec.seq_len, spec.examples)
    kind = CapturedRun if spec.capture else LabRun
    return kind(replace(spec, device=str(device)), examples)


def _small(method: str, device: torch.device, **changes) -> Spec:
    return Spec(method=method, vocab=300, hidden=16, semantic_dim=8, negatives=4, examples=96, batch=4, seq_len=8,
                corpus="zipf", device=str(device), **changes)  # fmt: skip


def _apart(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, over the largest number that is meant, or over 1 where that is smaller."""
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1)).item() for a, b in zip(found, exact, strict=True))
