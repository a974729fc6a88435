"""What the paper says: its settings and its published tables, and nothing of ours.

The paper is "OktoSemantic Training" (SCTA), A. P. de Oliveira, Zenodo 10.5281/zenodo.17931292. The numbers are read
from `data/paper/`, whose columns `data/README.md` explains.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
"""The repository's folder: data and notebooks are found from here, wherever Python was started."""


# Runs that are equal in these do the same work, whatever their method.
SAME_WORK = (
    "machine",
    "fingerprint",
    "vocab",
    "examples",
    "batch",
    "seq_len",
    "epochs",
    "hidden",
    "precision",
    "threads",
)
VERDICTS = ("supported", "partly", "not comparable", "contradicted", "open")


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


def published_runs() -> pd.DataFrame:
    """The paper's results, one row a run, in the columns of a measured run.

    Adds `step_ms`, the mean time of one of the 2,500 steps that the settings imply, and `speedup`, CE's seconds over
    the row's own on the same machine and vocabulary. A run that did not finish has no numbers and `status` "killed".

    >>> published_runs().query("machine == 'RTX A6000' and method == 'semantic'").speedup.round(2).tolist()
    [1.61, 2.97, 4.43]
    """
    runs = _read("runs.csv", {"gpu", "vocab", "method", "seconds", "viable"})
    runs["status"] = runs.pop("viable").map({True: "ok", False: "killed"})
    runs["step_ms"] = 1e3 * runs.seconds / (PAPER.epochs * (PAPER.examples // PAPER.batch))
    return add_speedup(runs)


def published_epoch_losses() -> pd.DataFrame:
    """The first and last training loss of each epoch in the paper, in nats, with the change that its text states."""
    return _read("epoch_losses.csv", {"gpu", "vocab", "method", "epoch", "first", "last"})


def add_speedup(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds `speedup`: the seconds of CE, with a dense optimiser, for the same work over the row's own.

    Null without such a run; the median where there are several.
    """
    ce = runs[(runs.method == "ce") & (runs.get("optimizer", "dense") == "dense")]
    return runs.assign(speedup=same_work(runs, ce, "seconds") / runs.seconds)


def same_work(runs: pd.DataFrame, reference: pd.DataFrame, column: str, *also: str) -> pd.Series:
    """For each run, the median of `column` over the reference runs on the same machine, text and sizes, or null.

    `also` names further columns that have to be equal.
    """
    keys = [name for name in (*SAME_WORK, *also) if name in runs]
    work, its_work = ([str(row) for row in table[keys].itertuples(index=False)] for table in (runs, reference))
    medians = reference[column].astype(float).groupby(its_work).median()
    return pd.Series(work, index=runs.index).map(medians).astype(float)


def claims() -> pd.DataFrame:
    """The paper's claims C1 to C13 and its open questions F1 to F6, each with what our notebooks found.

    `value` (measured), `verdict` and `why` come from `data/results/`, from the last notebook there that settles the
    claim, which `settled_in` names; a claim that none settles yet is "open", with `notebook` the one that will.
    """
    table = pd.read_csv(ROOT / "data" / "paper" / "claims.csv").set_index("id")
    found = {}
    for path in sorted((ROOT / "data" / "results").glob("*.json")):
        for claim, finding in json.loads(path.read_text())["claims"].items():
            found[claim] = {**finding, "settled_in": path.stem}
    findings = pd.DataFrame.from_dict(found, orient="index", columns=["verdict", "value", "why", "settled_in"])
    return table.join(findings).fillna({"verdict": "open"}).reset_index()


def settle(notebook: str, findings: dict[str, tuple[str, str, str]], *, save: bool) -> pd.DataFrame:
    """A notebook's verdicts as a table: `findings` maps a claim's id to (verdict, measured value, one sentence why).

    With `save` they are written to `data/results/<notebook>.json`, where `claims` finds them. ValueError for a verdict
    that is not one of VERDICTS, or a claim that the paper does not make.
    """
    known = set(pd.read_csv(ROOT / "data" / "paper" / "claims.csv").id)
    for claim, (verdict, *_) in findings.items():
        if verdict not in VERDICTS or claim not in known:
            raise ValueError(f"{claim}={verdict!r}: expected one of C1 … F6 and a verdict of {', '.join(VERDICTS)}")
    found = {claim: dict(zip(("verdict", "value", "why"), finding, strict=True)) for claim, finding in findings.items()}
    if save:
        path = ROOT / "data" / "results" / f"{notebook}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"claims": found}, indent=1, ensure_ascii=False) + "\n")
    return pd.DataFrame.from_dict(found, orient="index")


def _read(name: str, columns: set[str]) -> pd.DataFrame:
    path = ROOT / "data" / "paper" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"data/paper/{name} is missing: expected the paper's table in a clone of the repository"
        )
    table = pd.read_csv(path)
    if missing := columns - set(table):
        raise ValueError(f"data/paper/{name}: the columns {sorted(missing)} are missing")
    return table.assign(method=table.method.str.lower()).rename(columns={"gpu": "machine"})
