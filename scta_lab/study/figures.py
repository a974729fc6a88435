"""Runs in, matplotlib Figures out, and the paper's table.

A method has the same colour, marker and line in every figure. Which runs make one point is said
in `scta_lab.study.points`. Hollow points are extrapolated.
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from scta_lite import paper

from scta_lab.study.points import LOOK, by_kind, complete, points, style
from scta_lab.study.points import METHODS as METHODS  # the methods that a figure knows

STYLE = Path(paper.__file__).with_name("scta.mplstyle")
GREY = "#555555"
WHOLE_TRAINING = "seconds for the whole training"
TABLE = {  # a column of the results' table: the column of the runs, and how its number is written
    "steps": ("steps_measured", "{:,.0f}"),
    "time (s)": ("seconds", "{:,.1f}"),
    "tokens/s": ("tokens_per_s", "{:,.0f}"),
    "examples/s": ("examples_per_s", "{:,.1f}"),
    "speedup": ("speedup", "{:.2f}"),
    "viable": ("status", "{}"),
    "final loss": ("final_loss", "{:.4f}"),
}


def short(number: float) -> str:
    """A number as a reader says it.

    >>> [short(n) for n in (50_000, 200_000, 999_999, 1_500_000, 12e9, 38_308, 512, 3.14)]
    ['50K', '200K', '1M', '1.5M', '12B', '38.3K', '512', '3.1']
    """
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:  # what three digits round to it
            return f"{number / size:.3g}{suffix}"
    if number >= 10:
        return f"{number:.3g}"
    return f"{number:.2g}"


def against_vocab(runs: pd.DataFrame, column: str, label: str) -> Figure:
    """Any column against V, a panel for each machine, both axes logarithmic."""
    table = points(runs, column)
    machines = runs.machine.unique()
    width = 1.6 + 3.7 * len(machines)
    with mpl.rc_context(fname=STYLE):
        figure, _ = _panels(len(machines), (width, 4.6), sharex=True, sharey=True)
        for ax, machine in zip(figure.axes, machines, strict=True):
            _panel(ax, table[table.machine == machine])
            _axes(ax, table)
            ax.set_title(machine)
        figure.axes[0].set_ylabel(label)
        if table.extrapolated.any():
            ax.plot([], [], "o", color=GREY, markerfacecolor="white", label="extrapolated")
        _legend(figure, 2 * len(machines))
    return figure


def _panels(columns: int, size: tuple, **how) -> tuple:
    return plt.subplots(ncols=columns, figsize=size, layout="constrained", **how)


def throughput(runs: pd.DataFrame) -> Figure:
    """Predicted tokens a second against V."""
    return against_vocab(runs, "tokens_per_s", "tokens per second")


def training_time(runs: pd.DataFrame) -> Figure:
    """Seconds of a whole training against V."""
    return against_vocab(runs, "seconds", WHOLE_TRAINING)


def speedup(runs: pd.DataFrame) -> Figure:
    """How many times as fast as CE each other method trains, against V."""
    if "method" in runs:
        is_reference = (runs.method == "ce") & (by_kind(runs).optimizer == "dense")
        runs = runs[~is_reference]
    figure = against_vocab(runs, "speedup", "times as fast as CE")
    for ax in figure.axes:
        ax.axhline(1, color=GREY, linewidth=1)
    return figure


def comparison(runs: pd.DataFrame) -> Figure:
    """Throughput and training time of all machines, side by side.

    Each machine has its own line, each method its colour.
    """
    columns = {"tokens_per_s": "tokens per second", "seconds": WHOLE_TRAINING}
    with mpl.rc_context(fname=STYLE):
        figure, axes = _panels(2, (9.5, 6.2))
        for ax, (column, label) in zip(axes, columns.items(), strict=True):
            table = points(runs, column)
            numbers, _ = pd.factorize(table.machine)
            table["linestyle"] = np.take(["-", "--", ":", "-."], numbers, mode="wrap")
            table["label"] += ", " + table.machine
            _panel(ax, table)
            _axes(ax, table)
            ax.set_ylabel(label)
        _legend(figure, 2)
    return figure


def results_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's table of results as text, one row a run, a star at each extrapolated time."""
    columns = [column for column, _ in TABLE.values()]
    runs = complete(runs, columns)
    runs = runs.sort_values("vocab", kind="stable", ignore_index=True)
    table = pd.DataFrame({"V": runs.vocab.map(short), "machine": runs.machine})
    table["method"] = [style(run.method, run.optimizer)["label"] for run in runs.itertuples()]
    for name, (column, form) in TABLE.items():
        text = runs[column].map(form.format, na_action="ignore")
        table[name] = text.astype(object).fillna("–")
    table["time (s)"] += runs.extrapolated.map({True: " *", False: ""})
    table["viable"] = table.viable.replace("ok", "yes").str.replace("_", " ")
    return table


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes `path`.png at 300 DPI and `path`.pdf, the same bytes every time."""
    png = path.with_suffix(".png")
    pdf = path.with_suffix(".pdf")
    figure.savefig(png, dpi=300, metadata={"Software": None})
    figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]


def _panel(ax: Axes, table: pd.DataFrame) -> None:
    """The lines of one panel with their values, and what is missing."""
    for _, line in table.groupby("label", sort=False):
        look = line.iloc[0][LOOK]
        done = line[line.value.notna()]
        _line(ax, done, look)
    _values(ax, table[table.value.notna()])
    _missing(ax, table[table.value.isna()])


def _line(ax: Axes, line: pd.DataFrame, look: pd.Series) -> None:
    """One method's line with its quartiles; hollow points are extrapolated."""
    ax.plot(line.vocab, line.value, **look)
    wide = line[line.low < line.high]
    if len(wide):
        around = [wide.value - wide.low, wide.high - wide.value]
        ax.errorbar(wide.vocab, wide.value, around, fmt="none", ecolor=look.color, capsize=3)
    hollow = line[line.extrapolated]
    ax.plot(hollow.vocab, hollow.value, look.marker, color=look.color, markerfacecolor="white")


