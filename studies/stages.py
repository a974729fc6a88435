"""The second and third stages that notebook 06 shows: `make stages`.

It made data/runs/two-cores/stages. About 5 hours on two cores, after `make study`; resumable, a run
is one file. For V = 8,192, 50,000 and 200,000, each in a folder of its own:

first    first stages, with their models: the method with a prior, at 8,192 as published, and CE
tune     every kind of second stage looks for its learning rates with the same effort (`search.py`);
         one kind simply goes on with what the first stage did
long     what it found, and rates that suit a long training, each for all steps of a second stage
second   each at the better of the two, with a warm-up and a cosine of its own; at 8,192 two seeds,
         but one of the published method
cost     step times of every kind and of CE, in rounds of fresh processes, alone on the machine
samples  texts that the models write
search   exact and approximate search for the best tokens

Beside them stands what the study has in `equal`: the method with a prior, and CE, with one schedule
over as many steps as both stages have. `studies/stages.py 8192/tune search` does a part; `--out`
and `--study` name the folders.
"""

import json
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from plan import LOW, MID, PRIOR, VOCABS
from scta_lab import Spec, decode, load, text
from scta_lab.base.files import replace_file
from scta_lab.judge.search import compare, query, search_space
from scta_lite import PAPER
from search import each, runner, saved, scheduled, words
from second_stages import Stages, kinds
from trainings import apart, settled

PROMPTS = ("def __init__(self", "Returns the", "import os")
SEARCHED = (50_000, 200_000, 1_000_000)  # V
QUERIES = 300
INDICES = {"HNSW32": (16, 64, 256, 1024), "IVF1024,Flat": (1, 4, 16, 64, 256)}  # and efforts


def loaded(spec: Spec, models: Path) -> torch.nn.Module:
    file = saved(spec, models)
    return load(file.parent, file.stem).model


def samples(stages: Stages) -> Iterator[dict]:
    """Texts that the models of this V write."""
    vocabulary = text.load(progress=False).vocabulary(stages.vocab)
    for name, spec in stages.written().items():
        model = loaded(spec, stages.models)
        for prompt in PROMPTS:
            how = {"temperature": 0.7, "top_p": 0.9, "generator": torch.Generator().manual_seed(0)}
            pieces = decode.write(model, vocabulary, prompt, 60, **how)
            about = {"model": f"V = {stages.vocab:,}, {name}", "prompt": prompt}
            yield about | {"text": "".join(pieces)}


def searches(vocab: int, stages: Stages) -> Iterator[dict]:
    """Recall against microseconds, over all tokens, and over those that were trained on."""
    own = apart(LOW, PRIOR, lambda label: settled(LOW, label, stages.study))
    spec = Spec(vocab=vocab, optimizer="rows", **scheduled(2_500), **own)
    model = loaded(spec, stages.models)
    train, held = (
        torch.from_numpy(text.examples(part, PAPER.seq_len).astype("int64"))
        for part in text.load(progress=False).ids(vocab)
    )
    with torch.no_grad():
        hidden, _ = model.positions(
            held[:: len(held) // QUERIES]
        )  # from all over the held-out text
    places = torch.linspace(0, len(hidden) - 1, QUERIES).long()
    queries = query(model.head, hidden[places])
    vectors = search_space(model.head)
    trained = train[: PAPER.examples, 1:].unique()  # an epoch reads all of these
    for rows, part in (("all", vectors), ("trained", vectors[trained])):
        for kind, efforts in INDICES.items():
            for result in compare(part, queries, kind, efforts):
                yield {"vocab": vocab, "rows": rows, "vectors": len(part), **result}


def keep(out: Path, name: str, results: list[dict]) -> None:
    content = json.dumps(results, indent=1, ensure_ascii=False)
    replace_file(out / "found" / f"{name}.json", content.encode())


def do(part: str, out: Path, at: dict[int, Stages], two: Executor) -> None:
    """Does a part, two trainings at a time, a core each; step times are measured alone."""
    if part == "samples":
        keep(out, part, [sample for V in (LOW, MID) for sample in samples(at[V])])
        return
    if part == "search":
        keep(out, part, [result for V in SEARCHED for result in searches(V, at[LOW])])
        return
    vocab, _, kind = part.partition("/")
    stages = at[int(vocab)]
    if kind == "first":
        also = out / part
        each(two, partial(saved, models=stages.models, also=also), stages.begun(), part)
    elif kind == "tune":
        each(two, lambda pair: stages.tune(*pair), kinds(stages.vocab), part)
    elif kind == "long":
        each(two, lambda pair: stages.settled(*pair), kinds(stages.vocab), part)
    elif kind == "second":
        stages.run(stages.ends(), part, two)
    elif kind == "cost":
        stages.cost()


def main() -> None:
    parts = [f"{V}/{part}" for V in VOCABS for part in "first tune long second cost".split()]
    asked = words(__doc__, [*parts, "samples", "search"], "stages", "study")
    run, study = runner(asked.out), runner(asked.study)
    at = {V: Stages(V, run, study, asked.out / "models") for V in VOCABS}
    for part in asked.parts:
        with ThreadPoolExecutor(2) as two:
            do(part, asked.out, at, two)


if __name__ == "__main__":
    main()
