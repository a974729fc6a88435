"""The study of quality as `make study` stored it: its comparisons, and each number with its spread.

A view is what was trained under one rule at one V: for equal steps, for equal seconds, or in two
stages. Its rows are named as the figures name them (`labels.variant`). Left out: how the settings
were found, which is `studies/study.py`.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scta_lite import checks

from scta_lab.judge import uncertainty
from scta_lab.run.table import load_runs
from scta_lab.study import labels

METRICS = {  # the name that a table gives to a metric of `uncertainty`
    "nll": "NLL",
    "calibrated nll": "calibrated",
    "bits_per_byte": "bits/byte",
    "hit@1": "Hit@1",
    "hit@5": "Hit@5",
    "hit@10": "Hit@10",
}
NGRAMS = {2: "bigram", 3: "trigram"}
CE = ("CE", "CE from log u")
# the same method from short rows, and from N(0, 1)
PUBLISHED = ("SEMANTIC as published, std 0.02", "SEMANTIC as published")


@dataclass(frozen=True)
class Difference:
    """A metric of one row minus that of another, with its 95% interval.

    As `uncertainty.difference` gives it.
    """

    gap: float
    low: float
    high: float

    @property
    def inconclusive(self) -> bool:
        """Whether the interval holds 0, or is not known, so that either may be better.

        With one seed a side the interval is of documents alone.
        """
        return not (self.low > 0 or self.high < 0)

    def __format__(self, form: str) -> str:
        """Such as -0.120 [-0.140, -0.101]; ≈ before it says that the interval holds 0."""
        form = form or "+.3f"
        mark = "≈ " if self.inconclusive else ""
        return f"{mark}{self.gap:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class View:
    """Trainings that are compared: by row the runs' dictionaries, one a seed."""

    vocab: int
    name: str  # "2,500 steps" or "200 seconds"
    rows: dict[str, list[dict]]
    step_ms: dict[str, float]  # of each row, when all took turns
    counted: list[dict]  # n-gram models, as `make study` stores them
    before: dict[str, tuple[int, float]] = field(
        default_factory=dict
    )  # a first stage: steps, seconds

    @cached_property
    def runs(self) -> list[dict]:
        """Those of all rows."""
        return [run for runs in self.rows.values() for run in runs]

    def sums(self, row: str) -> list[dict]:
        """The row's sums by document; of "trigram" that of the view's text."""
        if row == "trigram":
            return [self.trigram["by_document"]]
        if row not in self.rows:
            raise ValueError(f"row={row!r}: expected one of {', '.join(self.rows)}, trigram")
        return [run["by_document"] for run in self.rows[row]]

    @property
    def trigram(self) -> dict:
        """That of the examples of all rows; of all the text where rows differ in theirs."""
        by_examples = {model["examples"]: model for model in self.counted if model["order"] == 3}
        examples = {run["examples"] for run in self.runs}
        if len(examples) > 1 or not examples <= set(by_examples):
            return by_examples[max(by_examples)]
        return by_examples[examples.pop()]

    def validation(self, row: str) -> float:
        """The row's NLL on the validation half at its end, the mean of its seeds; to choose by."""
        return float(np.mean([run["validation"][-1]["nll"] for run in self.rows[row]]))

    @property
    def ce(self) -> str:
        """The better of CE's two starts, by validation."""
        starts = [row for row in CE if row in self.rows]
        return min(starts, key=self.validation)

    def difference(self, row: str, other: str, metric: str = "nll") -> Difference:
        """The metric of the row less the other's, on the test half."""
        return Difference(*uncertainty.difference(self.sums(row), self.sums(other), metric))

    def as_published(self, name: str, form: str) -> str:
        """A column for the method as published, from both starts: the paper leaves them open."""
        return " to ".join(format(self.table.loc[row, name], form) for row in PUBLISHED)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A line for each row and control, the best NLL first.

        With standard errors over documents and half ranges of the seeds.
        """
        lines = {row: self._trained(row) for row in self.rows}
        for model in self.counted:
            name = f"{NGRAMS[model['order']]} of {model['examples']:,} examples"
            lines[name] = {"seconds": model["seconds"], **_measured([model["by_document"]])}
        largest = max(self.runs, key=lambda run: run["examples"])
        for control in ("unigram", "constant"):
            metrics = pd.Series(largest["controls"][control]).reindex(METRICS).dropna()
            lines[control] = metrics.rename(METRICS).to_dict()
        return pd.DataFrame(lines).T.sort_values("NLL")

    def _trained(self, row: str) -> dict[str, float]:
        """The line of a row that was trained: its cost, and its metrics."""
        runs = self.rows[row]
        steps = runs[0]["steps"]
        seconds = steps * self.step_ms.get(row, np.nan) / 1e3
        first_steps, first_seconds = self.before.get(row, (0, 0.0))
        return {
            "seeds": len(runs),
            "steps": first_steps + steps,
            "seconds": first_seconds + seconds,
            **_measured(self.sums(row)),
        }

    def compared(self, others: dict, metric: str = "nll", form: str = "+.3f") -> pd.DataFrame:
        """Each row of the view less some others; `others` gives a column's name to each."""
        rows = [row for row in self.table.index if row in self.rows]
        table = pd.DataFrame(index=rows)
        for other, name in others.items():
            gaps = [self.difference(row, other, metric) for row in rows]
            table[name] = [format(gap, form) for gap in gaps]
            table.loc[table.index == other, name] = "–"
        return table


