"""Runs in, matplotlib Figures out, and the paper's table: one style, one colour, marker and line a method.

The runs are those of `published_runs()` or `load_runs(folder)`, or both. Where several differ in their seed alone, a
point is their median and its bar their quartiles; of a single run the bar is that of its steps.
"""

import math
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from scta_lite.sweep import captured

STYLE = Path(__file__).with_name("scta.mplstyle")
METHODS = {  # label, colour (Okabe and Ito's, safe for the colour-blind), marker, line
    ("ce", "dense"): ("CE", "#D55E00", "o", "-"),
    ("semantic", "dense"): ("SEMANTIC", "#0072B2", "s", "--"),
    ("semantic", "rows"): ("SEMANTIC, rows", "#009E73", "D", "-"),
    ("semantic", "sparse"): ("SEMANTIC, SparseAdam", "#8C564B", "p", ":"),
    ("ce_chunked", "rows"): ("CE in chunks, rows", "#E69F00", "^", "-."),
    ("ce_lowrank", "rows"): ("CE at D = 64, rows", "#56B4E9", "P", "--"),
    ("adaptive", "dense"): ("adaptive softmax", "#CC79A7", "v", ":"),
    ("adaptive", "rows"): ("adaptive softmax, rows", "#CC79A7", "<", "-"),
    ("semantic_prior", "rows"): ("SEMANTIC with prior, rows", "#000000", "*", "-"),
    ("semantic_prior", "sparse"): ("SEMANTIC with prior, SparseAdam", "#882255", "H", ":"),
    ("sampled_softmax", "rows"): ("sampled softmax, rows", "#B8A600", "h", "-."),
    ("backbone", "dense"): ("backbone alone", "#555555", "X", ":"),
}
CAPTURED = ", captured"  # behind the optimizer of a run whose steps were each one CUDA graph
RUN = ["machine", "method", "optimizer", "vocab"]  # what a point of a figure is one of
COLUMNS = {"machine", "method", "vocab", "status"}


def style(method: str, optimizer: str = "dense") -> dict[str, str]:
    """The label, color, marker and linestyle of a method with its optimizer, the same in every figure.

    Where each step was one CUDA graph, as in "rows, captured", the line is dotted.

    >>> style("semantic", "rows")["label"]
    'SEMANTIC, rows'
    """
    alike = [look for (name, _), look in METHODS.items() if name == method]
    if not alike:
        raise ValueError(f"method={method!r}: expected one of {', '.join(dict.fromkeys(m for m, _ in METHODS))}")
    kind = optimizer.removesuffix(CAPTURED)
    look = METHODS.get((method, kind), (f"{alike[0][0].removesuffix(', rows')}, {kind}", *alike[0][1:]))
    if kind != optimizer:
        look = (look[0] + CAPTURED, *look[1:3], ":")
    return dict(zip(("label", "color", "marker", "linestyle"), look, strict=True))


