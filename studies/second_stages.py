"""The trainings of the stages: what each part of `stages.py` runs, as Specs."""

from dataclasses import asdict, dataclass
from pathlib import Path

from plan import HIGH, LOW, MID, PRIOR, ROUNDS, TUNED_ON
from plan import LADDERS as FIRST_LADDERS
from scta_lab import Spec
from search import Run, nlls, run_id, scheduled, search
from trainings import row

PUBLISHED = "SEMANTIC as published"
STEPS = {  # of both stages
    (LOW, PRIOR): (1_250, 1_250),
    (LOW, PUBLISHED): (2_500, 1_250),
    (LOW, "CE"): (1_250, 1_250),
    (MID, PRIOR): (2_000, 500),
    (HIGH, PRIOR): (1_000, 250),
}
LONGER = {LOW: 3_750}  # CE's steps with one schedule, as many as the published stages have
TUNED_STEPS = {LOW: 200, MID: 60, HIGH: 60}
TRIALS = 5
START = {"table_lr": 3e-3, "lr": 1e-3}  # small, for a head that begins well is best left alone
START_AT_RANDOM = {"table_lr": 1e-2, "lr": 3e-3}  # those of a first stage
LONG = {
    "lr": 1e-3,
    "table_lr": 1e-2,
}  # tried at full length too: short trainings favour small rates
SEEDS = {(LOW, PRIOR): 2, (LOW, "CE"): 2}  # of all others one
SMALL = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
LADDERS = {
    name: SMALL + tuple(rate for rate in FIRST_LADDERS[name] if rate > SMALL[-1])
    for name in ("lr", "table_lr")
}


@dataclass(frozen=True)
class Kind:
    """A second stage: how its head begins, what is frozen, and whether it is sampled.

    All but the head is frozen in option A, nothing in B. Without a token head the first stage goes
    on.
    """

    token_head: str | None = None
    freeze: bool = False
    sampled_head: bool = False


KINDS = [
    Kind(head, freeze) for head in ("normalised", "plain", "random") for freeze in (True, False)
]
WHOLE = [kind for kind in KINDS if not kind.freeze]
SAMPLED = Kind("normalised", sampled_head=True)
SECONDS = {  # the kinds of second stages of each first one
    (LOW, PRIOR): [*KINDS, SAMPLED, Kind()],
    (LOW, PUBLISHED): [*KINDS[2:], Kind()],
    (LOW, "CE"): [Kind()],
    (MID, PRIOR): [*WHOLE, SAMPLED, Kind()],
    (HIGH, PRIOR): [SAMPLED, Kind()],
}


def seeds(vocab: int, label: str) -> range:
    return range(SEEDS.get((vocab, label), 1))


def kinds(vocab: int) -> list[tuple[str, Kind]]:
    """The second stages of this V: the row of the first one, and the kind."""
    pairs = []
    for (first_vocab, label), some in SECONDS.items():
        if first_vocab == vocab:
            pairs += [(label, kind) for kind in some]
    return pairs


def second(first: Spec, kind: Kind, models: Path, steps: int, **changes) -> Spec:
    """The second stage of that kind, of a first one that is saved in the folder of models.

    Its seed is another, so that it reads the text in another order and draws other negatives than
    the first stage did.
    """
    looks = 2 if first.vocab == HIGH else 10  # there a look takes longer than the steps before it
    own = {
        "eval_every": max(1, steps // looks),
        "seed": first.seed + 100,
        "stage1": str(models / f"{run_id(first)}.safetensors"),
    }
    same = {"method": first.method, "vocab": first.vocab, **first.changes()}
    return Spec(**same | scheduled(steps) | own | asdict(kind) | changes)


@dataclass(frozen=True)
class Stages:
    """The stages at one V: `run` trains them, `study` gives the study's runs, `models` a folder."""

    vocab: int
    run: Run
    study: Run
    models: Path

    def first(self, label: str, seed: int = 0) -> Spec:
        """The first stage, at the settings that the study found."""
        steps, _ = STEPS[self.vocab, label]
        return row(self.vocab, label, self.study, steps, seed)

    def second(self, label: str, kind: Kind, seed: int = 0, **rates) -> Spec:
        _, steps = STEPS[self.vocab, label]
        return second(self.first(label, seed), kind, self.models, steps, **rates)

    def longer_ce(self, seed: int = 0) -> Spec:
        """CE for as many steps as the published stages have."""
        return row(self.vocab, "CE", self.study, LONGER[self.vocab], seed, epochs=3)

    def begun(self) -> list[Spec]:
        """What is trained from nothing, the longest first."""
        specs = []
        if self.vocab in LONGER:
            specs += [self.longer_ce(seed) for seed in seeds(self.vocab, PUBLISHED)]
        labels = [label for vocab, label in STEPS if vocab == self.vocab]
        for label in reversed(labels):
            specs += [self.first(label, seed) for seed in seeds(self.vocab, label)]
        return specs

    def tune(self, label: str, kind: Kind) -> dict:
        """The learning rates that a search from small ones finds."""
        first = self.first(label)
        steps = TUNED_STEPS[self.vocab]
        judged = {"eval_every": steps, "eval_examples": TUNED_ON[self.vocab]}
        start = START_AT_RANDOM if kind.token_head == "random" else START
        if kind.freeze:  # the table alone is trained
            start = {"table_lr": start["table_lr"]}

        def score(settings: list[dict]) -> list[float]:
            specs = [
                second(first, kind, self.models, steps, **judged, **rates) for rates in settings
            ]
            return nlls(self.run(specs, f"{self.vocab}/tune"))

        return search(start, TRIALS, score, LADDERS)

    def settled(self, label: str, kind: Kind) -> dict:
        """What is better at full length: the rates that the search found, or those of `LONG`."""
        tuned = self.tune(label, kind)
        tried = [tuned, {name: LONG[name] for name in tuned}]
        specs = [self.second(label, kind, **rates) for rates in tried]
        scores = nlls(self.run(specs, f"{self.vocab}/long"))
        return tried[scores.index(min(scores))]

    def ends(self) -> list[Spec]:
        """The second stages, each at its best rates."""
        specs = []
        for label, kind in kinds(self.vocab):
            rates = self.settled(label, kind)
            specs += [self.second(label, kind, seed, **rates) for seed in seeds(self.vocab, label)]
        return specs

    def cost(self) -> list[dict]:
        """The runs that measure the step of every kind, and of CE, which the study measured too."""
        plain = {"evaluate": False, "eval_every": None, "threads": None}
        specs = []
        for turn in range(ROUNDS):
            specs.append(row(self.vocab, "CE", self.study, 30, turn, **plain))
            for label, kind in kinds(self.vocab):
                first = self.first(label)
                specs.append(second(first, kind, self.models, 30, **plain, seed=turn))
        return self.run(specs, f"{self.vocab}/cost")

    def written(self) -> dict[str, Spec]:
        """The models that write texts: both stages, and CE after as many steps as published."""
        kind = WHOLE[0]
        rates = self.settled(PRIOR, kind)
        models = {"stage 1": self.first(PRIOR), "stage 2": self.second(PRIOR, kind, **rates)}
        if self.vocab in LONGER:
            models["CE"] = self.longer_ce()
        return models
