"""Is it right on this device? Small cases against float64 on the CPU.

`pytest tests/device` makes these checks, on a GPU where there is one; `studies/gpu.py` makes them before it measures.
Each gives its largest error and the most that is allowed. On the CPU they check themselves.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor
from trained import apart, captured, moving, precision, resuming, waiting

from scta_lab.base import machine
from scta_lab.judge.search import Approximate, Exact
from scta_lab.methods.samplers import weighted
from scta_lite import RowAdamW, VocabTable, cross_entropy, semantic_loss
from scta_lite.losses import log_uniform, uniform
from scta_lite.rows.table import distinct_unsorted

EXACT, SINGLE = 1e-10, 2e-4  # the most that float64 and float32 may be off
Checks = Iterator[tuple[str, float, float]]  # name, error, the most allowed


def parts() -> list:
    """All checks in their order: the first asks what this process has done with the GPU so far."""
    first = [context, losses, optimizer, samplers, places, resuming, precision]
    return [*first, moving, searching, waiting, captured]


def checks(device: torch.device) -> list[dict]:
    """Each check: its name, the error, the most allowed, whether it is right, and whether it is `needed` to measure."""
    unused = (context, precision, moving, searching, captured)  # by the runs that `studies/gpu.py` measures
    results = []
    for part in parts():
        needed = part not in unused
        try:
            for name, error, most in part(device):
                numbers = {"check": name, "error": error, "most": most}
                results.append(numbers | {"right": error <= most, "needed": needed})
        except Exception as error:  # a check that cannot be made is not right
            name = f"{part.__name__}: {type(error).__name__}: {error}"[:300]
            numbers = {"check": name, "error": None, "most": None}
            results.append(numbers | {"right": False, "needed": needed})
    return results


def context(device: torch.device) -> Checks:
    """Whether this process has a context on the GPU once it has asked for free memory; the sweep's would keep it."""
    machine.free_memory(device)
    contexts = 0
    if device.type == "cuda":
        contexts = int(torch._C._cuda_hasPrimaryContext(device.index or 0))
    allowed = int(machine.pynvml is None)
    yield "contexts made by asking for memory (without nvidia-ml-py: 1)", contexts, allowed


def losses(device: torch.device) -> Checks:
    """Both losses and CE in chunks, with their gradients."""
    per_position = [(40, 16), (40, 16), (40, 8, 16)]
    shared = [(40, 16), (40, 16), (30, 16)]
    softmax = [(40, 16), (300, 16)]
    cases = {
        "semantic_loss": (semantic_loss, per_position),
        "semantic_loss, shared": (semantic_loss, shared),
        "cross_entropy": (_cross_entropy, softmax),
        "cross_entropy in chunks": (partial(_cross_entropy, chunk=7), softmax),
    }
    for name, (loss, shapes) in cases.items():
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        exact = _with_gradients(loss, inputs)
        for dtype, most in ((torch.float64, EXACT), (torch.float32, SINGLE)):
            there = _with_gradients(loss, [x.to(device, dtype) for x in inputs])
            yield f"{name}, {dtype}".replace("torch.", ""), apart(there, exact), most


def _cross_entropy(hidden: Tensor, weight: Tensor, chunk: int | None = None) -> Tensor:
    return cross_entropy(hidden, weight, torch.arange(40, device=hidden.device), chunk=chunk)


def _with_gradients(loss, inputs: list[Tensor]) -> list[Tensor]:
    """The loss and the gradient of each input, in float64 on the CPU."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    gradients = torch.autograd.grad(value, inputs)
    return [x.double().cpu() for x in (value.detach(), *gradients)]


def optimizer(device: torch.device) -> Checks:
    """RowAdamW with a schedule, clipping and ids that stand twice, against torch's dense AdamW on the CPU."""
    torch.manual_seed(0)
    dense = torch.nn.Embedding(50, 8, dtype=torch.float64)
    table = VocabTable.from_embedding(dense).to(device)
    settings = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-30}
    adamw = torch.optim.AdamW(dense.parameters(), **settings)
    row_adamw = RowAdamW([table], **settings)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, T_max=60) for each in (adamw, row_adamw)]
    for seed in range(60):
        ids = torch.randint(50, (3, 5), generator=torch.Generator().manual_seed(seed))
        dense(ids).pow(3).sum().backward()
        table(ids.to(device)).pow(3).sum().backward()
        torch.nn.utils.clip_grad_norm_(dense.parameters(), 0.5)
        torch.nn.utils.clip_grad_norm_(row_adamw.touched(), 0.5)
        for each, schedule in zip((adamw, row_adamw), schedules, strict=True):
            each.step()
            each.zero_grad()
            schedule.step()
    error = apart([table.weight.cpu()], [dense.weight.detach()])
    yield "RowAdamW against dense AdamW, float64", error, EXACT


def samplers(device: torch.device) -> Checks:
    """Chi-squared of 200,000 draws over its 19 degrees of freedom; above 2.5 in one of 2,000 trials."""
    generator = torch.Generator(device).manual_seed(3)
    n, V = 200_000, 20
    ranks = torch.arange(V)
    weights = torch.arange(1.0, V + 1, dtype=torch.float64, device=device)
    zipf = ((ranks + 2.0) / (ranks + 1.0)).log().double()
    draws = {
        "uniform": (uniform((n,), V, generator=generator), torch.ones(V)),
        "log_uniform": (log_uniform((n,), V, generator=generator), zipf),
        "weighted": (weighted((n,), weights.cumsum(0), generator=generator), weights.cpu()),
    }
    for name, (ids, q) in draws.items():
        expected = q / q.sum() * n
        counts = ids.bincount(minlength=V).cpu()
        chi_squared = ((counts - expected).square() / expected).sum().item()
        yield f"sampler {name}, χ² a degree", chi_squared / (V - 1), 2.5


def places(device: torch.device) -> Checks:
    """Of each id of a look-up its first place, whatever the scratch memory holds."""
    ids = torch.randint(40, (120,), device=device)
    scratch = torch.randint(-9, 9, (40,), dtype=torch.int32, device=device)
    rows, first = distinct_unsorted(ids, scratch)
    expected = torch.tensor([ids.tolist().index(i) for i in ids.tolist()])
    wrong = int((rows != ids).sum()) + int((first.cpu() != expected).sum())
    yield "places of a look-up's ids", wrong, 0


def searching(device: torch.device) -> Checks:
    """The exact search, and faiss's where it is installed, give on this device what they give on the CPU."""
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(200, 8, generator=generator)
    queries = torch.randn(20, 8, generator=generator)
    expected = (queries.double() @ vectors.double().T).argmax(1)  # (20,)
    indices = {"the exact": Exact, "faiss's": partial(Approximate, kind="IVF1,Flat")}
    for name, index in indices.items():
        with suppress(ImportError):  # faiss
            _, ids = index(vectors.to(device)).search(queries.to(device), 1)
            wrong = int((ids[:, 0].cpu() != expected).sum())
            yield f"best tokens that {name} search does not find", wrong, 0
