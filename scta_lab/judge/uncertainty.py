"""How far a number may be trusted: its spread over seeds, and over documents.

Positions of one document are alike, so that a document, not a position, is what was drawn. A run's
`by_document` holds sums over the positions of each; a metric is a ratio of two such sums. Left
out: what another text, or another choice of settings, would change.
"""

import math
from collections.abc import Sequence

import numpy as np
from scta_lite import checks

Runs = Sequence[dict]  # of each run its `by_document`
RATIOS = {  # of each metric the sum above and the sum below, and what the ratio is divided by
    "nll": ("nats", "positions", 1.0),
    "calibrated nll": ("calibrated_nats", "positions", 1.0),
    "bits_per_byte": ("nats", "bytes", math.log(2)),
    **{hit: (hit, "positions", 1.0) for hit in ("hit@1", "hit@5", "hit@10")},
}


def sums(runs: Runs, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """What is above and below in the metric's ratio, each (R, documents), of R runs of one method.

    ValueError for a metric that is not one, no runs, or runs over other positions or documents.
    """
    if metric not in RATIOS:
        raise ValueError(f"metric={metric!r}: expected one of {', '.join(RATIOS)}")
    if not len(runs):
        raise ValueError("runs=[]: expected at least one")
    if any(_places(run) != _places(runs[0]) for run in runs):
        raise ValueError("runs over different positions: expected one V and one text")
    above, below, unit = RATIOS[metric]
    denominators = np.array([run[below] for run in runs], dtype=float)
    return np.array([run[above] for run in runs]) / unit, denominators


def mean(runs: Runs, metric: str) -> float:
    """The metric over all positions, the mean of the runs."""
    above, below = sums(runs, metric)
    return float(above.mean(0).sum() / below[0].sum())


def standard_error(runs: Runs, metric: str) -> float:
    """That of the metric's mean over R runs, over documents as drawn.

    √(n/(n-1) Σ (x_i - r y_i)²) / Σ y_i with r = Σx / Σy over n documents; NaN for one document.

    >>> one = {"positions": [10, 10], "nats": [20.0, 30.0]}
    >>> standard_error([one], "nll")  # 2 and 3 nats a position: half their difference
    0.5
    """
    x, y = (of_runs.mean(0) for of_runs in sums(runs, metric))  # (documents,)
    n = len(x)
    if n == 1:
        return math.nan
    r = x.sum() / y.sum()
    squares = ((x - r * y) ** 2).sum()
    return math.sqrt(n / (n - 1) * squares) / float(y.sum())


def difference(
    runs: Runs, others: Runs, metric: str, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The metric of the first runs minus that of the others, and where 95% of the bootstrap lies.

    Both are measured at the same positions, and each draw takes the same documents of both, with
    replacement; and of each side its R runs with replacement (`_drawn`). One run knows nothing of
    other seeds: its interval is of documents alone. Two or three know little: theirs still hold
    the truth less often than 95%.

    Bits per byte may be those of two V, over the documents that both have, of which each V may
    score other passages.
    """
    checks.integer("draws", draws, 1)
    gap = mean(runs, metric) - mean(others, metric)
    if _places(runs[0]) != _places(others[0]):
        runs, others = _in_common(runs, others, metric)
        gap = mean(runs, metric) - mean(others, metric)
    n = len(runs[0]["positions"])
    rng = np.random.default_rng(seed)
    documents = rng.multinomial(n, np.full(n, 1 / n), size=draws)  # (draws, n): how often each
    gaps = _drawn(runs, metric, documents, rng) - _drawn(others, metric, documents, rng)
    return gap, *np.quantile(gaps, (0.025, 0.975)).tolist()


def _drawn(runs: Runs, metric: str, documents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The metric in each draw, (draws,), of `documents` (draws, n) and of R runs with replacement.

    Drawn runs spread by (R-1)/R of the variance of seeds, so that what a draw is off their mean is
    stretched by √(R/(R-1)).
    """
    above, below = sums(runs, metric)  # (R, n)
    R = len(runs)
    times = rng.multinomial(R, np.full(R, 1 / R), size=len(documents))  # (draws, R): how often each
    stretch = math.sqrt(R / max(1, R - 1))
    weights = 1 / R + (times / R - 1 / R) * stretch  # (draws, R)
    return ((weights @ above) * documents).sum(1) / (documents @ below[0])


def _places(run: dict) -> tuple:
    """Where the run was measured."""
    return run.get("document"), run["positions"]


def _in_common(runs: Runs, others: Runs, metric: str) -> tuple[Runs, Runs]:
    """Both sides over the documents that both have, for the one metric that can be compared."""
    if metric != "bits_per_byte":
        expected = f"expected one V and one text for {metric}"
        raise ValueError(f"others over different positions than runs: {expected}")
    both = set(runs[0]["document"]) & set(others[0]["document"])
    if not both:
        raise ValueError("others over none of the documents of runs: expected one text")
    return [_only(run, both) for run in runs], [_only(run, both) for run in others]


def _only(run: dict, documents: set[int]) -> dict:
    """The run's sums, of these documents alone."""
    indices = [i for i, document in enumerate(run["document"]) if document in documents]
    return {name: [values[i] for i in indices] for name, values in run.items()}
