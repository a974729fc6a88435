"""What is measured on a GPU beside runs: losses and their peers, and trainings in 8 GiB."""

from collections.abc import Callable
from time import perf_counter

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from scta_lab import Spec, train
from scta_lab.base import machine
from scta_lite import PAPER, cross_entropy, semantic_loss
from scta_lite.timing import finish

POSITIONS = 1_008  # N


def capped(device: torch.device, specs: list[Spec], most: int = 8 << 30) -> list[dict]:
    """How a few steps of each end, on the GPU, where torch may take so many bytes."""
    total = torch.cuda.get_device_properties(device).total_memory
    share = min(1.0, most / total)  # an "8 GB" GPU has a bit less
    torch.cuda.set_per_process_memory_fraction(share, device)
    results = []
    for spec in specs:
        about = {"method": spec.method, "vocab": spec.vocab, "limit_bytes": most}
        results.append(about | _ended(spec))
    return results


def _ended(spec: Spec) -> dict:
    try:
        run = train(spec)
        step_ms = float(run.step_ms)
    except Exception as error:
        status = "out_of_memory" if machine.is_out_of_memory(error) else "failed"
        return {"status": status, "reason": f"{type(error).__name__}: {error}"[:300]}
    return {"status": run.status, "step_ms": step_ms, "peak_memory_bytes": run.peak_memory_bytes}


def peers(device: torch.device, vocabs: tuple[int, ...], repeats: int = 20) -> pd.DataFrame:
    """Median milliseconds of a loss and its gradients over N positions, d = 256.

    Null, with the reason, where it did not run.
    """
    rows = []
    losses = kernels()
    for vocab in vocabs:
        hidden = torch.randn(POSITIONS, PAPER.hidden, device=device)
        # logits of N(0, 1), as at the start of a training
        weight = torch.randn(vocab, PAPER.hidden, device=device) / PAPER.hidden**0.5
        target = torch.randint(vocab, (POSITIONS,), device=device)
        for name, loss in losses.items():
            timing = _timed(loss, [hidden, weight], [target], repeats)
            rows.append({"vocab": vocab, "loss": name} | timing)
        query = torch.randn(POSITIONS, PAPER.semantic_dim, device=device)
        # (N, 1 + K, D): the target's row and those of its negatives
        read = torch.randn(POSITIONS, 1 + PAPER.negatives, PAPER.semantic_dim, device=device)
        timing = _timed(_semantic, [query, read], [], repeats)
        rows.append({"vocab": vocab, "loss": "the paper's, of rows that were read"} | timing)
    return pd.DataFrame(rows)


def kernels() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Each way to CE that is here, as a function of hidden states, weight and target."""
    losses = {"torch": _torch, "torch in bfloat16": _torch_in_bfloat16, "chunks": _in_chunks}
    if hasattr(F, "linear_cross_entropy"):
        losses["torch's linear_cross_entropy"] = F.linear_cross_entropy
    for name, load in (("Liger", _liger), ("Cut Cross-Entropy in bfloat16", _cut)):
        try:
            losses[name] = load()
        except ImportError as error:
            print(f"{name}: {error}; expected `pip install -e '.[peers]'`")
    return losses


def _torch(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, target)


def _torch_in_bfloat16(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    logits = hidden.bfloat16() @ weight.bfloat16().T
    return F.cross_entropy(logits.float(), target)


def _in_chunks(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(hidden, weight, target, chunk=128)


def _semantic(query: Tensor, read: Tensor) -> Tensor:
    return semantic_loss(query, read[:, 0], read[:, 1:])


def _liger() -> Callable:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy


def _cut() -> Callable:
    """Its backward pass takes 16-bit states alone, and leaves out small gradients: here none."""
    from cut_cross_entropy import linear_cross_entropy

    def loss(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), target, filter_eps=None)

    return loss


def _timed(loss: Callable, inputs: list[Tensor], others: list[Tensor], repeats: int) -> dict:
    """The median of the later two thirds of the repeats, with gradients of the inputs."""
    device = inputs[0].device
    inputs = [x.clone().requires_grad_() for x in inputs]
    times = []
    try:
        for _ in range(repeats):
            finish(device)
            began = perf_counter()
            torch.autograd.grad(loss(*inputs, *others), inputs)
            finish(device)
            times.append(1e3 * (perf_counter() - began))
    except Exception as error:  # of a kernel that is not ours
        return {"ms": None, "reason": f"{type(error).__name__}: {error}"[:200]}
    return {"ms": float(np.median(times[len(times) // 3 :])), "reason": None}
