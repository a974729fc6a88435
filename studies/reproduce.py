"""A stored run's Spec, run again here: `make reproduce RUN=<run id>`. Prints both results.

On one machine with one thread and the same versions the losses are the same, bit for bit. Elsewhere
sums are taken in another order, and they drift apart. A text of another fingerprint, of other
versions of the installed packages or of another file, gives another training.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from scta_lab import Result, train
from scta_lab.base import machine
from scta_lab.base.files import ROOT
from scta_lab.run.result import read

SHOWN = ["machine", "host.torch", "host.threads", "fingerprint", "status", "steps_run"]
SHOWN += ["final_loss", "full_vocab.nll", "full_vocab.hit@1", "step_ms", "peak_memory_bytes"]


def stored(run_id: str, folder: Path) -> Result:
    """The run of that id in the folder or below it; of several, this machine's if there is one."""
    paths = sorted(folder.rglob(f"{run_id}.json"))
    if not paths:
        message = f"no such run in {folder.name}/; a run's id is its file's name"
        raise FileNotFoundError(f"RUN={run_id!r}: {message}")
    results = [Result.from_dict(read(path)) for path in paths]
    this_machine = machine.name(machine.device("auto"))
    result = next((each for each in results if each.machine == this_machine), results[0])
    if result.spec.stage1:
        message = f"began from a first stage, {result.spec.stage1}, which is not stored with it"
        raise ValueError(f"RUN={run_id!r} {message}")
    return result


def beside(before: Result, now: Result) -> pd.DataFrame:
    """Both results in two columns, then how far the losses are apart."""
    runs = pd.json_normalize([before.to_dict(), now.to_dict()])
    table = runs.reindex(columns=SHOWN).T.set_axis(["stored", "here"], axis=1)
    old, new = before.loss_curve, now.loss_curve
    if old and new and old["step"] == new["step"]:
        apart = np.abs(np.subtract(old["loss"], new["loss"])).max()
        table.loc["largest difference of the loss curve, nats"] = ["", apart]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs a stored run again.")
    parser.add_argument("run", help="the run's id, its file's name in data/runs")
    folder = ROOT / "data" / "runs"
    parser.add_argument("--folder", type=Path, default=folder, help="where the run is stored")
    asked = parser.parse_args()
    try:
        before = stored(asked.run, asked.folder)
        now = train(before.spec)
    except (ValueError, OSError) as error:
        parser.exit(2, f"reproduce: {error}\n")
    print(beside(before, now).to_string())


if __name__ == "__main__":
    main()
