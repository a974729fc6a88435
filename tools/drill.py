"""Everything that must not cost a measurement, tried many times: `make drill`, about half an hour. Ends with a table.

kills      a training, and a sweep or its child, ended by SIGKILL at random moments, then done again to the end
disk       a training whose files may not grow beyond a random size, as on a full disk, then done again without that
crowd      two sweeps with four workers each on one folder and one cold cache
memory     what `cost.memory_bytes` says against the measured peak, by method, optimizer and vocabulary
speed      the time to read 2,000 runs, and what a run costs a sweep beyond its training
bits       the same trainings twice, and on two older instruction sets: how far their losses are apart
fuzz       10,000 cases each of tests/test_fuzz.py

`tools/drill.py kills disk` does a part. The rows of a part replace those in data/results/drill.csv with --save.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from scta_lab import Spec, load_runs, sweep, train
from scta_lab.base.files import ROOT, replace_file
from scta_lab.base.words import arguments

TABLE = ROOT / "data" / "results" / "drill.csv"
SPEC = Spec(method="semantic_prior", vocab=20_000, corpus="zipf", device="cpu", threads=1, optimizer="rows", steps=200,
            examples=3_200, epochs=2, batch=16, hidden=32, seed=7)  # fmt: skip
SHORT = [Spec(method=m, vocab=2_000, corpus="zipf", device="cpu", threads=1, steps=150, hidden=32) for m in
         ("ce", "semantic", "semantic_prior")]  # fmt: skip
MEASURED = ("final_loss", "loss_curve", "epoch_losses", "steps_run", "status")  # what a run says whatever the machine


def command(spec: Spec, out: Path) -> list[str]:
    return [sys.executable, "-m", "scta_lite.train", *arguments(spec), "--out", str(out), "--checkpoint-s", "0.2"]


def said(folder: Path) -> dict[str, dict]:
    """What each run in the folder found, as far as it does not hang on time."""
    runs = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {run["run_id"]: {name: run[name] for name in MEASURED} for run in runs}


def left(folder: Path) -> list[str]:
    """Files in the folder that belong to no finished run."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".") or "checkpoint" in p.name]


