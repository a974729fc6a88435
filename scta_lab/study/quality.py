"""The study of quality as `make study` stored it: which trainings are compared, and each number with its spread.

A view is what was trained under one rule at one V: for equal steps, for equal seconds, or in two stages. Its
rows are named as the figures name them (`labels.variant`). Left out: how the settings were found, which is
`studies/study.py`.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scta_lab.judge import uncertainty as spread
from scta_lab.run.table import load_runs
from scta_lab.study import labels
from scta_lite import checks

METRICS = {  # the name that a table gives to a metric of `spread`
    "nll": "NLL", "calibrated nll": "calibrated", "bits_per_byte": "bits/byte", "hit@1": "Hit@1", "hit@5": "Hit@5",
    "hit@10": "Hit@10",
}  # fmt: skip
CE = ("CE", "CE from log u")
PUBLISHED = ("SEMANTIC as published, std 0.02", "SEMANTIC as published")  # from short rows, and from N(0, 1)


@dataclass(frozen=True)
class Difference:
    """A metric of one row minus that of another, and where 95% of the bootstrap lies: `spread.difference`."""

    gap: float
    low: float
    high: float

    @property
    def inconclusive(self) -> bool:
        """Whether the interval holds 0, so that either may be better; with one seed a side it is of documents alone."""
        return self.low <= 0 <= self.high

    def __format__(self, form: str) -> str:
        """Such as -0.120 [-0.140, -0.101]; ≈ before it says that the interval holds 0."""
        form = form or "+.3f"
        return f"{'≈ ' * self.inconclusive}{self.gap:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class View:
    """Trainings that are compared: by row the runs' dictionaries, one a seed."""

    vocab: int
    name: str  # "2,500 steps" or "200 seconds"
    rows: dict[str, list[dict]]
    step_ms: dict[str, float]  # of each row, when all took turns
    counted: list[dict]  # n-gram models, as `make study` stores them
    before: dict[str, tuple[int, float]] = field(default_factory=dict)  # steps and seconds of a row's first stage

    def sums(self, row: str) -> list[dict]:
        """The row's sums by document, as `spread` reads them; of "trigram" that of the view's text."""
        if row == "trigram":
            return [self.trigram["by_document"]]
        if row not in self.rows:
            raise ValueError(f"row={row!r}: expected one of {', '.join(self.rows)}, trigram")
        return [run["by_document"] for run in self.rows[row]]

    @property
    def trigram(self) -> dict:
        """That of the same examples where all rows were trained on the same, else that of all the text."""
        trigrams = [found for found in self.counted if found["order"] == 3]
        examples = {run["examples"] for runs in self.rows.values() for run in runs}
        same = [found for found in trigrams if examples == {found["examples"]}]
        return same[0] if same else max(trigrams, key=lambda found: found["examples"])

    def validation(self, row: str) -> float:
        """The row's NLL on the validation half at its end, the mean of its seeds; to choose by."""
        return float(np.mean([run["validation"][-1]["nll"] for run in self.rows[row]]))

    @property
    def ce(self) -> str:
        """The better of CE's two starts, by validation."""
        return min((row for row in CE if row in self.rows), key=self.validation)

    def difference(self, row: str, other: str, metric: str = "nll") -> Difference:
        """The metric of the row less the other's, on the test half."""
        return Difference(*spread.difference(self.sums(row), self.sums(other), metric))

    def behind_unigram(self, row: str) -> bool:
        """Whether the row's NLL is worse than that of the unigram of the text that it had, means of its seeds."""
        unigram = [run["controls"]["unigram"]["nll"] for run in self.rows[row]]
        return spread.mean(self.sums(row), "nll") > float(np.mean(unigram))

    def as_published(self, name: str, form: str) -> str:
        """Both ends of a column for the method as published, whose first rows the paper leaves open."""
        return " to ".join(format(self.table.loc[row, name], form) for row in PUBLISHED)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each method and control, the best NLL first; with standard errors and half ranges of the seeds."""
        found = {row: self._trained(row) for row in self.rows}
        names = {2: "bigram", 3: "trigram"}
        for one in self.counted:
            about = {"seconds": one["seconds"], **_measured([one["by_document"]])}
            found[f"{names[one['order']]} of {one['examples']:,} examples"] = about
        most = max((run for runs in self.rows.values() for run in runs), key=lambda run: run["examples"])
        for control in ("unigram", "constant"):
            about = most["controls"][control]
            found[control] = {name: about[metric] for metric, name in METRICS.items() if metric in about}
        return pd.DataFrame(found).T.sort_values("NLL")

    def _trained(self, row: str) -> dict[str, float]:
        runs = self.rows[row]
        (steps, seconds), own = self.before.get(row, (0, 0.0)), runs[0]["steps"]
        seconds += own * self.step_ms.get(row, np.nan) / 1e3
        return {"seeds": len(runs), "steps": steps + own, "seconds": seconds} | _measured(self.sums(row))

    def compared(self, others: dict[str, str], metric: str = "nll", form: str = "+.3f") -> pd.DataFrame:
        """Each row of the view less some others; `others` gives a column's name to each."""
        order = [row for row in self.table.index if row in self.rows]
        return pd.DataFrame({
            name: {row: "–" if row == other else format(self.difference(row, other, metric), form) for row in order}
            for other, name in others.items()
        })  # fmt: skip


def _measured(by_document: list[dict]) -> dict[str, float]:
    there = {metric: name for metric, name in METRICS.items() if spread.RATIOS[metric][0] in by_document[0]}
    found = {name: spread.mean(by_document, metric) for metric, name in there.items()}
    for metric in ("nll", "hit@1"):
        seeds = [spread.mean([one], metric) for one in by_document]
        found[f"{METRICS[metric]} ± documents"] = spread.standard_error(by_document, metric)
        found[f"{METRICS[metric]} ± seeds"] = (max(seeds) - min(seeds)) / 2 if len(seeds) > 1 else np.nan
    return found


