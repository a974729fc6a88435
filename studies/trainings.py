"""The trainings of the study: what each part of `study.py` runs, as Specs.

`run` gives the runs of some Specs in the folder of a part: it trains what is not there yet. What a
search finds, and the steps that fit into some seconds, are known when their runs are.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from statistics import median

import plan
from plan import BACKBONES, CONSTANT, LABELS, LOW, PRIOR, PUBLISHED, ROUNDS, VOCABS
from scta_lab import Spec
from scta_lite import PAPER
from search import Run, nlls, scheduled, search


def common(vocab: int) -> dict:
    return {
        "vocab": vocab,
        "optimizer": "rows",
        "threads": 1,
        "evaluate": True,
        "eval_examples": 256,
    }


def fixed(vocab: int, label: str) -> dict:
    """What the row always has."""
    settings, _ = plan.ROWS[label]
    if vocab == plan.HIGH and settings["method"] == "ce":
        # there CE never holds all its logits, which is the same loss and faster
        return settings | {"method": "ce_chunked"}
    return settings


# --- the settings of each row


@cache
def tune(vocab: int, label: str, run: Run) -> dict:
    """The settings that the row's search finds; at a larger V it begins at those of the V below."""
    _, own = plan.ROWS[label]
    start = plan.START | own
    below = {}
    steps = plan.TUNED_STEPS
    if vocab != LOW:
        below = settled(VOCABS[VOCABS.index(vocab) - 1], label, run)
        start = {axis: below[axis] for axis in ("table_lr", "temperature", "lr") if axis in start}
        steps = steps_in(plan.TUNED_S, vocab, label, run)
    judged = {"eval_every": steps, "eval_examples": plan.TUNED_ON[vocab]}
    always = common(vocab) | scheduled(steps) | judged | fixed(vocab, label) | below

    def score(settings: list[dict]) -> list[float]:
        specs = [Spec(**always | changes) for changes in settings]
        return nlls(run(specs, f"{vocab}/tune"))

    return below | search(start, plan.TRIALS[vocab], score)


@cache
def decay(label: str, run: Run) -> float:
    """The best weight decay of a long training: in 400 steps nothing is seen twice or can decay."""
    tuned = tune(LOW, label, run)
    always = planned(LOW, plan.EQUAL[LOW][0], 0) | fixed(LOW, label) | tuned

    def score(settings: list[dict]) -> list[float]:
        specs = [Spec(**always | changes) for changes in settings]
        return nlls(run(specs, f"{LOW}/decay"))

    best = search({"weight_decay": tuned["weight_decay"]}, 3, score)
    return best["weight_decay"]


def settled(vocab: int, label: str, run: Run) -> dict:
    """The settings of whole trainings; a Transformer has the weight decay of its GRU's row."""
    settings = tune(vocab, label, run)
    if vocab != LOW:
        return settings
    return settings | {"weight_decay": decay(plan.GRU.get(label, label), run)}


def apart(vocab: int, label: str, tuned: Callable[[str], dict]) -> dict:
    """All that sets a row apart from others of its V but its schedule; `tuned` gives the best."""
    if label in PUBLISHED:
        return PUBLISHED[label]
    if label == plan.SPARSE:
        return apart(vocab, PRIOR, tuned) | {"optimizer": "sparse"}
    return fixed(vocab, label) | tuned(label)


# --- step times


def timed(vocab: int, label: str, run: Run, seed: int) -> Spec:
    """A training that measures the row's step; at any V with the settings of the smallest."""
    steps = 10 if vocab == plan.HIGH and label in plan.EXACT else 30
    settings = {"vocab": vocab, "steps": steps, "seed": seed, "optimizer": "rows"}
    own = apart(vocab, label, lambda row: tune(LOW, row, run))
    return Spec(**settings | own)


@cache
def cost(vocab: int, run: Run, labels: tuple[str, ...] = LABELS) -> dict[str, list[dict]]:
    """Of each row the runs that measure its step, one a round; compared rows take turns."""
    part = "cost"
    rounds = range(ROUNDS)
    if labels == BACKBONES:
        part = "backbone-cost"
        rounds = range(ROUNDS, 2 * ROUNDS)
    specs = [timed(vocab, label, run, seed) for seed in rounds for label in labels]
    runs = run(specs, f"{vocab}/{part}")
    return {label: runs[n :: len(labels)] for n, label in enumerate(labels)}


