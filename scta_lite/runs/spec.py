"""What one run is: `Spec`, validated where it is made.

A setting that the paper gives has the paper's value as its default. What the paper leaves open (how negatives are
drawn, collisions, initialisation, weight decay, precision) is a field too, with the plain reading as its default.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from scta_lite.losses import SAMPLERS
from scta_lite.paper import PAPER
from scta_lite.text.corpus import MAX_CHARACTERS

SCHEDULES = ("constant", "linear", "cosine")
EXACT = ("ce", "ce_chunked", "ce_lowrank")  # methods that score all V tokens at every position
SAMPLED = ("semantic", "sampled_softmax", "semantic_prior")  # methods that score a sample of the tokens
METHODS = ("ce", "semantic", "ce_chunked", "ce_lowrank", "adaptive", *SAMPLED[1:], "backbone")
BACKBONES = ("gru", "transformer")
SHAPE = ("hidden", "input_dim", "backbone", "layers", "heads", "mlp_ratio")  # what says what the backbone is
# Of fields whose default depends on the backbone: what a Transformer has where nothing is said, and a GRU does not.
BLOCKS = {"layers": 1, "heads": 4, "mlp_ratio": 4}
# Of fields whose default depends on the method: the paper's plain reading, and for two methods what serves them better.
PLAIN = {"sampler": "uniform", "shared": 0, "init_std": 1.0}
TUNED = {"sampler": "unigram", "shared": 1024, "init_std": 0.02}
MOST_THREADS = 1024  # torch ends without a word where the system cannot start as many as it is asked for
CHUNK = 128  # positions whose logits ce_chunked holds; torch's own choice is one at d = 256 and V from 200K up


def _field(
    check: Callable[[Any], Any], expected: str, meaning: str, default: Any = MISSING, choices: tuple = ()
) -> Any:
    """A field whose value `check` returns in its own type, or as None if it is not the `expected`."""
    about = {"check": check, "expected": expected, "meaning": meaning, "choices": choices}
    return field(default=default, metadata=about)


def _number(value: Any) -> float | None:
    """A finite real number, or None for anything else; a bool is no number."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        return value if math.isfinite(value) else None
    except (ArithmeticError, TypeError, ValueError):  # larger than any float; an array
        return None


def _integer(least: int, meaning: str, default: Any = MISSING, most: int = 2**63 - 1) -> Any:
    def check(value: Any) -> int | None:
        number = _number(value)
        return int(number) if number is not None and most >= number == int(number) >= least else None

    return _field(check, f"an integer from {least} {'up' if most == 2**63 - 1 else f'to {most:,}'}", meaning, default)


def _positive(meaning: str, default: Any = MISSING) -> Any:
    def check(value: Any) -> float | None:
        return float(value) if (_number(value) or 0) > 0 else None

    return _field(check, "a finite number above 0", meaning, default)


def _one_of(choices: tuple, meaning: str, default: Any = MISSING) -> Any:
    def check(value: Any) -> Any:  # not `in`: 1 would count as True
        return next((c for c in choices if type(value) is type(c) and value == c), None)

    return _field(check, f"one of {', '.join(map(str, choices))}", meaning, default, choices)


def _text(meaning: str, default: str | None) -> Any:
    return _field(lambda v: str(v) if isinstance(v, str | Path) and str(v) else None, "a name", meaning, default)


def _from_0(value: Any) -> float | None:
    return float(value) if _number(value) is not None and value >= 0 else None


def _betas(value: Any) -> tuple[float, float] | None:
    numbers = [_number(b) for b in value] if isinstance(value, list | tuple) else []
    fits = len(numbers) == 2 and all(b is not None and 0 <= b < 1 for b in numbers)
    return tuple(float(b) for b in numbers) if fits else None


