"""Everything that must not cost a measurement, tried many times: `make drill`, about half an hour.

Left out of `make test`. Each test's rows replace its rows in data/results/drill.csv, which is printed at the end;
`pytest -s -m drill -k "kills or disk" tests/test_drill.py` does a part.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tqdm import tqdm

from scta_lab import Spec, load, load_runs, sweep, train
from scta_lab.base.files import ROOT, replace_file
from scta_lab.base.words import arguments
from scta_lite import RowAdamW, VocabTable

pytestmark = pytest.mark.drill

TABLE = ROOT / "data" / "results" / "drill.csv"
COLUMNS = ["part", "fault", "tried", "lost", "tests"]
PARTS = ["kills", "kept", "disk", "crowd", "memory", "speed", "bits", "fuzz"]  # their order in the table
TIMES = {"kills": 50, "again": 30, "late": 12, "swapped": 60, "threads": 100, "disk": 20, "crowd": 10}
SHARE = float(os.environ.get("DRILL", 1))  # of these, where less has to do
TIMES = {part: max(1, round(SHARE * times)) for part, times in TIMES.items()}
SMALL = {"corpus": "zipf", "device": "cpu", "threads": 1, "hidden": 32}
LENGTHS = {"steps": 200, "examples": 3_200, "epochs": 2, "batch": 16}
SPEC = Spec(method="semantic_prior", vocab=20_000, optimizer="rows", seed=7, **LENGTHS, **SMALL)
SHORT = [Spec(method=m, vocab=2_000, steps=150, **SMALL) for m in ("ce", "semantic", "semantic_prior")]
MEASURED = ("final_loss", "loss_curve", "epoch_losses", "steps_run", "status")  # the same on every machine


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, list[tuple]]]:
    """Of each part the rows of the table: what was tried, how often, how often something was lost, and by which tests
    it is kept so."""
    rows = {}
    if TABLE.is_file():
        stored = pd.read_csv(TABLE, keep_default_na=False)
        rows = {part: list(map(tuple, of_part[COLUMNS[1:]].values)) for part, of_part in stored.groupby("part")}
    yield rows
    lines = [(part, *row) for part in PARTS for row in rows.get(part, ())]
    whole = pd.DataFrame(lines, columns=COLUMNS)
    replace_file(TABLE, whole.to_csv(index=False).encode())
    print(f"\n{whole.to_string(index=False)}")


def command(spec: Spec, out: Path) -> list[str]:
    return [sys.executable, "-m", "scta_lite.train", *arguments(spec), "--out", str(out), "--checkpoint-s", "0.2"]


def run(words: list[str], **how) -> None:
    subprocess.run(words, check=True, capture_output=True, **how)


def results(folder: Path) -> dict[str, dict]:
    """What each run in the folder measured, as far as it does not hang on time."""
    runs = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {run["run_id"]: {name: run[name] for name in MEASURED} for run in runs}


def differences(folder: Path, whole: Path) -> list[str]:
    """What is wrong in a folder of runs: other results than in the whole one, or files of no finished run."""
    wrong = [path.name for path in folder.iterdir() if path.name.startswith(".") or "checkpoint" in path.name]
    if results(folder) != results(whole):
        wrong.append("another result")
    return wrong


def kill_after(seconds: float, words: list[str], child_first: bool = False, number: int = signal.SIGKILL) -> None:
    """Starts the command, and ends it, or the first child that it has, by a signal after so many seconds."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return
    children = []
    if child_first:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    with suppress(ProcessLookupError):
        os.kill(int(children[0]) if children else process.pid, number)
    process.wait()


def often(fault: str, once: Callable[[int], list[str]], times: int, tests: str) -> tuple:
    """Tries it so many times, two at a time; counts after how many anything was wrong, and prints what it was."""
    with ThreadPoolExecutor(2) as pool:
        trials = list(tqdm(pool.map(once, range(times)), fault, total=times))
    for n, wrong in enumerate(trials):
        if wrong:
            print(f"{fault}, trial {n}: {', '.join(wrong)}")
    return fault, times, sum(bool(wrong) for wrong in trials), tests


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@pytest.fixture
def trained(tmp_path) -> Path:
    """The folder of a training that nothing disturbed."""
    run(command(SPEC, tmp_path / "trained"))
    return tmp_path / "trained"


