"""What the studies share: the search for settings, and the running of Specs into a folder.

The search goes along one axis after another. On each it tries the value before and the value after
that of the best settings so far, and goes on in a direction for as long as that is better. With
trials left and no neighbour untried, it tries the neighbours' neighbours. Where at the end a best
value lies on the edge of what was tried, the next is tried too, beyond the number of trials.
"""

import argparse
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from pathlib import Path

from tqdm import tqdm

from plan import LADDERS
from scta_lab import Spec, sweep, text
from scta_lab.base.files import ROOT, replace_file
from scta_lab.base.words import arguments

Run = Callable[..., list[dict]]  # Specs and the name of their folder, to the runs' files


def search(
    start: dict, trials: int, score: Callable[[list[dict]], list[float]], ladders: dict = LADDERS
) -> dict:
    """The best settings that a search from `start` finds in so many trials.

    `score` gives the validation NLL of each of some settings.
    """
    tried = [start]
    scores = score(tried)

    def best() -> dict:
        return tried[scores.index(min(scores))]

    def better(settings: list[dict], most: int) -> bool:
        """Tries what is new of it, up to so many in all; whether one is better than all before."""
        before = best()
        new = [each for each in settings if each not in tried]
        new = new[: max(0, most - len(tried))]
        if new:
            scores.extend(score(new))
            tried.extend(new)
        return best() != before

    def neighbours(axis: str, *steps: int) -> list[dict]:
        """The best settings with that axis so many values further, where it has such values."""
        ladder = ladders[axis]
        places = [ladder.index(best()[axis]) + step for step in steps]
        return [best() | {axis: ladder[i]} for i in places if 0 <= i < len(ladder)]

    for distance in (1, 2, 3):
        before = 0
        while before < len(tried):
            before = len(tried)
            for axis in start:
                while better(neighbours(axis, -distance, distance), trials):
                    pass
    while any(better(neighbours(*edge), len(tried) + 1) for edge in edges(tried, best(), ladders)):
        pass
    return best()


def edges(tried: list[dict], best: dict, ladders: dict = LADDERS) -> list[tuple[str, int]]:
    """Axes and directions in which something was tried on one side of the best value alone."""
    open_ends = []
    for axis, value in best.items():
        ladder = ladders[axis]
        places = [ladder.index(settings[axis]) for settings in tried]
        lowest, highest = min(places), max(places)
        if lowest == highest:
            continue
        if ladder.index(value) == highest:
            open_ends.append((axis, 1))
        if ladder.index(value) == lowest:
            open_ends.append((axis, -1))
    return open_ends


def nlls(runs: list[dict]) -> list[float]:
    """Each run's NLL on the validation half at its end; ∞ where there is none: it will not do."""
    return [_final_nll(run) for run in runs]


def _final_nll(run: dict) -> float:
    if run["status"] != "ok" or not run["validation"]:
        return math.inf
    nll = run["validation"][-1]["nll"]
    return math.inf if nll is None else nll


def scheduled(steps: int) -> dict:
    """Every method's schedule: a twentieth of the steps to warm up, then a cosine to a tenth."""
    return {"steps": steps, "schedule": "cosine", "warmup": max(1, steps // 20)}


def run_id(spec: Spec) -> str:
    return spec.run_id(text.load(spec.corpus, progress=False).fingerprint)


def runner(out: Path) -> Run:
    """Trains into the folder what is not there yet, with an executor several at a time."""

    def run(specs: list[Spec], part: str, executor: Executor | None = None) -> list[dict]:
        for spec in specs:  # a training that another part has asked for is not done twice
            path = out / part / f"{run_id(spec)}.json"
            for same in out.glob(f"{spec.vocab}/*/{path.name}"):
                if not path.is_file():
                    replace_file(path, same.read_bytes())
        runs = sweep(specs, out / part, executor=executor, progress=executor is not None)
        return runs.to_dict("records")

    return run


def saved(spec: Spec, models: Path, also: Path | None = None) -> Path:
    """The file of the Spec's trained model in a folder of models; its run is kept in `also` too."""
    run_file = models / f"{run_id(spec)}.json"
    weights = run_file.with_suffix(".safetensors")
    if not run_file.is_file() or not weights.is_file():
        command = [sys.executable, "-m", "scta_lite.train", *arguments(spec), "--out", models]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{run_file.stem}: {ended.stderr.strip() or ended.returncode}")
    if also:
        also.mkdir(parents=True, exist_ok=True)
        shutil.copy(run_file, also)
    return weights


def each(two: Executor, work: Callable, items: Collection, name: str) -> list:
    """What the work gives for each item, as many at a time as the executor takes."""
    return list(tqdm(two.map(work, items), name, len(items)))


def words(description: str, parts: list[str], *folders: str) -> argparse.Namespace:
    """The command's words: the parts to do, and the folder of each name, the first as `out`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    parser.add_argument("parts", nargs="*", default=parts, help=f"of {', '.join(parts)}")
    for name in folders:
        option = "--out" if name == folders[0] else f"--{name}"
        help_text = f"folder (default: runs/{name})"
        parser.add_argument(option, type=Path, default=ROOT / "runs" / name, help=help_text)
    return parser.parse_args()
