"""Spec in, Result out: one training run, in this process. `python -m scta_lite.train --help`."""

import argparse
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from scta_lite.train import fit
from tqdm import tqdm

from scta_lab import text
from scta_lab.base import machine, weights
from scta_lab.base.files import temporary, writable
from scta_lab.base.spec import SHAPE, Spec
from scta_lab.base.words import add_arguments, parsed
from scta_lab.judge import cost, evaluate
from scta_lab.judge.evaluate import HeldOut
from scta_lab.methods.model import LanguageModel
from scta_lab.run.capture import CapturedRun
from scta_lab.run.hooks import Checkpoint, Looks, Progress, Watch, budget, warm_peak
from scta_lab.run.loop import LabRun, begun
from scta_lab.run.result import CHECKPOINT, Result, read

EXAMPLES = """examples:
  python -m scta_lite.train --method semantic --vocab 50k --steps 100 --out runs/mine
  python -m scta_lite.train --method semantic_prior --vocab 50k --optimizer rows --lr 3e-3 --table-lr 3e-2 --epochs 1 \\
      --schedule cosine --warmup 100 --clip 1 --betas 0.9 0.99 --evaluate --out runs/mine
"""
MUST_AGREE = ("vocab", "method", *SHAPE, "semantic_dim", "sampler", "scores", "log_unigram")


def train(
    spec: Spec,
    *,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_s: float = 600,
) -> Result:
    """Trains one model as the Spec says. `progress(step, steps, loss)` is called about once a second.

    With `checkpoint`, a folder, the run's state is written there every `checkpoint_s` seconds of
    training, and a run whose state is there goes on from it, to the same losses. `Result.save` into
    that folder removes it.

    Raises what goes wrong: ValueError for a Spec that this machine or text cannot serve,
    torch.OutOfMemoryError, MemoryError. The sweep turns these into a Result's status instead. A loss
    that is no longer finite ends the run: its Result's status is "failed", and `reason` gives the step.
    """
    device = _device(spec)
    free = machine.free_memory(device)
    corpus = corpus_of(spec)
    saved = None
    if checkpoint:
        name = f"{spec.run_id(corpus.fingerprint)}{CHECKPOINT}"
        saved = Checkpoint(writable(checkpoint) / name, checkpoint_s)
    examples = corpus.examples(spec.vocab, spec.seq_len, spec.examples)
    for caveat in examples.caveats(spec.examples, spec.evaluate):
        warnings.warn(caveat, stacklevel=2)
    held = HeldOut.split(examples, spec.eval_examples)
    if held and (spec.evaluate or spec.stage1):
        held = held.to(device)
    machine.reset_peak_memory(device)  # what the text needed to be built is not the training's
    with _torch_settings(spec):
        run = CapturedRun(spec, examples) if spec.capture else LabRun(spec, examples)
        if spec.stage1:
            begin_second_stage(run.model, spec, held, corpus.fingerprint)
        looks = Looks(held if spec.evaluate else None)
        hooks = [warm_peak, Watch(progress, device), budget, looks]
        if saved:
            hooks.append(saved)
            if saved.path.exists():
                saved.restore(run)
        fit(run, hooks)
        looks.last(run)
        found = {
            "needed_memory_bytes": cost.memory_bytes(spec, device.type, context=False),
            "free_memory_bytes": free,
            "examples_available": len(examples),
            "status": "ok",
            **run.measured(),
        }
        result = result_of(spec, corpus, **found, model=run.model)
        if result.validation and result.status == "ok":
            _judge(result, held)
    return result


def corpus_of(spec: Spec) -> text.Corpus:
    """The Spec's text, ready to be cut into examples."""
    return text.load(spec.corpus, max_characters=spec.max_characters, progress=False)


def _device(spec: Spec) -> torch.device:
    if not isinstance(spec, Spec):
        raise ValueError(f"spec={spec!r}: expected a Spec")
    device = machine.device(spec.device)
    if spec.capture and device.type != "cuda":
        where = f"device={spec.device!r}, which is no GPU here"
        raise ValueError(f"capture=True: expected False with {where}")
    return device


def _judge(result: Result, held: HeldOut) -> None:
    """Adds the metrics on the test half; without the memory for them, what was trained is kept."""
    try:
        report = held.to(result.model.device).report(result.model)
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        result.reason = f"no memory was left to measure quality on the test half: {error}"
        return
    for name, value in report.items():
        setattr(result, name, value)


def begin_second_stage(
    model: LanguageModel, spec: Spec, held: HeldOut | None, fingerprint: str
) -> None:
    """The model as the first stage left it; a token head begins from that stage's head, or at random."""
    path = Path(spec.stage1)
    first = load(path.parent, path.stem)
    different = [name for name in MUST_AGREE if getattr(first.spec, name) != getattr(spec, name)]
    if first.fingerprint != fingerprint:
        different.append("corpus")
    if first.model is None or different or first.spec.token_head:
        same = ", ".join(different or MUST_AGREE)
        expected = f"expected a first stage saved with its model, and with the same {same}"
        raise ValueError(f"stage1={path.name!r}: {expected}")
    first.model.to(model.device)
    for name in ("embed", "widen", "backbone"):
        getattr(model, name).load_state_dict(getattr(first.model, name).state_dict())
    if not spec.token_head:
        model.head.load_state_dict(first.model.head.state_dict())
    elif spec.token_head != "random":
        model.head.begin(first.model.head)
    if spec.token_head == "plain":
        if held is None:
            raise ValueError(
                "token_head='plain': expected held-out text, on which its scale is fitted"
            )
        scale = evaluate.best_scale(model, held.validation, offset=model.head.take_prior())
        model.head.begin(first.model.head, scale)


