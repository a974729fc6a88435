"""Controls that need no kernel: every state of one is made here, as a picture or a text."""

import html
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from notebooks import smaller
from scta_lab import load_runs
from scta_lab.base.files import printable
from scta_lab.study import figures, labels
from scta_lite import published_runs
from tables import BENCH, RUNS, STUDY, method, on_gpu, views

SAMPLES = RUNS / "two-cores" / "stages" / "found" / "samples.json"
MOST_TYPED = 2_000  # words whose neighbours can be asked for
FIGURES = {
    "throughput": ("tokens a second", figures.throughput, "tokens_per_s"),
    "time": ("seconds for the whole training", figures.training_time, "seconds"),
    "speedup": ("times as fast as CE", figures.speedup, "speedup"),
}
COSTS = {
    "step": ("milliseconds a step", "step_ms", "{:,.0f} ms"),
    "memory": ("peak memory (GB)", "gb", "{:.1f} GB"),
}
METRICS = {
    "nll": "NLL, nats",
    "bits_per_byte": "bits per byte",
    "hit@1": "Hit@1",
    "hit@10": "Hit@10",
}


# --- forms


def control(name: str, choices: dict[str, dict[str, str] | list[str]], frames: dict, **more) -> str:
    """A form: of each choice the label and its values (or, of a list, words to type).

    `frames` has what each of them shows, by their values with | between.
    """
    fields = [
        field(f"{name}-{n}", label, values) for n, (label, values) in enumerate(choices.items())
    ]
    content = json.dumps({"frames": frames, **more}, ensure_ascii=False, separators=(",", ":"))
    content = content.replace("</", "<\\/")  # so that nothing in it ends the script
    pieces = [
        f'<form class="control" id="{name}" aria-label="{name.replace("-", " ")}">',
        *fields,
        '<output aria-live="polite"></output>',
        f'<script type="application/json">{content}</script></form>',
    ]
    return f"```{{raw}} html\n{''.join(pieces)}\n```"


def field(place: str, label: str, values: dict[str, str] | list[str]) -> str:
    typed = isinstance(values, list)
    named = dict.fromkeys(values, "") if typed else values
    options = "".join(
        f'<option value="{html.escape(value)}">{html.escape(text)}</option>'
        for value, text in named.items()
    )
    if not typed:
        select = f'<select id="{place}">{options}</select>'
        return f'<label for="{place}">{label} {select}</label>'
    words = f"{place}-all"
    first = html.escape(values[0])
    entry = f'<input id="{place}" list="{words}" value="{first}" autocomplete="off">'
    datalist = f'<datalist id="{words}">{options}</datalist>'
    return f'<label for="{place}">{label} {entry}</label>{datalist}'


class Frames(dict):
    """The frames of one control; pictures are files in a folder beside the pages."""

    def __init__(self, name: str, folder: Path):
        super().__init__()
        self.name = name
        self.folder = folder

    def add(self, key: str, figure: Figure, text: str) -> None:
        file = f"{self.name}-{len(self)}.png"
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
        (self.folder / file).write_bytes(smaller(picture.getvalue()))
        sentence = text[0].upper() + text[1:]
        self[key] = {"says": sentence, "picture": f"../_static/frames/{file}"}


def points(runs: pd.DataFrame, column: str, form: Callable[[float], str]) -> str:
    """The medians of a column, in words: by method, at each V."""
    if "optimizer" not in runs:
        runs = runs.assign(optimizer="dense")
    sentences = []
    for _, part in runs.fillna({"optimizer": "dense"}).groupby(["method", "optimizer"], sort=False):
        medians = part.groupby("vocab")[column].median().dropna()
        places = [f"{form(value)} at {figures.short(V)}" for V, value in medians.items()]
        sentences.append(f"{method(part.iloc[0])}: {', '.join(places) or 'no number'}.")
    return " ".join(sentences)


# --- what can be chosen


def figure_chooser(folder: Path) -> str:
    """The figures of notebook 07, of each machine."""
    published = published_runs()
    bench = load_runs(BENCH)
    shown = bench.method.isin(["ce", "semantic"]) & (bench.optimizer != "sparse")
    machines = {
        "a6000": ("RTX A6000, published", published[published.machine == "RTX A6000"]),
        "4070": ("RTX 4070 Laptop, published", published[published.machine == "RTX 4070 Laptop"]),
        "here": ("two cores of an Intel Xeon, ours", bench[shown & (bench.corpus != "zipf")]),
        "h200": ("H200, ours", on_gpu()),
    }
    frames = Frames("figures", folder)
    for kind, (label, draw, column) in FIGURES.items():
        for machine, (name, runs) in machines.items():
            named = runs[runs.method != "ce"] if kind == "speedup" else runs
            text = f"{label}, {name}. {points(named, column, figures.short)}"
            frames.add(f"{kind}|{machine}", draw(runs), text)
    return control("figures", {"Figure": first(FIGURES), "Machine": first(machines)}, frames)


