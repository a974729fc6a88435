"""The headline on another text: dialogues, in place of Python source.

Give it a file of dialogues, such as the 52,002 of Stanford Alpaca in ShareGPT's form:
`studies/dialogues.py alpaca_sharegpt.json.gz`. Writes data/runs/two-cores/dialogues/<V>/: at
V = 8,192 the paper's 2,500 steps, at 50,000 600, each method at the settings that it has on the
default text; nothing is tuned again. And controls-<V>.json, a bigram and a trigram of the same
text. About an hour and a half of one core. Resumable.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from plan import CONSTANT, LOW, MID, PRIOR
from scta_lab import Spec, text
from scta_lab.base.files import ROOT
from scta_lite import PAPER
from search import Run, runner
from study import controls
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
    source = text.load(given.corpus, progress=False)
    for vocab, steps in STEPS.items():
        examples = source.examples(vocab, PAPER.seq_len, PAPER.examples)
        read = min(PAPER.examples, len(examples), steps * PAPER.batch)
        controls(given.out / f"dialogues/controls-{vocab}.json", examples, {read}, 256)
