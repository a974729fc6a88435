"""The study of quality that notebook 05 shows: `make study`. It made data/runs/two-cores/quality.

About 20 hours on two cores; resumable, a run is one file. For V = 8,192, 50,000 and 200,000, each
in a folder of its own:

cost     step times of every method, in rounds of fresh processes, alone on the machine
tune     every method looks for its settings from the same start with the same effort: at 8,192 ten
         trainings of 400 steps; at the larger V six of the same seconds. `search.py` says how
decay    at 8,192 the weight decay of 2,500 steps: the best of 400 steps, a third of it, three times
         as much
models   five models of V = 8,192 that are kept, and space.npz, their tokens' vectors; their runs
         are in `equal`
equal    every method at its own best settings, after equal steps: the paper's 2,500, at 50,000 also
         600, and at 200,000 one epoch, 1,250; of the four exact softmaxes two at 50,000 for as many
         as 2,500, and one, CE, at 200,000
changed  what each setting does, one at a time; the same with a constant rate; and CE at the paper's
         settings (8,192 alone)
seconds  the same as `equal` after equal seconds: as many steps as its measured step allows
data     at 8,192 CE and the method with a prior in the same seconds on fewer examples, again and
         again
controls a bigram and a trigram of the same text, with the seconds to count it
backbone CE and the method with a prior over Transformers in the GRU's place, for lab/08: tuned
         in the same way, then after equal steps and equal seconds (at 8,192 and 50,000)
chunked  at 50,000 step times of CE and of the same loss in chunks, in turn, alone on the machine

A step's time comes from `cost` alone, so that the trainings themselves may share the machine.
Settings are chosen on the validation half of the held-out text. `studies/study.py 8192/tune
8192/equal` does a part; `--out` names the folder. What is compared
stands in `plan.py`, and how a part becomes Specs in `trainings.py`.
"""

import json
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F

from plan import BACKBONES, EQUAL, GRU, HIGH, LOW, METHODS, MID, SPACES
from scta_lab import evaluate, load, text
from scta_lab.base.files import replace_file
from scta_lab.judge.evaluate import HeldOut
from scta_lab.judge.ngram import KneserNey
from scta_lab.text.examples import Examples
from scta_lite import PAPER
from search import Run, each, runner, saved, words
from trainings import (
    changed,
    chunked,
    common,
    cost,
    data,
    decay,
    equal,
    row,
    seconds,
    settled,
    tune,
)

PARTS = {
    LOW: "tune cost decay models equal changed seconds data controls backbone",
    MID: "tune cost equal seconds controls backbone chunked",
    HIGH: "tune cost equal seconds controls",
}
PLANS = {"equal": equal, "changed": changed, "seconds": seconds, "data": data, "chunked": chunked}


def backbone(vocab: int, run: Run, two: Executor) -> None:
    """The GRU's rows and the Transformers'."""
    if vocab != LOW:
        cost(vocab, run, BACKBONES)
    each(two, partial(settled, vocab, run=run), GRU, "tune")
    cost(vocab, run, BACKBONES)
    run(seconds(vocab, run, BACKBONES), f"{vocab}/backbone-seconds", two)
    run(equal(vocab, run, BACKBONES), f"{vocab}/backbone-equal", two)


def models(out: Path, run: Run, two: Executor) -> None:
    """The models whose spaces notebook 05 looks into, and their tokens' unit vectors in 8 bits."""
    specs = [row(LOW, label, run, EQUAL[LOW][0], 0) for label in SPACES]
    keep = partial(saved, models=out / "models", also=out / f"{LOW}/equal")
    vectors = {}
    for label, file in zip(SPACES, each(two, keep, specs, "models"), strict=True):
        head = load(file.parent, file.stem).model.head
        unit = F.normalize(head.vectors(), dim=1)  # (V, D)
        vectors[label] = unit.mul(127).round().to(torch.int8).numpy(force=True)
    corpus = text.load(progress=False)
    vocabulary = corpus.vocabulary(LOW)
    counts = corpus.examples(LOW, PAPER.seq_len, PAPER.examples).counts.numpy()
    tokens = np.array([vocabulary.decode([i]) for i in range(LOW)])
    np.savez_compressed(out / "space.npz", words=tokens, counts=counts, **vectors)


def controls(path: Path, examples: Examples, sizes: set[int], most: int) -> None:
    """A bigram and a trigram of so many examples each, on a test half of at most `most`."""
    held = HeldOut.split(examples, most)
    ids = examples.ids.array()
    counted = []
    for n in sorted(sizes):
        train = ids[: n * PAPER.seq_len].reshape(n, PAPER.seq_len)
        counted += [count(train, order, len(examples.counts), held) for order in (2, 3)]
    replace_file(path, json.dumps(counted, indent=1).encode())


def count(train: np.ndarray, order: int, vocab: int, held: HeldOut) -> dict:
    """An n-gram model of the ids, (n, T), and how good it is."""
    began = perf_counter()
    model = KneserNey(train, vocab, order)
    took = perf_counter() - began
    nll, ranks = model.judge(held.test)
    return {
        "order": order,
        "examples": len(train),
        "seconds": took,
        "full_vocab": evaluate.summary(
            nll, ranks, evaluate.target_lengths(held.test, held.lengths)
        ),
        "by_document": held.by_document(ranks, nats=nll),
    }


def do(part: str, out: Path, run: Run, two: Executor) -> None:
    """Does a part of one V, two trainings at a time, a core each; step times are measured alone."""
    vocab, kind = part.split("/")
    vocab = int(vocab)
    if kind in PLANS:
        specs = PLANS[kind](vocab, run)
        run(specs, part, None if kind == "chunked" else two)
    elif kind in ("tune", "decay"):
        if vocab != LOW:
            cost(vocab, run)  # how many steps a training has
        work = partial(decay, run=run) if kind == "decay" else partial(tune, vocab, run=run)
        each(two, work, METHODS, part)
    elif kind == "cost":
        cost(vocab, run)
    elif kind == "controls":
        trained = [spec.examples for spec in equal(vocab, run) + seconds(vocab, run)]
        examples = text.load(progress=False).examples(vocab, PAPER.seq_len, PAPER.examples)
        sizes = {min(trained), PAPER.examples, len(examples)}
        controls(out / f"{part}.json", examples, sizes, common(vocab)["eval_examples"])
    elif kind == "models":
        models(out, run, two)
    elif kind == "backbone":
        backbone(vocab, run, two)


def main() -> None:
    parts = [f"{vocab}/{part}" for vocab, some in PARTS.items() for part in some.split()]
    asked = words(__doc__, parts, "study")
    run = runner(asked.out)
    for part in asked.parts:
        with ThreadPoolExecutor(2) as two:
            do(part, asked.out, run, two)


if __name__ == "__main__":
    main()
