"""Many runs: one process each, one JSON file each, resumable. `python -m scta_lite.sweep --help`.

A run that the system kills takes no other with it: an executor's worker spawns `python -m scta_lite.train` and waits.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from scta_lite.checks import printable
from scta_lite.paper import PAPER
from tqdm import tqdm

from scta_lab import text
from scta_lab.base import machine
from scta_lab.base.files import ROOT, alone, set_aside, tidy, writable
from scta_lab.base.spec import Spec
from scta_lab.base.words import add_arguments, arguments, grid, parsed
from scta_lab.judge import cost
from scta_lab.run.result import read
from scta_lab.run.table import add_speedup, ratios
from scta_lab.run.training import result_of

SWEPT = {
    "vocab": PAPER.vocabs,
    "method": ("ce", "semantic"),
    "optimizer": ("dense",),
}  # what the command does by default
EXAMPLES = """examples:
  python -m scta_lite.sweep                                     the paper's sweep; on a CPU it takes hours
  python -m scta_lite.sweep --budget-s 30                       the same, 30 seconds a run, for the times of a step
  python -m scta_lite.sweep --vocab 50k 1M --method ce semantic semantic_prior --optimizer rows --corpus my.jsonl
  python -m scta_lite.sweep --scheduler tcp://head:8786 --out /shared/runs --corpus /shared/my.jsonl     on a cluster
"""
FINAL = (
    "ok",
    "out_of_memory",
)  # a run with another status is tried again: memory may have become free since
# Else glibc hands each step's large temporaries back to the kernel and faults them in again; the same for every method.
HEAP = {
    "MALLOC_MMAP_THRESHOLD_": 64 << 20,
    "MALLOC_TRIM_THRESHOLD_": 512 << 20,
    "MALLOC_TOP_PAD_": 64 << 20,
}


def sweep(
    specs: Iterable[Spec],
    folder: str | Path,
    *,
    executor: Executor | None = None,
    resume: bool = True,
    progress: bool = True,
    force: bool = False,
) -> pd.DataFrame:
    """Runs the Specs, each in a process of its own, and returns their runs, as `load_runs` does, in the Specs' order.

    Equal Specs are one run. Each run's file appears in `folder` when it ends. `resume` leaves out the runs whose file
    is there, unless they were killed, failed or skipped. A run that needs more memory than is free is recorded as
    skipped; `force` runs it anyway. `executor` is any from concurrent.futures, or dask's `Client.get_executor()`, whose
    workers see the same folders; by default one run is alive at a time. Raises, before the first run, ValueError for a
    corpus or a device that cannot serve a Spec, and OSError for a folder that cannot be written.
    """
    specs = list(specs)
    for i, spec in enumerate(specs):
        if not isinstance(spec, Spec):
            raise ValueError(f"specs[{i}]={spec!r}: expected a Spec")
    folder = writable(folder)
    if executor is None:
        for spec in specs:
            machine.device(spec.device)
    fingerprints, said = _texts(specs, progress)
    for line in said if progress else ():
        tqdm.write(printable(line))
    paths = {folder / f"{spec.run_id(fingerprints[spec])}.json": spec for spec in specs}
    todo = {path: spec for path, spec in paths.items() if not (resume and is_done(path))}
    stop = threading.Event() if executor is None else None
    work = partial(run_process, folder=folder, resume=resume, force=force, stop=stop)
    pool = executor or ThreadPoolExecutor(max_workers=1)
    pending = {pool.submit(work, spec): path for path, spec in todo.items()}
    try:
        _watch(pending, progress)
    finally:
        for run in pending:  # after an interrupt none begins any more, whoever owns the pool
            run.cancel()
        if executor is None:
            stop.set()  # and the one in flight ends
            pool.shutdown()
    tidy(folder)  # a sweep that was killed at its very end leaves no run to do, and yet its files
    runs = pd.DataFrame([read(path) for path in paths])
    return add_speedup(runs) if specs else runs


def _texts(specs: list[Spec], progress: bool) -> tuple[dict[Spec, str], list[str]]:
    """Each Spec's text's fingerprint, and what to say of the texts. Encodes them here, once: the runs read the ids."""
    corpora: dict[tuple, text.Corpus] = {}
    fingerprints, said = {}, []
    for spec in specs:
        key = spec.corpus, spec.max_characters
        if key not in corpora:
            corpora[key] = text.load(
                spec.corpus, max_characters=spec.max_characters, progress=progress
            )
            about = corpora[key].about
            if about.get("left_out"):
                said.append(
                    f"{corpora[key].name}: {about['documents']:,} documents; left out: {about['left_out']}"
                )
        fingerprints[spec] = corpora[key].fingerprint
        said += (
            corpora[key]
            .examples(spec.vocab, spec.seq_len, spec.examples)
            .caveats(spec.examples, spec.evaluate)
        )
    return fingerprints, list(dict.fromkeys(said))


def run_process(
    spec: Spec,
    folder: Path,
    resume: bool = True,
    force: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """One run in a process of its own; its file stands in `folder` afterwards, whatever became of it.

    A run that another process is at is waited for, and with `resume` taken as it is.
    """
    corpus, stop = (
        text.load(spec.corpus, max_characters=spec.max_characters, progress=False),
        stop or threading.Event(),
    )
    path = folder / f"{spec.run_id(corpus.fingerprint)}.json"
    with alone(path, stop.is_set):
        if not (stop.is_set() or (resume and is_done(path))):
            _run(spec, corpus, path, force, stop)


def _run(spec: Spec, corpus: text.Corpus, path: Path, force: bool, stop: threading.Event) -> None:
    """The run in a process of its own, or why it is not begun."""
    folder = path.parent
    fitting, needed, free = cost.fits(spec)
    if not fitting and not force:
        reason = f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        result_of(spec, corpus, status="skipped", reason=reason, free_memory_bytes=free).save(
            folder
        )
        return
    command = [
        sys.executable,
        "-m",
        "scta_lite.train",
        *arguments(spec),
        "--out",
        str(folder),
        "--child",
    ]
    environment = {**{name: str(size) for name, size in HEAP.items()}, **os.environ}
    with (
        tempfile.TemporaryFile() as output
    ):  # the child lives as long as its standard input is open
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
        )
        while child.poll() is None and not stop.wait(0.1):
            pass
        child.kill()
        child.communicate()
        output.seek(0)
        said = output.read().decode(errors="replace").strip().splitlines()
    step, steps, _ = _state(path) or (0, spec.steps or spec.steps_total, None)
    tidy(folder)
    if (
        child.returncode and not stop.is_set()
    ):  # at 0 the child has written the file, with whatever status
        killed = child.returncode < 0
        how = (
            f"ended by {signal.Signals(-child.returncode).name}"
            if killed
            else f"{(said or ['no message'])[-1]}"
        )
        memory = f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB were free"
        reason = f"{how} after step {step} of {steps}; {memory}"
        try:
            status = "killed" if killed else "failed"
            result_of(spec, corpus, status=status, reason=reason, free_memory_bytes=free).save(
                folder
            )
        except OSError as error:  # nothing can be recorded any more: what was measured is told
            raise OSError(
                f"{path}: cannot be written ({error.strerror or error}); the run: {' '.join(said)}"
            ) from None


def _watch(pending: dict, progress: bool) -> None:
    """Waits for the runs; one bar over them, with the step and the loss of the run in flight."""
    with tqdm(total=len(pending), unit=" runs", disable=not progress) as bar:
        shown = None
        while pending:
            for future in wait(pending, timeout=0.5, return_when=FIRST_COMPLETED).done:
                pending.pop(future)
                future.result()
                bar.update()
            for path in pending.values():
                if (state := _state(path)) and state != shown:
                    step, steps, loss = shown = state
                    told = "" if loss is None else f", loss {loss:.3f}"
                    bar.set_postfix_str(f"{path.stem.rsplit('-', 1)[0]}: step {step}/{steps}{told}")


def _state(path: Path) -> tuple[int, int, float | None] | None:
    """Step, steps and loss that the run of this file last told, or None."""
    for shown in path.parent.glob(f".{path.stem}.progress.*"):  # the name goes on with the process
        with suppress(OSError, ValueError):  # ValueError: met while it is written
            return tuple(json.loads(shown.read_text()))
    return None


def is_done(path: Path) -> bool:
    """Whether the run's file is there and final. One that is no run's, or another's, gets another name."""
    try:
        return read(path)["status"] in FINAL
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        tqdm.write(f"{error}; it is {set_aside(path).name} now, and the run is done anew")
        return False


