"""Spec in, Result out: one training run, in this process. `python -m scta_lite.train --help`.

The loop takes no number from the device while it runs: losses stay there until the end, and the loss that is shown was
copied a second before.
"""

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scta_lite import cost, machine, text
from scta_lite.evaluate import HeldOut
from scta_lite.model import CEHead, LanguageModel
from scta_lite.result import Result, loss_summary, writable
from scta_lite.spec import Spec, add_arguments
from scta_lite.tables import RowAdamW, VocabTable
from scta_lite.timing import Clock, Progress, StepTimer, Ticker


def train(spec: Spec, *, progress: Progress | None = None) -> Result:
    """Trains one model as the Spec says. `progress(step, steps, loss)` is called about once a second.

    Raises what goes wrong: ValueError for a Spec that this machine or text cannot serve, torch.OutOfMemoryError,
    MemoryError. The sweep turns these into a Result's status instead.
    """
    device = machine.device(spec.device)
    free = machine.free_memory(device)
    corpus = text.load(spec.corpus, progress=False)
    ids, heldout = (text.examples(part, spec.seq_len) for part in corpus.ids(spec.vocab, spec.examples * spec.seq_len))
    available = len(ids)
    if not available:
        raise ValueError(f"seq_len={spec.seq_len}: expected at most the length of the text in ids")
    ids = ids[: spec.examples].astype(np.int64)  # (n, T)
    with _torch_settings(spec):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            counts = torch.from_numpy(np.bincount(ids.flatten(), minlength=spec.vocab))
            model = LanguageModel(spec, counts).to(device)
        held = None
        if spec.evaluate and len(heldout) > 1:
            lengths = corpus.lengths(spec.vocab)
            held = torch.from_numpy(heldout.astype(np.int64)), spec.eval_examples, counts, lengths
            held = HeldOut.split(*(x if x is None or isinstance(x, int) else x.to(device) for x in held))
        found = _loop(spec, model, torch.from_numpy(ids).to(device), progress, held)
        result = Result(
            spec=spec, status="ok", fingerprint=corpus.fingerprint, corpus=corpus.name, examples_available=available,
            needed_memory_bytes=cost.memory_bytes(spec, device.type), free_memory_bytes=free,
            machine=machine.name(device), host=machine.host(device), date=machine.now(), model=model, **found,
        )  # fmt: skip
        if result.validation:
            vars(result).update(held.report(model))
        if spec.learn_temperature:
            result.learnt_temperature = model.head.temperature.item()
    return result


def load(folder: str | Path, run_id: str | None = None) -> Result:
    """The run that `Result.save` wrote into the folder, with its model if that was saved.

    `run_id` may be left out where the folder holds one run. FileNotFoundError names what is there.
    """
    found = sorted(Path(folder).glob("*.json"))
    path = Path(folder) / f"{run_id}.json" if run_id else found[0] if len(found) == 1 else None
    if path not in found:
        raise FileNotFoundError(f"run_id={run_id!r}: expected one of {[p.stem for p in found]}, the runs in {folder}")
    result = Result.from_dict(json.loads(path.read_text()))
    if (weights := path.with_suffix(".safetensors")).is_file():
        from safetensors.torch import load_file  # only here: a sweep needs no safetensors

        result.model = LanguageModel(result.spec)
        result.model.load_state_dict(load_file(weights))
    return result


def _loop(spec: Spec, model: LanguageModel, ids: Tensor, progress: Progress | None, held: HeldOut | None) -> dict:
    """All steps of the run; the Result's fields that they measure."""
    device = ids.device
    optimizers = _optimizers(spec, model)
    generator = torch.Generator(device).manual_seed(spec.seed)
    steps = spec.steps or spec.steps_total
    losses, validation = torch.zeros(steps, device=device), []
    timer, show = StepTimer(device), Ticker(progress, steps, device)
    energy, clock = machine.energy_joules(device), Clock(device)
    for done, batch in enumerate(_batches(spec, len(ids), device), 1):
        losses[done - 1] = _step(spec, model, ids, batch, optimizers, generator, timer)
        show(done, losses)
        if done == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = clock.seconds()
        last = done == steps or (spec.budget_s is not None and done >= 4 and seconds > spec.budget_s)
        if held and _look_due(spec, done, seconds, validation, last):
            with clock.paused():
                validation.append({"step": done, "seconds": clock.seconds(), **held.look(model)})
        if last:
            break
    measured = timer.summary()  # waits until the last step is done
    for optimizer in optimizers[1:]:
        optimizer.flush()
    seconds = clock.seconds()
    used = None if energy is None or validation else machine.energy_joules(device) - energy  # a look takes energy too
    return {**_times(spec, measured, done, seconds), **loss_summary(losses[:done].tolist(), spec),
            "energy_joules": used, "validation": validation}  # fmt: skip


def _step(spec, model, ids, batch, optimizers, generator, timer) -> Tensor:
    """One step, its phases marked; its loss, on the device."""
    device = ids.device
    timer.start()
    examples = ids[batch]  # (B, T)
    timer.mark("data")
    with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
        loss = model.loss(examples, generator)
    timer.mark("forward")
    loss.backward()
    timer.mark("backward")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    timer.mark("optimizer")
    return loss.detach()


