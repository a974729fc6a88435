"""The commands `python -m scta_lite.train` and `python -m scta_lite.sweep`."""

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from scta_lite.paper import PAPER
from tqdm import tqdm

from scta_lab.base import machine
from scta_lab.base.files import ROOT, printable, temporary, writable
from scta_lab.base.spec import Spec
from scta_lab.base.words import add_arguments, grid, parsed
from scta_lab.run.processes import sweep
from scta_lab.run.result import Result
from scta_lab.run.table import ratios
from scta_lab.run.training import corpus_of, result_of, train

TRAIN_EXAMPLES = """examples:
  python -m scta_lite.train --method semantic --vocab 50k --steps 100 --out runs/mine
  python -m scta_lite.train --method semantic_prior --vocab 50k --optimizer rows --lr 3e-3 \\
      --table-lr 3e-2 --epochs 1 --schedule cosine --warmup 100 --clip 1 --betas 0.9 0.99 \\
      --evaluate --out runs/mine
"""
SWEEP_EXAMPLES = """examples:
  python -m scta_lite.sweep                     the paper's sweep; on a CPU it takes hours
  python -m scta_lite.sweep --budget-s 30       30 seconds a run, for the times of a step
  python -m scta_lite.sweep --method ce semantic_prior --optimizer rows --corpus my.jsonl
  python -m scta_lite.sweep --scheduler tcp://head:8786 --out /shared/runs \\
      --corpus /shared/my.jsonl                 on a cluster
"""
SWEPT = {"vocab": PAPER.vocabs, "method": ("ce", "semantic"), "optimizer": ("dense",)}  # by default
LEGEND = "ms: medians. ratio: to a step of semantic, dense. _q1 and _q3: quartiles over the rounds."


def train_command(words: list[str] | None = None) -> None:
    """One run, in this process; writes <run id>.json, and the model as <run id>.safetensors."""
    usage = "%(prog)s --method METHOD --vocab V --out DIR [options]"
    parser = _parser("train", usage, train_command.__doc__, TRAIN_EXAMPLES)
    add_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <run id>.json")
    every = "seconds between checkpoints, from which the same command goes on (default: 600)"
    parser.add_argument("--checkpoint-s", type=float, default=600, metavar="S", help=every)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    settings, options = parsed(parser, words)
    every_s = options.checkpoint_s
    with _in_plain_words(parser):
        spec = Spec(**settings)
        folder = writable(options.out)
        if options.child:
            _be_child(spec, folder, every_s)
            return
        with tqdm(unit=" steps") as bar:
            show = partial(_show, bar)
            result = train(spec, progress=show, checkpoint=folder, checkpoint_s=every_s)
        _save(result, folder, parser)


def sweep_command(words: list[str] | None = None) -> None:
    """Runs each combination of the vocabularies, methods and optimizers; prints their times."""
    usage = "%(prog)s [--vocab V …] [--method METHOD …] [options]"
    parser = _parser("sweep", usage, sweep_command.__doc__, SWEEP_EXAMPLES)
    add_arguments(parser, several=SWEPT)
    add = parser.add_argument
    add("--out", metavar="DIR", help="folder for the runs (default: runs/<machine>)")
    add("--rounds", type=int, default=1, metavar="N", help="run each N times, with other seeds")
    add("--force", action="store_true", help="run what does not fit into the free memory too")
    add("--scheduler", metavar="ADDRESS", help="of dask, whose workers see the same folders")
    add("--again", action="store_true", help="do what is done again; what fails replaces nothing")
    settings, options = parsed(parser, words)
    rounds, force, resume = options.rounds, options.force, not options.again
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its runs end as after Ctrl-C
    with _in_plain_words(parser):
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: expected an integer from 1 up")
        specs = grid(**{**SWEPT, **settings})
        folder = options.out or ROOT / "runs" / machine.slug(machine.device(specs[0].device))
        specs = [replace(spec, seed=spec.seed + n) for n in range(rounds) for spec in specs]
        with _workers(options.scheduler) as executor:
            runs = sweep(specs, folder, executor=executor, resume=resume, force=force)
    _report(runs, folder)
    if not (runs.status == "ok").any():
        parser.exit(1)


def _parser(name: str, usage: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m scta_lite.{name}",
        usage=usage,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an option that comes later would change what a short one means
    )


@contextmanager
def _in_plain_words(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Warnings and errors are a line each, without a traceback; an error ends the program."""

    def show(message: Warning, *_) -> None:
        tqdm.write(printable(f"{parser.prog}: {message}"), file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    except (ValueError, OSError) as error:
        parser.exit(2, printable(f"{parser.prog}: {error}\n"))
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted; the same command goes on from its files\n")
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        parser.exit(1, f"{parser.prog}: there is too little memory ({error})\n")


def _show(bar: tqdm, step: int, steps: int, loss: float | None) -> None:
    bar.total = steps
    if loss is not None:
        bar.set_postfix(loss=loss, refresh=False)
    bar.update(step - bar.n)


def _save(result: Result, folder: Path, parser: argparse.ArgumentParser) -> None:
    """Writes the run, and ends the program as the run ended; at the least it prints the run."""
    if result.status != "ok":
        result.model = None
    try:
        path = result.save(folder)
    except OSError as error:
        if not (folder / f"{result.run_id}.json").is_file():
            sys.stderr.write(f"{json.dumps(result.to_dict())}\n")
        parser.exit(1, f"{parser.prog}: {error}\n")
    if result.status != "ok":
        parser.exit(1, f"{parser.prog}: {result.status}: {result.reason} ({path})\n")
    print(path)


def _be_child(spec: Spec, folder: Path, every_s: float) -> None:
    """A sweep's child: the first that the kernel kills when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    warnings.filterwarnings("ignore", module=__name__)  # remarks on the text: the sweep makes them
    corpus = corpus_of(spec)
    shown = temporary(folder / f"{spec.run_id(corpus.fingerprint)}.progress")

    def show(*state) -> None:
        with suppress(OSError):  # a full disk costs what is shown, not the run
            shown.write_text(json.dumps(state))

    try:
        result = train(spec, progress=show, checkpoint=folder, checkpoint_s=every_s)
        result.model = None
    except Exception as error:
        status = "out_of_memory" if machine.is_out_of_memory(error) else "failed"
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        result = result_of(spec, corpus, status=status, reason=reason)
    try:
        result.save(folder)
    except OSError as error:  # the sweep tells it
        sys.exit(f"{json.dumps(result.to_dict())}\n{type(error).__name__}: {error}")


def _end_with_the_sweep() -> None:
    sys.stdin.read()  # until the sweep closes it, or is gone
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _workers(scheduler: str | None) -> Iterator[Executor | None]:
    """The workers of a dask scheduler as an executor, or None, for one run after the other here.

    Of a worker that is gone dask gives the run to another. ValueError without dask, OSError where
    no scheduler answers.
    """
    if scheduler is None:
        yield None
        return
    name = f"scheduler={scheduler!r}"
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(f"{name}: expected dask here, pip install 'scta_lite[dask]'") from None
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        expected = "expected the address of a `dask scheduler`"
        raise OSError(f"{name}: no answer ({error}); {expected}") from None
    with client:
        yield client.get_executor(pure=False)  # equal Specs are two runs: a file says which is done


def _report(runs: pd.DataFrame, folder: str | Path) -> None:
    print(ratios(runs).to_string(index=False, float_format="{:.2f}".format, na_rep="–"))
    print(LEGEND)
    for run in runs[runs.status != "ok"].itertuples():
        print(printable(f"{run.run_id}: {run.status}: {run.reason}"))
    print(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} in {folder}")
