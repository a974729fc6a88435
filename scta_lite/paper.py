"""What the paper says: its settings and its published tables, and nothing of ours.

The paper is "OktoSemantic Training" (SCTA), A. P. de Oliveira, Zenodo 10.5281/zenodo.17931292. The numbers are read
from `data/paper/`, whose columns `data/README.md` explains.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

_PACKAGE = Path(__file__).resolve().parent
_IN_CLONE = _PACKAGE.parent / "data" / "paper"
TABLES = _IN_CLONE if _IN_CLONE.is_dir() else _PACKAGE / "published"  # which an installed package has


@dataclass(frozen=True)
class Paper:
    """The settings of the paper's experiment (its section on the experimental setup).

    >>> PAPER.batch * (PAPER.seq_len - 1) * PAPER.epochs * (PAPER.examples // PAPER.batch)  # positions predicted
    2520000
    """

    hidden: int = 256  # d, width of the one-layer GRU and of the input embeddings
    semantic_dim: int = 64  # D
    negatives: int = 32  # K, for each predicted position
    temperature: float = 0.07  # τ
    seq_len: int = 64  # T, so that T - 1 = 63 positions of an example are predicted
    batch: int = 16  # B
    epochs: int = 2
    examples: int = 20_000
    lr: float = 3e-4  # AdamW; betas, eps and weight decay are not given
    vocabs: tuple[int, ...] = (50_000, 200_000, 1_000_000)  # V


PAPER = Paper()
_POSITIONS, _LARGEST = PAPER.batch * PAPER.seq_len, PAPER.vocabs[-1]
ARITHMETIC = {  # what the paper counts from its settings alone
    "steps_per_epoch": PAPER.examples // PAPER.batch,
    "candidates_work": PAPER.negatives * PAPER.semantic_dim,
    "less_work": _LARGEST / (PAPER.negatives * PAPER.semantic_dim),
    "ce_logits": _POSITIONS * _LARGEST,
    "semantic_logits": _POSITIONS * (PAPER.negatives + 1),
    "less_logits": _LARGEST / (PAPER.negatives + 1),
}


def published_runs() -> pd.DataFrame:
    """The paper's results, one row a run, in the columns of a measured run.

    Adds `step_ms`, the mean time of one of the 2,500 steps that the settings imply, and `speedup`, CE's seconds over
    the row's own on the same machine and vocabulary. A run that did not finish has no numbers and `status` "killed".

    >>> published_runs().query("machine == 'RTX A6000' and method == 'semantic'").speedup.round(2).tolist()
    [1.61, 2.97, 4.43]
    """
    runs = _of_runs("runs.csv", {"gpu", "vocab", "method", "seconds", "viable"})
    runs["status"] = runs.pop("viable").map({True: "ok", False: "killed"})
    runs["step_ms"] = 1e3 * runs.seconds / (PAPER.epochs * (PAPER.examples // PAPER.batch))
    ce = runs[runs.method == "ce"].set_index(["machine", "vocab"]).seconds
    return runs.assign(speedup=ce.loc[list(zip(runs.machine, runs.vocab, strict=True))].to_numpy() / runs.seconds)


def published_epoch_losses() -> pd.DataFrame:
    """The first and last training loss of each epoch in the paper, in nats, with the change that its text states."""
    return _of_runs("epoch_losses.csv", {"gpu", "vocab", "method", "epoch", "first", "last"})


def published_statements() -> pd.DataFrame:
    """Every number that the paper's two documents derive from its tables and settings, beside what these give.

    `stated` is the paper's and `recomputed` ours. They agree if they differ by at most half a `unit`, the place of the
    last digit that is stated: "~1,200" is stated to the hundred. `epoch` and `experiment` are those of a loss.

    >>> published_statements().query("not agrees").stated.tolist()
    [-75.0, -68.0]
    """
    listed = _of_runs("statements.csv", {"gpu", "quantity", "vocab", "to_vocab", "method", "stated", "unit"})
    losses = published_epoch_losses()
    changes = 100 * (losses["last"] / losses["first"] - 1)
    listed["recomputed"] = [_recomputed(one, published_runs()) for one in listed.itertuples()]
    losses = losses.drop(columns=["first", "last"]).rename(columns={"published_change_pct": "stated"})
    losses = losses.assign(document="results", quantity="loss_change_pct", unit=0.1, recomputed=changes)
    found = pd.concat([listed, losses], ignore_index=True)
    return found.assign(agrees=(found.stated - found.recomputed).abs() <= found.unit / 2)


def _recomputed(stated: Any, runs: pd.DataFrame) -> float:
    """The number that a line of statements.csv states, from the runs or from the settings alone."""
    if stated.quantity in ARITHMETIC:
        return ARITHMETIC[stated.quantity]
    of = runs[runs.machine == stated.machine].set_index(["method", "vocab"])
    here = of.loc[(stated.method, stated.vocab)]
    if stated.quantity == "minutes":
        return here.seconds / 60
    if stated.quantity == "throughput_change_pct":
        return 100 * (of.tokens_per_s[stated.method, stated.to_vocab] / here.tokens_per_s - 1)
    column = stated.quantity.removeprefix("gain_")
    ratio = here[column] / of[column]["ce", stated.vocab]
    return 1 / ratio if column == "seconds" else ratio


def published_table(name: str, columns: set[str]) -> pd.DataFrame:
    """The table of that name as it stands; ValueError, which names it, where it is none or a column is missing."""
    try:
        table = pd.read_csv(TABLES / name)
    except FileNotFoundError:
        raise FileNotFoundError(f"data/paper/{name} is missing: expected the paper's table") from None
    except ValueError as error:
        raise ValueError(f"data/paper/{name}: no table ({error})") from None
    if missing := columns - set(table):
        raise ValueError(f"data/paper/{name}: the columns {sorted(missing)} are missing")
    return table


def _of_runs(name: str, columns: set[str]) -> pd.DataFrame:
    table = published_table(name, columns)
    return table.assign(method=table.method.str.lower()).rename(columns={"gpu": "machine"})
