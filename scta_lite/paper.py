"""What the paper says: its settings and its published tables, and nothing of ours.

The paper is "OktoSemantic Training" (SCTA), A. P. de Oliveira, Zenodo 10.5281/zenodo.17931292. The
numbers are read from `data/paper/`, whose columns `data/README.md` explains.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

_PACKAGE = Path(__file__).resolve().parent
_IN_CLONE = _PACKAGE.parent / "data" / "paper"
# an installed package has its own copy
TABLES = _IN_CLONE if _IN_CLONE.is_dir() else _PACKAGE / "published"


@dataclass(frozen=True)
class Paper:
    """The settings of the paper's experiment (its section on the experimental setup).

    >>> steps = PAPER.epochs * (PAPER.examples // PAPER.batch)
    >>> steps * PAPER.batch * (PAPER.seq_len - 1)  # positions predicted
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


def published_runs() -> pd.DataFrame:
    """The paper's results, one row a run, in the columns of a measured run.

    Adds `step_ms`, the mean time of one of the 2,500 steps that the settings imply, and `speedup`,
    CE's seconds over the row's own on the same machine and vocabulary. A run that did not finish
    has no numbers and `status` "killed".

    >>> semantic = published_runs().query("machine == 'RTX A6000' and method == 'semantic'")
    >>> semantic.speedup.round(2).tolist()
    [1.61, 2.97, 4.43]
    """
    runs = by_machine("runs.csv", {"gpu", "vocab", "method", "seconds", "viable"})
    runs["status"] = runs.pop("viable").map({True: "ok", False: "killed"})
    steps = PAPER.epochs * (PAPER.examples // PAPER.batch)
    runs["step_ms"] = 1e3 * runs.seconds / steps
    ce = runs[runs.method == "ce"].set_index(["machine", "vocab"]).seconds
    ce_of_row = ce.loc[list(zip(runs.machine, runs.vocab, strict=True))].to_numpy()
    runs["speedup"] = ce_of_row / runs.seconds
    return runs


def published_epoch_losses() -> pd.DataFrame:
    """The first and last training loss of each epoch in the paper, in nats.

    `published_change_pct` is the change between the two that its text states.
    """
    return by_machine("epoch_losses.csv", {"gpu", "vocab", "method", "epoch", "first", "last"})


def published_table(name: str, columns: set[str]) -> pd.DataFrame:
    """The table of that name, as it stands; ValueError where it is none, or lacks a column."""
    try:
        table = pd.read_csv(TABLES / name)
    except ValueError as error:
        raise ValueError(f"data/paper/{name}: no table ({error})") from None
    missing = columns - set(table)
    if missing:
        raise ValueError(f"data/paper/{name}: the columns {sorted(missing)} are missing")
    return table


def by_machine(name: str, columns: set[str]) -> pd.DataFrame:
    """A published table with a measured run's names: `machine`, and methods in small letters."""
    table = published_table(name, columns).rename(columns={"gpu": "machine"})
    return table.assign(method=table.method.str.lower())