def _look_due(spec: Spec, done: int, seconds: float, looks: list[dict], last: bool) -> bool:
    """Whether to measure quality after this step: at the marks the Spec sets, and at the end of an epoch or more."""
    if last:
        return bool(spec.eval_every or spec.eval_every_s) or done >= spec.epoch_steps
    before = looks[-1]["seconds"] if looks else 0.0
    passed = spec.eval_every_s is not None and seconds // spec.eval_every_s > before // spec.eval_every_s
    return passed or (spec.eval_every is not None and done % spec.eval_every == 0)


def _optimizers(spec: Spec, model: LanguageModel) -> list:
    """AdamW for the dense parameters, then RowAdamW for the tables that have rows to borrow, if there are any."""
    settings = {"lr": spec.lr, "betas": spec.betas, "eps": spec.eps, "weight_decay": spec.weight_decay}
    of_tables = settings | {"lr": spec.table_lr or spec.lr}
    per_token = {id(p) for module in model.modules() if isinstance(module, torch.nn.Embedding | CEHead)
                 for p in module.parameters()}  # fmt: skip
    plain, large = ([p for p in model.parameters() if (id(p) in per_token) is wanted] for wanted in (False, True))
    dense = torch.optim.AdamW([{"params": plain}, {"params": large, **of_tables}], **settings, fused=True)
    tables = [module for module in model.modules() if isinstance(module, VocabTable)]
    return [dense, RowAdamW(tables, **of_tables)] if tables else [dense]


def _times(spec: Spec, measured: dict, steps_run: int, seconds: float) -> dict:
    """Times and memory of the run; a whole training's seconds, extrapolated where fewer steps were run."""
    whole = seconds if steps_run == spec.steps_total else measured["step_ms"] * spec.steps_total / 1e3
    peak, peak_of = machine.peak_memory(machine.device(spec.device))
    return {
        "steps_run": steps_run, **measured, "seconds": whole, "extrapolated": steps_run < spec.steps_total,
        "tokens_per_s": spec.positions * spec.steps_total / whole,
        "examples_per_s": spec.batch * spec.steps_total / whole,
        "peak_memory_bytes": peak, "peak_memory_of": peak_of,
    }  # fmt: skip


def _batches(spec: Spec, available: int, device: torch.device) -> Iterator[Tensor]:
    """Rows (B,) of the examples for each step, each epoch in an order of its own; too few examples are cycled."""
    generator = torch.Generator().manual_seed(spec.seed)
    for _ in range(spec.epochs):
        order = torch.randperm(spec.examples, generator=generator)[: spec.epoch_steps * spec.batch] % available
        yield from order.to(device).view(-1, spec.batch)


@contextmanager
def _torch_settings(spec: Spec) -> Iterator[None]:
    """The threads and the precision of the Spec, and then again what was set before."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32  # true by default: the GRU would run in TF32 where float32 was asked for
    torch.set_num_threads(spec.threads or threads)
    torch.set_float32_matmul_precision("high" if spec.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = spec.precision == "tf32"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn


def main(arguments: list[str] | None = None) -> None:
    """One run, in this process; writes <run id>.json, and the model as <run id>.safetensors."""
    parser = argparse.ArgumentParser(prog="python -m scta_lite.train", description=main.__doc__)
    add_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <run id>.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    settings = vars(parser.parse_args(arguments))
    out, child = Path(settings.pop("out")), settings.pop("child")
    try:
        spec, out = Spec(**settings), writable(out)
        if child:
            _serve(spec, out)
            return
        with tqdm(unit=" steps") as bar:

            def show(step: int, steps: int, loss: float | None) -> None:
                bar.total = steps
                bar.set_postfix(loss=loss, refresh=False)
                bar.update(step - bar.n)

            result = train(spec, progress=show)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(result.save(out))


def _serve(spec: Spec, out: Path) -> None:
    """A sweep's child: the first that the kernel kills when memory runs out, and gone when the sweep is gone."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    corpus = text.load(spec.corpus, progress=False)
    shown = out / f".{spec.run_id(corpus.fingerprint)}.progress"

    try:
        result = train(spec, progress=lambda *state: shown.write_text(json.dumps(state)))
        result.model = None
    except Exception as error:
        status = "out_of_memory" if _is_out_of_memory(error) else "failed"
        result = unfinished(spec, corpus, status, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    result.save(out)


def unfinished(spec: Spec, corpus: text.Corpus, status: str, reason: str, **found) -> Result:
    """The Result of a run that did not come to its end."""
    on = machine.device(spec.device)
    return Result(
        spec=spec, status=status, reason=reason, fingerprint=corpus.fingerprint, corpus=corpus.name,
        needed_memory_bytes=cost.memory_bytes(spec, on.type), machine=machine.name(on), host=machine.host(on),
        date=machine.now(), **found,
    )  # fmt: skip


def _is_out_of_memory(error: Exception) -> bool:
    """True too for the plain RuntimeError that torch raises on a CPU."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


if __name__ == "__main__":
    main()