def load(folder: str | Path, run_id: str | None = None) -> Result:
    """The run that `Result.save` wrote into the folder, with its model if that was saved.

    `run_id` may be left out where the folder holds one run. FileNotFoundError names what is there.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if run_id is None and len(paths) == 1:
        run_id = paths[0].stem
    path = Path(folder) / f"{run_id}.json"
    if path not in paths:  # so that no id, such as "../other/run", leads out of the folder
        there = f"expected one of {[p.stem for p in paths]}, the runs in {folder}"
        raise FileNotFoundError(f"run_id={run_id!r}: {there}")
    result = Result.from_dict(read(path))
    file = path.with_suffix(".safetensors")
    if file.is_file():
        result.model = begun(result.spec, None, torch.device("cpu"))
        try:
            result.model.load_state_dict(weights.read(file)[0])
        except RuntimeError as error:  # other names, or other sizes
            raise ValueError(f"{file.name}: not the model of this run ({error})") from None
    return result


@contextmanager
def _torch_settings(spec: Spec) -> Iterator[None]:
    """The threads and the precision of the Spec, and then again what was set before."""
    backends = torch.backends
    products = (
        backends.cuda.matmul,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
    )  # cuDNN's default: TF32
    threads, before = torch.get_num_threads(), [product.fp32_precision for product in products]
    torch.set_num_threads(spec.threads or threads)
    for product in products:
        product.fp32_precision = "tf32" if spec.precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


def result_of(spec: Spec, corpus: text.Corpus, *, status: str, **found) -> Result:
    """The Result of a run, here and now, with what was found; `reason` says why it is not "ok"."""
    device = machine.device(spec.device)
    found.setdefault("needed_memory_bytes", cost.memory_bytes(spec, device.type))
    return Result(
        spec=spec,
        status=status,
        fingerprint=corpus.fingerprint,
        corpus=corpus.name,
        machine=machine.name(device),
        host=machine.host(device),
        date=machine.now(),
        **found,
    )


def main(arguments: list[str] | None = None) -> None:
    """One run, in this process; writes <run id>.json, and the model as <run id>.safetensors."""
    parser = argparse.ArgumentParser(
        prog="python -m scta_lite.train",
        usage="%(prog)s --method METHOD --vocab V --out DIR [options]",
        description=main.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <run id>.json")
    every = "seconds between checkpoints, from which the same command goes on"
    parser.add_argument("--checkpoint-s", type=float, default=600, metavar="S", help=every)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    settings = parsed(parser, arguments)
    out, child = Path(settings.pop("out")), settings.pop("child")
    checkpoint_s = settings.pop("checkpoint_s")
    try:
        spec, out = Spec(**settings), writable(out)
        if child:
            _serve(spec, out)
            return
        with tqdm(unit=" steps") as bar:
            show = _shown_on(bar)
            result = train(spec, progress=show, checkpoint=out, checkpoint_s=checkpoint_s)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    _save(result, out, parser)


def _shown_on(bar: tqdm) -> Progress:
    def show(step: int, steps: int, loss: float | None) -> None:
        bar.total = steps
        bar.set_postfix(loss=loss, refresh=False)
        bar.update(step - bar.n)

    return show


def _save(result: Result, out: Path, parser: argparse.ArgumentParser) -> None:
    """Writes the run, and ends the program as the run ended; what was measured is told at the least."""
    if result.status != "ok":
        result.model = None
    try:
        path = result.save(out)
    except OSError as error:
        if not (out / f"{result.run_id}.json").is_file():
            sys.stderr.write(f"{json.dumps(result.to_dict())}\n")
        parser.exit(1, f"{parser.prog}: {error}\n")
    if result.status != "ok":
        parser.exit(1, f"{parser.prog}: {result.status}: {result.reason} ({path})\n")
    print(path)


def _serve(spec: Spec, out: Path) -> None:
    """A sweep's child: the first that the kernel kills when memory runs out, and gone when the sweep is."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    corpus = corpus_of(spec)
    shown = temporary(out / f"{spec.run_id(corpus.fingerprint)}.progress")

    def show(*state) -> None:
        with suppress(OSError):  # a full disk costs what is shown, not the run
            shown.write_text(json.dumps(state))

    try:
        result = train(spec, progress=show)
        result.model = None
    except Exception as error:
        status = "out_of_memory" if machine.is_out_of_memory(error) else "failed"
        first_line = str(error).partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        result = result_of(spec, corpus, status=status, reason=reason)
    try:
        result.save(out)
    except OSError as error:  # the sweep tells it
        sys.exit(f"{json.dumps(result.to_dict())}\n{type(error).__name__}: {error}")