@pytest.fixture
def swept(tmp_path) -> Path:
    """The folder of a sweep that nothing disturbed."""
    sweep(SHORT, tmp_path / "swept", progress=False)
    return tmp_path / "swept"


def test_kills_of_a_training(table, tmp_path, trained):
    """Ended by SIGKILL at a random moment, then done again: the same weights and the same run, and nothing beside."""
    weights = next(trained.glob("*.safetensors")).read_bytes()
    seconds = took(lambda: run(command(SPEC, tmp_path / "again")))

    def once(n: int) -> list[str]:
        out = tmp_path / str(n)
        kill_after(random.Random(n).uniform(0, seconds), command(SPEC, out))
        run(command(SPEC, out))
        wrong = differences(out, trained)
        if next(out.glob("*.safetensors")).read_bytes() != weights:
            wrong.append("other weights")
        return wrong

    row = often("a training ended by SIGKILL", once, TIMES["kills"], "test_train.py, test_files.py")
    table["kills"] = [row, *table.get("kills", [])[1:]]
    assert row[2] == 0


def test_kills_of_a_sweep(table, tmp_path, swept):
    """The sweep, or its child, ended by SIGKILL: what was finished stays, the rest is done."""
    seconds = took(lambda: sweep(SHORT, tmp_path / "again", progress=False))

    def once(n: int) -> list[str]:
        out = tmp_path / str(n)
        code = f"from scta_lab import *; sweep({SHORT!r}, {str(out)!r})"
        kill_after(random.Random(n).uniform(0, seconds), [sys.executable, "-c", code], child_first=n % 2 == 1)
        finished = {path: path.read_text() for path in out.glob("*.json")} if out.is_dir() else {}
        finished = {path: text for path, text in finished.items() if json.loads(text)["status"] == "ok"}
        sweep(SHORT, out, progress=False)
        lost = [path.name for path, text in finished.items() if path.read_text() != text]
        return lost + differences(out, swept)

    row = often("a sweep, or its child, ended by SIGKILL", once, TIMES["kills"], "test_sweep.py::TestKilled")
    table["kills"] = [*table.get("kills", [])[:1], row]
    assert row[2] == 0


def kept(table: dict, row: tuple) -> None:
    """Puts the row in the place of that of the same fault, in the part "kept"; nothing may have been lost."""
    table["kept"] = [other for other in table.get("kept", []) if other[0] != row[0]] + [row]
    assert row[2] == 0


