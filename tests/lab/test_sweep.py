import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from conftest import CHAT, LENGTHS, SIZES
from distributed import Client, LocalCluster

from scta_lab import Result, Spec, grid, load, load_runs, sweep, train
from scta_lab.base.files import ROOT, temporary
from scta_lab.base.words import arguments
from scta_lab.judge import cost as cost_module
from scta_lab.run import processes
from scta_lab.run.command import sweep_command, train_command
from scta_lab.run.table import ratios
from scta_lab.study import figures
from scta_lab.text import corpus as corpus_module

# until it is killed; where a test fails before that, it ends by itself
ENDLESS = {"vocab": 5000, "corpus": "zipf", "epochs": 100_000, "hidden": 8, "device": "cpu", "budget_s": 120}


SIGNALLED = {**ENDLESS, "budget_s": None, "vocab": 500, "batch": 2, "seq_len": 8, "examples": 1_000}


undisturbed = cache(train)


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


def wait_for(condition, seconds=180):
    """The condition's first true value; fails after three minutes, as on a busy machine a process begins late."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail("waited in vain")


def children(folder):
    """Process ids of the runs whose files go to the folder."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "scta_lite.train" in words and str(folder) in words:
            processes.append(int(path.parent.name))
    return processes


def progress_files(folder):
    return list(Path(folder).glob(".*.progress.*"))


def kill_a_child(folder, seen=None):
    """Kills the run whose file goes to the folder, once it has shown its progress."""
    wait_for(lambda: progress_files(folder))
    (child,) = children(folder)
    if seen is not None:
        seen.append(Path(f"/proc/{child}/oom_score_adj").read_text().strip())
    os.kill(child, signal.SIGKILL)


def test_one_file_a_run_in_the_specs_order(tiny, tmp_path, here):
    specs = [tiny("semantic"), tiny("ce"), tiny("ce", seed=1)]
    runs = sweep(specs, tmp_path, progress=False)
    assert runs.method.tolist() == ["semantic", "ce", "ce"]
    assert runs.status.tolist() == ["ok"] * 3
    assert runs.steps_run.tolist() == [12] * 3
    assert set(files(tmp_path)) == {f"{run_id}.json" for run_id in runs.run_id}
    assert set(load_runs(tmp_path).run_id) == set(runs.run_id)
    assert runs.speedup[1] * runs.seconds[1] == pytest.approx(runs.seconds[1:].median())


def test_resume_leaves_finished_runs_alone_and_tries_killed_ones_again(tiny, tmp_path, here):
    runs = sweep([tiny(), tiny(seed=1)], tmp_path, progress=False)
    before = files(tmp_path)
    path = tmp_path / f"{runs.run_id[1]}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "killed"}))
    again = sweep([tiny(), tiny(seed=1)], tmp_path, progress=False)
    assert again.status.tolist() == ["ok", "ok"]
    assert files(tmp_path)[f"{runs.run_id[0]}.json"] == before[f"{runs.run_id[0]}.json"]
    assert files(tmp_path)[path.name] != before[path.name]
    sweep([tiny()], tmp_path, progress=False, resume=False)
    assert files(tmp_path)[f"{runs.run_id[0]}.json"] != before[f"{runs.run_id[0]}.json"]