def until(seconds: float, words: list[str], child_first: bool = False, **how) -> None:
    """Starts the command, and ends it, or the first child that it has, by SIGKILL after so many seconds."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if child_first else []
    if children:
        with suppress(ProcessLookupError):
            os.kill(int(children[0]), signal.SIGKILL)
        process.wait()
    else:
        process.kill()
        process.wait()


def kills(times: int, folder: Path) -> list[dict]:
    subprocess.run(command(SPEC, folder / "whole"), check=True, capture_output=True)
    weights = next((folder / "whole").glob("*.safetensors")).read_bytes()
    began = time.monotonic()
    sweep(SHORT, folder / "all", progress=False)
    swept = time.monotonic() - began
    began = time.monotonic()
    subprocess.run(command(SPEC, folder / "again"), check=True, capture_output=True)
    trained = time.monotonic() - began

    def training(n: int) -> list[str]:
        """What is wrong after a killed training was done again."""
        out = folder / f"training{n}"
        until(random.Random(n).uniform(0, trained), command(SPEC, out))
        subprocess.run(command(SPEC, out), check=True, capture_output=True)
        wrong = ["other weights"] * (next(out.glob("*.safetensors")).read_bytes() != weights)
        return wrong + ["another result"] * (said(out) != said(folder / "whole")) + left(out)

    def swept_again(n: int) -> list[str]:
        """What is wrong after a sweep whose process or child was killed: what was finished stays, the rest is done."""
        out, code = folder / f"sweep{n}", f"from scta_lite import *; sweep({SHORT!r}, {str(folder / f'sweep{n}')!r})"
        until(random.Random(n).uniform(0, swept), [sys.executable, "-c", code], child_first=n % 2 == 1, cwd=ROOT)
        before = {p.name: p.read_text() for p in out.glob("*.json")} if out.is_dir() else {}
        done = {name: found for name, found in before.items() if json.loads(found)["status"] == "ok"}
        sweep(SHORT, out, progress=False)
        lost = [name for name, found in done.items() if (out / name).read_text() != found]
        return lost + ["another result"] * (said(out) != said(folder / "all")) + left(out)

    return [
        tried("a training ended by SIGKILL", training, times, "test_train.py, test_files.py"),
        tried("a sweep, or its child, ended by SIGKILL", swept_again, times, "test_sweep.py::TestKilled"),
    ]


def disk(times: int, folder: Path) -> list[dict]:
    subprocess.run(command(SPEC, folder / "whole"), check=True, capture_output=True)
    largest = max(p.stat().st_size for p in (folder / "whole").iterdir())

    def full(n: int) -> list[str]:
        out, most = folder / f"disk{n}", int(largest ** random.Random(n).uniform(0.3, 1.05))
        limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))}
        done = subprocess.run(command(SPEC, out), capture_output=True, text=True, **limit)
        told = "Traceback" not in done.stderr and (done.returncode == 0 or '"final_loss"' in done.stderr or any(
            out.glob("*.json")))  # fmt: skip
        subprocess.run(command(SPEC, out), check=True, capture_output=True)
        wrong = ["another result"] * (said(out) != said(folder / "whole")) + left(out)
        return wrong if told else [f"not told: {done.stderr[-200:]}", *wrong]

    return [tried("a full disk, at a random moment", full, times, "test_train.py, test_sweep.py")]


def crowd(times: int, folder: Path) -> list[dict]:
    def both(n: int) -> list[str]:
        out = folder / f"crowd{n}"
        code = ("from concurrent.futures import ThreadPoolExecutor; from scta_lite import *\n"
                f"sweep({SHORT!r}, {str(out)!r}, executor=ThreadPoolExecutor(4))")  # fmt: skip
        environment = {"PATH": "", "XDG_CACHE_HOME": str(folder / f"cache{n}")}
        two = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for _ in range(2)]  # fmt: skip
        ended = [process.wait() for process in two]
        caches = list((folder / f"cache{n}").rglob("*.part")) + list((folder / f"cache{n}").rglob("*.lock"))
        wrong = ["another result"] * (said(out) != said(folder / "all")) + [f"ended {ended}"] * any(ended)
        return wrong + left(out) + [str(path) for path in caches]

    sweep(SHORT, folder / "all", progress=False)
    return [tried("two sweeps on one folder and one cold cache", both, times, "test_sweep.py")]


def tried(fault: str, once: Callable[[int], list[str]], times: int, kept_by: str) -> dict:
    """Tries it so many times, two at a time; counts those after which anything was wrong, and prints what it was."""
    with ThreadPoolExecutor(2) as pool:
        wrong = list(tqdm(pool.map(once, range(times)), fault, total=times))
    for n, found in enumerate(wrong):
        if found:
            print(f"{fault}, trial {n}: {', '.join(found)}")
    return {"fault": fault, "tried": times, "lost": sum(map(bool, wrong)), "tests": kept_by}


def memory(times: int, folder: Path) -> list[dict]:
    pairs = [(m, o) for m in ("ce", "ce_chunked", "ce_lowrank", "adaptive", "semantic", "semantic_prior",
                              "sampled_softmax") for o in ("dense", "rows")]  # fmt: skip
    specs = [Spec(method=m, optimizer=o, vocab=V, steps=2, corpus="zipf", device="cpu")
             for V in (20_000, 60_000, 200_000) for m, o in pairs]  # fmt: skip
    runs = sweep(specs, folder / "memory")
    ratio = (runs.needed_memory_bytes / runs.peak_memory_bytes).astype(float)
    print(runs.assign(ratio=ratio)[["vocab", "method", "optimizer", "ratio"]].to_string())
    worst = f"needed memory over the peak: {ratio.min():.2f} to {ratio.max():.2f}"
    return [{"fault": worst, "tried": len(runs), "lost": int((runs.status != "ok").sum()), "tests": "test_cost.py"}]


def speed(times: int, folder: Path) -> list[dict]:
    one = train(SHORT[0])
    one.model = None
    for seed in range(2_000):
        one.spec = Spec(**{**SHORT[0].changes(), "method": "ce", "vocab": 2_000, "seed": seed})
        one.save(folder / "many")
    began = time.monotonic()
    many = len(load_runs(folder / "many"))
    reading = time.monotonic() - began
    began = time.monotonic()
    runs = sweep(SHORT, folder / "few", progress=False)
    overhead = (time.monotonic() - began - runs.step_ms.sum() / 1e3 * SHORT[0].steps) / len(runs)
    return [
        {"fault": f"reading 2,000 runs: {reading:.1f} s", "tried": many, "lost": 0, "tests": "test_sweep.py"},
        {"fault": f"a run beyond its training: {overhead:.1f} s", "tried": len(runs), "lost": 0, "tests": ""},
    ]


def bits(times: int, folder: Path) -> list[dict]:
    losses, older = {}, {"default": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
                         "avx2": {"ATEN_CPU_CAPABILITY": "avx2"}}  # fmt: skip
    for name, environment in {"here": {}, "again": {}, **older}.items():
        for spec in SHORT:
            subprocess.run(
                command(spec, folder / name), check=True, capture_output=True, env={**os.environ, **environment}
            )
        losses[name] = np.array([run["loss_curve"]["loss"] for run in said(folder / name).values()])
    apart = {name: np.abs(found - losses["here"]).max() for name, found in losses.items()}
    most = max(apart["default"], apart["avx2"])
    return [
        {"fault": "the same training again, bit for bit", "tried": len(SHORT), "lost": int(apart["again"] > 0),
         "tests": "test_train.py"},
        {"fault": f"on older instruction sets: {most:.0e} nats apart", "tried": 2 * len(SHORT),
         "lost": int(most > 1e-4), "tests": ""},
    ]  # fmt: skip


def fuzz(times: int, folder: Path) -> list[dict]:
    words = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--hypothesis-profile=drill", "tests/test_fuzz.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-2000:])
    count = sum(line.startswith("def test_") for line in (ROOT / "tests/test_fuzz.py").read_text().splitlines())
    failed = done.stdout.count("\nFAILED")
    return [{"fault": "arbitrary input", "tried": 10_000 * count, "lost": failed, "tests": "test_fuzz.py"}]


PARTS = {part.__name__: part for part in (kills, disk, crowd, memory, speed, bits, fuzz)}
TIMES = {"kills": 50, "disk": 20, "crowd": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--times", type=int, help="trials of each, instead of 50, 20 and 10")
    parser.add_argument("--save", action="store_true", help=f"keep the table in {TABLE.relative_to(ROOT)}")
    asked = parser.parse_args()
    found = {}
    if TABLE.is_file():
        for part, rows in pd.read_csv(TABLE, keep_default_na=False).groupby("part", sort=False):
            found[part] = rows.drop(columns="part").to_dict("records")
    for part in asked.parts:
        with tempfile.TemporaryDirectory() as folder:
            found[part] = PARTS[part](asked.times or TIMES.get(part, 1), Path(folder))
        table = pd.DataFrame([{"part": name, **row} for name in PARTS for row in found.get(name, ())])
        if asked.save:
            replace_file(TABLE, table.to_csv(index=False).encode())
    print(table.to_string(index=False))
    sys.exit(int(table.lost.sum() > 0))


if __name__ == "__main__":
    main()
