"""Spec in, Result out: one training run, in this process."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from scta_lite.train import Hook, fit

from scta_lab import text
from scta_lab.base import machine
from scta_lab.base.files import writable
from scta_lab.base.spec import Spec
from scta_lab.judge import cost
from scta_lab.judge.evaluate import HeldOut
from scta_lab.run.capture import kind_of_run
from scta_lab.run.hooks import Checkpoint, Looks, Progress, Watch, budget, forget_first_peak
from scta_lab.run.loading import begin_second_stage
from scta_lab.run.loop import LabRun
from scta_lab.run.result import CHECKPOINT, Result
from scta_lab.text.examples import Examples

# Of a run that was trained, until its quality was measured too.
UNJUDGED = {"status": "killed", "reason": "its quality was not measured yet"}


def train(
    spec: Spec,
    *,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_s: float = 600,
) -> Result:
    """Trains one model as the Spec says; calls `progress(step, steps, loss)` about once a second.

    With `checkpoint`, a folder, the run's state is written there every `checkpoint_s` seconds of
    training, at Ctrl-C or SIGTERM, and before quality is measured; a run whose state is there goes
    on from it, to the same losses. Its step times are of the steps since then. `Result.save` into
    that folder removes it.

    Raises what goes wrong: ValueError for a Spec that this machine or text cannot serve,
    torch.OutOfMemoryError, MemoryError. The sweep turns these into a Result's status instead. A
    loss that is no longer finite ends the run: its Result's status is "failed", and `reason` gives
    the step.
    """
    device = _device(spec)
    free = machine.free_memory(device)
    if checkpoint is not None:
        checkpoint = writable(checkpoint)  # before anything takes long
    corpus = corpus_of(spec)
    examples = corpus.examples(spec.vocab, spec.seq_len, spec.examples)
    remarks = corpus.remarks + examples.caveats(spec.examples, spec.evaluate)
    for remark in remarks + _cautions(spec):
        warnings.warn(remark, stacklevel=2)
    held = _held_out(spec, examples, device)
    machine.reset_peak_memory(device)  # what the text needed to be built is not the training's
    with torch_settings(spec):
        run = kind_of_run(spec, device)(spec, examples)
        if spec.stage1:
            begin_second_stage(run, held, corpus.fingerprint)
        looks = Looks(held if spec.evaluate else None)
        hooks = [forget_first_peak, Watch(progress, device), budget, looks]
        found = {"status": "ok", "examples_available": len(examples), "free_memory_bytes": free}
        found["needed_memory_bytes"] = cost.memory_bytes(spec, device.type, context=False)
        if checkpoint is None:
            fit(run, hooks)
            found |= run.measured()
        else:
            path = checkpoint / f"{spec.run_id(corpus.fingerprint)}{CHECKPOINT}"
            found |= _fit_saved(run, hooks, _resumed(run, path, checkpoint_s))
            _save_unjudged(spec, corpus, found, checkpoint)
        found |= _judged(run, looks, held, found["status"])
        return result_of(spec, corpus, **found, model=run.model)


def corpus_of(spec: Spec, progress: bool = False) -> text.Corpus:
    """The Spec's text, ready to be cut into examples."""
    return text.load(spec.corpus, max_characters=spec.max_characters, progress=progress)


def result_of(spec: Spec, corpus: text.Corpus, **fields: Any) -> Result:
    """The Result of a run, here and now; `fields` are its status and what was measured."""
    device = machine.device(spec.device)
    fields.setdefault("needed_memory_bytes", cost.memory_bytes(spec, device.type))
    return Result(
        spec=spec,
        fingerprint=corpus.fingerprint,
        corpus=corpus.name,
        machine=machine.name(device),
        host=machine.host(device),
        date=machine.now(),
        **fields,
    )


def _device(spec: Spec) -> torch.device:
    """The Spec's device; ValueError where it is not here, or cannot capture a step."""
    if not isinstance(spec, Spec):
        raise ValueError(f"spec={spec!r}: expected a Spec")
    device = machine.device(spec.device)
    if spec.capture and device.type != "cuda":
        expected = f"expected False with device={spec.device!r}, which is no GPU here"
        raise ValueError(f"capture=True: {expected}")
    return device


def _cautions(spec: Spec) -> list[str]:
    """What will go wrong with the run, or be missing from its Result."""
    said = []
    fits, needed, free = cost.fits(spec)
    if not fits:
        said.append(f"{cost.memory_words(needed, free)} are free")
    is_too_short = spec.steps is not None and spec.steps < spec.epoch_steps
    if spec.evaluate and spec.eval_every is None and is_too_short:
        after = f"quality is measured after an epoch, {spec.epoch_steps:,}"
        said.append(f"steps={spec.steps}: {after}; or set eval_every")
    return said


def _held_out(spec: Spec, examples: Examples, device: torch.device) -> HeldOut | None:
    """The held-out text; on the device if the run looks at it."""
    held = HeldOut.split(examples, spec.eval_examples)
    if held and (spec.evaluate or spec.stage1):
        held = held.to(device)
    return held


def _fit_saved(run: LabRun, hooks: list[Hook], checkpoint: Checkpoint) -> dict:
    """Does the steps that are left, with checkpoints; gives what all of them measured.

    It is kept where more is to come, or a signal has come.
    """
    with checkpoint:
        if checkpoint.measured is None:
            fit(run, [*hooks, checkpoint])
            checkpoint.measured = run.measured()
            if checkpoint.asked or run.spec.evaluate:
                checkpoint.save(run)
    return checkpoint.measured


def _save_unjudged(spec: Spec, corpus: text.Corpus, found: dict, folder: Path) -> None:
    """What was trained is on disk before it is judged."""
    if spec.evaluate and found["status"] == "ok":
        with suppress(OSError):  # a full disk: saving the checkpoint has told it
            result_of(spec, corpus, **found | UNJUDGED).save(folder)


def _judged(run: LabRun, looks: Looks, held: HeldOut | None, status: str) -> dict:
    """The Result's fields of quality: on the validation half; where all is "ok" the test half's."""
    looks.last(run)
    found = {"validation": run.validation}
    if run.validation and status == "ok":
        found |= _quality(run, held)
    return found


def _resumed(run: LabRun, path: Path, every_s: float) -> Checkpoint:
    """The hook that writes checkpoints to the path; if one is there, the run goes on from it."""
    checkpoint = Checkpoint(path, every_s)
    if path.exists():
        checkpoint.restore(run)
        machine.reset_peak_memory(run.device)  # what was read is not the training's
    return checkpoint


def _quality(run: LabRun, held: HeldOut) -> dict:
    """The Result's metrics on the test half, or as its reason that there was no memory for them."""
    try:
        return held.to(run.device).report(run.model)
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        return {"reason": f"no memory was left to measure quality on the test half: {error}"}


@contextmanager
def torch_settings(spec: Spec) -> Iterator[None]:
    """The threads and the precision of the Spec, and then again what was set before."""
    backends = torch.backends
    products = (backends.cuda.matmul, backends.cudnn.rnn, backends.mkldnn.matmul)
    threads = torch.get_num_threads()
    precisions = [product.fp32_precision for product in products]
    torch.set_num_threads(spec.threads or threads)
    for product in products:  # cuDNN's default is TF32
        product.fp32_precision = "tf32" if spec.precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for product, precision in zip(products, precisions, strict=True):
            product.fp32_precision = precision