def heed_interrupts():
    """What a background job's processes do not: a shell lets these ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="finds the runs' processes in /proc, which is Linux's")
class TestKilled:
    def test_a_killed_run_is_recorded_and_the_sweep_goes_on(self, tiny, tmp_path):
        oom_scores = []
        killer = threading.Thread(target=kill_a_child, args=[tmp_path, oom_scores])
        killer.start()
        runs = sweep([Spec(method="semantic", **ENDLESS), tiny()], tmp_path, progress=False)
        killer.join()
        assert runs.status.tolist() == ["killed", "ok"]
        assert runs.reason[0].startswith("ended by SIGKILL after step ")
        assert runs.step_ms.isna().tolist() == [True, False]
        assert not progress_files(tmp_path)
        assert oom_scores == ["1000"]  # the kernel would take the run first

    def test_a_run_that_is_killed_again_replaces_none_that_ended_well(self, tmp_path, capsys):
        spec = Spec(method="semantic", **ENDLESS)
        good = Result(spec=spec, status="ok", fingerprint="zipf-2", corpus="zipf", step_ms=2.5).save(tmp_path)
        good.with_suffix(".safetensors").touch()
        before = files(tmp_path)

        killer = threading.Thread(target=kill_a_child, args=[tmp_path])
        killer.start()
        sweep_command([*arguments(spec), "--again", "--out", str(tmp_path)])
        killer.join()
        attempt = tmp_path / f"{good.name}.attempt"
        assert json.loads(attempt.read_text())["status"] == "killed"
        assert files(tmp_path) == before | {attempt.name: attempt.stat().st_mtime_ns}
        assert load_runs(tmp_path).step_ms.tolist() == [2.5]
        warning = rf"^python -m scta_lite.sweep: {good.stem}: killed: ended by SIGKILL .*; the run from before stays$"
        assert re.search(warning, capsys.readouterr().err, re.M)

    def test_a_sweep_that_was_killed_at_its_very_end_leaves_nothing(self, tiny, tmp_path, monkeypatch, here):
        """Every run is done, and what its process and the sweep had beside it goes with the next sweep."""
        done = sweep([tiny()], tmp_path, progress=False).run_id[0]
        before = files(tmp_path)
        (tmp_path / f".{done}.json.lock").touch()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 2**22 + 1)  # of a process that there cannot be
            temporary(tmp_path / f"{done}.progress").touch()
        assert len(list(tmp_path.iterdir())) == 3
        sweep([tiny()], tmp_path, progress=False)
        assert files(tmp_path) == before

    def test_a_killed_sweep_resumes(self, tiny, tmp_path, here):
        """SIGKILL in the middle of a run: the finished run is untouched, the lost one is done, no half file is left."""
        done = sweep([tiny()], tmp_path, progress=False).run_id[0]
        before = files(tmp_path)
        endless = Spec(method="semantic", **ENDLESS)
        code = (
            f"from scta_lab import *; sweep([Spec(**{vars(tiny())!r}), Spec(**{vars(endless)!r})], {str(tmp_path)!r})"
        )
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(lambda: progress_files(tmp_path))
        process.kill()
        process.wait()
        wait_for(lambda: not children(tmp_path))  # a run does not outlive its sweep
        assert [p.name for p in tmp_path.glob("*.json")] == [f"{done}.json"]
        runs = sweep([tiny(), tiny(seed=1)], tmp_path, progress=False)
        assert runs.status.tolist() == ["ok", "ok"]
        assert files(tmp_path)[f"{done}.json"] == before[f"{done}.json"]

    @pytest.mark.parametrize(("whom", "number"), [
        ("sweep", signal.SIGINT), ("sweep", signal.SIGTERM), ("sweep", signal.SIGKILL),
        ("run", signal.SIGTERM), ("run", signal.SIGKILL),
    ])  # fmt: skip
    def test_a_run_goes_on_from_the_step_that_a_signal_met(self, tmp_path, whom, number):
        """Bit by bit. SIGKILL alone leaves a run no time for a checkpoint, but a killed sweep's has it."""
        spec = Spec(method="semantic_prior", optimizer="rows", steps=200, **SIGNALLED)
        words = [sys.executable, "-m", "scta_lite.sweep", *arguments(spec), "--out", str(tmp_path)]
        silent = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(words, cwd=ROOT, preexec_fn=heed_interrupts, **silent)
        wait_for(lambda: progress_files(tmp_path))
        os.kill(process.pid if whom == "sweep" else children(tmp_path)[0], number)
        code = process.wait()
        wait_for(lambda: not children(tmp_path))
        left = list(tmp_path.glob("*.checkpoint.safetensors"))
        if whom == "run":
            assert load_runs(tmp_path).status[0] != "ok"
        else:
            assert code == (-9 if number == signal.SIGKILL else 130)
            assert not list(tmp_path.glob("*.json"))
        assert len(left) == (0 if (whom, number) == ("run", signal.SIGKILL) else 1)
        run = sweep([spec], tmp_path, progress=False).iloc[0]
        assert (run.status, run.loss_curve) == ("ok", undisturbed(spec).loss_curve)
        assert (run.steps_measured < 190) == bool(left)  # the others were measured by the first process
        assert [path.suffix for path in tmp_path.iterdir()] == [".json"]

    def test_what_a_run_warns_of_is_told_by_the_sweep(self, tiny, tmp_path, capsys):
        """A checkpoint that is none gets another name; remarks on the text are made once."""
        spec = tiny(corpus=str(CHAT))
        path = tmp_path / f"{train(spec).run_id}.checkpoint.safetensors"
        path.write_bytes(b"no tensors")
        assert sweep([spec], tmp_path).status[0] == "ok"
        told = capsys.readouterr()
        assert (told.out + told.err).count("left out") == 1
        warning = f"^python -m scta_lite.train: {path.name}: no file of tensors .*; it is {path.name}.set-aside now"
        lines = told.err.replace("\r", "\n")  # by which a bar goes back
        assert len(re.findall(warning, lines, re.M)) == 1
        assert path.with_name(f"{path.name}.set-aside").read_bytes() == b"no tensors"

    def test_out_of_memory_is_a_result(self, tmp_path, monkeypatch, capsys):
        """An address space of 6 GB cannot hold CE at V = 1M."""

        class Limited(subprocess.Popen):
            def __init__(self, *words, **settings):
                super().__init__(*words, **settings)
                resource.prlimit(self.pid, resource.RLIMIT_AS, (6 << 30, 6 << 30))

        monkeypatch.setattr(subprocess, "Popen", Limited)
        words = "--vocab 1M --method ce --corpus zipf --steps 2 --force --device cpu".split()
        with pytest.raises(SystemExit) as ended:
            sweep_command([*words, "--out", str(tmp_path)])
        assert ended.value.code == 1  # no run came to its end
        run = load_runs(tmp_path).iloc[0]
        assert run.status == "out_of_memory"
        assert "memory" in run.reason
        assert f"{run.run_id}: out_of_memory: " in capsys.readouterr().out


