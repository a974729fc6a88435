"""What a row of the study is called, and how its quality went during training."""

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from scta_lab.base.spec import SAMPLED
from scta_lite.figures import STYLE, style
from scta_lite.paper import PAPER


def variant(run: Any) -> str:
    """The label of a run in a study of quality: the method's, with what sets it apart from others of the method."""
    blocks = f", {run.layers:g}-block Transformer" if getattr(run, "backbone", "gru") == "transformer" else ""
    return _variant(run) + blocks


def _variant(run: Any) -> str:
    label = _look(run)["label"].removesuffix(", rows")
    if run.method == "semantic" and (run.lr != PAPER.lr or not pd.isna(getattr(run, "table_lr", None))):
        return f"{label} tuned"
    if run.method == "semantic":
        return f"{label} as published" + (f", std {run.init_std:g}" if run.init_std != 1 else "")
    if run.method == "sampled_softmax":
        label += f", {getattr(run, 'scores', 'cosine')}"
    if run.semantic_dim != PAPER.semantic_dim and run.method in ("ce_lowrank", *SAMPLED):
        label = f"{label.removesuffix(' at D = 64')} at D = {run.semantic_dim}"
    from_log_u = getattr(run, "log_unigram", None) is True
    return label + (", from log u" if "," in label else " from log u") * from_log_u


def _look(run: Any) -> dict[str, str]:
    """Its style, where what counts is quality: in chunks, CE is the same loss."""
    return style(run.method.removesuffix("_chunked"), run.optimizer)


def quality(runs: pd.DataFrame, metric: str = "nll", x: str = "steps") -> Figure:
    """A metric on validation text during training, against "steps" or "seconds", a line for each run of one V.

    Seconds are the steps times the run's median step. The dotted level is the unigram's, on the test text.
    """
    with mpl.rc_context(fname=STYLE):
        figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
        for run in runs.itertuples():
            looks, look, name = pd.DataFrame(run.validation), _look(run), variant(run)
            plain = name == look["label"].removesuffix(", rows")
            dashes = ":" if name.endswith("published") else "-." if "as published" in name else "--"
            look |= {"linestyle": "-" if plain else dashes, "label": name}
            along = looks.step * (run.step_ms / 1e3 if x == "seconds" else 1)
            ax.plot(along, looks[metric], markersize=4, **look)
        level = runs.iloc[0].controls["unigram"][metric]
        ax.axhline(level, color="#555555", linestyle=":", linewidth=1)
        ax.annotate("unigram", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
        ax.set(xscale="log", yscale="log" if metric == "perplexity" else "linear", title=f"V = {run.vocab:,}",
               xlabel=f"{x} of training", ylabel=f"{metric}, validation text")  # fmt: skip
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside right upper")
    plt.close(figure)
    return figure
