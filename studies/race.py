"""The race of equal seconds once more, fairer than `study.py` has it, at V = 50,000 and 200,000.

What is fairer:

- CE's rates are searched anew, as the study's trials had 47 steps and a dozen; those here are a
  quarter as long as the race, and 40 steps at least;
- the rows of all methods but SEMANTIC decay by the same share a step; with the rates that sets the
  backbone's decay too;
- CE is in chunks, its fastest form at this width, from the start that was better by validation;
- the adaptive softmax's clusters are searched, then its tables' rate;
- a sampled softmax that corrects target and negatives alike takes part, as recommenders have it;
- step times are of the same machine and day as the trainings;
- of each half up to 512 examples are held out.

One seed; τ and all that is not named here is as the study found it.

It made data/runs/two-cores/race/<V>/:

turns     step times of every row, and of each grouping of the adaptive softmax, in rounds
search    trainings of the searches: they begin at the settings that the study found at this V, CE's
          at 200,000 where all of the study's began
cost      of `turns` those of what races
seconds   every row once, for as many steps as fit into the seconds

And controls.json, a bigram and a trigram of all the text and of the paper's examples.
`studies/race.py 50000` does one V. Steps are timed with torch's own number of threads, alone;
trainings run two at a time, a thread each. An hour and a half on two cores. Resumable.
"""

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from plan import (
    HIGH,
    MID,
    POOL,
    PRIOR,
    PUBLISHED,
    ROUNDS,
    SECONDS,
    START,
    TUNED,
    WITH_PRIOR,
)
from scta_lab import Spec, text
from scta_lab.base.files import ROOT
from scta_lite import PAPER
from search import Run, each, nlls, runner, scheduled, search, words
from study import controls
from trainings import common, fixed, over, settled

ADAPTIVE = "adaptive softmax"
BOTH = "sampled softmax, dot, log q of both"  # of the target and of the negatives
DOT, WIDE = "sampled softmax, dot", f"{PRIOR} at D = 256"
CES = {MID: "CE", HIGH: "CE from log u"}  # the better start
TRIALS = {MID: 5, HIGH: 7}  # of CE, until neighbours of both its rates are tried
SHRINKING = 0.003  # of a row in a step: the table's rate times the weight decay
LEAST = 40  # steps of a trial
EXAMPLES = 512  # held out, of each half
SHAPE = ("cutoffs", "div_value")
CLUSTERS = {  # of the adaptive softmax, from torch's usual width on
    MID: ({}, {"div_value": 2.0}, {"cutoffs": (2_000, 10_000, 25_000), "div_value": 2.0}),
    HIGH: (
        {},
        {"div_value": 2.0},
        {"cutoffs": (4_000, 30_000, 80_000, 140_000), "div_value": 2.0},
        {"cutoffs": (10_000, 50_000, 90_000, 130_000, 170_000), "div_value": 1.5},
    ),
}