def test_a_run_that_cannot_fit_is_skipped_with_both_numbers(tiny, tmp_path, monkeypatch, here):
    monkeypatch.setattr(cost_module.machine, "free_memory", lambda on: 10_000_000)
    runs = sweep([tiny()], tmp_path, progress=False)
    assert runs.status[0] == "skipped"
    needed = runs.needed_memory_bytes[0]
    assert runs.reason[0] == f"needs about {needed / 1e9:.1f} GB of memory, 0.0 GB are free"
    assert runs.free_memory_bytes[0] == 10_000_000
    assert cost_module.IMPORTED < needed < 2 * cost_module.IMPORTED  # it is the process that needs memory here
    assert sweep([tiny()], tmp_path, progress=False, force=True).status[0] == "ok"  # no need to say resume=False


def test_a_skipped_run_is_tried_again_once_it_fits(tiny, tmp_path, monkeypatch, here):
    with monkeypatch.context() as patch:
        patch.setattr(cost_module.machine, "free_memory", lambda on: 10_000_000)
        assert sweep([tiny()], tmp_path, progress=False).status[0] == "skipped"
    assert sweep([tiny()], tmp_path, progress=False).status[0] == "ok"


def test_speedup_is_between_runs_of_the_same_work(tiny, tmp_path, here):
    runs = sweep([tiny("ce"), tiny(), tiny(batch=8), tiny("ce", batch=8)], tmp_path, progress=False)
    for ce, semantic in ((0, 1), (3, 2)):
        assert runs.speedup[ce] == 1
        assert runs.speedup[semantic] == pytest.approx(runs.seconds[ce] / runs.seconds[semantic])


def test_a_failing_run_is_recorded(tiny, tmp_path):
    """What the sweep cannot know beforehand ends one run, not the others; here with an executor of processes."""
    with ProcessPoolExecutor(1) as pool:
        specs = [tiny(stage1="no/such.safetensors", token_head="random"), tiny()]
        runs = sweep(specs, tmp_path, executor=pool, progress=False)
    assert runs.status.tolist() == ["failed", "ok"]
    assert runs.reason[0].startswith("FileNotFoundError: run_id='such': expected one of []")


