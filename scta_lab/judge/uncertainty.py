"""How far a number may be trusted: its spread over seeds, and over documents, and whether two differ at all.

Positions of one document are alike, so that a document, not a position, is what was drawn. A run's `by_document` holds
sums over the positions of each; a metric is a ratio of two such sums. Left out: what another text, or another choice of
settings, would change.
"""

import math
from collections.abc import Sequence

import numpy as np

from scta_lite import checks

RATIOS = {  # of each metric the sum above and the sum below, and what the ratio is divided by
    "nll": ("nats", "positions", 1.0),
    "calibrated nll": ("calibrated_nats", "positions", 1.0),
    "bits_per_byte": ("nats", "bytes", math.log(2)),
    **{f"hit@{k}": (f"hit@{k}", "positions", 1.0) for k in (1, 5, 10)},
}


def sums(runs: Sequence[dict], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """What is above and below in the metric's ratio, (R, documents) of the `by_document` of R runs of one method.

    ValueError for a metric that is not one, no runs, or runs over other positions or documents.
    """
    if metric not in RATIOS:
        raise ValueError(f"metric={metric!r}: expected one of {', '.join(RATIOS)}")
    if not len(runs):
        raise ValueError("runs=[]: expected at least one")
    above, below, unit = RATIOS[metric]
    if any(_places(run) != _places(runs[0]) for run in runs):
        raise ValueError("runs over different positions: expected one V and one text")
    return np.array([run[above] for run in runs]) / unit, np.array([run[below] for run in runs], dtype=float)


def mean(runs: Sequence[dict], metric: str) -> float:
    """The metric over all positions, the mean of the runs."""
    above, below = sums(runs, metric)
    return float(above.mean(0).sum() / below[0].sum())


def standard_error(runs: Sequence[dict], metric: str) -> float:
    """Of the metric's mean over R runs, over documents as drawn: √(n/(n-1) Σ (x_i - r y_i)²) / Σ y_i, r = Σx / Σy.

    >>> one = {"positions": [10, 10], "nats": [20.0, 30.0]}
    >>> standard_error([one], "nll")  # 2 and 3 nats a position: half their difference
    0.5
    """
    above, below = (x.mean(0) for x in sums(runs, metric))
    n, ratio = len(above), above.sum() / below.sum()
    return math.sqrt(n / (n - 1) * ((above - ratio * below) ** 2).sum()) / float(below.sum()) if n > 1 else math.nan


def _places(run: dict) -> tuple:
    return run.get("document"), run["positions"]


def _only(run: dict, documents: set[int]) -> dict:
    kept = [i for i, document in enumerate(run["document"]) if document in documents]
    return {name: [of[i] for i in kept] for name, of in run.items()}


def difference(
    runs: Sequence[dict], others: Sequence[dict], metric: str, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The metric of the first runs minus that of the others: in all, and the bounds of 95% of the bootstrap.

    Both are measured at the same positions, and each draw takes the same documents of both, with replacement; and of
    each side its R runs with replacement. Drawn runs spread by (R-1)/R of the variance of seeds, so that what a draw is
    off their mean is stretched by √(R/(R-1)). One run knows nothing of other seeds: its interval is of documents alone.
    Two or three know little: theirs still hold the truth less often than 95%.

    Bits per byte may be those of two V, over the documents that both have, of which each V may score other passages.
    """
    checks.integer("draws", draws, 1)
    sides = [sums(side, metric) for side in (runs, others)]
    if _places(runs[0]) != _places(others[0]):
        if metric != "bits_per_byte":
            raise ValueError(f"others over different positions than runs: expected one V and one text for {metric}")
        both = set(runs[0]["document"]) & set(others[0]["document"])
        if not both:
            raise ValueError("others over none of the documents of runs: expected one text")
        runs, others = ([_only(run, both) for run in side] for side in (runs, others))
        sides = [sums(side, metric) for side in (runs, others)]
    rng, n = np.random.default_rng(seed), sides[0][0].shape[1]
    documents = rng.multinomial(n, np.full(n, 1 / n), size=draws)  # (draws, n): how often each document is drawn
    found = np.zeros(draws)
    for sign, (above, below) in zip((1, -1), sides, strict=True):
        R = len(above)
        seeds = rng.multinomial(R, np.full(R, 1 / R), size=draws) / R - 1 / R  # (draws, R), off their mean
        seeds = 1 / R + seeds * math.sqrt(R / max(1, R - 1))
        found += sign * ((seeds @ above) * documents).sum(1) / (documents @ below[0])
    return mean(runs, metric) - mean(others, metric), *np.quantile(found, (0.025, 0.975)).tolist()
