"""The front page's numbers, from what is stored in data/: see templates/front.html and static/front.js."""

import html
import json
import math

import numpy as np
import torch
from torch.nn.functional import normalize

from scta_lab import load_runs
from scta_lab.run.table import ratios
from scta_lab.study import quality
from scta_lite import PAPER, published_epoch_losses
from scta_lite.checks import printable
from tables import BENCH, STUDY, known_claims, views

STEPS = {  # what a step is timed for: its method and optimizer
    "ce": ("ce", "dense"),
    "paper": ("semantic", "dense"),
    "sparse": ("semantic", "rows"),
    "chunks": ("ce_chunked", "rows"),
}
SPACES = {  # the models of space.npz whose neighbours are shown
    "SEMANTIC, the paper’s settings": "SEMANTIC as published",
    "SEMANTIC, repaired": "SEMANTIC with prior",
    "CE": "CE",
}
TYPED, NEAREST = 2_000, 5  # the most frequent tokens, and neighbours of each


def script() -> str:
    """A script that gives static/front.js its data."""
    data = {"steps": steps(), "quality": pareto(), "words": words()}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"const FRONT = {text};\n"


def steps() -> dict[str, dict]:
    """By V the milliseconds of a step, and how many times as fast as CE's it is.

    That is the median over rounds in which all took turns.
    """
    runs = load_runs(BENCH)
    table = ratios(runs[runs.corpus != "zipf"], method="ce", optimizer="dense")
    chosen = {}
    for name, kind in STEPS.items():
        part = table[(table.method == kind[0]) & (table.optimizer == kind[1])]
        chosen[name] = {
            "vocab": part.vocab.tolist(),
            "ms": part.step_ms.round(2).tolist(),
            "times": (1 / part.ratio).round(3).tolist(),
        }
    return chosen


# --- quality


def longest(vocab: int) -> quality.View:
    """The view after the most steps, equal ones, at this V."""
    equal = [view for view in views() if view.vocab == vocab and view.name.endswith("steps")]
    return equal[-1]


def repaired(view: quality.View) -> str:
    """The name of its row."""
    wanted = {"method": "semantic_prior", "optimizer": "rows", "semantic_dim": PAPER.semantic_dim}
    return row_of(view, wanted)


def row_of(view: quality.View, wanted: dict) -> str:
    names = [name for name, runs in view.rows.items() if wanted.items() <= runs[0].items()]
    if len(names) != 1:
        raise ValueError(f"V = {view.vocab}: {names} are {wanted}; expected one row")
    return names[0]


def pareto() -> list[dict]:
    """For each V what was trained or counted: seconds and bits per byte, one point or two."""
    panels = []
    for vocab in quality.vocabs(STUDY):
        view = longest(vocab)
        trigrams = [f"trigram of {n:,} examples" for n in trigram_examples(view)]
        lines = {
            "CE": [view.ce],
            "adaptive": [row_of(view, {"method": "adaptive"})],
            "repaired": [repaired(view)],
            "paper’s settings": list(quality.PUBLISHED),
            "trigram": trigrams,
        }
        points = {name: [point(view, row) for row in rows] for name, rows in lines.items()}
        panels.append({"vocab": vocab, "after": view.name, "points": points})
    return panels


def trigram_examples(view: quality.View) -> list[int]:
    return sorted(model["examples"] for model in view.counted if model["order"] == 3)


def point(view: quality.View, row: str) -> list[float]:
    line = view.table.loc[row]
    return [round(float(line["seconds"]), 2), round(float(line["bits/byte"]), 3)]


# --- neighbours


def words() -> dict:
    """The tokens nearest to each of the most frequent ones, in each model."""
    space = np.load(STUDY / "space.npz")
    by_count = np.argsort(-space["counts"], kind="stable")
    typed = by_count[by_count >= 256][:TYPED].tolist()  # below 256 are single bytes
    nearest = {}
    for name, row in SPACES.items():
        vectors = normalize(torch.from_numpy(space[row]).float(), dim=1)
        cosines = vectors[typed] @ vectors.T  # (2,000, V)
        cosines[torch.arange(len(typed)), typed] = -1  # not the token itself
        nearest[name] = cosines.topk(NEAREST).indices.tolist()
    names = [printable(str(word)) for word in space["words"]]
    return {"names": names, "typed": typed, "nearest": nearest}


# --- what stands in front.html for each %NAME


def numbers() -> dict[str, str]:
    losses = published_epoch_losses()
    last = losses[(losses.vocab == 1_000_000) & (losses.epoch == 2)].set_index("method")["last"]
    small, *_ = every = [longest(vocab) for vocab in quality.vocabs(STUDY)]
    trigram = small.table.loc[f"trigram of {trigram_examples(small)[0]:,} examples"]
    gaps = [small_gap(view, "bits/byte") for view in every]
    shares = [f"1/{1 / share:.0f}" for share in (small_share(view) for view in every)]
    return {
        "LOSS_SEMANTIC": f"{last['semantic']:.2f}",
        "LOSS_CE": f"{last['ce']:.2f}",
        "GUESS_FEW": f"{math.log(PAPER.negatives + 1):.2f}",
        "GUESS_ALL": f"{math.log(1_000_000):.2f}",
        "NLL_CE": f"{small.table.loc[small.ce, 'NLL']:.2f}",
        "NLL_PAPER": small.as_published("NLL", ".2f"),
        "NLL_TRIGRAM": f"{trigram.NLL:.2f}",
        "TRIGRAM_SECONDS": f"{trigram.seconds:.2f}",
        "GAP": f"{max(gaps):.2f}",
        "TIMES": f"{', '.join(shares[:-1])} and {shares[-1]}",
        "CLAIMS_NUMBER": str(len(known_claims())),
        "CHIPS": chips(),
    }


def small_gap(view: quality.View, column: str) -> float:
    """How far the repaired loss is behind CE."""
    return view.table.loc[repaired(view), column] - view.table.loc[view.ce, column]


def small_share(view: quality.View) -> float:
    """Its seconds over CE's."""
    return view.table.loc[repaired(view), "seconds"] / view.table.loc[view.ce, "seconds"]


def chips() -> str:
    """The claims, a link each, coloured by verdict."""
    items = []
    for claim in known_claims().itertuples():
        address = f"docs/claims.html#{claim.id.lower()}"
        kind = claim.verdict.replace(" ", "-")
        link = f'<a class="{kind}" href="{address}" title="{html.escape(claim.claim)}">'
        items.append(f"<li>{link}<b>{claim.id}</b> {claim.verdict}</a></li>")
    return f'<ul class="chips">{"".join(items)}</ul>'
