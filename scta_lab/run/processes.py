"""Many runs: one process each, one JSON file each, and done only where they are not yet.

A run that the system kills takes no other with it. For each an executor's worker starts the command
of `scta_lab.run.command`, with `--child`, and waits for it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event

import pandas as pd
from scta_lite.sweep import add_speedup
from tqdm import tqdm

from scta_lab import text
from scta_lab.base import machine
from scta_lab.base.files import alone, printable, set_aside, tidy, writable
from scta_lab.base.spec import Spec
from scta_lab.base.words import arguments
from scta_lab.judge import cost
from scta_lab.run.result import ATTEMPT, read
from scta_lab.run.training import corpus_of, result_of

FINAL = ("ok", "out_of_memory")  # others are tried again: memory may have become free since
CHECKPOINT_S = 600  # seconds of training between a run's checkpoints
PATIENCE_S = 120  # for which a run that is to end may still write one
# Else glibc hands each step's large temporaries back to the kernel and faults them in again; the
# same for every method.
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
    """Runs the Specs, each in a process of its own; gives their runs, as `load_runs` does.

    They stand in the Specs' order. Equal Specs are one run. Each run's file appears in `folder`
    when it ends. `resume` leaves out the runs whose file is there, unless they were killed, failed
    or skipped; one that was killed goes on from its checkpoint. Without it all are run again. One
    that then does not end well replaces none that did: it stands beside that as
    `<run id>.json.attempt`, and a warning says so. A run that needs more memory than is free is
    recorded as skipped; `force` runs it anyway.

    `executor` is any from concurrent.futures, or dask's `Client.get_executor()`, whose workers see
    the same folders; by default one run is alive at a time. Raises, before the first run,
    ValueError for a corpus or a device that cannot serve a Spec, and OSError for a folder that
    cannot be written.
    """
    specs = list(specs)
    for i, spec in enumerate(specs):
        if not isinstance(spec, Spec):
            raise ValueError(f"specs[{i}]={spec!r}: expected a Spec")
    folder = writable(folder)
    if executor is None:
        for spec in specs:
            machine.device(spec.device)
    fingerprints, remarks = _read_texts(specs, progress)
    if progress:
        for remark in remarks:
            tqdm.write(printable(remark))
    paths = {folder / f"{spec.run_id(fingerprints[spec])}.json": spec for spec in specs}
    todo = {path: spec for path, spec in paths.items() if not (resume and is_done(path))}
    _run_all(todo, executor, progress, folder=folder, resume=resume, force=force)
    tidy(folder)  # a sweep that was killed at its very end leaves no run to do, and yet its files
    for path in todo:
        _tell_attempt(path)
    runs = pd.DataFrame([read(path) for path in paths])
    return add_speedup(runs) if specs else runs


def _read_texts(specs: list[Spec], progress: bool) -> tuple[dict[Spec, str], list[str]]:
    """The fingerprint of each Spec's text, and what to remark on the texts.

    They are encoded here, once: the runs read the ids.
    """
    corpora: dict[tuple[str, int], text.Corpus] = {}
    fingerprints, remarks = {}, []
    for spec in specs:
        key = (spec.corpus, spec.max_characters)
        if key not in corpora:
            corpora[key] = corpus_of(spec, progress)
            remarks += corpora[key].remarks
        fingerprints[spec] = corpora[key].fingerprint
        examples = corpora[key].examples(spec.vocab, spec.seq_len, spec.examples)
        remarks += examples.caveats(spec.examples, spec.evaluate)
    return fingerprints, list(dict.fromkeys(remarks))


def _run_all(todo: dict[Path, Spec], executor: Executor | None, progress: bool, **settings) -> None:
    """Gives the runs to the executor, or does one after the other here, and waits for them."""
    stop = Event() if executor is None else None
    work = partial(run_process, stop=stop, **settings)
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


def _watch(pending: dict[Future, Path], progress: bool) -> None:
    """Waits for the runs; one bar over them, with the step and the loss of the run in flight."""
    with tqdm(total=len(pending), unit=" runs", disable=not progress) as bar:
        shown = None
        while pending:
            for future in wait(pending, timeout=0.5, return_when=FIRST_COMPLETED).done:
                del pending[future]
                future.result()
                bar.update()
            for path in pending.values():
                state = _state(path)
                if state is not None and state != shown:
                    shown = state
                    step, steps, loss = state
                    words = "" if loss is None else f", loss {loss:.3f}"
                    run_name = path.stem.rpartition("-")[0]  # its method and V
                    bar.set_postfix_str(f"{run_name}: step {step}/{steps}{words}")


def run_process(spec: Spec, folder: Path, resume: bool, force: bool, stop: Event | None) -> None:
    """One run in a process of its own; afterwards its file is there, whatever became of the run.

    A run that another process is at is waited for, and with `resume` taken as it is.
    """
    stop = stop or Event()
    corpus = corpus_of(spec)
    path = folder / f"{spec.run_id(corpus.fingerprint)}.json"
    with alone(path, stop.is_set):
        if not (stop.is_set() or (resume and is_done(path))):
            _run(spec, corpus, path, force, stop)


def _run(spec: Spec, corpus: text.Corpus, path: Path, force: bool, stop: Event) -> None:
    """The run in a process of its own, or why it is not begun."""
    fits, needed, free = cost.fits(spec)
    record = partial(result_of, spec, corpus, free_memory_bytes=free)
    memory = cost.memory_words(needed, free)
    if not fits and not force:
        record(status="skipped", reason=f"{memory} are free").save(path.parent)
        return
    code, lines = _child(spec, path.parent, stop)
    step, steps, _ = _state(path) or (0, spec.steps or spec.steps_total, None)
    tidy(path.parent)
    if code == 0:  # the child has written the file, with whatever status
        for line in lines:  # its warnings
            tqdm.write(printable(line), file=sys.stderr)
    if code == 0 or stop.is_set():
        return
    status = "killed" if code < 0 else "failed"
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else (lines or ["no message"])[-1]
    reason = f"{how} after step {step} of {steps}; {memory} were free"
    try:
        record(status=status, reason=reason).save(path.parent)
    except OSError as error:  # nothing can be recorded any more: what was measured is told
        why = error.strerror or error
        raise OSError(f"{path}: cannot be written ({why}); the run: {' '.join(lines)}") from None


def _child(spec: Spec, folder: Path, stop: Event) -> tuple[int, list[str]]:
    """Runs the Spec in a process until it ends or `stop`: its return code, the lines it wrote."""
    command = [sys.executable, "-m", "scta_lite.train", *arguments(spec)]
    command += ["--out", str(folder), "--child", "--checkpoint-s", str(CHECKPOINT_S)]
    heap = {name: str(size) for name, size in HEAP.items()}
    with tempfile.TemporaryFile() as output:
        streams = {"stdin": subprocess.PIPE, "stdout": output, "stderr": output}
        child = subprocess.Popen(command, env={**heap, **os.environ}, **streams)
        while child.poll() is None and not stop.wait(0.1):
            pass
        child.stdin.close()  # without it a run writes its checkpoint and ends
        with suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_S)
        child.kill()
        child.wait()
        output.seek(0)
        return child.returncode, output.read().decode(errors="replace").strip().splitlines()


def _state(path: Path) -> tuple[int, int, float | None] | None:
    """Step, steps and loss that the run of this file last wrote, or None."""
    for shown in path.parent.glob(f".{path.stem}.progress.*"):  # its name ends with the process
        with suppress(OSError, ValueError):  # ValueError: met while it is written
            return tuple(json.loads(shown.read_text()))
    return None


def _tell_attempt(path: Path) -> None:
    """Warns of a run that ended worse than the one whose file is there."""
    with suppress(FileNotFoundError):
        run = json.loads(path.with_suffix(ATTEMPT).read_bytes())
        how = f"{run['status']}: {run['reason']}"
        warnings.warn(f"{path.stem}: {how}; the run from before stays", stacklevel=3)


def is_done(path: Path) -> bool:
    """Whether the run's file is there and final. One that is no run's gets another name."""
    try:
        return read(path)["status"] in FINAL
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        new_name = set_aside(path).name
        tqdm.write(printable(f"{error}; it is {new_name} now, and the run is done anew"))
        return False
