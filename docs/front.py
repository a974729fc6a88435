"""What the front page shows, from data/: see templates/front.html and static/front.js."""

import html
import json

import numpy as np
import torch
from torch.nn.functional import normalize

from scta_lab import load_runs
from scta_lab.base.files import printable
from scta_lab.run.table import ratios
from scta_lab.study import quality
from tables import BENCH, STUDY, equal_steps, known_claims

STEPS = {  # what a step is timed for: its method and optimizer
    "ce": ("ce", "dense"),
    "paper": ("semantic", "dense"),
    "sparse": ("semantic", "rows"),
    "chunks": ("ce_chunked", "rows"),
}
ROWS = {  # of the study of quality: the settings that tell a row
    "adaptive": {"method": "adaptive"},
    "repaired": {"method": "semantic_prior", "optimizer": "rows", "semantic_dim": 64},
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
    return f"const FRONT = {json.dumps(data, separators=(',', ':'))};\n"


def steps() -> dict[str, dict]:
    """By V the milliseconds of a step, and how many times as fast as CE's it is.

    That is the median over rounds in which all took turns.
    """
    runs = load_runs(BENCH)
    table = ratios(runs[runs.corpus != "zipf"], method="ce", optimizer="dense")
    table["times"] = 1 / table.ratio
    columns = table.rename(columns={"step_ms": "ms"}).set_index(["method", "optimizer"])
    columns = columns[["vocab", "ms", "times"]].round(3)
    return {name: columns.loc[[kind]].to_dict("list") for name, kind in STEPS.items()}


# --- quality


def rows(view: quality.View) -> dict[str, list[str]]:
    """Its rows that are shown, one or two for each name."""
    found = {"CE": [view.ce], "paper’s settings": list(quality.PUBLISHED)}
    for name, wanted in ROWS.items():
        found[name] = [row for row, runs in view.rows.items() if wanted.items() <= runs[0].items()]
    examples = sorted(model["examples"] for model in view.counted if model["order"] == 3)
    return found | {"trigram": [f"trigram of {n:,} examples" for n in examples]}


def pareto() -> list[dict]:
    """For each V what was trained or counted: seconds and bits per byte."""
    panels = []
    for view in equal_steps().values():
        numbers = (
            view.table[["seconds", "bits/byte"]].astype(float).round({"seconds": 2, "bits/byte": 3})
        )
        points = {name: numbers.loc[found].values.tolist() for name, found in rows(view).items()}
        panels.append({"vocab": view.vocab, "after": view.name, "points": points})
    return panels


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


# --- claims


def chips() -> str:
    """The claims, a link each, coloured by verdict."""
    items = []
    for claim in known_claims().itertuples():
        address = f"docs/claims.html#{claim.id.lower()}"
        kind = claim.verdict.replace(" ", "-")
        link = f'<a class="{kind}" href="{address}" title="{html.escape(claim.claim)}">'
        items.append(f"<li>{link}<b>{claim.id}</b> {claim.verdict}</a></li>")
    return f'<ul class="chips">{"".join(items)}</ul>'
