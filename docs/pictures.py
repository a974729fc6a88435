"""The pictures of README and the lessons: `python docs/pictures.py` draws all into figures/.

Each is drawn from stored runs, or from a small training here, as PNG and SVG: on white and, as
<name>_dark, for a dark page. Colour is the loss; a broken line is the row-sparse optimizer.
"""

from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scta_lab import Spec, load_runs
from scta_lab.base.files import ROOT
from scta_lab.judge import cost
from scta_lab.study import quality
from scta_lab.study.figures import STYLE, short
from scta_lite import PAPER, RowAdamW, VocabTable
from tables import BENCH, STUDY, equal_steps

PAGE, INK, FAINT = "#14181e", "#ced6dd", "#30363d"  # of a dark page
DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAGE),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **{"xtick.color": INK, "ytick.color": INK, "grid.color": FAINT},
}
PAPERS = "SEMANTIC, paper's settings"
SHADES = {  # of a loss, on white and on a dark page; dark or light enough for text
    "CE": ("#c25500", "#ee7f32"),
    "SEMANTIC": ("#0072b2", "#5fb0ea"),
    "adaptive softmax": ("#a8527f", "#db94bb"),
    "repaired": ("#000000", "#ffffff"),
    "sampled softmax": ("#7d7100", "#cfc03a"),
    "trigram": ("#666666", "#9aa4ad"),
}
ROWS = {  # of the study, by their names here
    "CE": "CE",
    "adaptive softmax": "adaptive softmax",
    "repaired": "SEMANTIC with prior",
    "sampled softmax": "sampled softmax, dot",
    "SEMANTIC tuned": "SEMANTIC tuned",
    "SEMANTIC, short start": quality.PUBLISHED[0],
    "SEMANTIC, long start": quality.PUBLISHED[1],
}
WORDS = (" the", " return", " True", " first", " int", "3")


def ink(name: str) -> str:
    """The colour of the loss that the name begins with, for the page that is drawn."""
    (shades,) = (shades for loss, shades in SHADES.items() if name.startswith(loss))
    return shades[plt.rcParams["figure.facecolor"] == PAGE]


def note(ax: Axes, text: str, at: tuple, offset: tuple = (8, 0), **look) -> None:
    """A text so many points from a place."""
    look = {"va": "center", "fontsize": 10, **look}
    ax.annotate(text, at, xytext=offset, textcoords="offset points", **look)


@cache
def step_ms() -> pd.Series:
    """Median step by method, optimizer and V: real text, two cores of an AMD EPYC."""
    runs = load_runs(BENCH)
    real = runs[runs.corpus != "zipf"]
    return real.groupby(["method", "optimizer", "vocab"]).step_ms.median()


def errors(view: quality.View) -> pd.DataFrame:
    """Error and seconds by method; of trigrams of the text that was trained on, and of all."""
    trigrams = {m["examples"]: m["seconds"] for m in view.counted if m["order"] == 3}
    rows = dict(ROWS)
    for text, count in (("the same", PAPER.examples), ("all the", max(trigrams))):
        rows[f"trigram of {text} text"] = f"trigram of {count:,} examples"
    return view.table.loc[list(rows.values())].set_axis(list(rows)).astype(float)


def strip(ax: Axes, rows: float, left: float, width: float, colour: str) -> None:
    """A table of a million rows as 100 lines, lit for the share that is meant; one at least."""
    lit = np.random.default_rng(5).permutation(100)[: max(1, round(rows / 1e4))]
    ax.barh([50], width, left=left, height=100, color=plt.rcParams["grid.color"])
    ax.barh(lit + 0.5, width, left=left, height=1.02, color=colour)
    ax.text(left + width / 2, -3, f"{rows:,.0f}", ha="center", va="top", fontsize=9)


