"""The headline on another text: dialogues, in place of Python source.

Give it a file of dialogues, such as the 52,002 of Stanford Alpaca in ShareGPT's form:
`studies/dialogues.py alpaca_sharegpt.json.gz`. Writes data/runs/two-cores/dialogues/<V>/: at
V = 8,192 the paper's 2,500 steps, at 50,000 600, each method at the settings that it has on the
default text; nothing is tuned again. And controls-<V>.json, a bigram and a trigram of the same
text. About an hour and a half of one core. Resumable.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from plan import CONSTANT, LOW, MID, PRIOR
from scta_lab import Spec, text
from scta_lab.base.files import ROOT, replace_file
from scta_lab.judge.evaluate import HeldOut
from scta_lite import PAPER
from search import Run, runner
from study import count
from trainings import row

LABELS = ("SEMANTIC as published", PRIOR, "sampled softmax, dot", "adaptive softmax", "CE")
# Of the published method's rows; the one that fits the paper's losses first.
STDS = (0.2, 0.02, 1.0)
STEPS = {LOW: 2_500, MID: 600}
SEEDS = {LOW: 2, MID: 1}


def plan(vocab: int, corpus: str, tuned: Run, seed: int) -> list[Spec]:
    """Every method once. `tuned` finds the stored searches of the default text."""
    specs = []
    for label in LABELS:
        spec = row(vocab, label, tuned, STEPS[vocab], seed)
        spec = replace(spec, corpus=corpus, eval_every=spec.steps)
        if spec.method == "ce" and vocab == MID:
            spec = replace(spec, method="ce_chunked")
        stds = STDS if spec.schedule == CONSTANT["schedule"] else (spec.init_std,)
        specs += [replace(spec, init_std=std) for std in stds]
    return specs


def controls(vocab: int, corpus: str, out: Path) -> None:
    """Counted models of the examples that the trainings read."""
    examples = text.load(corpus, progress=False).examples(vocab, PAPER.seq_len, PAPER.examples)
    held = HeldOut.split(examples, 256)
    n = min(PAPER.examples, len(examples), STEPS[vocab] * PAPER.batch)
    train = examples.ids.array()[: n * PAPER.seq_len].reshape(n, PAPER.seq_len)
    counted = [count(train, order, vocab, held) for order in (2, 3)]
    replace_file(out / f"controls-{vocab}.json", json.dumps(counted, indent=1).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="file of dialogues")
    parser.add_argument("--out", type=Path, default=ROOT / "data/runs/two-cores")
    given = parser.parse_args()
    run = runner(given.out / "dialogues")
    tuned = runner(given.out / "quality")
    for seed in range(max(SEEDS.values())):
        for vocab in (V for V, seeds in SEEDS.items() if seed < seeds):
            for spec in plan(vocab, given.corpus, tuned, seed):
                run([spec], f"{vocab}")
            if seed == 0:
                controls(vocab, given.corpus, given.out / "dialogues")
