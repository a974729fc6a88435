"""An executable companion to the paper on SCTA (Semantic Contrastive Token Approximation). Start with notebooks/."""

import warnings

from scta_lite import decode, evaluate, text
from scta_lite.losses import contrastive_loss, cross_entropy, semantic_loss
from scta_lite.optim import RowAdamW
from scta_lite.paper import PAPER, published_epoch_losses, published_runs
from scta_lite.runs.result import Result
from scta_lite.runs.settings import grid
from scta_lite.runs.spec import Spec
from scta_lite.runs.table import load_runs
from scta_lite.sweep import sweep
from scta_lite.tables import VocabTable
from scta_lite.train import load, train

# `python -m scta_lite.sweep` imports this package first, and with it the module it is about to run: no harm is done.
warnings.filterwarnings("ignore", "'scta_lite.* found in sys.modules", RuntimeWarning)

__all__ = [
    "PAPER",
    "Result",
    "RowAdamW",
    "Spec",
    "VocabTable",
    "contrastive_loss",
    "cross_entropy",
    "decode",
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
