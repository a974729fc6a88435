"""The race of equal seconds where V grows and the text does not: ids of V = 50,000, 200,000 rows.

As `race.py` has it at V = 50,000, though with fewer methods and trials: most rows of the table
never occur, as in `padded.py`. The adaptive softmax may have all of them in a group of their own,
from which no target ever comes.
Writes data/runs/two-cores/padded-race/200000/, its parts as in `race.py`; of each half 256
examples are judged. An hour and a half on two cores. Resumable.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import race
from padded import ids_file
from plan import HIGH, MID, PRIOR, TUNED
from scta_lab.base.files import ROOT
from search import runner, words

ROWS = HIGH  # of the table
SHORT = "SEMANTIC as published, std 0.02"
APART = ({}, {"cutoffs": (500, 5_000, MID)})  # torch's usual groups of V = 50,000, and the rest


@dataclass(frozen=True)
class PaddedRace(race.Race):
    """The race at V = 50,000 over a file of its ids, in a table of more rows."""

    corpus: str
    labels = (race.CES[MID], race.ADAPTIVE, race.BOTH, PRIOR, TUNED, SHORT)
    groupings = APART
    trials = 3
    examples = 256

    def row(self, label: str) -> dict:
        return super().row(label) | {"vocab": ROWS, "corpus": self.corpus}

    def part(self, name: str) -> str:
        return f"{ROWS}/{name}"


if __name__ == "__main__":
    asked = words(__doc__, [], "padded-race")
    corpus = str(ids_file(ROOT / "runs/ids50k.npy"))
    tuned = runner(ROOT / "data/runs/two-cores/quality")
    with ThreadPoolExecutor(2) as two:
        PaddedRace(MID, runner(asked.out), tuned, corpus).hold(two)