def step_panel(ax: Axes, name: str, tables: list[tuple], ms: float) -> None:
    """Of the input and the output table the rows that one step reads, and those it writes."""
    for left, (table, width, read, written) in zip((0, 50), tables, strict=True):
        ax.text(left + 21, 111, f"{table} table, {width} wide", ha="center", fontsize=10)
        for middle, verb, rows in ((left + 9, "read", read), (left + 33, "written", written)):
            wide = 18 * width / PAPER.hidden
            ax.text(middle, 103, verb, ha="center", fontsize=10)
            strip(ax, rows, middle - wide / 2, wide, ink(name))
    ax.set_title(name, color=ink(name), fontsize=13)
    ax.text(46, -14, f"{ms:,.0f} ms", ha="center", va="top", color=ink(name), fontsize=20)
    ax.set(xlim=(-3, 95), ylim=(-27, 116))
    ax.axis("off")


def one_step() -> Figure:
    """Which rows of its two tables a step reads and writes, for three methods, and its time."""
    V, d, D = PAPER.vocabs[-1], PAPER.hidden, PAPER.semantic_dim
    used = cost.rows_used(Spec(method="semantic", optimizer="rows", vocab=V))
    read, drawn = used["input"][0], used["head"][0]
    ms = step_ms()[:, :, V]
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.9), layout="constrained")
    for ax, name, kind, tables in zip(
        axes,
        ("CE", PAPERS, "SEMANTIC, row-sparse optimizer"),
        (("ce", "dense"), ("semantic", "dense"), ("semantic", "rows")),
        (
            [("input", d, read, V), ("output", d, V, V)],
            [("input", d, read, V), ("output", D, drawn, V)],
            [("input", d, read, read), ("output", D, drawn, drawn)],
        ),
        strict=True,
    ):
        step_panel(ax, name, tables, ms[kind])
    figure.suptitle("SEMANTIC reads few rows a step, but dense AdamW writes them all", fontsize=15)
    below = (
        f"Lit: the share of a table's {V:,} rows, at least one line of 100 ({read:,} positions at "
        f"most; {drawn:,.0f} distinct draws expected).\nMedian step on two CPU cores, AMD EPYC. "
        f"CE with the row-sparse optimizer and in chunks: {ms['ce_chunked', 'rows']:,.0f} ms."
    )
    figure.supxlabel(below, fontsize=9)
    return figure


