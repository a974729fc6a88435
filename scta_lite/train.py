"""Spec in, Result out: one training run, in this process. `python -m scta_lite.train --help`."""

import argparse
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from scta_lite import cost, evaluate, text
from scta_lite.evaluate import HeldOut
from scta_lite.files import temporary, writable
from scta_lite.loop import Training
from scta_lite.model import LanguageModel
from scta_lite.runs import machine, weights
from scta_lite.runs.result import CHECKPOINT, Result, read
from scta_lite.runs.settings import add_arguments, parsed
from scta_lite.runs.spec import SHAPE, Spec
from scta_lite.runs.timing import Progress

EXAMPLES = """examples:
  python -m scta_lite.train --method semantic --vocab 50k --steps 100 --out runs/mine
  python -m scta_lite.train --method semantic_prior --vocab 50k --optimizer rows --lr 3e-3 --table-lr 3e-2 --epochs 1 \\
      --schedule cosine --warmup 100 --clip 1 --betas 0.9 0.99 --evaluate --out runs/mine
  torchrun --nproc-per-node 2 -m scta_lite.train --method semantic_prior --vocab 1M --optimizer rows --out runs/two
"""


def train(
    spec: Spec, *, progress: Progress | None = None, checkpoint: str | Path | None = None, checkpoint_s: float = 600
) -> Result:
    """Trains one model as the Spec says. `progress(step, steps, loss)` is called about once a second.

    With `checkpoint`, a folder, the run's state is written there every `checkpoint_s` seconds of training, and a run
    whose state is there goes on from it, to the same losses. `Result.save` into that folder removes it.

    Raises what goes wrong: ValueError for a Spec that this machine or text cannot serve, torch.OutOfMemoryError,
    MemoryError. The sweep turns these into a Result's status instead. A loss that is no longer finite ends the run: its
    Result's status is "failed", and `reason` gives the step. With a default process group of torch.distributed all its
    ranks do the run together (see `sharded`), and the first has the model; `torchrun` makes one for the command.
    """
    device = _device(spec)
    model_of, training_of = _kinds(spec)
    free = machine.free_memory(device)
    corpus = text.load(spec.corpus, max_characters=spec.max_characters, progress=False)
    path = writable(checkpoint) / f"{spec.run_id(corpus.fingerprint)}{CHECKPOINT}" if checkpoint else None
    examples = corpus.examples(spec.vocab, spec.seq_len, spec.examples)
    for caveat in examples.caveats(spec.examples, spec.evaluate):
        warnings.warn(caveat, stacklevel=2)
    held = HeldOut.split(examples, spec.eval_examples)
    held = held.to(device) if held and (spec.evaluate or spec.stage1) else held
    machine.reset_peak_memory(device)  # what the text needed to be built is not the training's
    with _torch_settings(spec):
        model = _begun(spec, model_of, examples.counts, device)
        if spec.stage1:
            _begin_stage2(spec, model, held, corpus.fingerprint)
        training = training_of(spec, model, examples, held if spec.evaluate else None)
        if path and path.exists():
            training.resume(path)
        found = {"status": "ok"} | training.run(progress, path, checkpoint_s)
        needed = cost.memory_bytes(spec, device.type, context=False)
        result = result_of(spec, corpus, needed_memory_bytes=needed, free_memory_bytes=free,
                           examples_available=len(examples), model=training.whole(), **found)  # fmt: skip
        if result.validation and result.status == "ok":
            _judge(result, held)
        if spec.learn_temperature:
            result.learnt_temperature = model.head.temperature.item()
    return result


def _device(spec: Spec) -> torch.device:
    if not isinstance(spec, Spec):
        raise ValueError(f"spec={spec!r}: expected a Spec")
    device = machine.device(spec.device)
    if spec.capture and device.type != "cuda":
        raise ValueError(f"capture=True: expected False with device={spec.device!r}, which is no GPU here")
    return device


def _kinds(spec: Spec) -> tuple[Callable[..., LanguageModel], type[Training]]:
    """What makes the model, and what trains it: alone, or as one of several ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return LanguageModel, Training
    from scta_lite import sharded

    sharded.check(spec)
    return sharded.build, sharded.ShardedTraining


def _begun(
    spec: Spec, model_of: Callable[..., LanguageModel], counts: Tensor | None, device: torch.device
) -> LanguageModel:
    """The model as the seed draws it; the caller's own random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        return model_of(spec, counts).to(device)


def _judge(result: Result, held: HeldOut) -> None:
    """Adds the metrics on the test half; where there is no memory for them, what was trained and timed is kept."""
    try:
        vars(result).update(held.to(result.model.device).report(result.model))
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        result.reason = f"no memory was left to measure quality on the test half: {error}"


def _begin_stage2(spec: Spec, model: LanguageModel, held: HeldOut | None, fingerprint: str) -> None:
    """The model as the first stage left it; a token head begins from that stage's head, or at random."""
    path = Path(spec.stage1)
    first = load(path.parent, path.stem)
    sizes = ("vocab", "method", *SHAPE, "semantic_dim", "sampler", "scores", "log_unigram",
             *([] if spec.token_head else ["learn_temperature"]))  # fmt: skip
    different = [name for name in sizes if getattr(first.spec, name) != getattr(spec, name)]
    different += ["corpus"] * (first.fingerprint != fingerprint)
    if first.model is None or different or first.spec.token_head:
        raise ValueError(f"stage1={path.name!r}: expected a first stage saved with its model, and with the same "
                         f"{', '.join(different or sizes)}")  # fmt: skip
    first.model.to(model.device)
    for name in ("embed", "widen", "backbone"):
        getattr(model, name).load_state_dict(getattr(first.model, name).state_dict())
    if not spec.token_head:
        model.head.load_state_dict(first.model.head.state_dict())
    elif spec.token_head != "random":
        model.head.begin(first.model.head)
    if spec.token_head == "plain":
        if held is None:
            raise ValueError("token_head='plain': expected held-out text, on which its scale is fitted")
        model.head.begin(first.model.head, evaluate.best_scale(model, held.validation, offset=model.head.take_prior()))


