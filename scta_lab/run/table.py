"""The runs of a folder as one table, and what is read from it: equal work, speedups, and ratios round by round."""

from pathlib import Path

import pandas as pd
from scta_lite.sweep import add_speedup, captured, same_work

from scta_lab.base.spec import SHAPE
from scta_lab.run.result import read


def load_runs(folder: str | Path) -> pd.DataFrame:
    """All runs in the folder, one row each, with `speedup` over CE's run of the same work on the same machine.

    FileNotFoundError if the folder holds none; ValueError names a file that is not a run.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"folder={str(folder)!r}: no runs (*.json) are here; scta_lab.sweep writes them"
        )
    runs = pd.DataFrame([read(path) for path in paths])
    return add_speedup(
        runs.sort_values(["vocab", "method", "optimizer", "seed"], ignore_index=True)
    )


def ratios(
    runs: pd.DataFrame, *, method: str = "semantic", optimizer: str = "dense"
) -> pd.DataFrame:
    """Step times over rounds (runs that differ in their seed alone), and their ratio to one method's, round by round.

    One row for each vocab, method and optimizer: `step_ms` and `ratio`, each with its quartiles over the rounds, and
    the medians of the phases. Runs of several texts, or backbones of several shapes, have rows of their own, told apart
    by a column such as `fingerprint`.
    """
    keys = ["vocab", "method", "optimizer"]
    of_one = runs.groupby(keys)
    keys += [
        name
        for name in ("capture", "fingerprint", *SHAPE)
        if name in runs and (of_one[name].nunique() > 1).any()
    ]
    phases = ["data_ms", "forward_ms", "backward_ms", "optimizer_ms"]
    runs = runs.astype(dict.fromkeys(["step_ms", *phases], float))  # None where no run was measured
    reference = runs[(runs.method == method) & (runs.optimizer == optimizer) & ~captured(runs)]
    of_round = same_work(runs, reference, "step_ms", "seed")
    groups = runs.assign(ratio=runs.step_ms / of_round).groupby(keys, sort=False, dropna=False)
    columns = {f"{name}{suffix}": groups[name].quantile(q) for name in ("step_ms", "ratio")
               for suffix, q in (("", 0.5), ("_q1", 0.25), ("_q3", 0.75))}  # fmt: skip
    return (
        pd.DataFrame({**columns, "rounds": groups.step_ms.count()})
        .join(groups[phases].median())
        .reset_index()
    )