def test_after_an_interrupt_no_run_begins(tiny, tmp_path, monkeypatch):
    """Whoever owns the executor, whose only worker is busy until then."""

    def interrupt(pending, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "_watch", interrupt)
    busy = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait)
        with pytest.raises(KeyboardInterrupt):
            sweep([tiny(seed=seed) for seed in range(2)], tmp_path, executor=pool, progress=False)
        busy.set()
    assert not list(tmp_path.glob("*.json"))


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes of dask, each for one run at a time."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as workers:
        yield workers


def test_the_command_gives_its_runs_to_a_scheduler(tmp_path, cluster, capsys):
    words = ["--vocab", "300", "--method", "semantic", "--corpus", "zipf", "--steps", "3", "--out", str(tmp_path)]
    sweep_command([*words, "--rounds", "2", "--scheduler", cluster.scheduler_address])
    assert "2 runs in" in capsys.readouterr().out
    runs = load_runs(tmp_path)
    assert runs.status.tolist() == ["ok"] * 2
    assert set(files(tmp_path)) == {f"{run_id}.json" for run_id in runs.run_id}


def test_the_run_of_a_worker_that_is_killed_is_done_by_another(tiny, tmp_path, cluster):
    """Killed with its run under way, whose process ends with it; dask gives the run to a worker that is left."""
    killed = []
    with Client(cluster) as client:

        def kill():
            wait_for(lambda: progress_files(tmp_path))
            (worker,) = (worker for worker, runs in client.processing().items() if runs)
            killed.extend(client.run(os.getpid, workers=[worker]).values())
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        runs = sweep([tiny(epochs=100)], tmp_path, executor=client.get_executor(pure=False), progress=False)
        killer.join()
        assert killed[0] not in client.run(os.getpid).values()
    assert runs.status.tolist() == ["ok"]
    assert set(files(tmp_path)) == {f"{run_id}.json" for run_id in runs.run_id}


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("--batch-size 9", "--batch"),
        ("--vocabulary=9", "--vocab"),
        ("--cor x", "--corpus"),
        ("--max 9", "--max-characters"),
        ("--see 9", "--seed"),
        ("--zzz", "one that --help lists"),
    ],
)
@pytest.mark.parametrize("command", [train_command, sweep_command])
def test_an_option_that_there_is_none_of_is_told_with_the_nearest(words, nearest, command, tmp_path, capsys):
    """Nor can one be shortened: an option that comes later would change what it means."""
    with pytest.raises(SystemExit) as ended:
        command(f"--vocab 300 --method ce --out {tmp_path}/runs {words}".split())
    assert ended.value.code == 2
    assert f"{words.split()[0]}: no such option; expected {nearest}\n" in capsys.readouterr().err
    assert not files(tmp_path)


