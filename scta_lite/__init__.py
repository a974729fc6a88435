"""An executable companion to the paper on SCTA (Semantic Contrastive Token Approximation). Start with notebooks/."""

from scta_lite import evaluate, text
from scta_lite.losses import contrastive_loss, cross_entropy, semantic_loss
from scta_lite.paper import PAPER, published_epoch_losses, published_runs
from scta_lite.spec import Result, Spec, grid
from scta_lite.sweep import load_runs, sweep
from scta_lite.train import load, train

__all__ = [
    "PAPER",
    "Result",
    "Spec",
    "contrastive_loss",
    "cross_entropy",
    "evaluate",
    "grid",
    "load",
    "load_runs",
    "published_epoch_losses",
    "published_runs",
    "semantic_loss",
    "sweep",
    "text",
    "train",
]
