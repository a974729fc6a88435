"""How far a number may be trusted: its spread over seeds, and over documents.

Positions of one document are alike, so that a document, not a position, is what was drawn. A run's
`by_document` holds sums over the positions of each; a metric is a ratio of two such sums. Left
out: what another text, or another choice of settings, would change.
"""

import math
from collections.abc import Sequence

import numpy as np

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
    _, _, r = _ratio(runs, metric)
    return float(r)


def standard_error(runs: Runs, metric: str) -> float:
    """That of the metric's mean over R runs, over documents as drawn.

    √(n/(n-1) Σ (x_i - r y_i)²) / Σ y_i with r = Σx / Σy over n documents; NaN for one document.

    >>> one = {"positions": [10, 10], "nats": [20.0, 30.0]}
    >>> standard_error([one], "nll")  # 2 and 3 nats a position: half their difference
    0.5
    """
    x, y, r = _ratio(runs, metric)
    n = len(x)
    if n == 1:
        return math.nan
    off = x - r * y
    squares = (off**2).sum()
    error = math.sqrt(n / (n - 1) * squares)
    return error / float(y.sum())


def difference(runs: Runs, others: Runs, metric: str) -> tuple[float, float, float]:
    """The metric of the first runs minus that of the others, and its 95% interval by Student's t.

    Both are measured at the same positions. The variance is that over documents, by the jackknife,
    of the difference of the two sides' means over their seeds; and beside it that of the seeds of
    either side. Degrees of freedom are Satterthwaite's. Documents have n' - 1, where n' = (Σ y)² /
    Σ y² is as how many of equal length y they count. One run knows nothing of other seeds: its
    interval is of documents alone. One document knows nothing of others: NaN.

    Where a few documents hold most of a difference, the interval holds the truth less often than
    95%. Notebook lab/05 measures how often.

    Bits per byte may be those of two V, over the documents that both have, of which each V may
    score other passages.
    """
    gap = mean(runs, metric) - mean(others, metric)
    if _places(runs[0]) != _places(others[0]):
        runs, others = _in_common(runs, others, metric)
        gap = mean(runs, metric) - mean(others, metric)
    left_out = _left_out(runs, metric) - _left_out(others, metric)
    squares = left_out**2
    variances = [(1 - 1 / len(squares)) * squares.sum()]
    equal = _equal_documents(runs, metric)
    freedom = [max(1.0, equal - 1)]
    for side in (runs, others):
        if len(side) > 1:
            R = len(side)
            seeds = [mean([run], metric) for run in side]
            of_seeds = np.var(seeds, ddof=1)
            variances.append(of_seeds / R)
            freedom.append(R - 1)
    half = _half_width(np.array(variances), np.array(freedom))
    return gap, gap - half, gap + half


def student(freedom: float) -> float:
    """The t within which 95% of Student's distribution lie, with so many degrees of freedom.

    With t = √ν tan θ its density is in proportion to (cos θ)^(ν-1).

    >>> round(student(10), 3)
    2.228
    """
    angles = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    below = density.cumsum()
    place = np.searchsorted(below, 0.95 * below[-1])
    angle = angles[place]
    return math.sqrt(freedom) * math.tan(angle)


def _half_width(variances: np.ndarray, freedom: np.ndarray) -> float:
    """Of the 95% interval of a sum whose parts have these variances and degrees of freedom."""
    whole = variances.sum()
    if not whole > 0:  # no spread at all; or NaN
        return float(whole)
    parts = variances**2 / freedom
    joint = whole**2 / parts.sum()
    t = student(joint)
    return t * math.sqrt(whole)


def _ratio(runs: Runs, metric: str) -> tuple[np.ndarray, np.ndarray, float]:
    """x and y of each document, means of the runs, and r = Σx / Σy."""
    x, y = (of_runs.mean(0) for of_runs in sums(runs, metric))  # (documents,)
    return x, y, x.sum() / y.sum()


def _left_out(runs: Runs, metric: str) -> np.ndarray:
    """How far the metric's mean over the runs moves without each document, (documents,)."""
    x, y, r = _ratio(runs, metric)
    if len(x) == 1:  # without which there is none
        return np.array([math.nan])
    others = y.sum() - y
    return (x - r * y) / others


def _equal_documents(runs: Runs, metric: str) -> float:
    """As how many documents of equal length they count."""
    _, y, _ = _ratio(runs, metric)
    return y.sum() ** 2 / (y**2).sum()


def _places(run: dict) -> tuple:
    """Where the run was measured."""
    return run.get("document"), run["positions"]


def _in_common(runs: Runs, others: Runs, metric: str) -> tuple[Runs, Runs]:
    """Both sides over the documents that both have, for the one metric that can be compared."""
    if metric != "bits_per_byte":
        expected = f"expected one V and one text for {metric}"
        raise ValueError(f"others over different positions than runs: {expected}")
    its, theirs = (set(side[0]["document"]) for side in (runs, others))
    both = its & theirs
    if not both:
        raise ValueError("others over none of the documents of runs: expected one text")
    return [_only(run, both) for run in runs], [_only(run, both) for run in others]


def _only(run: dict, documents: set[int]) -> dict:
    """The run's sums, of these documents alone."""
    indices = [i for i, document in enumerate(run["document"]) if document in documents]
    return {name: [values[i] for i in indices] for name, values in run.items()}