def test_a_scheduler_that_does_not_answer_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep_command(["--vocab", "300", "--scheduler", "nowhere", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "scheduler='nowhere': no answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "no/such.json"}, "corpus='no/such.json': no such file"),
        ({"seq_len": 200_000, "examples": 4, "corpus": str(CHAT)}, "seq_len=200000: expected at most"),
        ({"device": "cuda:99"}, "device='cuda:99'"),
        ({"corpus": str(CHAT), "vocab": 10_000_000}, "vocab=10000000: expected at most .*zipf"),
    ],
)
def test_nothing_runs_before_everything_is_checked(tiny, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        sweep([tiny(), tiny(**changes)], tmp_path, progress=False)
    assert not files(tmp_path)


def test_folders(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"out folder .*file/below.*: cannot be written"):
        sweep([tiny()], tmp_path / "file" / "below")
    with pytest.raises(FileNotFoundError, match="no runs"):
        load_runs(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json: not a run's file"):
        load_runs(tmp_path)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken\.json: not a run's file"):
        load_runs(tmp_path)


NO_RUNS = {
    "another run's": lambda good, other: other,
    "no field but a status": lambda good, other: '{"status": "ok"}',
    "words for a number": lambda good, other: json.dumps(json.loads(good) | {"step_ms": "fast"}),
    "a status of its own": lambda good, other: json.dumps(json.loads(good) | {"status": "fine"}),
    "a bad setting": lambda good, other: json.dumps(json.loads(good) | {"vocab": -3}),
    "half a file": lambda good, other: good[: len(good) // 2],
    "garbage": lambda good, other: "\x00\xff" * 40,
    "empty": lambda good, other: "",
    "a list": lambda good, other: "[]",
    "nested without end": lambda good, other: "[" * 100_000,
}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The files' texts of two runs of four steps, and the first one's Spec."""
    specs = [
        Spec(method=method, **{**SIZES, **LENGTHS}, corpus="zipf", device="cpu", steps=4)
        for method in ("ce", "semantic")
    ]
    texts = [json.dumps(train(spec).to_dict()) for spec in specs]
    return *texts, specs[0]


@pytest.mark.parametrize("kind", NO_RUNS)
def test_a_file_that_is_no_run_is_named_and_not_trusted(two_runs, tmp_path, kind):
    good, other, _ = two_runs
    path = tmp_path / f"{json.loads(good)['run_id']}.json"
    path.write_text(NO_RUNS[kind](good, other))
    for reader in (load_runs, load):
        with pytest.raises(ValueError, match=f"^{path.name}: not a run's file") as error:
            reader(tmp_path)
        assert len(str(error.value)) < 300


def test_a_sweep_sets_aside_what_is_no_run_and_does_the_run_anew(two_runs, tmp_path, here):
    good, other, spec = two_runs
    files = {}
    for seed, kind in enumerate(("another run's", "nested without end")):
        path = tmp_path / f"{replace(spec, seed=seed).run_id('zipf-2')}.json"
        path.write_text(NO_RUNS[kind](good, other))
        files[path] = path.read_text()
    runs = sweep([replace(spec, seed=seed) for seed in range(2)], tmp_path, progress=False)
    assert runs.status.tolist() == ["ok", "ok"]
    assert runs.final_loss[0] == pytest.approx(json.loads(good)["final_loss"])
    for path, wrong in files.items():
        assert path.with_name(f"{path.name}.set-aside").read_text() == wrong
    assert len(list(tmp_path.iterdir())) == 4


def counted(monkeypatch, module, name):
    """A list to which each call of the module's function adds its arguments."""
    function, calls = getattr(module, name), []

    def call(*arguments, **settings):
        calls.append(arguments)
        return function(*arguments, **settings)

    monkeypatch.setattr(module, name, call)
    return calls


def test_two_sweeps_of_one_folder_do_each_run_once(tiny, tmp_path, monkeypatch):
    """Both on a cold cache, each with four workers: what one does the other waits for, and takes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    begun = counted(monkeypatch, subprocess, "Popen")
    built = counted(monkeypatch, corpus_module, "build")
    specs = [tiny(corpus=str(CHAT), vocab=400, seed=seed) for seed in range(2)]
    tables = []

    def run_all():
        with ThreadPoolExecutor(4) as pool:
            tables.append(sweep(specs, tmp_path / "runs", executor=pool, progress=False))

    threads = [threading.Thread(target=run_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == len(specs)
    assert len(built) == 1
    assert tables[0].equals(tables[1])
    assert set(files(tmp_path / "runs")) == {f"{run_id}.json" for run_id in tables[0].run_id}
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_a_folder_that_is_gone_half_way_costs_no_finished_run(tiny, tmp_path):
    folder = tmp_path / "runs"
    specs = [tiny(), tiny(seed=1)]

    class Meanwhile(ThreadPoolExecutor):
        def submit(self, run, spec):
            def then():
                if spec == specs[1]:
                    folder.rename(tmp_path / "moved")
                    folder.write_text("")
                run(spec)

            return super().submit(then)

    with Meanwhile(1) as pool, pytest.raises(OSError, match=r"runs.*json: cannot be written \(.*\); the run: "):
        sweep(specs, folder, executor=pool, progress=False)
    assert load_runs(tmp_path / "moved").status.tolist() == ["ok"]


def test_a_full_disk_ends_the_sweep_which_tells_what_it_measured(tiny, tmp_path, capsys):
    """No file may be larger than 2 KB, as on a disk with no more room: no run can be recorded."""
    train(tiny())  # its ids are in the cache
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, most))
    try:
        with pytest.raises(SystemExit) as ended:
            sweep_command([*arguments(tiny()), "--out", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert re.search(r"json: cannot be written \(File too large\); the run: \{.*\"step_ms\": \d", told)
    assert not files(tmp_path)


def test_a_folder_under_a_runs_name_is_set_aside(tiny, tmp_path, here):
    path = tmp_path / f"{tiny().run_id('zipf-2')}.json"
    (path / "below").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"^{path.name}: not a run's file"):
        load_runs(tmp_path)
    assert sweep([tiny()], tmp_path, progress=False).status.tolist() == ["ok"]
    assert (tmp_path / f"{path.name}.set-aside" / "below").is_dir()


def test_ratios_are_taken_round_by_round(tiny, tmp_path, here):
    sweep([tiny(m, seed=seed) for seed in range(2) for m in ("ce", "semantic")], tmp_path, progress=False)
    runs = load_runs(tmp_path)
    runs["step_ms"] = runs.seed.map({0: 10.0, 1: 40.0}) * runs.method.map({"ce": 3.0, "semantic": 1.0})
    table = ratios(runs).set_index("method")
    assert table.ratio.to_dict() == {"ce": 3.0, "semantic": 1.0}  # the machine's mood cancels
    assert table.step_ms["ce"] == 75
    assert (table.step_ms_q1["ce"], table.step_ms_q3["ce"]) == (52.5, 97.5)
    assert table.rounds.tolist() == [2, 2]


def test_runs_of_two_texts_are_not_mixed(tiny, tmp_path):
    """As after a new version of the text: the folder holds runs of both."""
    for method, most in product(("ce", "semantic"), (4000, 10**9)):
        result = train(tiny(method, corpus=str(CHAT), vocab=400, max_characters=most))
        result.model = None
        result.save(tmp_path)
    runs = load_runs(tmp_path)
    texts = list(dict.fromkeys(runs.fingerprint))
    assert len(texts) == 2
    runs["step_ms"] = runs.fingerprint.map({texts[0]: 10.0, texts[1]: 40.0}) * runs.method.map(
        {"ce": 3.0, "semantic": 1}
    )
    table = ratios(runs)
    assert sorted(zip(table.step_ms, table.ratio, strict=True)) == [(10, 1), (30, 3), (40, 1), (120, 3)]
    assert "fingerprint" not in ratios(runs[runs.fingerprint == texts[0]])
    with pytest.raises(
        ValueError, match=rf"ce at V = 400 has runs of several texts, fingerprints {texts[0]}, {texts[1]}"
    ):
        figures.throughput(runs)


def test_command_line(tmp_path):
    words = "--vocab 300 --method semantic --corpus zipf --steps 3 --hidden 8 --device cpu".split()
    command = [sys.executable, "-W", "error", "-m", "scta_lite.sweep", *words, "--out", str(tmp_path)]
    assert "1 run in" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert load_runs(tmp_path).vocab.tolist() == [300]


def test_a_commands_rounds_have_seeds_of_their_own(tmp_path, capsys, here):
    words = f"--vocab 300,2k --method semantic --corpus zipf --steps 3 --hidden 8 --device cpu --out {tmp_path}".split()
    sweep_command([*words, "--rounds", "2"])
    assert "4 runs in" in capsys.readouterr().out
    assert load_runs(tmp_path)[["vocab", "seed"]].values.tolist() == [[300, 0], [300, 1], [2000, 0], [2000, 1]]
    for option, error in (
        ("--vocab 1", "vocab=1: expected an integer from 2 up"),
        ("--rounds 0", "rounds=0: expected an integer from 1 up"),
    ):
        with pytest.raises(SystemExit) as ended:
            sweep_command([*words, *option.split()])
        assert ended.value.code == 2
        assert capsys.readouterr().err.endswith(f"{error}\n")


def test_grid_for_a_sweep():
    assert [(s.vocab, s.method) for s in grid(vocab=[9, 7], method=["ce", "semantic"], negatives=2)] == [
        (9, "ce"),
        (9, "semantic"),
        (7, "ce"),
        (7, "semantic"),
    ]


def test_a_sweep_of_nothing_is_an_empty_table(tmp_path):
    assert sweep([], tmp_path, progress=False).empty
