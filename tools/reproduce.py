"""A stored run's Spec, run again here: `make reproduce RUN=<run id>`. Prints both results, side by side.

On one machine with one thread and the same versions the losses are the same, bit for bit. Elsewhere sums are taken in
another order, and they drift apart; a text of another fingerprint gives another training.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from scta_lab import Result, train
from scta_lab.base import machine
from scta_lab.base.files import ROOT
from scta_lab.run.result import read

TOLD = {  # of a run's file
    "machine": "machine", "torch": "host.torch", "threads": "host.threads", "text": "fingerprint", "status": "status",
    "steps": "steps_run", "final loss, nats": "final_loss", "test NLL, nats": "full_vocab.nll",
    "test Hit@1": "full_vocab.hit@1", "step, ms": "step_ms", "peak memory, bytes": "peak_memory_bytes",
}  # fmt: skip


def stored(run_id: str, folder: Path) -> Result:
    """The run of that id in the folder or below it; of several, as on two machines, this machine's if there is one."""
    found = sorted(folder.rglob(f"{run_id}.json"))
    if not found:
        raise FileNotFoundError(f"RUN={run_id!r}: no such run in {folder.name}/; a run's id is its file's name")
    results = [Result.from_dict(read(path)) for path in found]
    result = next((r for r in results if r.machine == machine.name(machine.device("auto"))), results[0])
    if result.spec.stage1:
        raise ValueError(f"RUN={run_id!r} began from a first stage, {result.spec.stage1}, which is not stored with it")
    return result


def beside(before: Result, now: Result) -> pd.DataFrame:
    """Both results in two columns, then how far the losses are apart."""

    def value(result: Result, path: str) -> object:
        found = result.to_dict()
        for name in path.split("."):
            found = (found or {}).get(name)
        return found

    table = pd.DataFrame({name: [value(run, path) for run in (before, now)] for name, path in TOLD.items()}).T
    table.columns = ["stored", "here"]
    if before.loss_curve and now.loss_curve and before.loss_curve["step"] == now.loss_curve["step"]:
        curves = [np.array(run.loss_curve["loss"]) for run in (before, now)]
        table.loc["largest difference of the loss curve, nats"] = ["", np.abs(curves[0] - curves[1]).max()]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run's id, its file's name in data/runs")
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "runs", help="where the run is stored")
    asked = parser.parse_args()
    try:
        before = stored(asked.run, asked.folder)
        with tqdm(unit=" steps") as bar:

            def show(step: int, steps: int, loss: float | None) -> None:
                bar.total = steps
                bar.update(step - bar.n)

            now = train(before.spec, progress=show)
    except (ValueError, OSError) as error:
        parser.exit(2, f"reproduce: {error}\n")
    print(beside(before, now).to_string())
    if before.fingerprint != now.fingerprint:
        print(
            "The text is another: of other versions of the installed packages, or of another file. So is the training."
        )


if __name__ == "__main__":
    main()