# fmt: off
RULES: list[tuple[str, Callable[["Spec"], bool], str]] = [
    # a setting, when it does not go with the others, and what would be right: {0} is the Spec
    ("batch", lambda s: s.batch > s.examples, "at most examples={0.examples}"),
    ("steps", lambda s: (s.steps or 0) > s.steps_total, "at most {0.steps_total}, a whole training; raise epochs"),
    ("warmup", lambda s: s.warmup >= (s.steps or s.steps_total), "fewer than the steps of the run"),
    ("end_factor", lambda s: s.end_factor > 1, "at most 1"),
    ("end_factor", lambda s: s.schedule == "constant" and "end_factor" in s.changes(),
     "a schedule of linear or cosine with it"),
    ("betas", lambda s: s.optimizer == "rows" and s.betas[0] >= s.betas[1], "β1 < β2 with optimizer='rows'"),
    ("capture", lambda s: s.capture and (s.method == "adaptive" or s.optimizer == "sparse"),
     "False with method={0.method!r}, optimizer={0.optimizer!r}, whose work depends on the data"),
    ("clip", lambda s: s.clip and s.optimizer == "sparse", "None with optimizer='sparse', which torch cannot clip"),
    ("method", lambda s: s.method == "adaptive" and (s.vocab < 20 or s.hidden < 16),
     "vocab from 20 and hidden from 16 up, for its clusters"),
    ("method", lambda s: s.method == "backbone" and (s.optimizer != "dense" or s.evaluate),
     "optimizer='dense' and evaluate=False: it has no table or head"),
    *((name, lambda s, name=name: s.backbone == "gru" and getattr(s, name) is not None, "None with backbone='gru'")
      for name in BLOCKS),
    ("hidden", lambda s: s.backbone == "transformer" and s.hidden % 2,
     "an even number with backbone='transformer', which turns pairs of it"),
    ("heads", lambda s: s.backbone == "transformer" and s.hidden % (2 * s.heads),
     "a number that divides hidden={0.hidden} into heads of an even width"),
    ("token_head", lambda s: s.token_head and not s.stage1, "None without stage1"),
    ("method", lambda s: s.token_head and s.method not in SAMPLED, f"the first stage's, one of {', '.join(SAMPLED)}"),
    ("learn_temperature", lambda s: s.learn_temperature and s.method not in ("ce_lowrank", *SAMPLED),
     "False, {0.method} has no τ"),
    ("learn_temperature", lambda s: s.learn_temperature and s.token_head, "False, {0.token_head} has no τ"),
    ("log_unigram", lambda s: s.log_unigram and (s.token_head or s.method not in (*EXACT, "sampled_softmax")),
     "False with method={0.method!r}, token_head={0.token_head!r}"),
    ("scores", lambda s: s.scores == "dot" and (s.token_head or s.method not in ("ce_lowrank", *SAMPLED)),
     "cosine with method={0.method!r}, token_head={0.token_head!r}"),
    *((name, lambda s, name=name: getattr(s, name) is not None and not s.evaluate, "None without evaluate=True")
      for name in ("eval_every", "eval_every_s")),
    ("sampled_head", lambda s: s.sampled_head and not s.token_head, "a token_head with it"),
    ("freeze", lambda s: s.freeze and not s.token_head, "a token_head with it"),
    ("shared", lambda s: s.sampled_head and not s.shared, "an integer from 1 up for a sampled_head"),
    ("mask_hits", lambda s: s.mask_hits and s.method == "semantic_prior",
     "False for method='semantic_prior', whose estimate needs the hits"),
    ("sampler", lambda s: s.method in SAMPLED and s.sampler == "in_batch" and s.positions < 2,
     "another, as a batch of one position has no other targets"),
    ("negatives", lambda s: s.method in SAMPLED and not s.shared and s.negatives >= s.vocab,
     "fewer than vocab={0.vocab}"),
]
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run, whole: on one processor equal Specs train equal models, if no budget or look is by the second. Hashable.

    On a GPU equal but for last digits: there torch adds some gradients in no fixed order.

    ValueError names a bad argument.

    >>> Spec(method="semantic", vocab=1_000_000).steps_total
    2500
    >>> Spec(method="ce", vocab=1)
    Traceback (most recent call last):
        ...
    ValueError: vocab=1: expected an integer from 2 up
    """

    method: str = _one_of(METHODS, "ce (full softmax) and semantic are the paper's, the others are to compare with")
    vocab: int = _integer(2, "V, the number of tokens; 257 or more for a text")
    optimizer: str = _one_of(
        ("dense", "rows", "sparse"),
        "dense: torch's AdamW over all parameters; rows: RowAdamW over the tables' rows that are used; sparse: torch's "
        "SparseAdam over those rows, which is another algorithm, without weight decay",
        "dense",
    )
    corpus: str = _text('"installed", "zipf", or the path of text (a file or a folder) or of .npy ids', "installed")
    max_characters: int = _integer(1, "characters of the text after which no further document is read", MAX_CHARACTERS)
    steps: int | None = _integer(2, "steps to run; by default all of a training", None)
    budget_s: float | None = _positive("seconds after which a run stops, once 1 + 3 steps are done", None)
    evaluate: bool = _one_of((True, False), "full-vocabulary metrics on held-out text, after one epoch or more", False)
    eval_every: int | None = _integer(1, "steps between metrics on the validation half of the held-out text", None)
    eval_every_s: float | None = _positive("seconds of training between such metrics", None)
    device: str = _text('"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …', "auto")
    seed: int = _integer(0, "of the initialisation, the order of the examples and the negatives", 0)
    # The paper's settings:
    examples: int = _integer(1, "examples in an epoch", PAPER.examples)
    batch: int = _integer(1, "B, examples in a step", PAPER.batch)
    seq_len: int = _integer(2, "T, tokens in an example, of which T - 1 are predicted", PAPER.seq_len)
    epochs: int = _integer(1, "epochs in a training", PAPER.epochs)
    lr: float = _positive("learning rate", PAPER.lr)
    table_lr: float | None = _positive("learning rate of the parameters with a row for each token; by default lr", None)
    schedule: str = _one_of(SCHEDULES, "of the learning rates, after the warm-up and until the last step", "constant")
    end_factor: float = _field(
        _from_0, "a number from 0 up", "what linear and cosine end at, of the learning rate", 0.1
    )
    warmup: int = _integer(0, "steps in which the learning rates rise to their values in a straight line", 0)
    clip: float | None = _positive("the greatest norm of all gradients together; by default none", None)
    hidden: int = _integer(1, "d, width of the backbone", PAPER.hidden)
    input_dim: int | None = _integer(1, "width of the input embeddings, from which a matrix leads to d; by default d, "
                                     "and no matrix", None)  # fmt: skip
    backbone: str = _one_of(BACKBONES, "gru, of one layer, is the paper's; transformer: see scta_lite.backbone", "gru")
    layers: int | None = _integer(1, "blocks of the transformer", None)
    heads: int | None = _integer(1, "attention heads of each block", None)
    mlp_ratio: int | None = _integer(1, "width of a block's MLP over d; of one block, 1 gives the GRU's size", None)
    semantic_dim: int = _integer(1, "D, dimension of the semantic vectors", PAPER.semantic_dim)
    negatives: int = _integer(1, "K, negatives for each predicted position, drawn with replacement", PAPER.negatives)
    temperature: float = _positive("τ, by which the cosines are divided", PAPER.temperature)
    scores: str = _one_of(("cosine", "dot"), "products with the semantic rows, of unit vectors or not", "cosine")
    log_unigram: bool = _one_of((True, False), "add the training text's log unigram to the scores", False)
    learn_temperature: bool = _one_of((True, False), "τ is a parameter, and `temperature` where it begins", False)
    # The paper's second stage, alignment; the fields above are then those of the first:
    stage1: str | None = _text("file <run id>.safetensors of a first stage, from whose model this one begins", None)
    token_head: str | None = _one_of(
        ("random", "normalised", "plain"),
        "how a new head begins, and what it is over; without one stage 1 goes on",
        None,
    )
    sampled_head: bool = _one_of((True, False), "train it by sampled softmax over S shared negatives", False)
    freeze: bool = _one_of((True, False), "train that head alone (option A), not all (option B)", False)
    # What the paper leaves open:
    betas: tuple[float, float] = _field(_betas, "two numbers from 0 up and below 1", "of AdamW", (0.9, 0.999))
    eps: float = _positive("of AdamW", 1e-8)
    weight_decay: float = _field(_from_0, "a finite number from 0 up", "of AdamW", 0.01)
    sampler: str | None = _one_of(SAMPLERS, "q, from which negatives are drawn with replacement", None)
    shared: int | None = _integer(0, "S, negatives shared by all positions; 0: each position has K of its own", None)
    mask_hits: bool = _one_of((True, False), "leave out a negative that is the target itself", False)
    init_std: float | None = _positive("of the semantic table; 1 is torch's default for embeddings", None)
    precision: str = _one_of(
        ("float32", "tf32", "bfloat16"), "of matrix products; bfloat16 is autocast, but for the GRU", "float32"
    )
    capture: bool = _one_of((True, False), "do the steps on a GPU as one CUDA graph, captured once", False)
    threads: int | None = _integer(1, "of the CPU; by default torch's choice", None, MOST_THREADS)
    eval_examples: int = _integer(1, "held-out examples that evaluate reads, at most", 256)

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            value = self._default(f) if value is None else value
            checked = None if value is None else f.metadata["check"](value)
            if checked is None and not (value is None and f.default is None):
                raise ValueError(f"{f.name}={value!r}: expected {f.metadata['expected']}")
            object.__setattr__(self, f.name, checked)
        for name, is_wrong, expected in RULES:
            if is_wrong(self):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected.format(self)}")

    @property
    def epoch_steps(self) -> int:
        """Optimiser steps in an epoch; examples that do not fill a batch are dropped."""
        return self.examples // self.batch

    @property
    def steps_total(self) -> int:
        """Optimiser steps in a whole training, whether or not all are run."""
        return self.epochs * self.epoch_steps

    def rate(self, step: int) -> float:
        """What the learning rates are multiplied by in a step, counted from 1.

        Up to `warmup` it is step/warmup. Then x rises to 1 in the run's last step, and with e = `end_factor` it is 1,
        or 1 - (1-e) x ("linear"), or e + (1-e) (1 + cos πx)/2 ("cosine").

        >>> spec = Spec(method="ce", vocab=9, steps=110, warmup=10, schedule="cosine", end_factor=0)
        >>> [round(spec.rate(step), 3) for step in (1, 10, 60, 110)]
        [0.1, 1.0, 0.5, 0.0]
        """
        if step <= self.warmup:
            return step / self.warmup
        x = (step - self.warmup) / ((self.steps or self.steps_total) - self.warmup)
        if self.schedule == "constant":
            return 1.0
        left = 1 - x if self.schedule == "linear" else (1 + math.cos(math.pi * x)) / 2
        return self.end_factor + (1 - self.end_factor) * left

    @property
    def positions(self) -> int:
        """N = B (T - 1): the positions that one step predicts."""
        return self.batch * (self.seq_len - 1)

    def run_id(self, fingerprint: str) -> str:
        """The name of the run's file: the method, V, and a hash of what is not default and of the corpus.

        A field added later, with a default, leaves the ids of earlier runs as they are. A corpus counts by its
        fingerprint, never by its path.

        >>> Spec(method="ce", vocab=50_000).run_id("zipf-1")
        'ce-50000-8d6f397c'
        """
        changed = {**self.changes(), "corpus": fingerprint}
        if self.stage1:
            changed["stage1"] = Path(self.stage1).stem  # by its id, which counts all that it was
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        return f"{self.method}-{self.vocab}-{digest[:8]}"  # stage 2 goes on under the first's method

    def changes(self) -> dict[str, Any]:
        """The fields that are not what they are by default, for this method and this backbone."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != self._default(f)}

    def _default(self, f: Field) -> Any:
        """The field's default, which for some depends on the method or on the backbone."""
        if f.name in BLOCKS and self.backbone == "transformer":
            return BLOCKS[f.name]
        defaults = TUNED if self.method in ("sampled_softmax", "semantic_prior") else PLAIN
        return defaults.get(f.name, f.default)


def adaptive_cutoffs(vocab: int) -> list[int]:
    """Where the clusters of the adaptive softmax begin, by rank of frequency: the first 1% of the ids, the next 9%."""
    return sorted({max(1, vocab // 100), max(1, vocab // 10)})
