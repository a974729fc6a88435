"""The second and third stages that notebook 07 shows: `make stages`, after `make study`. Resumable, a run is one file.

For V = 8,192, 50,000 and 200,000, each in a folder of its own:

first    first stages, with their models: the method with a prior, and at 8,192 as published, and CE
tune     every kind of second stage looks for its learning rates with the same effort, as in `tools/study.py`; one kind
         simply goes on with what the first stage did
long     what it found, and rates that suit a long training, each for all the steps of a second stage
second   each at the better of the two, with a warm-up and a cosine of its own; at 8,192 two seeds, but for the
         published method's
cost     step times of every kind and of CE, in rounds of fresh processes, alone on the machine
samples  texts that the models write; search: exact and approximate search for the best tokens

Beside them stands what the study has in `equal`: the method with a prior, and CE, with one schedule over as many steps
as both stages have. `tools/stages.py 8192/tune search` does a part; `--out` and `--study` name the folders.
"""

import argparse
import json
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import study
import torch
from study import HIGH, LOW, MID, PRIOR, Run, row, saved, scheduled
from tqdm import tqdm

from scta_lab import Spec, decode, load, text
from scta_lab.base.files import ROOT, replace_file
from scta_lab.judge.search import compare, query, search_space
from scta_lite import PAPER

PUBLISHED = "SEMANTIC as published"
STEPS = {  # of both stages
    (LOW, PRIOR): (1_250, 1_250),
    (LOW, PUBLISHED): (2_500, 1_250),
    (LOW, "CE"): (1_250, 1_250),
    (MID, PRIOR): (2_000, 500),
    (HIGH, PRIOR): (1_000, 250),
}
LONGER = {LOW: 3_750}  # CE's steps with one schedule, as many as the published stages have
TUNED_STEPS, TRIALS = {LOW: 200, MID: 60, HIGH: 60}, 5
LONG = {"lr": 1e-3, "table_lr": 1e-2}  # tried at full length: in few steps a head that begins well is best left alone
SEEDS = {(LOW, PRIOR): 2, (LOW, "CE"): 2}  # of all others one
LADDERS = {name: (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, *(rate for rate in study.LADDERS[name] if rate > 1e-4))
           for name in ("lr", "table_lr")}  # fmt: skip
PROMPTS = ("def __init__(self", "Returns the", "import os")
SEARCHED, QUERIES = (50_000, 200_000, 1_000_000), 300


@dataclass(frozen=True)
class Kind:
    """A second stage: how its head begins, whether all else is frozen (option A) or not (B), whether it is sampled.

    Without a token head it is the first stage that goes on.
    """

    token_head: str | None = None
    freeze: bool = False
    sampled_head: bool = False


KINDS = [Kind(head, freeze) for head in ("normalised", "plain", "random") for freeze in (True, False)]
SAMPLED = Kind("normalised", False, True)
OF = {  # the second stages of each first one
    (LOW, PRIOR): [*KINDS, SAMPLED, Kind()],
    (LOW, PUBLISHED): [*KINDS[2:], Kind()],
    (LOW, "CE"): [Kind()],
    (MID, PRIOR): [*KINDS[1::2], SAMPLED, Kind()],  # everything trained
    (HIGH, PRIOR): [SAMPLED, Kind()],
}


def seeds(vocab: int, label: str) -> range:
    return range(SEEDS.get((vocab, label), 1))


def first(vocab: int, label: str, run: Run, seed: int = 0) -> Spec:
    """The first stage, at the settings that the study found."""
    return row(vocab, label, run, STEPS[vocab, label][0], seed)


def second(of: Spec, kind: Kind, models: Path, steps: int, **changes) -> Spec:
    """The second stage of that kind, of a first one that is saved in the folder of models.

    Its seed is another, so that it reads the text in another order and draws other negatives than the first stage did.
    """
    run_id = of.run_id(text.load(progress=False).fingerprint)
    changed = {
        **of.changes(),
        **scheduled(steps),
        "eval_every": max(
            1, steps // (2 if of.vocab == HIGH else 10)
        ),  # there a look takes longer than the steps before it
        "seed": of.seed + 100,
        **vars(kind),
        **changes,
    }
    return Spec(**{"method": of.method, "vocab": of.vocab, **changed, "stage1": str(models / f"{run_id}.safetensors")})