def main(words: list[str] | None = None) -> None:
    """Runs each combination of the vocabularies, methods and optimizers given, and prints the table of their times."""
    parser = argparse.ArgumentParser(
        prog="python -m scta_lite.sweep", usage="%(prog)s [--vocab V …] [--method METHOD …] [options]", epilog=EXAMPLES,
        description=main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_arguments(parser, several=SWEPT)
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the runs (default: runs/<machine>)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="repeat all N times, each with a new seed",
    )
    parser.add_argument(
        "--force", action="store_true", help="run what does not fit into the free memory too"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of dask: its workers do the runs; they see the same "
                        "folders, under the same names, and do one run at a time each")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="run again what was run before")
    options = parsed(parser, words)
    out, rounds, force, again, scheduler = (
        options.pop(name) for name in ("out", "rounds", "force", "again", "scheduler")
    )
    settings = {**SWEPT, **options}
    try:
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: expected an integer from 1 up")
        specs = []
        for n in range(rounds):
            specs += [replace(spec, seed=spec.seed + n) for spec in grid(**settings)]
        out = out or ROOT / "runs" / machine.slug(machine.device(specs[0].device))
        with _workers(scheduler) as executor:
            runs = sweep(specs, out, executor=executor, resume=not again, force=force)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted; the same command goes on where it was\n")
    _report(runs, out)
    if not (runs.status == "ok").any():
        parser.exit(1)


@contextmanager
def _workers(scheduler: str | None) -> Iterator[Executor | None]:
    """The workers of a dask scheduler as an executor, or None, for one run after the other here.

    Of a worker that is gone dask gives the run to another. ValueError without dask, OSError where no scheduler answers.
    """
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(
            f"scheduler={scheduler!r}: expected dask here, pip install 'scta_lite[dask]'"
        ) from None
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise OSError(
            f"scheduler={scheduler!r}: no answer ({error}); expected a `dask scheduler`'s address"
        ) from None
    with client:
        yield client.get_executor(
            pure=False
        )  # equal Specs are two runs: a file says which was done before


def _report(runs: pd.DataFrame, out: str | Path) -> None:
    print(ratios(runs).to_string(index=False, float_format="{:.2f}".format, na_rep="–"))
    print(
        "ms: medians; ratio: of the step to semantic's with a dense optimizer; _q1, _q3: quartiles over the rounds"
    )
    for run in runs[runs.status != "ok"].itertuples():
        print(printable(f"{run.run_id}: {run.status}: {run.reason}"))
    print(f"{len(runs)} runs in {out}")
