"""The study of quality that notebook 06 shows: `make study`. Hours on two cores; resumable, a run is one file.

For V = 8,192, 50,000 and 200,000, each in a folder of its own:

cost     step times of every method, in rounds of fresh processes, alone on the machine
tune     every method looks for its settings from the same start with the same effort: at 8,192 ten trainings of 400
         steps; at the larger V six trainings of the same seconds. `search` says how
models   five models of V = 8,192 that are kept, and space.npz, their tokens' vectors; their runs are in `equal`
decay    at 8,192 the weight decay of 2,500 steps: the best of 400 steps, a third of it, three times as much
equal    every method at its own best settings, after equal steps: the paper's 2,500, at 50,000 also 600, and at 200,000
         one epoch, 1,250; of the four exact softmaxes two at 50,000 for as many as 2,500, and one, CE, at 200,000
seconds  the same after equal seconds: as many steps as its measured step allows
data     at 8,192 CE and the one with a prior in the same seconds on fewer examples, again and again
backbone CE and the one with a prior over Transformers in the GRU's place, for notebook 08: tuned in the same way, then
         after equal steps and equal seconds (at 8,192 and 50,000)
chunked  at 50,000 step times of CE and of the same loss in chunks, in turn, alone on the machine
changed  what each setting does, one at a time; the same with a constant rate; and CE at the paper's settings (8,192
         alone)
controls a bigram and a trigram of the same text, with the seconds to count it

A step's time comes from `cost` alone, so that the trainings themselves may share the machine. Settings are chosen on
the validation half of the held-out text. `tools/study.py 8192/tune 8192/equal` does a part; `--out` names the folder.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from scta_lab import Spec, evaluate, load, sweep, text
from scta_lab.base.files import ROOT, replace_file
from scta_lab.base.words import arguments
from scta_lab.judge.evaluate import HeldOut
from scta_lab.judge.ngram import KneserNey
from scta_lite import PAPER

LOW, MID, HIGH = VOCABS = (8_192, 50_000, 200_000)
TUNED_STEPS, TRIALS = 400, {LOW: 10, MID: 6, HIGH: 6}
TUNED_S = 30  # seconds of each training in tuning at the larger V
TUNED_ON = {LOW: 256, MID: 256, HIGH: 64}  # validation examples to choose by: at V = 200,000 a position costs 4 µs
SECONDS = 200  # of each training in the comparison by seconds, the same at every V
POOL = 70_000  # examples that these trainings draw from, and count u on, if they read fewer than the paper does
EQUAL = {LOW: (2_500,), MID: (2_500, 600), HIGH: (1_250,)}
SEEDS = {LOW: 3, MID: 2, HIGH: 1}  # after equal steps; after equal seconds one, and of the Transformers
EXACT_SEEDS = {LOW: 3, MID: 1, HIGH: 1}
ROUNDS = 3  # of step times
EXAMPLES = (2_500, 10_000, 40_000)  # fewer than are seen once in the comparison by seconds
LADDERS = {  # the values that a setting may have in a search, in order
    "lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "table_lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "weight_decay": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "temperature": (0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0),
    "betas": ((0.9, 0.95), (0.9, 0.98), (0.9, 0.99), (0.9, 0.999)),
}
START = {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1}  # where every search begins

COSINES, DOTS = {"method": "sampled_softmax"}, {"method": "sampled_softmax", "scores": "dot"}
LOWRANK = {"method": "ce_lowrank", "init_std": 0.02}
METHODS = {  # a row of the tables: what it always has, and where the setting of its own begins that is tuned
    "CE": ({"method": "ce"}, {"betas": (0.9, 0.999)}),
    "CE from log u": ({"method": "ce", "log_unigram": True}, {"betas": (0.9, 0.999)}),
    "CE at D = 64": (LOWRANK, {"temperature": 0.07}),
    "CE at D = 64 from log u": ({**LOWRANK, "log_unigram": True}, {"temperature": 0.07}),
    "adaptive softmax": ({"method": "adaptive"}, {"betas": (0.9, 0.999)}),
    "sampled softmax, dot": (DOTS, {"temperature": 1.0}),
    "sampled softmax, dot, from log u": ({**DOTS, "log_unigram": True}, {"temperature": 1.0}),
    "sampled softmax, cosine": (COSINES, {"temperature": 0.07}),
    "sampled softmax, cosine, from log u": ({**COSINES, "log_unigram": True}, {"temperature": 0.07}),
    "SEMANTIC tuned": ({"method": "semantic", "init_std": 0.02}, {"temperature": 0.07}),
    "SEMANTIC with prior": ({"method": "semantic_prior"}, {"temperature": 0.07}),
    "SEMANTIC with prior at D = 256": ({"method": "semantic_prior", "semantic_dim": 256}, {"temperature": 0.07}),
}
TRANSFORMERS = {  # how a row's name ends, and its backbone: with the GRU's parameters within 0.2%, and with four times
    ", 1-block Transformer": {"backbone": "transformer", "layers": 1, "mlp_ratio": 1},
    ", 2-block Transformer": {"backbone": "transformer", "layers": 2, "mlp_ratio": 4},
}
PRIOR, TUNED = "SEMANTIC with prior", "SEMANTIC tuned"
GRU = {label + shape: label for label in ("CE", PRIOR) for shape in TRANSFORMERS}  # of a Transformer's row the GRU's
ROWS = METHODS | {row: (METHODS[label][0] | TRANSFORMERS[row.removeprefix(label)], METHODS[label][1])
                  for row, label in GRU.items()}  # fmt: skip
BACKBONES = ("CE", PRIOR, *GRU)
EXACT = tuple(name for name in ROWS if name.startswith("CE"))  # softmaxes over all V tokens
TOO_LONG = {  # rows that are left out after so many steps: an exact softmax takes an hour there, and more
    (MID, 2_500): ("CE from log u", "CE at D = 64 from log u", *(row for row in BACKBONES if row.startswith("CE, "))),
    (HIGH, 1_250): ("CE from log u", "CE at D = 64", "CE at D = 64 from log u"),
}
PUBLISHED = {  # the paper's settings; how the rows are drawn it does not say
    "SEMANTIC as published": {"method": "semantic"},
    "SEMANTIC as published, std 0.02": {"method": "semantic", "init_std": 0.02},
}
SPARSE = "SEMANTIC with prior, SparseAdam"  # as the one with a prior, and what exactness is worth
SPACES = ("SEMANTIC as published", TUNED, PRIOR, "CE", "CE at D = 64")  # whose vectors are kept
LABELS = (*METHODS, *PUBLISHED, SPARSE)
Run = Callable[[list[Spec], str], list[dict]]  # Specs and the name of their folder, to the runs' files


def scheduled(steps: int) -> dict[str, Any]:
    """Every method's schedule: a twentieth of the steps to warm up, then a cosine to a tenth."""
    return {"steps": steps, "schedule": "cosine", "warmup": max(1, steps // 20)}


def common(vocab: int) -> dict[str, Any]:
    return {"vocab": vocab, "optimizer": "rows", "threads": 1, "evaluate": True, "eval_examples": 256}


def search(start: dict[str, Any], trials: int, score: Callable[[list[dict]], list[float]],
           ladders: dict[str, tuple] = LADDERS) -> dict[str, Any]:  # fmt: skip
    """The best settings that a search along one axis of `start` after another finds in so many trials.

    On each axis it tries the value before and the value after that of the best settings so far, and goes on in a
    direction for as long as that is better. With trials left and no neighbour untried, it tries the neighbours'
    neighbours. Where at the end a best value lies on the edge of what was tried, the next is tried too, beyond the
    number of trials. `score` gives the validation NLL of each of some settings.
    """
    best, tried, scores = start, [], []

    def look(settings: list[dict], most: int) -> bool:
        """Tries what is new of it, up to so many in all; whether that is better than all before."""
        nonlocal best
        new, before = [s for s in settings if s not in tried][: max(0, most - len(tried))], best
        tried.extend(new)
        scores.extend(score(new) if new else [])
        best = tried[scores.index(min(scores))]
        return best != before

    def moved(axis: str, steps: int) -> list[dict]:
        """The best settings with that axis so many steps further, if it has such a value."""
        ladder = ladders[axis]
        place = ladder.index(best[axis]) + steps
        return [{**best, axis: ladder[place]}] if 0 <= place < len(ladder) else []

    look([start], trials)
    for distance in (1, 2, 3):
        before = 0
        while before < len(tried):
            before = len(tried)
            for axis in start:
                while look(moved(axis, -distance) + moved(axis, distance), trials):
                    pass
    while any(look(moved(*edge), len(tried) + 1) for edge in edges(tried, best, ladders)):
        pass
    return best


def nlls(runs: list[dict]) -> list[float]:
    """The NLL of each on the validation half at its end; of a run without one, whose setting will not do, ∞."""
    ends = [found["validation"][-1:] if found["status"] == "ok" else [] for found in runs]
    return [end[0]["nll"] if end and end[0]["nll"] is not None else math.inf for end in ends]


def edges(tried: list[dict], best: dict, ladders: dict[str, tuple] = LADDERS) -> list[tuple[str, int]]:
    """Axes and directions in which nothing beyond the best value was tried, though something on its other side was."""
    found = []
    for axis, value in best.items():
        places = [ladders[axis].index(settings[axis]) - ladders[axis].index(value) for settings in tried]
        if min(places) < max(places) == 0:
            found.append((axis, 1))
        if max(places) > min(places) == 0:
            found.append((axis, -1))
    return found


def fixed(vocab: int, label: str) -> dict[str, Any]:
    """What the row always has; at V = 200,000 CE never holds all its logits, which is the same loss and faster."""
    always = ROWS[label][0]
    return always | {"method": "ce_chunked"} if vocab == HIGH and always["method"] == "ce" else always


@cache
def tune(vocab: int, label: str, run: Run) -> dict:
    """The settings that the method's search finds at this V; at a larger V from the best of the V below."""
    own = ROWS[label][1]
    if vocab == LOW:
        steps, start, kept = TUNED_STEPS, START | own, {}
    else:
        kept = settled(VOCABS[VOCABS.index(vocab) - 1], label, run)
        steps = steps_in(TUNED_S, vocab, label, run)
        axes = ("table_lr", "temperature", "lr") if "temperature" in own else ("table_lr", "lr")
        start = {axis: kept[axis] for axis in axes}
    looks = {"eval_every": steps, "eval_examples": TUNED_ON[vocab]}
    always = common(vocab) | scheduled(steps) | looks | fixed(vocab, label) | kept

    def score(settings: list[dict]) -> list[float]:
        return nlls(run([Spec(**always | changes) for changes in settings], f"{vocab}/tune"))

    return kept | search(start, TRIALS[vocab], score)


@cache
def decay(label: str, run: Run) -> float:
    """The best weight decay of a long training: in 400 steps nothing is seen twice, and little has time to decay."""

    def score(settings: list[dict]) -> list[float]:
        at = fixed(LOW, label) | tune(LOW, label, run)
        specs = [Spec(**planned(LOW, EQUAL[LOW][0], 0) | at | changes) for changes in settings]
        return nlls(run(specs, f"{LOW}/decay"))

    return search({"weight_decay": tune(LOW, label, run)["weight_decay"]}, 3, score)["weight_decay"]


def settled(vocab: int, label: str, run: Run) -> dict:
    """The method's settings for its whole trainings at this V; a Transformer has the weight decay of its GRU's row."""
    found = tune(vocab, label, run)
    return found | {"weight_decay": decay(GRU.get(label, label), run)} if vocab == LOW else found


def chosen(vocab: int, label: str, run: Run, of: Callable = settled) -> dict[str, Any]:
    """All that sets a row apart from the others of its V, its schedule aside."""
    if label in PUBLISHED:
        return PUBLISHED[label]
    if label == SPARSE:
        return chosen(vocab, PRIOR, run, of) | {"optimizer": "sparse"}
    return fixed(vocab, label) | of(vocab, label, run)


@cache
def cost(vocab: int, run: Run, labels: tuple[str, ...] = LABELS) -> dict[str, list[dict]]:
    """Of each row the runs that measure its step, one a round; at any V with the settings of the smallest."""
    steps = {label: 10 if vocab == HIGH and label in EXACT else 30 for label in labels}
    rounds = range(ROUNDS) if labels == LABELS else range(ROUNDS, 2 * ROUNDS)  # whoever is compared takes turns
    specs = {
        (label, seed): Spec(vocab=vocab, steps=steps[label], seed=seed,
                            **{"optimizer": "rows"} | chosen(vocab, label, run, lambda _, *of: tune(LOW, *of)))
        for seed in rounds for label in labels
    }  # fmt: skip
    part = "cost" if labels == LABELS else "backbone-cost"
    found = dict(zip(specs.values(), run(list(specs.values()), f"{vocab}/{part}"), strict=True))
    return {label: [found[specs[label, seed]] for seed in rounds] for label in labels}


def step_ms(vocab: int, label: str, run: Run) -> float:
    """The median of a row's step times; a Transformer's is the GRU's times the ratio when the two took turns."""

    def middle(row: str, labels: tuple[str, ...]) -> float:
        return median(found["step_ms"] for found in cost(vocab, run, labels)[row])

    if label in LABELS:
        return middle(label, LABELS)
    gru = GRU[label]
    return middle(gru, LABELS) * middle(label, BACKBONES) / middle(gru, BACKBONES)


def steps_in(seconds: float, vocab: int, label: str, run: Run) -> int:
    """The steps that fit into so many seconds, by the measured step times."""
    return max(2, int(1e3 * seconds / step_ms(vocab, label, run)))


def row(vocab: int, label: str, run: Run, steps: int, seed: int, **changes: Any) -> Spec:
    """The row's training of so many steps; the published ones at the paper's constant rate."""
    schedule = {"schedule": "constant", "warmup": 0} if label in PUBLISHED else {}
    return Spec(**planned(vocab, steps, seed) | schedule | chosen(vocab, label, run) | changes)


def planned(vocab: int, steps: int, seed: int) -> dict[str, Any]:
    looks = 2 if vocab == HIGH else 5
    return common(vocab) | scheduled(steps) | {"eval_every": max(1, steps // looks), "seed": seed}


def seeds(vocab: int, label: str) -> range:
    return range(1 if label in GRU else (EXACT_SEEDS if label in EXACT else SEEDS)[vocab])


def equal(vocab: int, run: Run, labels: tuple[str, ...] = LABELS) -> list[Spec]:
    """Every row after equal steps, but for those that would take too long."""
    return [row(vocab, label, run, steps, seed)
            for steps in EQUAL[vocab] for seed in range(SEEDS[vocab]) for label in labels
            if seed in seeds(vocab, label) and label not in TOO_LONG.get((vocab, steps), ())]  # fmt: skip


def saved(spec: Spec, models: Path, also: Path | None = None) -> Path:
    """The file of the Spec's trained model, in the folder of models; its run is kept in `also` too."""
    run_id = spec.run_id(text.load(spec.corpus, progress=False).fingerprint)
    if not all((models / f"{run_id}{ending}").is_file() for ending in (".json", ".safetensors")):
        command = [sys.executable, "-m", "scta_lite.train", *arguments(spec), "--out", models]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{run_id}: {ended.stderr.strip() or ended.returncode}")
    if also:
        also.mkdir(parents=True, exist_ok=True)
        shutil.copy(models / f"{run_id}.json", also)
    return models / f"{run_id}.safetensors"


def models(out: Path, run: Run, two: Executor) -> None:
    """The models whose spaces notebook 06 looks into, and the unit vectors of their tokens, as 8-bit numbers."""
    steps = EQUAL[LOW][0]
    specs = {label: row(LOW, label, run, steps, 0) for label in SPACES}
    keep = partial(saved, models=out / "models", also=out / f"{LOW}/equal")
    files = dict(zip(specs, two.map(keep, specs.values()), strict=True))
    vectors = {}
    for label, file in files.items():
        head = load(file.parent, file.stem).model.head
        vectors[label] = F.normalize(head.vectors(), dim=1).mul(127).round().to(torch.int8).numpy(force=True)
    corpus = text.load(progress=False)
    entries, counts = corpus.vocabulary(LOW), corpus.examples(LOW, PAPER.seq_len, PAPER.examples).counts.numpy()
    words = np.array([entries.decode([i]) for i in range(LOW)])
    np.savez_compressed(out / "space.npz", words=words, counts=counts, **vectors)


def controls(vocab: int, out: Path, run: Run) -> None:
    """n-gram models of the fewest examples that a training had, in equal steps and in equal seconds, and of all."""
    trained = [spec.examples for spec in (*equal(vocab, run), *seconds(vocab, run))]
    text_of = text.load(progress=False).examples(vocab, PAPER.seq_len, PAPER.examples)
    held, found = HeldOut.split(text_of, common(vocab)["eval_examples"]), []
    for n in sorted({min(trained), PAPER.examples, len(text_of)}):
        train = text_of.ids.array()[: n * PAPER.seq_len].reshape(n, PAPER.seq_len)
        for order in (2, 3):
            began = perf_counter()
            model = KneserNey(train, vocab, order)
            took = perf_counter() - began
            nll, ranks = model.judge(held.test)
            metrics = evaluate.summary(nll, ranks, evaluate.target_lengths(held.test, held.lengths))
            found.append({"order": order, "examples": n, "seconds": took, "full_vocab": metrics,
                          "by_document": held.by_document(ranks, nats=nll)})  # fmt: skip
    replace_file(out / f"{vocab}/controls.json", json.dumps(found, indent=1).encode())


def seconds(vocab: int, run: Run, labels: tuple[str, ...] = LABELS) -> list[Spec]:
    """Every row after equal seconds: as many steps as fit, over text that is new for as long as there is any.

    A row that is too slow to read the paper's examples draws them from more, about as many as the fast rows read, and
    counts u on these.
    """
    available, specs = cost(vocab, run)["CE"][0]["examples_available"], []
    for label in labels:
        steps = steps_in(SECONDS, vocab, label, run)
        read = steps * PAPER.batch
        examples = min(available, read if read >= PAPER.examples else POOL)
        text_of = {"examples": examples, "epochs": -(-steps // (examples // PAPER.batch))}
        specs.append(row(vocab, label, run, steps, 0, **text_of))
    return specs


def data(vocab: int, run: Run) -> list[Spec]:
    """In the same seconds over fewer examples, so often that the steps are as many."""
    whole = {label: spec for label, spec in zip(LABELS, seconds(vocab, run), strict=True) if label in ("CE", PRIOR)}
    return [replace(spec, examples=n, epochs=-(-spec.steps // (n // PAPER.batch)))
            for spec in whole.values() for n in EXAMPLES if n < spec.examples]  # fmt: skip


def backbone(vocab: int, run: Run, two: Executor) -> None:
    """The GRU's rows and the Transformers'."""
    found = partial(settled, vocab, run=run)
    if vocab != LOW:
        cost(vocab, run, BACKBONES)
    list(tqdm(two.map(found, GRU), "tune", total=len(GRU)))
    cost(vocab, run, BACKBONES)
    run(seconds(vocab, run, BACKBONES), f"{vocab}/backbone-seconds", two)
    run(equal(vocab, run, BACKBONES), f"{vocab}/backbone-equal", two)


def changed(vocab: int, run: Run) -> list[Spec]:
    """From the best settings, one other at a time, in as many steps as tuning had; and a rate that stays constant."""
    values = {
        TUNED: {"negatives": (8, 128), "semantic_dim": (32, 256), "temperature": (0.05, 0.07, 0.1, 0.14),
                "init_std": (0.02, 0.1, 0.3, 1.0)},
        PRIOR: {"shared": (64, 256, 1024, 4096), "semantic_dim": (32, 256), "temperature": (0.05, 0.07, 0.1, 0.14),
                "init_std": (0.02, 0.1, 0.3, 1.0), "sampler": ("log_uniform", "unigram^0.75", "in_batch")},
    }  # fmt: skip
    best = {label: tune(vocab, label, run) for label in values}  # in so few steps
    specs = [row(vocab, label, run, TUNED_STEPS, 0, **best[label] | {"eval_every": TUNED_STEPS, name: value})
             for label, of in values.items() for name, some in of.items() for value in some]  # fmt: skip
    own = {"eval_every": TUNED_STEPS, "shared": 0, "negatives": PAPER.negatives}
    specs.append(row(vocab, PRIOR, run, TUNED_STEPS, 0, **best[PRIOR] | own))
    constant = {"schedule": "constant", "warmup": 0}
    specs += [row(vocab, label, run, EQUAL[vocab][0], 0, **constant) for label in ("CE", TUNED, PRIOR)]
    specs.append(Spec(**planned(vocab, EQUAL[vocab][0], 0) | constant | {"method": "ce"}))  # at the paper's rate
    return list(dict.fromkeys(specs))


def chunked(vocab: int, run: Run) -> list[Spec]:
    """CE, and the same loss in chunks, in turn; with the settings of the smallest V."""
    ce = Spec(vocab=vocab, steps=30, optimizer="rows", **chosen(vocab, "CE", run, lambda _, *of: tune(LOW, *of)))
    return [replace(ce, seed=seed, method=method)
            for seed in range(2 * ROUNDS, 3 * ROUNDS) for method in ("ce", "ce_chunked")]  # fmt: skip


PARTS = {
    part.__name__: part
    for part in (tune, cost, decay, models, equal, changed, seconds, data, controls, backbone, chunked)
}  # in this order
ONLY = dict.fromkeys(("decay", "models", "changed", "data"), (LOW,)) | {"backbone": (LOW, MID), "chunked": (MID,)}


def live(out: Path) -> Run:
    """Trains what is not there yet."""

    def run(specs: list[Spec], name: str, executor: Executor | None = None) -> list[dict]:
        for spec in specs:  # a training that another part has asked for is not done twice
            made = f"{spec.run_id(text.load(progress=False).fingerprint)}.json"
            for path in out.glob(f"{spec.vocab}/*/{made}"):
                if not (out / name / made).is_file():
                    replace_file(out / name / made, path.read_bytes())
        return sweep(specs, out / name, executor=executor, progress=executor is not None).to_dict("records")

    return run


def main() -> None:
    parts = [f"{vocab}/{part}" for vocab in VOCABS for part in PARTS if vocab in ONLY.get(part, VOCABS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=parts, metavar="V/part", help=f"of {', '.join(parts)}")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder (default: runs/study)")
    asked = parser.parse_args()
    run = live(asked.out)
    for part in asked.parts:
        vocab, kind = int(part.partition("/")[0]), part.partition("/")[2]
        with ThreadPoolExecutor(2) as two:  # at a time, a core each; but for step times
            if kind in ("tune", "decay"):
                if vocab != LOW:  # how many steps a training has; measured alone
                    cost(vocab, run)
                find = partial(tune, vocab, run=run) if kind == "tune" else partial(decay, run=run)
                for _ in tqdm(two.map(find, METHODS), part, total=len(METHODS)):
                    pass
            elif kind == "cost":
                cost(vocab, run)
            elif kind == "models":
                models(asked.out, run, two)
            elif kind == "backbone":
                backbone(vocab, run, two)
            elif kind == "controls":
                controls(vocab, asked.out, run)
            else:
                run(PARTS[kind](vocab, run), part, None if kind == "chunked" else two)


if __name__ == "__main__":
    main()