def row_in_time(read_at: tuple = (10, 60), steps: int = 75) -> pd.DataFrame:
    """A row with a gradient at two steps: by torch's AdamW, and as RowAdamW stores it."""
    dense, table = torch.nn.Parameter(torch.zeros(2, 1)), VocabTable(2, 1)
    table.weight.zero_()
    settings = {"lr": PAPER.lr, "weight_decay": 0.0}
    optimizers = torch.optim.AdamW([dense], **settings), RowAdamW([table], **settings)
    values = []
    for step in range(1, steps + 1):
        row = torch.tensor([step not in read_at]).long()  # else the other one
        (-dense[row].sum() - table(row).sum()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        values.append((dense[0].item(), table.stored[0].item()))
    return pd.DataFrame(values, range(1, steps + 1), ["dense", "row-sparse"])


def row_between_reads() -> Figure:
    """The row of `row_in_time`: dense AdamW's moves as dots, what RowAdamW stores as a line."""
    path = row_in_time() * 1e3
    dense, rows = path["dense"], path["row-sparse"]
    grey, blue = ink("trigram"), ink("SEMANTIC")
    figure, ax = plt.subplots(figsize=(8.4, 4.2), layout="constrained")
    ax.grid(visible=False)
    for step in (10, 60):
        ax.axvline(step, color=plt.rcParams["grid.color"], lw=4, zorder=0)
        note(ax, "the row is read", (step, 3.1))
    ax.step(path.index, rows, where="post", color=blue, lw=2.2)
    ax.plot(path.index, dense, "o", ms=3.5, color=grey)
    note(ax, "dense AdamW: a move at every step", (30, dense[30]), (-30, 26), color=grey)
    note(ax, "row-sparse: the stored row waits", (14, rows[14]), (0, 10), color=blue)
    note(
        ax, "49 missed moves at once,\nthen the new one", (60, 0.8), (-8, 0), ha="right", color=blue
    )
    ax.set(xlabel="training step", ylabel="the row's value (thousandths)", ylim=(-0.1, 3.3))
    ax.set_title("The row-sparse optimizer makes up AdamW's moves when the row is read", loc="left")
    return figure


def quality_panel(ax: Axes, view: quality.View) -> None:
    """Error and seconds of each method at one V."""
    at = {name: (row["bits/byte"], row.seconds) for name, row in errors(view).iterrows()}
    up = {"sampled softmax": -15, "repaired": -30, "CE": 5, "adaptive softmax": 9}  # of labels
    for name, points in up.items():
        ax.plot(*at[name], "o", ms=10 if name == "sampled softmax" else 6, color=ink(name))
        note(ax, name, at[name], (9, points), color=ink(name))
    starts = np.array([at["SEMANTIC, short start"], at["SEMANTIC, long start"]])
    ax.plot(*starts.T, "o-", lw=4, color=ink("SEMANTIC"))
    words = f"{PAPERS.replace(', ', ', ' + chr(10))},\ntwo starts"
    note(ax, words, starts.mean(axis=0), (0, 27), ha="center", color=ink("SEMANTIC"))
    for name in (name for name in at if name.startswith("trigram")):
        ax.plot(*at[name], "s", color=ink(name))
        note(ax, name.replace(" of", "\nof"), at[name], (9, 0), color=ink(name))
    ax.set_title(f"V = {view.vocab:,}, {view.name}")
    ax.set(yscale="log", xlabel="error, bits per byte (lower is better)")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def quality_over_time() -> Figure:
    """Error against seconds of training after equal steps, a panel for each V."""
    views = equal_steps().values()
    look = {"figsize": (13, 4.6), "layout": "constrained", "sharex": True, "sharey": True}
    figure, axes = plt.subplots(1, 3, **look)
    for ax, view in zip(axes, views, strict=True):
        quality_panel(ax, view)
    axes[0].set(
        xlim=(1.5, 2.55), ylim=(0.015, 9000), ylabel="seconds of training (two cores, AMD EPYC)"
    )
    tables = [errors(view) for view in views]
    bits = [table["bits/byte"] for table in tables]
    behind = sorted(column["repaired"] - column["CE"] for column in bits)
    times = sorted(table.seconds["CE"] / table.seconds["repaired"] for table in tables)
    figure.suptitle(
        f"After equal steps repaired is {behind[0]:.2f} to {behind[-1]:.2f} bits a byte behind CE, "
        f"in 1/{times[0]:.0f} to 1/{times[-1]:.0f} of its time"
    )
    return figure


def nearest(word: str, row: str, k: int = 4) -> list[str]:
    """The tokens whose vectors in a stored model have the largest cosines with the word's."""
    space = np.load(STUDY / "space.npz")
    words, vectors = space["words"], space[row].astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (place,) = np.flatnonzero(words[256:] == word) + 256  # before them stand single bytes
    order = np.argsort(-(vectors @ vectors[place]), kind="stable")
    return [str(words[i]) for i in order if i != place][:k]


LONG = "SEMANTIC, from N(0, 1)"


def neighbours() -> Figure:
    """The nearest tokens of six words, in three models."""
    models = {LONG: "SEMANTIC as published", "repaired": ROWS["repaired"], "CE": "CE"}
    figure, ax = plt.subplots(figsize=(10.5, 3.8), layout="constrained")
    ax.set(xlim=(0, 10), ylim=(len(WORDS) - 0.4, -1.2))
    ax.axis("off")
    for y, word in enumerate(WORDS):
        ax.axhline(y - 0.5, color=plt.rcParams["grid.color"], lw=1)
        ax.text(0, y, word.strip(), va="center", family="monospace", weight="bold")
    for x, (name, row) in zip((1.1, 4.1, 7.4), models.items(), strict=True):
        ax.text(x, -0.85, name, va="center", color=ink(name), weight="bold")
        for y, word in enumerate(WORDS):
            near = "  ".join(token.strip() for token in nearest(word, row))
            ax.text(x, y, near, va="center", family="monospace", fontsize=9.5)
    figure.suptitle("Nearest words: as if by chance from N(0, 1), alike once repaired")
    words = "Largest cosines of token vectors; V = 8,192, Python source, 2,500 steps"
    figure.supxlabel(f"{words}; the first model has the paper's settings.", fontsize=9)
    return figure


def time_panel(ax: Axes) -> None:
    """Step time against V, a line for each method and optimizer."""
    ms = step_ms()
    for kind, name, dash, up in (
        (("ce", "dense"), "CE", "o-", 4),
        (("ce_chunked", "rows"), "CE in chunks,\nrow-sparse optimizer", "o--", -14),
        (("semantic", "dense"), PAPERS.replace(" ", "\n", 1), "o-", 0),
        (("semantic", "rows"), "SEMANTIC,\nrow-sparse optimizer", "o--", 0),
    ):
        V, time = ms[kind].index, ms[kind]
        ax.plot(V, time, dash, color=ink(name), lw=1 if "chunks" in name else 2)
        note(
            ax, f"{name}, {time.iloc[-1]:,.0f} ms", (V[-1], time.iloc[-1]), (8, up), color=ink(name)
        )
    ax.set(xscale="log", yscale="log", xlabel="vocabulary V (tokens); two cores of an AMD EPYC")
    ax.set(xlim=(4e4, 1.1e7), ylim=(25, 3e4), ylabel="milliseconds a step (lower is better)")
    ax.set_xticks(PAPER.vocabs, [short(V) for V in PAPER.vocabs])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_title("Faster: with row-sparse AdamW a step of SEMANTIC hardly grows", loc="left")


def error_panel(ax: Axes) -> None:
    """Error after equal steps at the smallest V."""
    view = next(iter(equal_steps().values()))
    nll = errors(view).NLL
    starts = [nll["SEMANTIC, short start"], nll["SEMANTIC, long start"]]
    (at_its_rate,) = quality.runs_of(STUDY / "8192" / "changed", steps=2_500, lr=3e-4).full_vocab
    nll["CE, the paper's rate"] = at_its_rate["nll"]
    names = ["CE", "adaptive softmax", "repaired", "SEMANTIC tuned", "CE, the paper's rate"]
    names.append("trigram of the same text")
    for y, (name, error) in enumerate(nll[names].items()):
        ax.plot(error, y, "o", ms=9, color=ink(name))
        note(ax, f"{name}, {error:.2f}", (error, y), (11, 0))
    ax.plot(starts, [6, 6], "o-", ms=9, lw=4, color=ink("SEMANTIC"))
    words = f"{PAPERS},\n{view.as_published('NLL', '.2f')}: two starts"
    note(ax, words, (starts[1], 6), (11, 0))
    ax.set(xlim=(3.8, 7.2), ylim=(-0.6, 6.6), yticks=[])
    ax.set_xlabel(f"error: NLL in nats, {view.name}, V = {view.vocab:,} (lower is better)")
    ax.set_title("Not better: with the paper's settings behind a trigram", loc="left")


def headline() -> Figure:
    """Left what a step costs, right how good the model is."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    time_panel(axes[0])
    error_panel(axes[1])
    return figure


PICTURES = {
    "fig_headline": headline,
    "fig_one_step": one_step,
    "fig_row_in_time": row_between_reads,
    "fig_quality_over_time": quality_over_time,
    "fig_neighbours": neighbours,
}


def save(figure: Figure, path: Path) -> None:
    """As PNG, SVG and, on white, PDF; the same bytes every time."""
    figure.savefig(path.with_suffix(".png"), dpi=200, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    if "_dark" not in path.name:
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def main(folder: Path = ROOT / "figures") -> None:
    for suffix, look in {"": {}, "_dark": DARK}.items():
        for name, draw in PICTURES.items():
            with plt.style.context([STYLE, look]):
                save(draw(), folder / f"{name}{suffix}")


if __name__ == "__main__":
    main()