def runs_of(folder: str | Path, **fixed: Any) -> pd.DataFrame:
    """The runs of a folder with a column `row`, their names; of those whose settings are `fixed`, if any are given."""
    runs = load_runs(folder)
    for name, value in fixed.items():
        runs = runs[runs[name] == value]
    return runs.assign(row=[labels.variant(run) for run in runs.itertuples()])


def vocabs(folder: str | Path) -> list[int]:
    """The V that the study in the folder has; ValueError if it has none."""
    found = sorted(int(part.parent.name) for part in Path(folder).glob("*/controls.json"))
    if not found:
        raise ValueError(f"folder={str(folder)!r}: expected one that `make study` wrote")
    return found


def views(folder: str | Path, vocab: int, prefix: str = "") -> list[View]:
    """What the study compares at this V: after equal steps, fewest first, then after equal seconds.

    ValueError for a row whose runs differ in more than their seed.
    `prefix`: "" for the methods, "backbone-" for the backbones. A Transformer's step time is the GRU's times the ratio
    of the two when they took turns.
    """
    checks.integer("vocab", vocab, 2)
    home = Path(folder) / str(vocab)
    step_ms = _step_ms(home / "cost")
    if prefix:
        turns = _step_ms(home / f"{prefix}cost")
        for row in turns.index.difference(step_ms.index):
            gru = row.partition(",")[0]
            step_ms[row] = step_ms[gru] * turns[row] / turns[gru]
    counted = json.loads((home / "controls.json").read_text())
    equal, timed = (home / f"{prefix}{part}" for part in ("equal", "seconds"))
    equal = runs_of(equal).groupby("steps") if any(equal.glob("*.json")) else ()
    groups = [(f"{steps:,} steps", runs) for steps, runs in equal]
    if any(timed.glob("*.json")):
        runs = runs_of(timed)
        seconds = round((runs.steps * runs.row.map(step_ms)).median() / 1e3)
        groups.append((f"{seconds} seconds", runs))
    return [View(vocab, name, _rows(runs, f"at V = {vocab:,} after {name}"), step_ms.to_dict(), counted)
            for name, runs in groups]  # fmt: skip


def _step_ms(folder: Path) -> pd.Series:
    return runs_of(folder).groupby("row").step_ms.median()


def _rows(runs: pd.DataFrame, where: str) -> dict[str, list[dict]]:
    """By row its runs' dictionaries; ValueError where two have the same seed."""
    for row, of in runs.groupby("row"):
        if of.seed.duplicated().any():
            raise ValueError(f"{row} {where}: expected one run a seed, found {list(of.run_id)}")
    return {row: of.to_dict("records") for row, of in runs.groupby("row", sort=False)}


def kind(run: Any) -> str:
    """What a second stage does: "plain, A", "normalised, sampled, B", or "goes on" where it has no token head."""
    if pd.isna(run.token_head):
        return "goes on"
    return f"{run.token_head}, {'sampled, ' * run.sampled_head}{'A' if run.freeze else 'B'}"


def alignment(folder: str | Path, study: str | Path, vocab: int) -> View:
    """First stages, the second ones that began from them, and the same methods with one schedule over all steps.

    Beside them stands the published loss tuned, with one schedule too.

    `folder` is what `make stages` wrote, `study` what `make study` did. Rows are such as "CE, 2,500 steps" and
    "CE, 1,250 steps, then goes on". A second stage's step time is CE's in the study times the ratio of the two when
    they took turns. ValueError for a row whose runs differ in more than their seed.
    """
    checks.integer("vocab", vocab, 2)
    home, beside = Path(folder) / str(vocab), Path(study) / str(vocab)
    first, second, turns = (runs_of(home / part) for part in ("first", "second", "cost"))
    begun, method_ms = first.set_index("run_id"), _step_ms(beside / "cost")

    def alone(runs: pd.DataFrame) -> pd.Series:
        return runs.row + runs.steps.map(", {:,} steps".format)

    def started(runs: pd.DataFrame) -> pd.DataFrame:
        return begun.loc[runs.stage1.str.removesuffix(".safetensors")]

    def then(runs: pd.DataFrame) -> list[str]:
        return [f"{row}, then {kind(run)}" for row, run in zip(alone(started(runs)), runs.itertuples(), strict=True)]

    starts = started(second)
    equal = runs_of(beside / "equal")
    equal = equal[
        equal.row.isin({"CE", "SEMANTIC tuned", *first.row}) & equal.steps.isin(starts.steps.to_numpy() + second.steps)
    ]
    one = pd.concat([first, equal])
    step_ms = dict(zip(alone(one), one.row.map(method_ms), strict=True))
    before = {row: (steps, steps * step_ms[start] / 1e3)
              for row, start, steps in zip(then(second), alone(starts), starts.steps, strict=True)}  # fmt: skip
    ce, turns = turns[turns.stage1.isna()].step_ms.median(), turns[turns.stage1.notna()]
    step_ms |= turns.step_ms.groupby(then(turns)).median() * method_ms["CE"] / ce
    runs = pd.concat([one.assign(row=alone(one)), second.assign(row=then(second))])
    runs = runs.drop_duplicates("run_id")  # the study may have a first stage too
    return View(vocab, "two stages", _rows(runs, f"at V = {vocab:,} in two stages"), step_ms,
                json.loads((beside / "controls.json").read_text()), before)  # fmt: skip
