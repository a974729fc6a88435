"""What does a larger table cost, if the text stays? The ids of V = 50,000 in three tables.

In a table of 200,000 or a million rows most tokens then never occur, as in a padded vocabulary.
The models predict the same targets, so that their NLLs compare across V. Writes
data/runs/two-cores/padded/<V>/: 600 steps of every method at the settings that it has at
V = 50,000, and the paper's 2,500 of the published method. About two hours of one core, most of it
CE at 200,000 and judging at a million. Resumable.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from plan import MID, PRIOR
from scta_lab import Spec, text
from scta_lab.base.files import ROOT
from search import Run, runner
from trainings import common, row

TABLES = (50_000, 200_000, 1_000_000)
STEPS = 600
FAST = ("sampled softmax, dot", "adaptive softmax")
FITS = 0.2  # the start whose losses are nearest to the paper's
STDS = (0.02, 1.0)  # the two ends beside it
HELD = 0.03  # of a .npy file's ids, its last ones, are held out


def ids_file(path: Path) -> Path:
    """The default text's ids at V = 50,000, with its held-out ids at the end."""
    train, heldout = text.load(progress=False).ids(MID)
    n = min(len(train), round(len(heldout) * (1 - HELD) / HELD))
    ids = np.concatenate([train[:n], heldout[: round(n * HELD / (1 - HELD))]])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, ids.astype(np.int32))
    return path


def published(vocab: int, corpus: str, steps: int, std: float) -> Spec:
    """The paper's settings, with rows that begin with that standard deviation."""
    settings = {"corpus": corpus, "steps": steps, "init_std": std, **common(vocab)}
    if steps == STEPS:
        settings["eval_every"] = steps  # less than an epoch is judged if it is asked for
    return Spec(method="semantic", **settings)


def plan(corpus: str, tuned: Run) -> list[Spec]:
    """The quick ones first. `tuned` finds the stored searches of V = 50,000.

    A million rows are judged for three trainings alone: scoring them all takes ten minutes each.
    """
    at = {"vocab": MID, "run": tuned, "steps": STEPS, "seed": 0}
    repaired = row(label=PRIOR, **at)
    others = [row(label=label, **at) for label in FAST]
    others.append(row(label="CE", **at, method="ce_chunked"))
    specs = [published(vocab, corpus, STEPS, FITS) for vocab in TABLES]
    specs += [changed(repaired, vocab, corpus) for vocab in TABLES]
    specs += [published(vocab, corpus, 2_500, FITS) for vocab in TABLES[:2]]
    for spec in others:
        specs += [changed(spec, vocab, corpus) for vocab in TABLES[:2]]
    for std in STDS:
        specs += [published(vocab, corpus, STEPS, std) for vocab in TABLES[:2]]
    return [*specs, published(TABLES[-1], corpus, 2_500, FITS)]


def changed(spec: Spec, vocab: int, corpus: str) -> Spec:
    """The same training in a table of that many rows, judged once, at its end."""
    return replace(spec, vocab=vocab, corpus=corpus, eval_every=spec.steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data/runs/two-cores")
    out = parser.parse_args().out
    corpus = str(ids_file(ROOT / "runs/ids50k.npy"))
    run = runner(out / "padded")
    for spec in plan(corpus, runner(out / "quality")):
        run([spec], f"{spec.vocab}")
