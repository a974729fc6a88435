"""Many trainings, one JSON file each, and the table of them. What is there already is not run
again.

Here each training is done in this process. The laboratory's sweep gives each a process of its own,
and survives what ends one; `python -m scta_lite.sweep --help` is its command."""

import importlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from scta_lite import checks
from scta_lite.spec import Spec
from scta_lite.train import Data, DrawnIds, device_name, train

# Runs that are equal in these do the same work, whatever their method.
SAME_WORK = ["machine", "fingerprint", "vocab", "examples", "batch", "seq_len", "epochs", "hidden"]
SAME_WORK += ["input_dim", "backbone", "layers", "heads", "mlp_ratio", "precision", "threads"]
SAME_WORK += ["captured"]


def sweep(
    specs: Iterable[Spec], folder: str | Path, *, data_of: Callable[[Spec], Data] = DrawnIds
) -> pd.DataFrame:
    """Trains each Spec whose file is not in the folder yet, and gives all runs of the folder.

    `data_of(spec)` is what a Spec is trained on. A run that has too little memory is recorded as
    `out_of_memory`, and takes no other with it; to try it again, delete its file. One folder for
    each machine: a file's name does not say where it was run.
    """
    specs, folder = list(specs), Path(folder)
    for i, spec in enumerate(specs):
        if not isinstance(spec, Spec):
            raise ValueError(f"specs[{i}]={spec!r}: expected a Spec")
    folder.mkdir(parents=True, exist_ok=True)
    for spec in tqdm(specs, "runs"):
        data = data_of(spec)
        path = folder / f"{spec.run_id(data.fingerprint)}.json"
        if not path.is_file():
            _write(path, _attempt(spec, data))
    return load_runs(folder)


def _attempt(spec: Spec, data: Data) -> dict:
    """The fields of the run's file, whether it ended well or found too little memory."""
    run = {"run_id": spec.run_id(data.fingerprint), **asdict(spec), "fingerprint": data.fingerprint}
    try:
        measured = vars(train(spec, data)).copy()
    except (MemoryError, RuntimeError) as error:
        if not checks.is_out_of_memory(error):
            raise
        machine = device_name(checks.device(spec.device))
        return run | {"status": "out_of_memory", "reason": str(error), "machine": machine}
    del measured["spec"], measured["model"]
    return run | {"status": "ok", "reason": None} | measured


def _write(path: Path, run: dict) -> None:
    """The whole file or none: a sweep that is killed leaves no half of one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(run, indent=1))
    os.replace(part, path)


def read(path: Path) -> dict:
    """A run's file, whose `seconds` are null where it was not trained."""
    return {"seconds": None} | json.loads(path.read_text())


def load_runs(folder: str | Path, read: Callable[[Path], dict] = read) -> pd.DataFrame:
    """All runs in the folder, one row each, with `speedup` over CE's run of the same work.

    FileNotFoundError if the folder holds none. `read` gives the fields of a file.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        expected = "no runs (*.json) are here; a sweep writes them"
        raise FileNotFoundError(f"folder={str(folder)!r}: {expected}")
    runs = pd.DataFrame([read(path) for path in paths])
    order = ["vocab", "method", "optimizer", "seed"]
    return add_speedup(runs.sort_values(order, ignore_index=True))


def add_speedup(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds `speedup`: the seconds of CE with a dense optimizer, for the same work, over the row's.

    Null without such a run, captured or not as the row is; the median where there are several.
    """
    ce = runs[(runs.method == "ce") & (runs.optimizer == "dense")]
    return runs.assign(speedup=same_work(runs, ce, "seconds") / runs.seconds)


def same_work(runs: pd.DataFrame, reference: pd.DataFrame, column: str, *also: str) -> pd.Series:
    """For each run, the median of `column` over the reference runs of the same work, or null.

    `also` names further columns that have to be equal.
    """
    keys = [name for name in (*SAME_WORK, *also) if name in runs]
    medians = reference[column].astype(float).groupby(_work(reference, keys)).median()
    return _work(runs, keys).map(medians).astype(float)


def _work(runs: pd.DataFrame, keys: list[str]) -> pd.Series:
    """What each run does, as text: nulls and numbers of several types are then alike."""
    rows = runs[keys].itertuples(index=False)
    return pd.Series([str(row) for row in rows], index=runs.index, dtype=object)


def captured(runs: pd.DataFrame) -> pd.Series:
    """Whether each run's steps were one CUDA graph, as the laboratory's may be."""
    return runs.get("captured", pd.Series(False, runs.index)).eq(True)


if __name__ == "__main__":  # the command has every method, setting and text: it is the laboratory's
    importlib.import_module("scta_lab.run.command").sweep_command()