def tune(vocab: int, label: str, kind: Kind, run: Run, chosen: Run, models: Path) -> dict:
    """The learning rates that a search from small ones finds; a head at random begins at those of a first stage."""
    of, steps = first(vocab, label, chosen), TUNED_STEPS[vocab]
    looks = {"eval_every": steps, "eval_examples": study.TUNED_ON[vocab]}
    start = {"lr": 3e-3, "table_lr": 1e-2} if kind.token_head == "random" else {"lr": 1e-3, "table_lr": 3e-3}

    def score(settings: list[dict]) -> list[float]:
        specs = [second(of, kind, models, steps, **looks, **rates) for rates in settings]
        return study.nlls(run(specs, f"{vocab}/tune"))

    if kind.freeze:  # the table alone is trained
        return study.search({"table_lr": start["table_lr"]}, TRIALS, score, LADDERS)
    return study.search(dict(reversed(start.items())), TRIALS, score, LADDERS)


def settled(vocab: int, label: str, kind: Kind, run: Run, chosen: Run, models: Path) -> dict:
    """What is better at full length: the rates that the search found, or those of `LONG`."""
    found, steps = tune(vocab, label, kind, run, chosen, models), STEPS[vocab, label][1]
    tried = [found, {name: LONG[name] for name in found}]
    specs = [second(first(vocab, label, chosen), kind, models, steps, **rates) for rates in tried]
    scores = study.nlls(run(specs, f"{vocab}/long"))
    return tried[scores.index(min(scores))]


def ends(vocab: int, run: Run, chosen: Run, models: Path) -> list[Spec]:
    """The second stages, each at its best rates."""
    specs = []
    for (of_vocab, label), kinds in OF.items():
        for kind in kinds if of_vocab == vocab else ():
            rates, steps = settled(vocab, label, kind, run, chosen, models), STEPS[vocab, label][1]
            specs += [second(first(vocab, label, chosen, seed), kind, models, steps, **rates)
                      for seed in seeds(vocab, label)]  # fmt: skip
    return specs


def long_ce(vocab: int, chosen: Run, seed: int = 0) -> Spec:
    """CE for as many steps as the published stages have."""
    return row(vocab, "CE", chosen, LONGER[vocab], seed, epochs=3)


def begun(vocab: int, chosen: Run) -> list[Spec]:
    """What is trained from nothing, the longest first."""
    labels = [label for of_vocab, label in STEPS if of_vocab == vocab]
    longer = [long_ce(vocab, chosen, seed) for seed in seeds(vocab, PUBLISHED) if vocab in LONGER]
    return longer + [first(vocab, label, chosen, seed) for label in reversed(labels) for seed in seeds(vocab, label)]


def cost(vocab: int, run: Run, chosen: Run, models: Path) -> list[dict]:
    """The runs that measure the step of every kind, and of CE, which the study measured too."""
    plain = {"evaluate": False, "eval_every": None, "threads": None}
    kinds = [(label, kind) for (of_vocab, label), some in OF.items() if of_vocab == vocab for kind in some]
    return run([spec for turn in range(study.ROUNDS) for spec in (
        row(vocab, "CE", chosen, 30, turn, **plain),
        *(second(first(vocab, label, chosen), kind, models, 30, **plain, seed=turn) for label, kind in kinds),
    )], f"{vocab}/cost")  # fmt: skip


def firsts(vocab: int, out: Path, chosen: Run, two: Executor) -> None:
    """The first stages, with their models, and CE beside them."""
    specs = begun(vocab, chosen)
    list(tqdm(two.map(partial(saved, models=out / "models", also=out / f"{vocab}/first"), specs), "first", len(specs)))


