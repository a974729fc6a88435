"""The runs of a folder as one table, with speedups, and the ratios of step times."""

from pathlib import Path

import pandas as pd
import scta_lite
from scta_lite.sweep import same_work

from scta_lab.base.spec import SHAPE
from scta_lab.run.result import read

PHASES = ["data_ms", "forward_ms", "backward_ms", "optimizer_ms"]


def load_runs(folder: str | Path) -> pd.DataFrame:
    """All runs in the folder, one row each, with `speedup` over CE's run of the same work.

    FileNotFoundError if the folder holds none; ValueError names a file that is not a run.
    """
    return scta_lite.load_runs(folder, read)


def ratios(runs: pd.DataFrame, method: str = "semantic", optimizer: str = "dense") -> pd.DataFrame:
    """Step times, and their ratio to those of one method in the same round, captured or not alike.

    A round is what runs with one seed are. There is one row for each vocab, method and optimizer:
    `step_ms` and `ratio`, each with its quartiles over the rounds, and the medians of the phases.
    Runs of several texts, or backbones of several shapes, have rows of their own, and a column such
    as `fingerprint` that says which.
    """
    times = ["step_ms", *PHASES]
    runs = runs.astype(dict.fromkeys(times, float))  # which are None where nothing was measured
    is_reference = (runs.method == method) & (runs.optimizer == optimizer)
    reference_ms = same_work(runs, runs[is_reference], "step_ms", "seed")
    runs = runs.assign(ratio=runs.step_ms / reference_ms)
    groups = runs.groupby(_row_keys(runs), sort=False, dropna=False)
    columns = {}
    for name in ("step_ms", "ratio"):
        columns[name] = groups[name].quantile(0.5)
        columns[f"{name}_q1"] = groups[name].quantile(0.25)
        columns[f"{name}_q3"] = groups[name].quantile(0.75)
    columns["rounds"] = groups.step_ms.count()
    return pd.DataFrame(columns).join(groups[PHASES].median()).reset_index()


def _row_keys(runs: pd.DataFrame) -> list[str]:
    """The columns in which rows of the table of ratios differ."""
    keys = ["vocab", "method", "optimizer"]
    groups = runs.groupby(list(keys))
    for name in ("captured", "precision", "fingerprint", *SHAPE):
        if name in runs and (groups[name].nunique() > 1).any():
            keys.append(name)
    return keys