def first(named: dict[str, tuple]) -> dict[str, str]:
    """The label of each, which stands first."""
    return {key: label for key, (label, *_) in named.items()}


def cost_chooser(folder: Path) -> str:
    """A step's time and memory against V, of one method at a time, between CE and the backbone."""
    runs = load_runs(BENCH)
    runs = runs[runs.corpus != "zipf"].assign(extrapolated=False)
    runs["gb"] = runs.peak_memory_bytes.astype(float) / 1e9
    runs["kind"] = runs.method + "/" + runs.optimizer
    methods = {f"{m}/{o}": figures.style(m, o)["label"] for m, o in figures.METHODS}
    methods = {kind: label for kind, label in methods.items() if kind in set(runs.kind)}
    frames = Frames("cost", folder)
    for key, (label, column, form) in COSTS.items():
        for kind in methods:
            part = runs[runs.kind.isin([kind, "ce/dense", "backbone/dense"])]
            drawn = figures.against_vocab(part, column, label)
            frames.add(f"{key}|{kind}", drawn, f"{label}. {points(part, column, form.format)}")
    return control("cost", {"Measure": first(COSTS), "Method": methods}, frames)


def quality_chooser(folder: Path) -> str:
    """Quality during training, as notebook 05 has it."""
    frames = Frames("quality", folder)
    lengths = {}
    for view in views():
        key = f"{view.vocab}/{view.name}"
        lengths[key] = f"V = {view.vocab:,}, {view.name}"
        runs = pd.DataFrame([seeds[0] for seeds in view.rows.values()])
        runs["step_ms"] = [view.step_ms[row] for row in view.rows]
        ends = pd.DataFrame([looks[-1] for looks in runs.validation], index=list(view.rows))
        for metric, label in METRICS.items():
            is_hit = metric.startswith("hit")
            best_first = ends[metric].sort_values(ascending=not is_hit, kind="stable")
            form = ".1%" if is_hit else ".3f"
            order = ", ".join(f"{row} {value:{form}}" for row, value in best_first.items())
            about = f"{label} on validation text, V = {view.vocab:,}."
            text = f"{about} After {view.name}, best first: {order}."
            for x in ("steps", "seconds"):
                drawn = labels.quality(runs, metric, x)
                frames.add(f"{key}|{metric}|{x}", drawn, f"Against {x}: {text}")
    axes = {"steps": "steps", "seconds": "seconds"}
    choices = {"V and length": lengths, "Metric": METRICS, "Against": axes}
    return control("quality", choices, frames)


def words_chooser() -> str:
    """The nearest tokens of each of the most frequent ones, as notebook 05 has them."""
    space = np.load(STUDY / "space.npz")
    rows = [name for name in space.files if name not in ("words", "counts")]
    by_count = np.argsort(-space["counts"], kind="stable")
    frequent = by_count[by_count >= 256][:MOST_TYPED].tolist()  # below 256 are single bytes
    typed = [str(space["words"][i]) for i in frequent]
    frames: dict[str, list[int]] = {}
    for row in rows:
        vectors = normalize(torch.from_numpy(space[row]).float(), dim=1)
        cosines = vectors[frequent] @ vectors.T  # (2,000, V)
        nearest = cosines.topk(9).indices[:, 1:].tolist()  # without the word itself
        frames |= {f"{word}|{row}": ids for word, ids in zip(typed, nearest, strict=True)}
    typed.sort(key=lambda word: word != " return")  # the first is what is shown at first
    words = [printable(str(word)) for word in space["words"]]
    vectors_of = {row: row for row in rows}
    return control("nearest-words", {"Word": typed, "Vectors of": vectors_of}, frames, words=words)


def samples_chooser() -> str:
    """The samples of notebook 06."""
    samples = json.loads(SAMPLES.read_text())
    frames = {
        f"{sample['model']}|{sample['prompt']}": {"says": sample["text"]} for sample in samples
    }
    models = {sample["model"]: sample["model"] for sample in samples}
    prompts = {sample["prompt"]: sample["prompt"] for sample in samples}
    return control("samples", {"Model": models, "Prompt": prompts}, frames)
