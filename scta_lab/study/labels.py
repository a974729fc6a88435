"""What a row of the study is called."""

from typing import Any

import pandas as pd
from scta_lite.paper import PAPER

from scta_lab.base.spec import SAMPLED
from scta_lab.study.points import SPARSE, style

PLAIN = {  # what a reader's name has in place of a part of a label
    "SEMANTIC with prior": "repaired",
    "SEMANTIC as published, std": "SEMANTIC, std",
    "SEMANTIC as published": "SEMANTIC, N(0, 1)",
    "sampled softmax, dot": "sampled softmax",
    " from log u": " from frequencies",
}


def variant(run: Any) -> str:
    """The label of a run in a study of quality: its method's, with what differs from the method's.

    The study compares runs by these labels.
    """
    label = _variant(run)
    if getattr(run, "backbone", "gru") == "transformer":
        label += f", {run.layers:g}-block Transformer"
    return label


def plain(label: str) -> str:
    """The name that a reader sees in place of a row's label; by the label it is looked up.

    >>> plain("SEMANTIC with prior at D = 256"), plain("sampled softmax, dot, from log u")
    ('repaired at D = 256', 'sampled softmax, from frequencies')
    >>> plain("SEMANTIC as published, std 0.02"), plain("SEMANTIC as published")
    ('SEMANTIC, std 0.02', 'SEMANTIC, N(0, 1)')
    """
    for part, words in PLAIN.items():
        label = label.replace(part, words)
    return label


def _variant(run: Any) -> str:
    """The label whatever the backbone."""
    label = _look(run)["label"].removesuffix(SPARSE)
    if run.method == "semantic":
        return f"{label} {_published_or_tuned(run)}"
    if run.method == "semantic_prior" and getattr(run, "scores", "cosine") == "dot":
        label = "sampled softmax, dot, log q of both"
    if run.method == "sampled_softmax":
        label += f", {getattr(run, 'scores', 'cosine')}"
    if run.semantic_dim != PAPER.semantic_dim and run.method in ("ce_lowrank", *SAMPLED):
        label = f"{label.removesuffix(' at D = 64')} at D = {run.semantic_dim}"
    if getattr(run, "log_unigram", None) is True:
        label += ", from log u" if "," in label else " from log u"
    return label


def _published_or_tuned(run: Any) -> str:
    """Of the published method, whether its rates are the paper's, and from where its rows began."""
    if run.lr != PAPER.lr or pd.notna(getattr(run, "table_lr", None)):
        return "tuned"
    std = "" if run.init_std == 1 else f", std {run.init_std:g}"
    return f"as published{std}"


def _look(run: Any) -> dict[str, str]:
    """Its style, where what counts is quality: in chunks, CE is the same loss."""
    return style(run.method.removesuffix("_chunked"), run.optimizer)