def test_again(table, tmp_path, swept):
    """`--again` over finished runs, its child ended by a random signal or for want of memory: each run stays as it was,
    or is whole and new."""
    seconds = took(lambda: sweep(SHORT, tmp_path / "again", progress=False))

    def once(n: int) -> list[str]:
        out, chance = tmp_path / str(n), random.Random(n)
        shutil.copytree(swept, out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        code = f"from scta_lab import *; sweep({SHORT!r}, {str(out)!r}, resume=False)"
        if n % 3 == 2:  # each run finds too little memory
            code = "from scta_lab.judge import cost; cost.machine.free_memory = lambda on: 1\n" + code
        kill_after(chance.uniform(0, seconds), [sys.executable, "-c", code], n % 2 == 1, number)
        wrong = [name for name in before if not (out / name).is_file()]
        if results(out) != results(swept):
            wrong.append("another result")
        sweep(SHORT, out, progress=False, resume=False)
        return wrong + differences(out, swept)

    kept(table, often("--again, ended or without memory", once, TIMES["again"], "test_sweep.py, test_train.py"))


def test_late_failures(table, tmp_path):
    """Judging fails, or is ended, after the training: what was trained is there, and is judged by the same command."""
    spec = replace(SPEC, vocab=2_000, examples=160, steps=None, epochs=1, evaluate=True, eval_examples=8)
    run(command(spec, tmp_path / "trained"))
    end = "os.kill(os.getpid(), signal.SIGKILL)", "1 / 0", "os.kill(os.getpid(), signal.SIGTERM)"

    def once(n: int) -> list[str]:
        out, judge = tmp_path / str(n), ("look", "report")[n % 2]
        code = "import os, signal, sys; from scta_lab.run.command import *; from scta_lab.judge import evaluate\n"
        code += f"evaluate.HeldOut.{judge} = lambda *_: {end[n % 3]}\ntrain_command(sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, *command(spec, out)[3:]], cwd=ROOT, capture_output=True)
        wrong = [] if any(r["final_loss"] for r in results(out).values()) else ["the training"]
        run(command(spec, out))
        return wrong + differences(out, tmp_path / "trained")

    kept(table, often("a failure after the last step", once, TIMES["late"], "test_train.py"))


def test_swapped_files(table, tmp_path):
    """Models and checkpoints of equal shapes under one another's names: none is taken."""
    specs = [replace(SHORT[n % 3], seed=n, steps=3) for n in range(6)]
    models = [train(spec).save(tmp_path / "models").with_suffix(".safetensors") for spec in specs]

    def once(n: int) -> list[str]:
        first, second = (models[n % 6], models[(n + 3) % 6])
        out = tmp_path / str(n)
        shutil.copytree(first.parent, out)
        shutil.copy(second, out / first.name)
        try:
            load(out, first.stem)
        except ValueError as error:
            return [] if first.stem in str(error) and second.stem in str(error) else [str(error)]
        return [f"{second.name} as {first.name}"]

    kept(table, often("the model of another run", once, TIMES["swapped"], "test_train.py"))


def test_threads(table):
    """Four threads read a table that is behind, while none trains it: all see the dense one's rows."""

    def once(n: int) -> list[str]:
        torch.manual_seed(n)
        table = VocabTable(20_000, 16)
        optimizer = RowAdamW([table], lr=0.1)
        twin = torch.nn.Parameter(table.weight.clone())
        dense = torch.optim.AdamW([twin], lr=0.1)
        for _ in range(5):
            ids = torch.randint(20_000, (500,))
            for weights, moves in ((table(ids), optimizer), (twin[ids], dense)):
                moves.zero_grad()
                weights.square().sum().backward()
                moves.step()
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda _: table.weight.clone(), range(8)))
        return [f"{(x - twin).abs().max():.1e} off" for x in seen if not torch.allclose(x, twin, atol=1e-5)]

    kept(table, often("a table that is behind, read by four threads", once, TIMES["threads"], "test_optim.py"))


def test_disk(table, tmp_path, trained):
    """A training whose files may not grow beyond a random size, as on a full disk, then done again without that."""
    largest = max(path.stat().st_size for path in trained.iterdir())

    def once(n: int) -> list[str]:
        out = tmp_path / str(n)
        most = int(largest ** random.Random(n).uniform(0.3, 1.05))

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        done = subprocess.run(command(SPEC, out), capture_output=True, text=True, preexec_fn=limit)
        is_kept = done.returncode == 0 or '"final_loss"' in done.stderr or any(out.glob("*.json"))
        run(command(SPEC, out))
        wrong = differences(out, trained)
        if "Traceback" in done.stderr or not is_kept:
            wrong.append(f"no word of it: {done.stderr[-200:]}")
        return wrong

    row = often("a full disk, at a random moment", once, TIMES["disk"], "test_train.py, test_sweep.py")
    table["disk"] = [row]
    assert row[2] == 0


