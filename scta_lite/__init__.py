"""The paper on SCTA (Semantic Contrastive Token Approximation), executable. Start with notebooks/.

Read it in this order: paper, spec, losses, model, timing, train, sweep; then notebook and checks.
`rows` (naive, table, ledger, optimizer) is for a second evening: until then VocabTable is an
embedding, and RowAdamW its AdamW. `scta_lab` has what is beyond the paper, and draws the figures.
"""

import warnings

from scta_lite.losses import contrastive_loss, cross_entropy, semantic_loss
from scta_lite.paper import PAPER, published_epoch_losses, published_runs
from scta_lite.rows import RowAdamW, VocabTable
from scta_lite.spec import Spec
from scta_lite.sweep import load_runs, sweep
from scta_lite.train import train

# `python -m scta_lite.sweep` imports this package first, and with it the module that it is about to
# run: no harm is done.
warnings.filterwarnings("ignore", "'scta_lite.* found in sys.modules", RuntimeWarning)

__all__ = [
    "PAPER",
    "RowAdamW",
    "Spec",
    "VocabTable",
    "contrastive_loss",
    "cross_entropy",
    "load_runs",
    "published_epoch_losses",
    "published_runs",
    "semantic_loss",
    "sweep",
    "train",
]