def samples(out: Path, run: Run, chosen: Run) -> None:
    """Texts that the models of V = 8,192 write, of both stages and of CE, and of V = 50,000, of both stages."""
    found, models = [], out / "models"
    for vocab in (LOW, MID):
        start = first(vocab, PRIOR, chosen)
        kind = Kind("normalised", False)
        end = second(start, kind, models, STEPS[vocab, PRIOR][1], **settled(vocab, PRIOR, kind, run, chosen, models))
        wanted = {"stage 1": start, "stage 2": end}
        if vocab in LONGER:
            wanted["CE"] = long_ce(vocab, chosen)
        vocabulary = text.load(progress=False).vocabulary(vocab)
        for name, spec in wanted.items():
            file = saved(spec, models)
            model = load(file.parent, file.stem).model
            for prompt in PROMPTS:
                pieces = decode.write(model, vocabulary, prompt, 60, temperature=0.7, top_p=0.9,
                                      generator=torch.Generator().manual_seed(0))  # fmt: skip
                found.append({"model": f"V = {vocab:,}, {name}", "prompt": prompt, "text": "".join(pieces)})
    replace_file(out / "found" / "samples.json", json.dumps(found, indent=1, ensure_ascii=False).encode())


def search(out: Path, chosen: Run) -> None:
    """Recall against microseconds on models of SEMANTIC with prior, over all tokens, and over those trained on."""
    corpus, found = text.load(progress=False), []
    for vocab in tqdm(SEARCHED, unit=" vocabularies"):
        settings = study.chosen(LOW, PRIOR, chosen)
        spec = Spec(vocab=vocab, optimizer="rows", **scheduled(2_500), **settings)
        file = saved(spec, out / "models")
        model = load(file.parent, file.stem).model
        train, held = (torch.from_numpy(text.examples(part, 64).astype("int64")) for part in corpus.ids(vocab))
        with torch.no_grad():
            hidden, _ = model.positions(held[:: len(held) // QUERIES])
        asked = torch.linspace(0, len(hidden) - 1, QUERIES).long()  # from all over the held-out text
        queries, vectors = query(model.head, hidden[asked]), search_space(model.head)
        trained = train[: PAPER.examples, 1:].unique()  # an epoch reads all of these
        for rows, part in (("all", vectors), ("trained", vectors[trained])):
            for kind, effort in (("HNSW32", (16, 64, 256, 1024)), ("IVF1024,Flat", (1, 4, 16, 64, 256))):
                results = compare(part, queries, kind, effort)
                found += [{"vocab": vocab, "rows": rows, "vectors": len(part), **result} for result in results]
    replace_file(out / "found" / "search.json", json.dumps(found, indent=1).encode())


def main() -> None:
    parts = [*(f"{vocab}/{part}" for vocab in study.VOCABS for part in ("first", "tune", "long", "second", "cost")),
             "samples", "search"]  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=parts, help=f"of {', '.join(parts)}")
    for name, default in (("out", "stages"), ("study", "study")):
        parser.add_argument(f"--{name}", type=Path, default=ROOT / "runs" / default, help=f"folder (runs/{default})")
    asked = parser.parse_args()
    out, run, chosen = asked.out, study.live(asked.out), study.live(asked.study)
    (out / "found").mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        vocab, kind = part.partition("/")[::2]
        with ThreadPoolExecutor(2) as two:  # at a time, a core each; but for times
            if kind == "first":
                firsts(int(vocab), out, chosen, two)
            elif kind in ("tune", "long"):
                find = partial(tune if kind == "tune" else settled, run=run, chosen=chosen, models=out / "models")
                wanted = [(*of, each) for of, kinds in OF.items() if of[0] == int(vocab) for each in kinds]
                list(tqdm(two.map(find, *zip(*wanted, strict=True)), part, total=len(wanted)))
            elif kind == "second":
                run(ends(int(vocab), run, chosen, out / "models"), part, two)
            elif kind == "cost":
                cost(int(vocab), run, chosen, out / "models")
            elif part == "samples":
                samples(out, run, chosen)
            else:
                search(out, chosen)


if __name__ == "__main__":
    main()