def _measured(by_document: list[dict]) -> dict[str, float]:
    """By a table's name the metrics of some runs, and how far NLL and Hit@1 spread."""
    line = {}
    for metric, name in METRICS.items():
        above, *_ = uncertainty.RATIOS[metric]
        if above in by_document[0]:
            line[name] = uncertainty.mean(by_document, metric)
    for metric in ("nll", "hit@1"):
        name = METRICS[metric]
        seeds = [uncertainty.mean([sums], metric) for sums in by_document]
        half_range = (max(seeds) - min(seeds)) / 2
        line[f"{name} ± documents"] = uncertainty.standard_error(by_document, metric)
        line[f"{name} ± seeds"] = half_range if len(seeds) > 1 else np.nan
    return line


def runs_of(folder: str | Path, **settings: Any) -> pd.DataFrame:
    """The runs of a folder with a column `row`, their names; of those with these settings."""
    runs = load_runs(folder)
    for name, value in settings.items():
        runs = runs[runs[name] == value]
    return runs.assign(row=[labels.variant(run) for run in runs.itertuples()])


def vocabs(folder: str | Path) -> list[int]:
    """The V that the study in the folder has; ValueError if it has none."""
    sizes = sorted(int(path.parent.name) for path in Path(folder).glob("*/controls.json"))
    if not sizes:
        raise ValueError(f"folder={str(folder)!r}: expected one that `make study` wrote")
    return sizes


def views(folder: str | Path, vocab: int, prefix: str = "") -> list[View]:
    """What the study compares at this V: after equal steps, fewest first, then after equal seconds.

    `prefix`: "" for the methods, "backbone-" for the backbones. ValueError for a row whose runs
    differ in more than their seed.
    """
    checks.integer("vocab", vocab, 2)
    home = Path(folder) / str(vocab)
    step_ms = median_step_ms(home / "cost")
    if prefix:
        step_ms = _with_backbones(step_ms, median_step_ms(home / f"{prefix}cost"))
    runs_after = {}
    equal = home / f"{prefix}equal"
    if any(equal.glob("*.json")):
        for steps, runs in runs_of(equal).groupby("steps"):
            runs_after[f"{steps:,} steps"] = runs
    timed = home / f"{prefix}seconds"
    if any(timed.glob("*.json")):
        runs = runs_of(timed)
        seconds = (runs.steps * runs.row.map(step_ms)).median() / 1e3
        runs_after[f"{round(seconds)} seconds"] = runs
    compared = []
    for name, runs in runs_after.items():
        rows = by_row(runs, f"at V = {vocab:,} after {name}")
        compared.append(View(vocab, name, rows, step_ms.to_dict(), counted(home)))
    return compared


def _with_backbones(step_ms: pd.Series, turns: pd.Series) -> pd.Series:
    """Step times with those of Transformers: the GRU's times the ratio when the two took turns."""
    step_ms = step_ms.copy()
    for row in turns.index.difference(step_ms.index):
        gru = row.partition(",")[0]
        step_ms[row] = step_ms[gru] * turns[row] / turns[gru]
    return step_ms


def median_step_ms(folder: Path) -> pd.Series:
    """By row the median step time of the runs that took turns."""
    return runs_of(folder).groupby("row").step_ms.median()


def counted(home: Path) -> list[dict]:
    """The n-gram models that were counted at this V."""
    return json.loads((home / "controls.json").read_text())


def by_row(runs: pd.DataFrame, where: str) -> dict[str, list[dict]]:
    """By row its runs' dictionaries; ValueError where two have the same seed."""
    rows = {}
    for row, seeds in runs.groupby("row", sort=False):
        if seeds.seed.duplicated().any():
            run_ids = list(seeds.run_id)
            raise ValueError(f"{row} {where}: expected one run a seed, found {run_ids}")
        rows[row] = seeds.to_dict("records")
    return rows