def test_crowd(table, tmp_path, swept):
    """Two sweeps with four workers each on one folder and one cold cache."""

    def once(n: int) -> list[str]:
        out, cache = tmp_path / str(n), tmp_path / f"cache{n}"
        code = "from concurrent.futures import ThreadPoolExecutor; from scta_lab import *\n"
        code += f"sweep({SHORT!r}, {str(out)!r}, executor=ThreadPoolExecutor(4))"
        how = {"cwd": ROOT, "env": {"PATH": "", "XDG_CACHE_HOME": str(cache)}}
        how |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        two = [subprocess.Popen([sys.executable, "-c", code], **how) for _ in range(2)]
        codes = [process.wait() for process in two]
        wrong = differences(out, swept)
        if any(codes):
            wrong.append(f"ended {codes}")
        return wrong + [str(path) for path in cache.rglob("*") if path.suffix in (".part", ".lock")]

    row = often("two sweeps on one folder and one cold cache", once, TIMES["crowd"], "test_sweep.py")
    table["crowd"] = [row]
    assert row[2] == 0


def test_memory(table, tmp_path):
    """What `cost` says of memory against the measured peak, by method, optimizer and vocabulary."""
    methods = "ce ce_chunked ce_lowrank adaptive semantic semantic_prior sampled_softmax".split()
    specs = [
        Spec(method=method, optimizer=optimizer, vocab=V, steps=2, corpus="zipf", device="cpu")
        for V, method, optimizer in product((20_000, 60_000, 200_000), methods, ("dense", "rows"))
    ]
    runs = sweep(specs, tmp_path)
    runs["ratio"] = (runs.needed_memory_bytes / runs.peak_memory_bytes).astype(float)
    print(runs[["vocab", "method", "optimizer", "ratio"]].to_string())
    lost = int((runs.status != "ok").sum())
    fault = f"needed memory over the peak: {runs.ratio.min():.2f} to {runs.ratio.max():.2f}"
    table["memory"] = [(fault, len(runs), lost, "test_cost.py")]
    assert lost == 0


def test_speed(table, tmp_path):
    """The time to read 2,000 runs, and what a run costs a sweep beyond its training."""
    one = train(SHORT[0])
    one.model = None
    for seed in range(2_000):
        one.spec = replace(SHORT[0], seed=seed)
        one.save(tmp_path / "many")
    reading = took(lambda: load_runs(tmp_path / "many"))
    seconds = took(lambda: sweep(SHORT, tmp_path / "few", progress=False))
    runs = load_runs(tmp_path / "few")
    beyond = (seconds - runs.step_ms.sum() / 1e3 * SHORT[0].steps) / len(runs)
    table["speed"] = [
        (f"reading 2,000 runs: {reading:.1f} s", 2_000, 0, "test_sweep.py"),
        (f"a run beyond its training: {beyond:.1f} s", len(runs), 0, ""),
    ]
    assert len(load_runs(tmp_path / "many")) == 2_000


def test_bits(table, tmp_path):
    """The same trainings twice, and on two older instruction sets: how far their losses are apart."""
    machines = {
        "here": {},
        "again": {},
        "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
        "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    }
    losses = {}
    for name, environment in machines.items():
        for spec in SHORT:
            run(command(spec, tmp_path / name), env=os.environ | environment)
        losses[name] = np.array([measured["loss_curve"]["loss"] for measured in results(tmp_path / name).values()])
    apart = {name: np.abs(curves - losses["here"]).max() for name, curves in losses.items()}
    most = max(apart["default"], apart["avx2"])
    is_close = most <= 1e-4
    table["bits"] = [
        ("the same training again, bit for bit", len(SHORT), int(apart["again"] > 0), "test_train.py"),
        (f"on older instruction sets: {most:.0e} nats apart", 2 * len(SHORT), int(not is_close), ""),
    ]
    assert apart["again"] == 0
    assert is_close


def test_fuzz(table):
    """10,000 cases of each test in lab/test_fuzz.py."""
    path = ROOT / "tests" / "lab" / "test_fuzz.py"
    words = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--hypothesis-profile=drill", str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-2000:])
    count = sum(line.startswith("def test_") for line in path.read_text().splitlines())
    table["fuzz"] = [("arbitrary input", 10_000 * count, done.stdout.count("\nFAILED"), "test_fuzz.py")]
    assert done.returncode == 0