def load(folder: str | Path, run_id: str | None = None) -> Result:
    """The run that `Result.save` wrote into the folder, with its model if that was saved.

    `run_id` may be left out where the folder holds one run. FileNotFoundError names what is there.
    """
    found = sorted(Path(folder).glob("*.json"))
    path = Path(folder) / f"{run_id}.json" if run_id else found[0] if len(found) == 1 else None
    if path not in found:
        raise FileNotFoundError(f"run_id={run_id!r}: expected one of {[p.stem for p in found]}, the runs in {folder}")
    result = Result.from_dict(read(path))
    if (file := path.with_suffix(".safetensors")).is_file():
        result.model = _begun(result.spec, LanguageModel, None, torch.device("cpu"))
        try:
            result.model.load_state_dict(weights.read(file)[0])
        except RuntimeError as error:  # other names, or other sizes
            raise ValueError(f"{file.name}: not the model of this run ({error})") from None
    return result


@contextmanager
def _torch_settings(spec: Spec) -> Iterator[None]:
    """The threads and the precision of the Spec, and then again what was set before."""
    threads, backends = torch.get_num_threads(), torch.backends
    products = backends.cuda.matmul, backends.cudnn.rnn, backends.mkldnn.matmul  # cuDNN's GRU runs in TF32 by default
    before = [product.fp32_precision for product in products]
    torch.set_num_threads(spec.threads or threads)
    for product in products:
        product.fp32_precision = "tf32" if spec.precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


def main(arguments: list[str] | None = None) -> None:
    """One run, in this process; writes <run id>.json, and the model as <run id>.safetensors."""
    parser = argparse.ArgumentParser(
        prog="python -m scta_lite.train", usage="%(prog)s --method METHOD --vocab V --out DIR [options]",
        description=main.__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <run id>.json")
    parser.add_argument("--checkpoint-s", type=float, default=600, metavar="S",
                        help="seconds between checkpoints, from which the same command goes on")  # fmt: skip
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    settings = parsed(parser, arguments)
    out, child, checkpoint_s = Path(settings.pop("out")), settings.pop("child"), settings.pop("checkpoint_s")
    try:
        spec, out = Spec(**settings), writable(out)
        if child:
            _serve(spec, out)
            return
        first = _joined(spec)
        with tqdm(unit=" steps", disable=not first) as bar:

            def show(step: int, steps: int, loss: float | None) -> None:
                bar.total = steps
                bar.set_postfix(loss=loss, refresh=False)
                bar.update(step - bar.n)

            result = train(spec, progress=show, checkpoint=out, checkpoint_s=checkpoint_s)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if not first:
        return  # the first ends as the run ended
    if result.status != "ok":
        result.model = None
    try:
        path = result.save(out)
    except OSError as error:  # what was measured is told, if there is no room for it
        told = "" if (out / f"{result.run_id}.json").is_file() else f"{json.dumps(result.to_dict())}\n"
        parser.exit(1, f"{told}{parser.prog}: {error}\n")
    if result.status != "ok":
        parser.exit(1, f"{parser.prog}: {result.status}: {result.reason} ({path})\n")
    print(path)


def _joined(spec: Spec) -> bool:
    """Whether this process is to write what is found: the only one, or of those that torchrun started the first."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return True
    if on_gpu := machine.device(spec.device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return dist.get_rank() == 0


def _serve(spec: Spec, out: Path) -> None:
    """A sweep's child: the first that the kernel kills when memory runs out, and gone when the sweep is gone."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    corpus = text.load(spec.corpus, max_characters=spec.max_characters, progress=False)
    shown = temporary(out / f"{spec.run_id(corpus.fingerprint)}.progress")

    def show(*state) -> None:
        with suppress(OSError):  # a full disk costs what is shown, not the run
            shown.write_text(json.dumps(state))

    try:
        result = train(spec, progress=show)
        result.model = None
    except Exception as error:
        status = "out_of_memory" if machine.is_out_of_memory(error) else "failed"
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        result = result_of(spec, corpus, status=status, reason=reason)
    try:
        result.save(out)
    except OSError as error:  # the sweep tells it
        sys.exit(f"{json.dumps(result.to_dict())}\n{type(error).__name__}: {error}")


def result_of(spec: Spec, corpus: text.Corpus, **found) -> Result:
    """The Result of a run, here and now; `status`, and a `reason` if that is not "ok", are to be found."""
    on = machine.device(spec.device)
    found = {"needed_memory_bytes": cost.memory_bytes(spec, on.type)} | found
    return Result(spec=spec, fingerprint=corpus.fingerprint, corpus=corpus.name, machine=machine.name(on),
                  host=machine.host(on), date=machine.now(), **found)  # fmt: skip


if __name__ == "__main__":
    main()