@dataclass(frozen=True)
class Race:
    """The race at one V. `run` trains; `tuned` gives the stored runs of the study's searches."""

    vocab: int
    run: Run
    tuned: Run

    @property
    def labels(self) -> tuple[str, ...]:
        """The rows, the slow ones first."""
        return (CES[self.vocab], ADAPTIVE, BOTH, DOT, PRIOR, WIDE, TUNED, *PUBLISHED)

    @property
    def groupings(self) -> tuple[dict, ...]:
        """What is tried of the adaptive softmax."""
        return CLUSTERS[self.vocab]

    @property
    def trials(self) -> int:
        """Of CE's search, at most."""
        return TRIALS[self.vocab]

    examples = EXAMPLES  # judged of each half

    def row(self, label: str) -> dict:
        """A row's settings as the study found them, but for what is fairer."""
        if label in PUBLISHED:
            return common(self.vocab) | PUBLISHED[label]
        known = f"{DOT}, from log u" if label == BOTH else label
        own = fixed(self.vocab, known) | settled(self.vocab, known, self.tuned)
        if label == BOTH:
            own |= WITH_PRIOR | {"scores": "dot", "log_unigram": False}
        if label in CES.values():
            own |= {"method": "ce_chunked"} | (START if self.vocab == HIGH else {})
        return common(self.vocab) | own

    def timed(self, label: str, found: dict | None = None) -> list[Spec]:
        """Trainings that measure the row's step: of what is found the clusters alone change it."""
        clusters = {name: value for name, value in (found or {}).items() if name in SHAPE}
        own = self.row(label) | clusters
        steps = 10 if own["method"] in ("ce_chunked", "adaptive") else 30
        timed = own | {"steps": steps, "evaluate": False, "threads": None}
        return [Spec(**timed, seed=seed) for seed in range(ROUNDS)]

    def turns(self) -> None:
        """Measures every row, and the adaptive softmax in each grouping, alone on the machine."""
        rows = [self.timed(label) for label in self.labels]
        rows += [self.timed(ADAPTIVE, clusters) for clusters in self.groupings[1:]]
        self.run([spec for specs in zip(*rows, strict=True) for spec in specs], self.part("turns"))

    def steps_in(self, seconds: float, label: str, found: dict) -> int:
        runs = self.run(self.timed(label, found), self.part("turns"))
        return int(1e3 * seconds / median(run["step_ms"] for run in runs))

    def training(self, label: str, found: dict, steps: int, examples: int) -> Spec:
        """Over text that is new for as long as there is any; judged at its end."""
        (timing, *_) = self.run(self.timed(label), self.part("turns"))
        wanted = steps * PAPER.batch
        if wanted < PAPER.examples:
            wanted = POOL
        read = min(wanted, timing["examples_available"])
        judged = {"eval_every": steps, "eval_examples": examples}
        own = self.row(label) | found | over(read, steps) | judged | {"steps": steps}
        if label not in PUBLISHED:
            own |= scheduled(steps)
        if label not in (TUNED, *PUBLISHED):
            own["weight_decay"] = SHRINKING / own["table_lr"]
        return Spec(**own)

    def best(self, label: str) -> dict:
        """What the row's search finds; {} for a row that has none."""

        def score(tried: list[dict]) -> list[float]:
            return nlls(self.run([self.trial(label, own) for own in tried], self.part("search")))

        start, clusters = self.row(label), {}
        if label == CES[self.vocab]:
            rates = {name: start[name] for name in ("table_lr", "lr")}
            return search(rates, self.trials, score)
        if label == ADAPTIVE:
            found = score(self.groupings)
            clusters = self.groupings[found.index(min(found))]
        elif label != BOTH:
            return {}

        def with_clusters(tried: list[dict]) -> list[float]:
            return score([clusters | rates for rates in tried])

        return clusters | search({"table_lr": start["table_lr"]}, 3, with_clusters)

    def trial(self, label: str, found: dict) -> Spec:
        steps = max(LEAST, self.steps_in(SECONDS / 4, label, found))
        return self.training(label, found, steps, EXAMPLES // 4)

    def hold(self, two: Executor) -> None:
        """All of it, in order."""
        self.turns()
        searched = each(two, self.best, self.labels, self.part("search"))
        found = dict(zip(self.labels, searched, strict=True))
        timed = [spec for row in found.items() for spec in self.timed(*row)]
        self.run(timed, self.part("cost"))
        specs = []
        for row in found.items():
            specs.append(self.training(*row, self.steps_in(SECONDS, *row), self.examples))
        self.run(specs, self.part("seconds"), two)

    def part(self, name: str) -> str:
        """The folder of a part."""
        return f"{self.vocab}/{name}"


def main() -> None:
    asked = words(__doc__, [str(MID), str(HIGH)], "race")
    run, tuned = runner(asked.out), runner(ROOT / "data/runs/two-cores/quality")
    for vocab in map(int, asked.parts):
        with ThreadPoolExecutor(2) as two:
            Race(vocab, run, tuned).hold(two)
        examples = text.load(progress=False).examples(vocab, PAPER.seq_len, PAPER.examples)
        sizes = {PAPER.examples, len(examples)}
        controls(asked.out / f"{vocab}/controls.json", examples, sizes, EXAMPLES)


if __name__ == "__main__":
    main()
