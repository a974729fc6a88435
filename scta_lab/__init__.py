"""What lies beyond the paper: every method, text and judge, runs in processes, and the study.

base (settings, machine, files); text and methods; judge; run; study. Each imports only from those
before it.
"""

from scta_lab import text
from scta_lab.base.spec import Spec
from scta_lab.base.words import grid
from scta_lab.judge import decode, evaluate
from scta_lab.run.loading import load
from scta_lab.run.processes import sweep
from scta_lab.run.result import Result
from scta_lab.run.table import load_runs
from scta_lab.run.training import train

__all__ = [
    "Result",
    "Spec",
    "decode",
    "evaluate",
    "grid",
    "load",
    "load_runs",
    "sweep",
    "text",
    "train",
]
