"""How a method looks in every figure, and which runs are one point of it.

The runs are those of `published_runs()` or `load_runs(folder)`, or both. Those of one
machine, method, optimizer and V are one point, whatever else differs: choose them first. Their
median is the point and their quartiles its bar.
"""

import pandas as pd
from scta_lite.sweep import captured

LOOK = ["label", "color", "marker", "linestyle"]
METHODS = {  # by method and optimizer; the colours are Okabe and Ito's, safe for the colour-blind
    ("ce", "dense"): ("CE", "#D55E00", "o", "-"),
    ("semantic", "dense"): ("SEMANTIC", "#0072B2", "s", "--"),
    ("semantic", "rows"): ("SEMANTIC, rows", "#009E73", "D", "-"),
    ("semantic", "sparse"): ("SEMANTIC, SparseAdam", "#8C564B", "p", ":"),
    ("ce_chunked", "rows"): ("CE in chunks, rows", "#E69F00", "^", "-."),
    ("ce_lowrank", "rows"): ("CE at D = 64, rows", "#56B4E9", "P", "--"),
    ("adaptive", "dense"): ("adaptive softmax", "#CC79A7", "v", ":"),
    ("adaptive", "rows"): ("adaptive softmax, rows", "#CC79A7", "<", "-"),
    ("semantic_prior", "rows"): ("SEMANTIC with prior, rows", "#000000", "*", "-"),
    ("semantic_prior", "sparse"): ("SEMANTIC with prior, SparseAdam", "#882255", "H", ":"),
    ("sampled_softmax", "rows"): ("sampled softmax, rows", "#B8A600", "h", "-."),
    ("backbone", "dense"): ("backbone alone", "#555555", "X", ":"),
}
CAPTURED = ", captured"  # behind the optimizer of a run whose steps were each one CUDA graph
POINT = ["machine", "method", "optimizer", "vocab"]  # runs that have these in common are one point
OPTIONAL = ["extrapolated", "fingerprint"]


def style(method: str, optimizer: str = "dense") -> dict[str, str]:
    """The label, color, marker and linestyle of a method with its optimizer.

    Where each step was one CUDA graph, as in "rows, captured", the line is dotted.

    >>> style("semantic", "rows")["label"]
    'SEMANTIC, rows'
    """
    looks = {kind: look for (name, kind), look in METHODS.items() if name == method}
    if not looks:
        names = dict.fromkeys(name for name, _ in METHODS)
        raise ValueError(f"method={method!r}: expected one of {', '.join(names)}")
    kind = optimizer.removesuffix(CAPTURED)
    first = next(iter(looks.values()))
    look = dict(zip(LOOK, looks.get(kind, first), strict=True))
    if kind not in looks:
        look["label"] = f"{first[0].removesuffix(', rows')}, {kind}"
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
    runs = complete(runs, []).astype({column: float})  # where nothing was measured there is a None
    groups = runs.groupby(POINT, sort=False)
    if groups.fingerprint.nunique().gt(1).any():
        raise ValueError("runs: one point is of several texts; expected those of one fingerprint")
    measured = runs.assign(missing=runs[column].isna()).sort_values("missing", kind="stable")
    table = measured.drop_duplicates(POINT).set_index(POINT)  # of each point a run that ended
    values = groups[column]
    spread = {"value": values.median(), "low": values.quantile(0.25), "high": values.quantile(0.75)}
    table = table.assign(**spread).reset_index().sort_values("vocab", kind="stable")
    looks = [style(*kind) for kind in zip(table.method, table.optimizer, strict=True)]
    return table.reset_index(drop=True).join(pd.DataFrame(looks))
