"""The study of the second and third stage that notebook 07 shows: `make stages`. Resumable, a run is one file.

8192: from a saved first stage, token heads of every kind, both options, exact and sampled, and CE from the start for as
many steps as both stages have; two at a time, a core each. 50000: the same, alone, and from a longer first stage.
ce: that of V = 50,000. search: exact and approximate search for the best tokens.
samples: texts that the models of V = 50,000 write.
"""

import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from study import CHOSEN, saved
from tqdm import tqdm

from scta_lite import Spec, decode, sweep, text
from scta_lite.files import ROOT, replace_file

FOLDER = ROOT / "runs" / "stages"
CE, PRIOR, PUBLISHED = CHOSEN[:3]
ALIGNED = {8_192: 1250, 50_000: 200}  # steps of a second stage
SIZES = {8_192: {"threads": 1}, 50_000: {"eval_examples": 128}}
VARIANTS = [  # how the token head begins, whether all else is frozen, its learning rate, whether it is sampled
    ("normalised", True, 1e-3, False),
    ("normalised", False, 1e-3, False),
    ("plain", True, 1e-3, False),
    ("plain", False, 1e-3, False),
    ("random", True, 3e-3, False),
    ("random", False, 3e-3, False),
    ("normalised", False, 1e-3, True),
    ("plain", False, 3e-3, False),
]
FIRST = {  # V: first stages, the steps of each, and its variants by their places above
    8_192: ((PRIOR, 1250, range(7)), (PUBLISHED, 1250, (2, 3, 5, 7))),
    50_000: ((PRIOR, 600, range(7)), (PUBLISHED, 600, (2, 3)), (PRIOR, 1250, (1, 3, 6))),
}


def first(vocab: int, chosen: tuple, steps: int) -> Spec:
    method, settings = chosen
    return Spec(method=method, vocab=vocab, optimizer="rows", steps=steps, evaluate=True, eval_every=250,
                **SIZES[vocab], **settings)  # fmt: skip


def second(vocab: int, spec: Spec, places: Iterable[int]) -> list[Spec]:
    """The second stages of a saved first one."""
    run_id = spec.run_id(text.load(spec.corpus, progress=False).fingerprint)
    steps = ALIGNED[vocab]
    settings = {"stage1": str(FOLDER / "stage1" / f"{run_id}.safetensors"), "steps": steps, "eval_every": steps // 10}
    return [replace(spec, **settings, token_head=head, freeze=freeze, lr=lr, sampled_head=sampled, table_lr=None)
            for head, freeze, lr, sampled in (VARIANTS[i] for i in places)]  # fmt: skip


def align(vocab: int) -> None:
    """The first stages with a prior, and as published, and their second stages."""
    specs = []
    for chosen, steps, places in FIRST[vocab]:
        spec = first(vocab, chosen, steps)
        saved(spec, FOLDER / "stage1", also=FOLDER)
        specs += second(vocab, spec, places)
    specs += [ce(vocab)] * ("threads" in SIZES[vocab])
    sweep(specs, FOLDER, executor=ThreadPoolExecutor(2) if "threads" in SIZES[vocab] else None)


def ce(vocab: int) -> Spec:
    """CE from the start, for as many steps as both stages have."""
    return replace(first(vocab, CE, FIRST[vocab][0][1] + ALIGNED[vocab]), eval_every=50)


PROMPTS = ("def __init__(self", "Returns the", "import os")


def samples() -> None:
    """Texts that models of V = 50,000 write: the first stage, the second, and CE, each as saved."""
    vocabulary, found = text.load(progress=False).vocabulary(50_000), []
    begun = first(50_000, PRIOR, 1250)
    models = {"stage 1": begun, "stage 2": second(50_000, begun, (1,))[0], "CE": ce(50_000)}
    for name, spec in models.items():
        model = saved(spec, FOLDER / "stage1")
        for prompt in PROMPTS:
            pieces = decode.write(model, vocabulary, prompt, 60, temperature=0.7, top_p=0.9,
                                  generator=torch.Generator().manual_seed(0))  # fmt: skip
            found.append({"model": name, "prompt": prompt, "text": "".join(pieces)})
    replace_file(FOLDER / "found" / "samples.json", json.dumps(found, indent=1, ensure_ascii=False).encode())


def search(vocabs: tuple[int, ...] = (50_000, 200_000, 1_000_000)) -> None:
    """Recall against microseconds on models of SEMANTIC with prior, over all tokens, and over those trained on."""
    corpus, found = text.load(progress=False), []
    for vocab in tqdm(vocabs, unit=" vocabularies"):
        spec = (
            first(vocab, PRIOR, 1250)
            if vocab in FIRST
            else Spec(method=PRIOR[0], vocab=vocab, optimizer="rows", steps=1250, **PRIOR[1])
        )
        model = saved(spec, FOLDER / "stage1")
        train, held = (torch.from_numpy(text.examples(part, 64).astype("int64")) for part in corpus.ids(vocab))
        with torch.no_grad():
            hidden, _ = model.positions(held[:16])
        queries, vectors = decode.query(model.head, hidden[:300]), decode.search_space(model.head)
        trained = train[:20_000, 1:].unique()  # an epoch reads all of these
        for rows, part in (("all", vectors), ("trained", vectors[trained])):
            for kind, effort in (("HNSW32", (16, 64, 256, 1024)), ("IVF1024,Flat", (1, 4, 16, 64, 256))):
                results = decode.compare(part, queries, kind, effort)
                found += [{"vocab": vocab, "rows": rows, "vectors": len(part), **result} for result in results]
    replace_file(FOLDER / "found" / "search.json", json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    (FOLDER / "found").mkdir(parents=True, exist_ok=True)
    parts = {"8192": lambda: align(8_192), "50000": lambda: align(50_000), "search": search,
             "ce": lambda: saved(ce(50_000), FOLDER / "stage1", also=FOLDER), "samples": samples}  # fmt: skip
    for name in sys.argv[1:] or parts:
        parts[name]()
