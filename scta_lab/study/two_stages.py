"""The study of alignment as `make stages` stored it: a first stage, and a second one from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scta_lite import checks

from scta_lab.study.quality import View, by_row, counted, median_step_ms, runs_of


def kind(run: Any) -> str:
    """What a second stage does: "plain, A", "normalised, sampled, B".

    "goes on" where it has no token head.
    """
    if pd.isna(run.token_head):
        return "goes on"
    how = "sampled, " if run.sampled_head else ""
    return f"{run.token_head}, {how}{'A' if run.freeze else 'B'}"


def alignment(folder: str | Path, study: str | Path, vocab: int) -> View:
    """First stages, the second ones that began from them, and trainings with one schedule.

    The last are the same methods over as many steps, and the published loss tuned. `folder` is
    what `make stages` wrote, `study` what `make study` did. Rows are such as "CE, 2,500 steps" and
    "CE, 1,250 steps, then goes on". ValueError for a row whose runs differ in more than their seed.
    """
    checks.integer("vocab", vocab, 2)
    home = Path(folder) / str(vocab)
    beside = Path(study) / str(vocab)
    first = runs_of(home / "first")
    second = runs_of(home / "second")
    single = _one_schedule(first, second, runs_of(beside / "equal"))

    method_ms = median_step_ms(beside / "cost")
    single_ms = single.row.map(method_ms)
    single = single.assign(row=_with_steps(single))
    step_ms = dict(zip(single.row, single_ms, strict=True))
    before = _before(second, first, step_ms)
    step_ms |= _second_ms(runs_of(home / "cost"), first, method_ms["CE"])

    second = second.assign(row=_two_stages(second, first))
    runs = pd.concat([single, second])
    runs = runs.drop_duplicates("run_id")  # the study may have a first stage too
    rows = by_row(runs, f"at V = {vocab:,} in two stages")
    return View(vocab, "two stages", rows, step_ms, counted(beside), before)


def _starts(second: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """Of each second stage the first one from which it began."""
    run_ids = second.stage1.str.removesuffix(".safetensors")
    return first.set_index("run_id").loc[run_ids]


def _one_schedule(first: pd.DataFrame, second: pd.DataFrame, study: pd.DataFrame) -> pd.DataFrame:
    """First stages, and of the study's trainings those as long as two stages together."""
    lengths = _starts(second, first).steps.to_numpy() + second.steps
    is_as_long = study.steps.isin(lengths)
    is_method = study.row.isin({"CE", "SEMANTIC tuned", *first.row})
    return pd.concat([first, study[is_method & is_as_long]])


def _before(
    second: pd.DataFrame, first: pd.DataFrame, step_ms: dict[str, float]
) -> dict[str, tuple[int, float]]:
    """By second stage the steps and the seconds of the first one."""
    starts = _starts(second, first)
    seconds = starts.steps * _with_steps(starts).map(step_ms) / 1e3
    costs = zip(starts.steps, seconds, strict=True)
    return dict(zip(_two_stages(second, first), costs, strict=True))


def _with_steps(runs: pd.DataFrame) -> pd.Series:
    """Names such as "CE, 2,500 steps"."""
    return runs.row + runs.steps.map(", {:,} steps".format)


def _two_stages(second: pd.DataFrame, first: pd.DataFrame) -> list[str]:
    """Names such as "CE, 1,250 steps, then goes on"."""
    starts = _with_steps(_starts(second, first))
    kinds = np.array([kind(run) for run in second.itertuples()], dtype=object)
    return (starts + ", then " + kinds).tolist()


def _second_ms(turns: pd.DataFrame, first: pd.DataFrame, ce_ms: float) -> dict[str, float]:
    """A second stage's step time: CE's times the ratio of the two when they took turns."""
    second = turns[turns.stage1.notna()]
    ce = turns[turns.stage1.isna()]
    medians = second.step_ms.groupby(_two_stages(second, first)).median()
    step_ms = medians * ce_ms / ce.step_ms.median()
    return step_ms.to_dict()
