"""Tables of which a step reads a few rows, trained as a dense AdamW would train them."""

from scta_lite.rows.optimizer import RowAdamW
from scta_lite.rows.table import VocabTable

__all__ = ["RowAdamW", "VocabTable"]
