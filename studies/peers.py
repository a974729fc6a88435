"""What is measured on a GPU beside runs: CE's step by other code, and trainings in 8 GiB."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from scta_lab import Spec, text, train
from scta_lab.base import machine
from scta_lab.run.capture import kind_of_run
from scta_lab.run.training import torch_settings
from scta_lite import cross_entropy
from scta_lite.train import fit

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # of hidden states, weight and target: the loss
FILTERED = "Cut Cross-Entropy in bfloat16, without small gradients"
# Steps beyond the Spec's: what a shortcut saves depends on what a model has learnt; one is slow.
STEPS = {FILTERED: 500, "Liger": 10}
WAITS = ("Liger", "Cut Cross-Entropy in bfloat16", FILTERED)  # they read a number: not captured


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


def whole_steps(specs: list[Spec]) -> pd.DataFrame:
    """CE's step by each of the `kernels`, in milliseconds; the reason where one did not run.

    Cut Cross-Entropy by default leaves out small gradients, of which an untrained model has most:
    so it is measured over more steps.
    """
    rows = []
    for spec in specs:
        for name, kernel in kernels().items():
            capture = bool(spec.capture) and name not in WAITS
            measured = replace(spec, steps=STEPS.get(name, spec.steps), capture=capture)
            about = {"vocab": spec.vocab, "loss": name, "captured": capture}
            try:
                rows.append(about | _step(measured, kernel))
            except Exception as error:  # of a kernel that is not ours
                rows.append(about | {"reason": f"{type(error).__name__}: {error}"[:200]})
    return pd.DataFrame(rows)


def _step(spec: Spec, kernel: Kernel) -> dict:
    """The quartiles of the steps' times where `kernel` is the loss."""
    device = machine.device(spec.device)
    corpus = text.load(spec.corpus, progress=False)
    examples = corpus.examples(spec.vocab, spec.seq_len, spec.examples)
    run = kind_of_run(spec, device)(spec, examples)
    head = run.model.head
    head.loss = lambda hidden, target, generator: kernel(hidden, head.weight, target)
    with torch_settings(spec):
        fit(run)
        times = run.timer.summary()
    return {name: times[name] for name in ("step_ms", "step_ms_q1", "step_ms_q3")}


def kernels() -> dict[str, Kernel]:
    """Each way to CE that is here."""
    losses = {"torch": _torch, "torch in bfloat16": _torch_in_bfloat16, "chunks": _in_chunks}
    if hasattr(F, "linear_cross_entropy"):
        losses["torch's linear_cross_entropy"] = F.linear_cross_entropy
    others = {
        "Liger": _liger,
        "Cut Cross-Entropy in bfloat16": partial(_cut, filter_eps=None),
        FILTERED: _cut,
    }
    for name, load in others.items():
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


def _liger() -> Callable:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy


def _cut(**settings) -> Callable:
    """Its backward pass takes 16-bit states alone."""
    from cut_cross_entropy import linear_cross_entropy

    def loss(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), target, **settings)

    return loss