def step_ms(vocab: int, label: str, run: Run) -> float:
    """The median of a row's step times; a Transformer's is the GRU's times the ratio in turns."""

    def middle(row: str, labels: tuple[str, ...]) -> float:
        return median(timing["step_ms"] for timing in cost(vocab, run, labels)[row])

    if label in LABELS:
        return middle(label, LABELS)
    gru = plan.GRU[label]
    return middle(gru, LABELS) * middle(label, BACKBONES) / middle(gru, BACKBONES)


def steps_in(seconds: float, vocab: int, label: str, run: Run) -> int:
    """The steps that fit into so many seconds, by the measured step times."""
    return max(2, int(1e3 * seconds / step_ms(vocab, label, run)))


def chunked(vocab: int, run: Run) -> list[Spec]:
    """CE, and the same loss in chunks, in turn; with the settings of the smallest V."""
    specs = []
    for seed in range(2 * ROUNDS, 3 * ROUNDS):
        ce = timed(vocab, "CE", run, seed)
        specs += [ce, replace(ce, method="ce_chunked")]
    return specs


# --- whole trainings


def planned(vocab: int, steps: int, seed: int) -> dict:
    looks = 2 if vocab == plan.HIGH else 5
    own = {"eval_every": max(1, steps // looks), "seed": seed}
    return common(vocab) | scheduled(steps) | own


def row(vocab: int, label: str, run: Run, steps: int, seed: int, **changes) -> Spec:
    """The row's training of so many steps; the published ones at the paper's constant rate."""
    settings = planned(vocab, steps, seed)
    if label in PUBLISHED:
        settings |= CONSTANT
    own = apart(vocab, label, lambda row: settled(vocab, row, run))
    return Spec(**settings | own | changes)


def seeds(vocab: int, label: str) -> range:
    if label in plan.GRU:
        return range(1)
    if label in plan.EXACT:
        return range(plan.EXACT_SEEDS[vocab])
    return range(plan.SEEDS[vocab])


def equal(vocab: int, run: Run, labels: tuple[str, ...] = LABELS) -> list[Spec]:
    """Every row after equal steps, without those that would take too long."""
    specs = []
    for steps in plan.EQUAL[vocab]:
        too_long = plan.TOO_LONG.get((vocab, steps), ())
        for seed in range(plan.SEEDS[vocab]):
            for label in labels:
                if seed in seeds(vocab, label) and label not in too_long:
                    specs.append(row(vocab, label, run, steps, seed))
    return specs


def seconds(vocab: int, run: Run, labels: tuple[str, ...] = LABELS) -> list[Spec]:
    """Every row after equal seconds, over text that is new for as long as there is any.

    A row that is too slow to read the paper's examples draws them from more, about as many as the
    fast rows read, and counts u on these.
    """
    available = cost(vocab, run)["CE"][0]["examples_available"]
    specs = []
    for label in labels:
        steps = steps_in(plan.SECONDS, vocab, label, run)
        wanted = steps * PAPER.batch
        if wanted < PAPER.examples:
            wanted = plan.POOL
        own_text = over(min(available, wanted), steps)
        specs.append(row(vocab, label, run, steps, 0, **own_text))
    return specs


def over(examples: int, steps: int) -> dict[str, int]:
    """So many examples, as often as the steps need them."""
    steps_an_epoch = examples // PAPER.batch
    return {"examples": examples, "epochs": -(-steps // steps_an_epoch)}  # rounded up


def data(vocab: int, run: Run) -> list[Spec]:
    """In the same seconds over fewer examples, so often that the steps are as many."""
    whole = dict(zip(LABELS, seconds(vocab, run), strict=True))
    specs = []
    for spec in (whole["CE"], whole[PRIOR]):
        fewer = [n for n in plan.EXAMPLES if n < spec.examples]
        specs += [replace(spec, **over(n, spec.steps)) for n in fewer]
    return specs


def changed(vocab: int, run: Run) -> list[Spec]:
    """From the best settings of short trainings one other at a time; and a constant rate."""
    specs = []
    short = {"eval_every": plan.TUNED_STEPS}

    def add(label: str, **changes) -> None:
        settings = tune(vocab, label, run) | short | changes
        specs.append(row(vocab, label, run, plan.TUNED_STEPS, 0, **settings))

    for label, tried in plan.CHANGED.items():
        for name, values in tried.items():
            for value in values:
                add(label, **{name: value})
    add(PRIOR, shared=0, negatives=PAPER.negatives)
    steps = plan.EQUAL[vocab][0]
    for label in ("CE", plan.TUNED, PRIOR):
        specs.append(row(vocab, label, run, steps, 0, **CONSTANT))
    at_the_papers_rate = planned(vocab, steps, 0) | CONSTANT | plan.CE
    specs.append(Spec(**at_the_papers_rate))
    return list(dict.fromkeys(specs))  # the best settings stand there once
