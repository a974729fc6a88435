"""Every number that the paper derives from its tables and settings, beside what these give."""

from typing import Any

import pandas as pd
from scta_lite.paper import PAPER, by_machine, published_epoch_losses, published_runs

POSITIONS = PAPER.batch * PAPER.seq_len  # of a step, as the paper counts them
LARGEST = PAPER.vocabs[-1]
ARITHMETIC = {  # what the paper counts from its settings alone
    "steps_per_epoch": PAPER.examples // PAPER.batch,
    "candidates_work": PAPER.negatives * PAPER.semantic_dim,
    "less_work": LARGEST / (PAPER.negatives * PAPER.semantic_dim),
    "ce_logits": POSITIONS * LARGEST,
    "semantic_logits": POSITIONS * (PAPER.negatives + 1),
    "less_logits": LARGEST / (PAPER.negatives + 1),
}
COLUMNS = {"gpu", "quantity", "vocab", "to_vocab", "method", "stated", "unit"}


def published_statements() -> pd.DataFrame:
    """The statements of the paper's two documents: `stated` is the paper's, `recomputed` ours.

    They agree if they differ by at most half a `unit`, the place of the last digit that is stated:
    "~1,200" is stated to the hundred. `epoch` and `experiment` are those of a loss.

    >>> published_statements().query("not agrees").stated.tolist()
    [-75.0, -68.0]
    """
    table = pd.concat([_listed(), _changes_of_loss()], ignore_index=True)
    table["agrees"] = (table.stated - table.recomputed).abs() <= table.unit / 2
    return table


def _listed() -> pd.DataFrame:
    """Those of statements.csv."""
    statements = by_machine("statements.csv", COLUMNS)
    runs = published_runs()
    recomputed = [_recomputed(statement, runs) for statement in statements.itertuples()]
    return statements.assign(recomputed=recomputed)


def _changes_of_loss() -> pd.DataFrame:
    """How far the loss falls in each epoch, which the paper states beside its losses."""
    losses = published_epoch_losses().rename(columns={"published_change_pct": "stated"})
    first, last = losses.pop("first"), losses.pop("last")
    return losses.assign(
        document="results",
        quantity="loss_change_pct",
        unit=0.1,
        recomputed=100 * (last / first - 1),
    )


def _recomputed(statement: Any, runs: pd.DataFrame) -> float:
    """The number that a line of statements.csv states, from the runs or the settings alone."""
    if statement.quantity in ARITHMETIC:
        return ARITHMETIC[statement.quantity]
    runs = runs[runs.machine == statement.machine].set_index(["method", "vocab"])
    run = runs.loc[statement.method, statement.vocab]
    if statement.quantity == "minutes":
        return run.seconds / 60
    if statement.quantity == "throughput_change_pct":
        larger = runs.loc[statement.method, statement.to_vocab]
        return 100 * (larger.tokens_per_s / run.tokens_per_s - 1)
    ce = runs.loc["ce", statement.vocab]
    if statement.quantity == "gain_seconds":  # less is better
        return ce.seconds / run.seconds
    column = statement.quantity.removeprefix("gain_")
    return run[column] / ce[column]
