"""How a method looks in every figure, and which runs are one point of it.

The runs are those of `published_runs()` or `load_runs(folder)`, or both. Those of one
machine, method, optimizer and V are one point, whatever else differs: choose them first. Their
median is the point and their quartiles its bar; of a single run the bar is that of its steps.
"""

import pandas as pd
from scta_lite.sweep import captured

LOOK = ["label", "color", "marker", "linestyle"]
METHODS = {  # by method and optimizer; the colours are Okabe and Ito's, safe for the colour-blind
    ("ce", "dense"): ("CE", "#D55E00", "o", "-"),
    ("semantic", "dense"): ("SEMANTIC", "#0072B2", "s", "--"),
    ("semantic", "rows"): ("SEMANTIC, row-sparse", "#0072B2", "D", "-"),
    ("semantic", "sparse"): ("SEMANTIC, SparseAdam", "#8C564B", "p", ":"),
    ("ce_chunked", "rows"): ("CE in chunks, row-sparse", "#E69F00", "^", "-."),
    ("ce_lowrank", "rows"): ("CE at D = 64, row-sparse", "#56B4E9", "P", "--"),
    ("adaptive", "dense"): ("adaptive softmax", "#CC79A7", "v", ":"),
    ("adaptive", "rows"): ("adaptive softmax, row-sparse", "#CC79A7", "<", "-"),
    ("semantic_prior", "rows"): ("SEMANTIC with prior, row-sparse", "#000000", "*", "-"),
    ("semantic_prior", "sparse"): ("SEMANTIC with prior, SparseAdam", "#882255", "H", ":"),
    ("sampled_softmax", "rows"): ("sampled softmax, row-sparse", "#B8A600", "h", "-."),
    ("backbone", "dense"): ("backbone alone", "#555555", "X", ":"),
}
SPARSE = ", row-sparse"  # behind the name of a method
CAPTURED = ", captured"  # behind the optimizer of a run whose steps were each one CUDA graph
POINT = ["machine", "method", "optimizer", "vocab"]  # runs that have these in common are one point
STEPS = ["step_ms", "step_ms_q1", "step_ms_q3"]
OPTIONAL = [*STEPS, "extrapolated", "fingerprint", "reason"]


def style(method: str, optimizer: str = "dense") -> dict[str, str]:
    """The label, color, marker and linestyle of a method with its optimizer.

    Where each step was one CUDA graph, as in "rows, captured", the line is dotted.

    >>> style("semantic", "rows")["label"]
    'SEMANTIC, row-sparse'
    """
    looks = {kind: look for (name, kind), look in METHODS.items() if name == method}
    if not looks:
        names = dict.fromkeys(name for name, _ in METHODS)
        raise ValueError(f"method={method!r}: expected one of {', '.join(names)}")
    kind = optimizer.removesuffix(CAPTURED)
    first = next(iter(looks.values()))
    look = dict(zip(LOOK, looks.get(kind, first), strict=True))
    if kind not in looks:
        optimizer_name = "row-sparse" if kind == "rows" else kind
        look["label"] = f"{first[0].removesuffix(SPARSE)}, {optimizer_name}"
    if kind != optimizer:
        look |= {"label": look["label"] + CAPTURED, "linestyle": ":"}
    return look


def by_kind(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, whose `optimizer` says too whether each step was a CUDA graph: "rows, captured".

    A published run, of whose optimizer nothing is known, counts as dense.
    """
    optimizer = runs.get("optimizer", pd.Series(None, runs.index, dtype=object)).fillna("dense")
    with_captured = optimizer.str.removesuffix(CAPTURED) + CAPTURED
    return runs.assign(optimizer=optimizer.mask(captured(runs), with_captured))


def complete(runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The runs by kind, with null in those of the columns that they lack.

    A published run lacks most. `extrapolated` is true or false.
    """
    runs = by_kind(runs)
    runs = runs.reindex(columns=runs.columns.union([*columns, *OPTIONAL], sort=False))
    return runs.assign(extrapolated=runs.extrapolated.eq(True))


def points(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row for each point: `value`, its quartiles `low` and `high`, its look, and a run's rest.

    ValueError where there is none, or where runs of several texts would be one point.
    """
    missing = {"machine", "method", "vocab", "status", column} - set(runs)
    if missing:
        raise ValueError(f"runs: the columns {sorted(missing)} are missing")
    if runs.empty:
        raise ValueError(f"runs: there is none with {column}; expected one or more")
    numbers = dict.fromkeys([column, *STEPS], float)  # where nothing was measured there is a None
    groups = complete(runs, []).astype(numbers).groupby(POINT, sort=False)
    table = pd.DataFrame([_point(part, column) for _, part in groups])
    return table.sort_values("vocab", kind="stable", ignore_index=True)


def _point(runs: pd.DataFrame, column: str) -> dict:
    """Runs that differ in their seed alone, as one: their median, with their quartiles."""
    done = runs[runs[column].notna()]
    first = runs.iloc[0] if done.empty else done.iloc[0]
    texts = runs.fingerprint.dropna().unique()
    if len(texts) > 1:
        several = f"{first.method} at V = {first.vocab} has runs of several texts"
        expected = f"expected those of one, as runs[runs.fingerprint == {texts[0]!r}]"
        raise ValueError(f"runs: {several}, fingerprints {', '.join(texts)}; {expected}")
    low, high = done[column].quantile([0.25, 0.75])
    if len(done) == 1:
        low, high = _quartiles(first, column)
    value = {"value": done[column].median(), "low": low, "high": high}
    return first.to_dict() | value | style(first.method, first.optimizer)


def _quartiles(run: pd.Series, column: str) -> list[float]:
    """A run's value at the quartiles of its step time; itself, twice, where they say nothing.

    A step twice as long makes twice the seconds, and half the tokens a second.
    """
    power = {"seconds": 1, "tokens_per_s": -1}.get(column)
    if power is None or pd.isna(run.step_ms_q1):
        return [run[column]] * 2
    quartiles = [run.step_ms_q1, run.step_ms_q3]
    return sorted(run[column] * (step / run.step_ms) ** power for step in quartiles)
