"""The study of quality that notebook 06 shows: `make study`. Hours on two cores; resumable, a run is one file.

tune: settings at V = 8,192, 400 steps each, one changed at a time; chosen by the validation half of the held-out text.
final: the chosen settings, reported on the other half: V = 8,192, one epoch, 3 seeds; V = 50,000, 600 steps;
V = 200,000, ten minutes of training each.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from scta_lite import Spec, sweep
from scta_lite.paper import ROOT

EVALUATED = {"evaluate": True, "eval_every": 200}
TRIED = {"steps": 400, "vocab": 8192, "threads": 1, **EVALUATED}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
METHODS = ("ce", "ce_lowrank", "adaptive", "semantic", "sampled_softmax", "semantic_prior")
CHANGES = {  # one at a time, at lr 3e-3
    "ce": [{"table_lr": 1e-2}],
    "ce_lowrank": [{"init_std": 0.1}, {"init_std": 0.02}, {"init_std": 0.02, "learn_temperature": True},
                   {"init_std": 0.02, "learn_temperature": True, "semantic_dim": 256}],
    "adaptive": [{"table_lr": 1e-2}],
    "semantic": [{"init_std": 0.3}, {"init_std": 0.1}, {"init_std": 0.02}, {"temperature": 0.05}, {"temperature": 0.1},
                 {"learn_temperature": True}, {"negatives": 8}, {"negatives": 128}, {"shared": 1024},
                 {"semantic_dim": 32}, {"semantic_dim": 256}, {"table_lr": 1e-2}, {"mask_hits": True}],
    "sampled_softmax": [{"shared": 4096}, {"learn_temperature": True}, {"init_std": 0.1}, {"sampler": "log_uniform"}],
    "semantic_prior": [{"init_std": 1.0}, {"init_std": 0.1}, {"init_std": 0.05}, {"init_std": 0.01},
                       {"temperature": 0.05}, {"temperature": 0.1}, {"learn_temperature": True}, {"shared": 256},
                       {"shared": 4096}, {"shared": 0, "negatives": 32}, {"semantic_dim": 32}, {"semantic_dim": 128},
                       {"semantic_dim": 256}, {"semantic_dim": 256, "shared": 4096, "learn_temperature": True},
                       {"table_lr": 1e-2}, {"sampler": "unigram^0.75"}, {"sampler": "log_uniform"},
                       {"sampler": "in_batch"}],
}  # fmt: skip


def tune() -> list[Spec]:
    """Each method at each learning rate, then each other setting, at 3e-3."""
    rates = [Spec(method=method, optimizer="rows", lr=lr, **TRIED) for method in METHODS for lr in reversed(RATES)]
    others = [Spec(method=method, optimizer="rows", lr=3e-3, **TRIED, **change)
              for method, changes in reversed(CHANGES.items()) for change in changes]  # fmt: skip
    return list(dict.fromkeys(rates + others))


if __name__ == "__main__":
    folder = ROOT / "runs" / "study"
    if "tune" in sys.argv[1:]:
        sweep(tune(), folder / "tune", executor=ThreadPoolExecutor(2))  # two at a time: their times are not used