def by_kind(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what sets times of a method apart in `optimizer`: it says too whether each step was a CUDA graph.

    A published one, of which nothing is known, counts as dense.
    """
    kind = runs.get("optimizer", pd.Series(None, runs.index, dtype=object)).fillna("dense")
    return runs.assign(optimizer=kind.where(~captured(runs), kind.str.removesuffix(CAPTURED) + CAPTURED))


def short(number: float) -> str:
    """A number as a reader says it.

    >>> [short(n) for n in (50_000, 200_000, 999_999, 1_500_000, 12e9, 38_308, 512, 3.14)]
    ['50K', '200K', '1M', '1.5M', '12B', '38.3K', '512', '3.1']
    """
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:  # what three digits round to it
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}" if number >= 10 else f"{number:.2g}"


def against_vocab(runs: pd.DataFrame, column: str, label: str) -> Figure:
    """Any column against V, a panel for each machine, both axes logarithmic; hollow points are extrapolated."""
    points = _points(runs, column)
    machines = list(dict.fromkeys(runs.machine))
    with mpl.rc_context(fname=STYLE):
        figure, axes = plt.subplots(1, len(machines), figsize=(1.6 + 3.7 * len(machines), 4.6), squeeze=False,
                                    sharex=True, sharey=True, layout="constrained")  # fmt: skip
        shown = {}
        for ax, machine in zip(axes[0], machines, strict=True):
            of_machine = points[points.machine == machine]
            for (method, optimizer), part in of_machine.groupby(["method", "optimizer"], sort=False):
                _line(ax, part, **style(method, optimizer))
            _values(ax, of_machine[of_machine.value.notna()])
            _missing(ax, of_machine[of_machine.value.isna()])
            _axes(ax, points, label if ax is axes[0][0] else "")
            ax.set_title(machine)
            shown |= {name: handle for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        if points.extrapolated.any():
            shown["extrapolated"] = mpl.lines.Line2D([], [], marker="o", linestyle="", color="#555555",
                                                     markerfacecolor="white")  # fmt: skip
        columns = min(len(shown), 2 if len(machines) == 1 else 2 * len(machines))
        figure.legend(shown.values(), shown, loc="outside lower center", ncols=columns)
    plt.close(figure)
    return figure


def throughput(runs: pd.DataFrame) -> Figure:
    """Predicted tokens a second against V."""
    return against_vocab(runs, "tokens_per_s", "tokens per second")


def training_time(runs: pd.DataFrame) -> Figure:
    """Seconds of a whole training against V."""
    return against_vocab(runs, "seconds", "seconds for the whole training")


def speedup(runs: pd.DataFrame) -> Figure:
    """How many times as fast as CE each other method trains, against V."""
    if "method" in runs:
        runs = runs[(runs.method != "ce") | (by_kind(runs).optimizer != "dense")]
    figure = against_vocab(runs, "speedup", "times as fast as CE")
    for ax in figure.axes:
        ax.axhline(1, color="#555555", linewidth=1)
    return figure


def comparison(runs: pd.DataFrame) -> Figure:
    """Throughput and training time of all machines, side by side; a machine has its own line, a method its colour."""
    with mpl.rc_context(fname=STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 6.2), layout="constrained")
        columns = {"tokens_per_s": "tokens per second", "seconds": "seconds for the whole training"}
        for ax, (column, label) in zip(axes, columns.items(), strict=True):
            points = _points(runs, column)
            lines = dict(zip(dict.fromkeys(points.machine), cycle(("-", "--", ":", "-.")), strict=False))
            for (machine, method, optimizer), part in points.groupby(RUN[:3], sort=False):
                look = style(method, optimizer)
                look |= {"linestyle": lines[machine], "label": f"{look['label']}, {machine}"}
                _line(ax, part, **look)
            _values(ax, points[points.value.notna()])
            _missing(ax, points[points.value.isna()], named=True)
            _axes(ax, points, label)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plt.close(figure)
    return figure


def results_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's table of results as text, one row a run, a star at each time that was extrapolated."""
    runs = runs.sort_values("vocab", kind="stable")
    star = runs.get("extrapolated", pd.Series(False, runs.index)).eq(True).map({True: " *", False: ""})

    def text(column: str, form: str) -> pd.Series:
        return runs.get(column, pd.Series(None, runs.index)).map(
            lambda value: "–" if pd.isna(value) else format(value, form)
        )

    return pd.DataFrame({
        "V": runs.vocab.map(short),
        "machine": runs.machine,
        "method": [style(run.method, run.optimizer)["label"] for run in by_kind(runs).itertuples()],
        "steps": text("steps_measured", ",.0f"),
        "time (s)": text("seconds", ",.1f") + star,
        "tokens/s": text("tokens_per_s", ",.0f"),
        "examples/s": text("examples_per_s", ",.1f"),
        "speedup": text("speedup", ".2f"),
        "viable": runs.status.map(lambda status: "yes" if status == "ok" else status.replace("_", " ")),
        "final loss": text("final_loss", ".4f"),
    }).reset_index(drop=True)  # fmt: skip


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes `path`.png at 300 DPI and `path`.pdf, the same bytes every time."""
    made = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    figure.savefig(made[0], dpi=300, metadata={"Software": None})
    figure.savefig(made[1], metadata={"CreationDate": None})
    return made


def _points(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row for each point: value, low and high (the quartiles), status, reason, extrapolated.

    ValueError where there is none, or where runs of several texts would be one point.
    """
    if missing := (COLUMNS | {column}) - set(runs):
        raise ValueError(f"runs: the columns {sorted(missing)} are missing")
    if not len(runs):
        raise ValueError(f"runs: there is none with {column}; expected one or more")
    points = []
    for key, part in by_kind(runs).groupby(RUN, sort=False):
        texts = part.fingerprint.dropna().unique() if "fingerprint" in part else []
        if len(texts) > 1:
            raise ValueError(
                f"runs: {key[1]} at V = {key[3]} has runs of several texts, fingerprints {', '.join(texts)}; "
                f"expected those of one, as runs[runs.fingerprint == {texts[0]!r}]"
            )
        done = part[part[column].notna()]
        first = (done if len(done) else part).iloc[0]
        values = done[column].astype(float)
        low, high = values.quantile([0.25, 0.75]) if len(done) > 1 else _quartiles(first, column)
        points.append({**dict(zip(RUN, key, strict=True)), "value": values.median(), "low": low, "high": high,
                       "status": first.status, "reason": first.get("reason"),
                       "extrapolated": first.get("extrapolated") in (True, 1)})  # fmt: skip
    return pd.DataFrame(points).sort_values("vocab", kind="stable", ignore_index=True)


def _quartiles(run: pd.Series, column: str) -> tuple[float, float]:
    """A run's value at the quartiles of its step time; the value itself, twice, where they say nothing of it."""
    value, q1, q3 = run[column], run.get("step_ms_q1"), run.get("step_ms_q3")
    if column not in ("tokens_per_s", "seconds") or pd.isna(value) or q1 is None or pd.isna(q1):
        return value, value
    scaled = [value * q / run.step_ms for q in (q1, q3)]
    return tuple(scaled) if column == "seconds" else (value * run.step_ms / q3, value * run.step_ms / q1)


def _axes(ax: Axes, points: pd.DataFrame, label: str) -> None:
    ticks = sorted(set(points.vocab))
    ax.set(xscale="log", yscale="log", xlabel="vocabulary V (tokens)", ylabel=label)
    ax.set_xticks(ticks, [short(v) for v in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = points.value.min(), points.value.max()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    ax.yaxis.set_major_formatter(lambda value, _: short(value))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.16, y=0.28 if points.value.isna().any() else 0.16)  # room for a ✗ at the foot


def _line(ax: Axes, part: pd.DataFrame, **look: str) -> None:
    """One method's line with its quartiles; hollow points are extrapolated."""
    done = part[part.value.notna()]
    ax.plot(done.vocab, done.value, **look)
    spread = done[done.low < done.high]
    if len(spread):
        bars = [spread.value - spread.low, spread.high - spread.value]
        ax.errorbar(spread.vocab, spread.value, yerr=bars, fmt="none", ecolor=look["color"], capsize=3)
    hollow = done[done.extrapolated]
    ax.plot(hollow.vocab, hollow.value, look["marker"], color=look["color"], markerfacecolor="white")


def _values(ax: Axes, points: pd.DataFrame) -> None:
    """The values of one panel, above or below their points, where the next is farther; beside one without room."""
    room = (points.value.max() / points.value.min()) ** 0.15  # the ratio of two points that leave a label its place
    for _, column in points.groupby("vocab"):
        ordered = column.sort_values("value")
        gaps = [math.inf, *(ordered.value.to_numpy()[1:] / ordered.value.to_numpy()[:-1]), math.inf]
        for i, point in enumerate(ordered.itertuples()):
            above = gaps[i + 1] > gaps[i] or i == len(ordered) - 1
            beside = max(gaps[i : i + 2]) < room
            said = f"{point.value:.2f}" if point.value < 10 else short(point.value)
            at = point.value if beside else point.high if above else point.low
            ax.annotate(said, (point.vocab, at), ha="left" if beside else "center", fontsize=9,
                        xytext=(8, -3) if beside else (0, 8 if above else -16), textcoords="offset points",
                        color=style(point.method, point.optimizer)["color"],
                        path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip


def _missing(ax: Axes, points: pd.DataFrame, *, named: bool = False) -> None:
    """A ✗ at the foot of the panel, with the reason, for each run without a number; `named`: with its machine too."""
    foot = ax.get_xaxis_transform()
    for row, run in enumerate(points.itertuples()):
        look, at = style(run.method, run.optimizer), 0.05 + 0.09 * row
        said = {"killed": "did not finish", "ok": "no such run of CE"}.get(run.status, run.status.replace("_", " "))
        reason = f"\n({run.reason.split(';')[0]})" if isinstance(run.reason, str) else ""
        ax.plot(run.vocab, at, "x", transform=foot, color=look["color"], markersize=9, markeredgewidth=2, clip_on=False)
        who = f"{look['label']}, {run.machine}" if named else look["label"]
        ax.annotate(f"{who}: {said}{reason}", (run.vocab, at), xycoords=foot, xytext=(-9, 0), fontsize=9,
                    textcoords="offset points", ha="right", va="center", color=look["color"])  # fmt: skip
