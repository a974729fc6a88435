"""Which start did the paper have? SEMANTIC at its settings, from several standard deviations.

The paper does not say how its semantic table begins; its published losses do, in part. Writes
data/runs/two-cores/initial/<V>/: at V = 50,000 seven standard deviations with two seeds, beside
0.02 and 1, which `study.py` trains; at 8,192 and 200,000 the two that fit best. A run takes four
minutes of one core. Resumable.
"""

import argparse

from scta_lab import Spec, sweep
from scta_lab.base.files import ROOT
from trainings import common

STDS = (0.05, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5)  # 0.125 = 1/√64: rows of about unit length
FITTING = (0.2, 0.125)


def trainings(vocab: int, steps: int, stds: tuple, seeds: int) -> list[Spec]:
    """One for each standard deviation and seed."""
    settings = {"method": "semantic", "steps": steps, **common(vocab)}
    return [Spec(**settings, init_std=std, seed=seed) for seed in range(seeds) for std in stds]


def plan() -> dict[int, list[Spec]]:
    """The trainings of each V."""
    return {
        50_000: trainings(50_000, 2_500, STDS, seeds=2),
        8_192: trainings(8_192, 2_500, FITTING, seeds=3),
        200_000: trainings(200_000, 1_250, FITTING, seeds=1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    folder = ROOT / "data/runs/two-cores/initial"
    parser.add_argument("--out", default=folder, help="folder of the runs")
    out = parser.parse_args().out
    for vocab, specs in plan().items():
        sweep(specs, f"{out}/{vocab}")