def _values(ax: Axes, table: pd.DataFrame) -> None:
    """The values of one panel, each on the side of its point where the next is farther.

    One without room on either side stands beside its point.
    """
    room = (table.value.max() / table.value.min()) ** 0.15  # the least ratio with room between
    table = table.sort_values(["vocab", "value"])
    # the ratios to the next point below and above, infinite where there is none
    lower = table.groupby("vocab").value.shift(1, fill_value=0)
    table["down"] = table.value / lower
    table["up"] = table.groupby("vocab").down.shift(-1, fill_value=np.inf)
    outline = [withStroke(linewidth=3, foreground="white")]
    for point in table.itertuples():
        look = {"color": point.color, "path_effects": outline}
        text = f"{point.value:.2f}"
        if point.value >= 10:
            text = short(point.value)
        if max(point.up, point.down) < room:
            _note(ax, text, (point.vocab, point.value), (8, -3), "left", **look)
        elif point.up >= point.down:
            _note(ax, text, (point.vocab, point.high), (0, 8), "center", **look)
        else:
            _note(ax, text, (point.vocab, point.low), (0, -16), "center", **look)


def _missing(ax: Axes, table: pd.DataFrame) -> None:
    """A ✗ at the foot of the panel, with the reason, for each point without a number."""
    foot = ax.get_xaxis_transform()
    words = {"killed": "did not finish", "ok": "no such run of CE"}
    cross = {"markersize": 9, "markeredgewidth": 2, "clip_on": False}
    for row, point in enumerate(table.itertuples()):
        place = (point.vocab, 0.05 + 0.09 * row)
        what = words.get(point.status, point.status.replace("_", " "))
        text = f"{point.label}: {what}"
        if isinstance(point.reason, str):
            reason, *_ = point.reason.split(";")
            text += f"\n({reason})"
        ax.plot(*place, "x", transform=foot, color=point.color, **cross)
        _note(ax, text, place, (-9, 0), "right", color=point.color, xycoords=foot, va="center")


def _note(ax: Axes, text: str, place: tuple, offset: tuple, side: str, **how) -> None:
    """A text beside a place of the panel, so many points from it."""
    how |= {"xytext": offset, "textcoords": "offset points", "ha": side, "fontsize": 9}
    ax.annotate(text, place, **how)


def _axes(ax: Axes, table: pd.DataFrame) -> None:
    """Both axes logarithmic, with V as ticks."""
    ticks = sorted(set(table.vocab))
    ax.set(xscale="log", yscale="log", xlabel="vocabulary V (tokens)")
    ax.set_xticks(ticks, list(map(short, ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    few_decades = table.value.max() < 100 * table.value.min()
    digits = (1, 2, 5) if few_decades else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=digits))
    ax.yaxis.set_major_formatter(lambda value, _: short(value))
    ax.yaxis.set_minor_formatter(NullFormatter())
    with_crosses = table.value.isna().any()
    ax.margins(x=0.16, y=0.28 if with_crosses else 0.16)


def _legend(figure: Figure, columns: int) -> None:
    """One legend for all panels, below them; with it the figure is done."""
    handles = {}
    for ax in figure.axes:
        lines, labels = ax.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
    plt.close(figure)
