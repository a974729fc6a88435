"""Runs in, matplotlib Figures out, and the paper's table: one style, one colour, marker and line a method.

The runs are those of `published_runs()` or `load_runs(folder)`, or both: each machine gets a panel of its own.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from scta_lite.paper import ROOT

STYLE = ROOT / "figures" / "scta.mplstyle"
METHODS = {  # label, colour (Okabe and Ito's, safe for the colour-blind), marker, line
    "ce": ("CE", "#D55E00", "o", "-"),
    "semantic": ("SEMANTIC", "#0072B2", "s", "--"),
}
COLUMNS = {"machine", "method", "vocab", "status", "seconds", "tokens_per_s"}


def short(number: float) -> str:
    """A number as a reader says it.

    >>> [short(n) for n in (50_000, 200_000, 1_000_000, 1_500_000, 38_308, 512, 3.14)]
    ['50K', '200K', '1M', '1.5M', '38.3K', '512', '3.1']
    """
    for size, suffix in ((1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}" if number >= 10 else f"{number:.2g}"


def throughput(runs: pd.DataFrame) -> Figure:
    """Predicted tokens a second against V, both logarithmic; a bar spans the quartiles where there are any."""
    return _against_vocab(runs, "tokens_per_s", "tokens per second")


def training_time(runs: pd.DataFrame) -> Figure:
    """Seconds of a whole training against V, both logarithmic; hollow where they were extrapolated from fewer steps."""
    return _against_vocab(runs, "seconds", "seconds for the whole training")


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
        "method": runs.method.map(lambda method: METHODS[method][0]),
        "steps": text("steps_measured", ",.0f"),
        "time (s)": text("seconds", ",.1f") + star,
        "tokens/s": text("tokens_per_s", ",.0f"),
        "examples/s": text("examples_per_s", ",.1f"),
        "speedup": text("speedup", ".2f"),
        "viable": runs.status.map(lambda status: "yes" if status == "ok" else status.replace("_", " ")),
        "final loss": text("final_loss", ".4f"),
    }).reset_index(drop=True)  # fmt: skip


def interactive(draw: Callable[..., Figure], **controls: Any) -> Any:
    """A widget: the controls, and under them the picture of `draw(**values)`, drawn anew when one of them changes.

    The picture is an image, not an Output widget: with those, nbclient sometimes waits for ever (its issue 312).
    """
    import ipywidgets  # only here: a sweep on a cluster needs no Jupyter

    picture = ipywidgets.Image(format="png")

    def redraw(_: Any = None) -> None:
        buffer = io.BytesIO()
        draw(**{name: control.value for name, control in controls.items()}).savefig(buffer, format="png", dpi=100)
        picture.value = buffer.getvalue()

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    layout = ipywidgets.Layout(flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values()), layout=layout), picture])


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes `path`.png at 300 DPI and `path`.pdf, the same bytes every time."""
    made = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    figure.savefig(made[0], dpi=300, metadata={"Software": None})
    figure.savefig(made[1], metadata={"CreationDate": None})
    return made


def _against_vocab(runs: pd.DataFrame, column: str, label: str) -> Figure:
    if missing := COLUMNS - set(runs):
        raise ValueError(f"runs: the columns {sorted(missing)} are missing")
    machines = list(dict.fromkeys(runs.machine))
    with mpl.rc_context(fname=STYLE):
        figure, axes = plt.subplots(1, len(machines), figsize=(1.2 + 3.7 * len(machines), 4.2), squeeze=False,
                                    sharex=True, sharey=True, layout="constrained")  # fmt: skip
        for ax, machine in zip(axes[0], machines, strict=True):
            of_machine = runs[runs.machine == machine]
            for method, (name, colour, marker, line) in METHODS.items():
                part = of_machine[of_machine.method == method].sort_values("vocab")
                if len(part):
                    _line(ax, part, column, color=colour, marker=marker, linestyle=line, label=name)
            _missing(ax, of_machine[of_machine[column].isna()])
            ax.set(title=machine, yscale="log", xscale="log", xlabel="vocabulary V (tokens)")
            ax.margins(x=0.16, y=0.16)
        ticks = sorted(set(runs.vocab))
        axes[0][0].set_xticks(ticks, [short(v) for v in ticks])
        axes[0][0].xaxis.set_minor_locator(NullLocator())
        axes[0][0].set_ylabel(label)
        axes[0][0].yaxis.set_major_formatter(lambda value, _: short(value))
        axes[0][-1].legend(loc="best")
        if runs.get("extrapolated", pd.Series(dtype=bool)).eq(True).any():
            axes[0][0].plot([], [], "o", color="#555555", markerfacecolor="white", label="extrapolated")
            axes[0][0].legend(handles=axes[0][0].lines[-1:], loc="best")
    plt.close(figure)
    return figure


def _line(ax: Axes, part: pd.DataFrame, column: str, **style) -> None:
    """One method's line, its values beside the points; hollow points are extrapolated."""
    done = part[part[column].notna()]
    ax.plot(done.vocab, done[column], **style)
    faster = style["marker"] == "s"
    above = faster == (column == "tokens_per_s")  # the values stand on the outer side of the two lines
    for run in done.itertuples():
        value = getattr(run, column)
        low, high = _quartiles(run, column)
        if low < high:
            ax.errorbar(run.vocab, value, yerr=[[value - low], [high - value]], ecolor=style["color"], capsize=3)
        if getattr(run, "extrapolated", False) is True:
            ax.plot(run.vocab, value, style["marker"], color=style["color"], markerfacecolor="white")
        ax.annotate(short(value), (run.vocab, high if above else low), xytext=(0, 9 if above else -17),
                    textcoords="offset points", ha="center", fontsize=9, color=style["color"])  # fmt: skip


def _quartiles(run: tuple, column: str) -> tuple[float, float]:
    """The value at the quartiles of the step time; the value itself, twice, where there are none."""
    value, q1, q3 = getattr(run, column), getattr(run, "step_ms_q1", None), getattr(run, "step_ms_q3", None)
    if not q1 or pd.isna(q1):
        return value, value
    scaled = [value * q / run.step_ms for q in (q1, q3)]
    return tuple(scaled) if column == "seconds" else (value * run.step_ms / q3, value * run.step_ms / q1)


def _missing(ax: Axes, runs: pd.DataFrame) -> None:
    """A ✗ at the foot of the panel, with the reason, for each run without a number."""
    foot = ax.get_xaxis_transform()
    for row, run in enumerate(runs.itertuples()):
        name, colour, *_ = METHODS[run.method]
        at = 0.05 + 0.08 * row
        ax.plot(run.vocab, at, "x", transform=foot, color=colour, markersize=9, markeredgewidth=2, clip_on=False)
        text = f"{name}: {'did not finish' if run.status == 'killed' else run.status.replace('_', ' ')}"
        ax.annotate(text, (run.vocab, at), xycoords=foot, xytext=(-9, 0), textcoords="offset points", ha="right",
                    va="center", fontsize=9, color=colour)  # fmt: skip
