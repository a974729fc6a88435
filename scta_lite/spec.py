"""What one training of the paper is: `Spec`, twenty settings, checked where it is made.

The paper's own value is the default of each setting that it gives. What the paper leaves open
stands at the end, with the plain reading as its default."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from scta_lite import checks
from scta_lite.paper import PAPER

MOST = 2**63 - 1  # that an integer of torch holds


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One training. On a CPU equal Specs train equal models, on a GPU up to last digits. Hashable.

    ValueError names a bad argument.

    >>> Spec(method="semantic", vocab=1_000_000).steps_total
    2500
    >>> Spec(method="ce", vocab=1)
    Traceback (most recent call last):
        ...
    ValueError: vocab=1: expected an integer from 2 up
    """

    METHODS: ClassVar[tuple[str, ...]] = ("ce", "semantic")
    OPTIMIZERS: ClassVar[tuple[str, ...]] = ("dense", "rows")
    PRECISIONS: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    method: str  # "ce", the full softmax, or "semantic", the paper's loss
    vocab: int  # V, the number of tokens; 257 or more for a text
    optimizer: str = "dense"  # torch's AdamW for all; "rows": RowAdamW for the embedding tables
    steps: int | None = None  # to run; by default all of a training
    device: str = "auto"  # a GPU if there is one; or "cpu", "cuda", "cuda:1"
    seed: int = 0  # of the initialisation, the order of the examples and the negatives

    # What the paper gives
    examples: int = PAPER.examples  # in an epoch
    batch: int = PAPER.batch  # B, examples in a step
    seq_len: int = PAPER.seq_len  # T, tokens in an example, of which T - 1 are predicted
    epochs: int = PAPER.epochs  # in a training
    lr: float = PAPER.lr  # learning rate
    hidden: int = PAPER.hidden  # d, width of the GRU
    semantic_dim: int = PAPER.semantic_dim  # D, width of the semantic vectors
    negatives: int = PAPER.negatives  # K, for each predicted position, drawn with replacement
    temperature: float = PAPER.temperature  # τ, by which the cosines are divided

    # What the paper leaves open
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW, from 0 up and below 1
    eps: float = 1e-8  # of AdamW
    weight_decay: float = 0.01  # of AdamW
    init_std: float = 1.0  # of the semantic table; 1 is torch's default for embeddings
    precision: str = "float32"  # of matrix products; bfloat16 leaves the GRU out

    def __post_init__(self):
        self.check_paper()

    def check_paper(self) -> None:
        """Checks the settings above; an integral float, such as papermill's 1e6, becomes an int."""
        self.check_one_of("method", self.METHODS)
        self.check_one_of("optimizer", self.OPTIMIZERS)
        self.check_one_of("precision", self.PRECISIONS)
        self.check_name("device")
        self.check_integer("vocab", 2)
        self.check_integer("steps", 2)  # the first one only warms up
        self.check_integer("seed", 0)
        self.check_integer("seq_len", 2)
        for name in ("examples", "batch", "epochs", "hidden", "semantic_dim", "negatives"):
            self.check_integer(name, 1)
        for name in ("lr", "temperature", "eps", "init_std"):
            self.check_positive(name)
        self.check_from_0("weight_decay")
        self.check_betas()
        self.require("batch", self.batch <= self.examples, f"at most examples={self.examples}")
        steps = f"at most {self.steps_total}, a whole training; raise epochs"
        self.require("steps", (self.steps or 0) <= self.steps_total, steps)
        self.check_negatives()
        self.check_rows()

    def check_negatives(self) -> None:
        """K below V: so the paper has it. Single numbers have no direction to learn."""
        if self.method == "semantic":
            self.require("negatives", self.negatives < self.vocab, f"fewer than vocab={self.vocab}")
            self.check_integer("semantic_dim", 2)

    def check_rows(self) -> None:
        """That RowAdamW can do without the rows that a step does not read."""
        if self.optimizer == "rows":
            checks.row_betas(self.betas, self.lr * self.weight_decay)

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps in an epoch; examples that do not fill a batch are dropped."""
        return self.examples // self.batch

    @property
    def steps_total(self) -> int:
        """Optimizer steps in a whole training, whether or not all are run."""
        return self.epochs * self.epoch_steps

    @property
    def positions(self) -> int:
        """N = B (T - 1): the positions that one step predicts."""
        return self.batch * (self.seq_len - 1)

    def default(self, name: str) -> Any:
        """The value that a setting has where nothing is said."""
        return type(self).__dataclass_fields__[name].default

    def changes(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        return {name: x for name, x in asdict(self).items() if x != self.default(name)}

    def run_id(self, fingerprint: str) -> str:
        """The name of the run's file: the method, V, and a hash of what is not default and of the
        text.

        A setting added later, with a default, leaves the ids of earlier runs as they are.

        >>> Spec(method="ce", vocab=50_000).run_id("zipf-1")
        'ce-50000-8d6f397c'
        """
        return self.named({**self.changes(), "corpus": fingerprint})

    def named(self, settings: dict[str, Any]) -> str:
        """The run id that these settings, all that are not at their defaults, give."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{self.method}-{self.vocab}-{digest[:8]}"

    # The kinds of checks: each names the setting, its value, and what would be right.

    def require(self, name: str, is_right: bool, expected: str) -> None:
        if not is_right:
            raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def check(self, name: str, rule: Callable[[Any], bool], expected: str, kind: Callable) -> None:
        """Holds a setting to a rule and makes it one of a kind; None stays where it is default."""
        value = getattr(self, name)
        if value is None and self.default(name) is None:
            return
        self.require(name, rule(value), expected)
        object.__setattr__(self, name, kind(value))  # the class is frozen

    def check_integer(self, name: str, least: int, most: int = MOST) -> None:
        def rule(value: Any) -> bool:
            return checks.is_number(value) and value == int(value) and least <= value <= most

        bound = "up" if most == MOST else f"to {most:,}"
        self.check(name, rule, f"an integer from {least} {bound}", int)

    def check_positive(self, name: str) -> None:
        self.check(name, lambda x: checks.is_number(x) and x > 0, "a finite number above 0", float)

    def check_from_0(self, name: str) -> None:
        expected = "a finite number from 0 up"
        self.check(name, lambda x: checks.is_number(x) and x >= 0, expected, float)

    def check_one_of(self, name: str, choices: tuple) -> None:
        def rule(value: Any) -> bool:  # 1 is not True
            return any(type(value) is type(each) and value == each for each in choices)

        self.check(name, rule, f"one of {', '.join(map(str, choices))}", lambda value: value)

    def check_name(self, name: str) -> None:
        def rule(value: Any) -> bool:
            return isinstance(value, str | Path) and str(value) != ""

        self.check(name, rule, "a name", str)

    def check_betas(self) -> None:
        def rule(value: Any) -> bool:
            are_two = isinstance(value, list | tuple) and len(value) == 2
            return are_two and all(checks.is_number(beta) and 0 <= beta < 1 for beta in value)

        expected = "two numbers from 0 up and below 1"
        self.check("betas", rule, expected, lambda betas: tuple(map(float, betas)))
