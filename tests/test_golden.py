"""Two nets under every change of structure: the names of the stored runs, and losses that were recorded once.

`python tests/test_golden.py` records the losses anew, which only a change of the mathematics is a reason for.
"""

import json
from pathlib import Path

import pytest

from scta_lab import Spec, train
from scta_lab.base.files import ROOT
from scta_lab.run.result import Result

LOSSES = Path(__file__).with_name("golden.json")
SIZES = {"vocab": 2_000, "hidden": 32, "semantic_dim": 16, "negatives": 8, "examples": 192, "batch": 8, "seq_len": 16}
SETTINGS = {"steps": 24, "epochs": 1, "lr": 3e-3, "seed": 3, "threads": 1, "corpus": "zipf", "device": "cpu"}
METHODS = ("ce", "semantic", "ce_chunked", "ce_lowrank", "adaptive", "sampled_softmax", "semantic_prior")
OPTIMIZERS = ("dense", "rows", "sparse")
SCHEDULED = {"schedule": "cosine", "warmup": 5, "table_lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99)}
VARIANTS = {
    "ce rows, scheduled and clipped": {"method": "ce", "optimizer": "rows", "clip": 0.5, **SCHEDULED},
    "prior rows, scheduled and clipped": {"method": "semantic_prior", "optimizer": "rows", "clip": 0.5, **SCHEDULED},
    "sampled softmax, dot, log u": {"method": "sampled_softmax", "scores": "dot", "log_unigram": True},
    "semantic from the unigram, hits left out": {"method": "semantic", "sampler": "unigram", "mask_hits": True},
    "semantic against its batch": {"method": "semantic", "sampler": "in_batch", "optimizer": "rows"},
    "semantic, log-uniform, shared": {"method": "semantic", "sampler": "log_uniform", "shared": 64},
    "ce, narrow input": {"method": "ce", "input_dim": 8, "optimizer": "rows"},
    "ce, Transformer": {"method": "ce", "backbone": "transformer", "layers": 2, "heads": 2},
    "semantic rows, bfloat16": {"method": "semantic", "optimizer": "rows", "precision": "bfloat16"},
}


def specs() -> dict[str, Spec]:
    plain = {f"{method} {optimizer}": {"method": method, "optimizer": optimizer}
             for method in METHODS for optimizer in OPTIMIZERS}  # fmt: skip
    return {name: Spec(**{**SIZES, **SETTINGS, **settings}) for name, settings in (plain | VARIANTS).items()}


def losses(spec: Spec) -> list[float]:
    """Of each step the loss, as the run's curve has it."""
    return train(spec).loss_curve["loss"]


@pytest.mark.parametrize("name", specs())
def test_losses_are_those_recorded(name):
    """On another processor, or with another torch, sums may be taken in another order."""
    tolerance = 2e-2 if "bfloat16" in name else 2e-5
    assert losses(specs()[name]) == pytest.approx(json.loads(LOSSES.read_text())[name], rel=tolerance)


def stored_runs() -> list[Path]:
    paths = sorted((ROOT / "data" / "runs").rglob("*.json"))
    return [path for path in paths if "run_id" in json.loads(path.read_text())]


def test_every_stored_run_is_found_under_its_name():
    paths = stored_runs()
    assert len(paths) >= 1_330
    renamed = {
        path: name for path in paths if (name := Result.from_dict(json.loads(path.read_text())).run_id) != path.stem
    }
    assert not renamed


if __name__ == "__main__":
    LOSSES.write_text(json.dumps({name: losses(spec) for name, spec in specs().items()}, indent=1) + "\n")
