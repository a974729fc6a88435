"""What a run of the laboratory is: the paper's Spec, and seven groups of settings beyond it.

Each group is a dataclass with the rules that concern it. `Spec` is all of them together, flat:
neither a run's file nor its id knows the groups.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import scta_lite.spec as paper
from scta_lite import checks

SCHEDULES = ("constant", "linear", "cosine")
END = 0.1  # the share of the learning rate at which linear and cosine end
EXACT = ("ce", "ce_chunked", "ce_lowrank")  # methods that score all V tokens at every position
SAMPLED = ("semantic", "sampled_softmax", "semantic_prior")  # that score a sample of the tokens
METHODS = ("ce", "semantic", "ce_chunked", "ce_lowrank", "adaptive", *SAMPLED[1:], "backbone")
SAMPLERS = ("uniform", "log_uniform", "unigram", "unigram^0.75", "in_batch")
BACKBONES = ("gru", "transformer")
SCORES = ("cosine", "dot")
TOKEN_HEADS = ("random", "normalised", "plain")
SHAPE = ("hidden", "input_dim", "backbone", "layers", "heads", "mlp_ratio")  # what the backbone is
BLOCKS = {"layers": 1, "heads": 4, "mlp_ratio": 4}  # defaults of a transformer; a GRU has None
PLAIN = {"sampler": "uniform", "shared": 0, "init_std": 1.0}  # defaults: the paper, read plainly
TUNED = {"sampler": "unigram", "shared": 1024, "init_std": 0.02}  # what serves two methods better
MAX_CHARACTERS = 64_000_000  # of a text that are used, unless more are asked for
MOST_THREADS = 1024  # torch ends without a word where the system cannot start so many
CHUNK = 128  # positions whose logits ce_chunked holds; torch's own choice is 1 at V = 200K


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is read."""

    corpus: str = "installed"  # "zipf", or the path of text (a file or a folder) or of .npy ids
    max_characters: int = MAX_CHARACTERS  # of the text, after which no further document is read

    def check_text(self) -> None:
        self.check_name("corpus")
        self.check_integer("max_characters", 1)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """When quality is measured, which is a look, and on how much held-out text."""

    evaluate: bool = False  # metrics over the full vocabulary, after one epoch or more
    eval_every: int | None = None  # steps between metrics on half of the held-out text
    eval_examples: int = 256  # held-out examples that are read, at most

    def check_looks(self) -> None:
        self.check_one_of("evaluate", (True, False))
        self.check_integer("eval_every", 1)
        self.check_integer("eval_examples", 1)
        evaluates = self.eval_every is None or self.evaluate
        self.require("eval_every", evaluates, "None without evaluate=True")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rates go, and when a run ends early."""

    table_lr: float | None = None  # learning rate of what has a row for each token; by default lr
    schedule: str = "constant"  # of the rates, after the warm-up and until the last step
    warmup: int = 0  # steps in which the rates rise to their values in a straight line
    clip: float | None = None  # the greatest norm of all gradients together; by default none
    budget_s: float | None = None  # seconds after which a run stops, once four steps are done

    def check_schedule(self) -> None:
        self.check_positive("table_lr")
        self.check_one_of("schedule", SCHEDULES)
        self.check_integer("warmup", 0)
        self.check_positive("clip")
        self.check_positive("budget_s")
        steps = self.steps or self.steps_total
        self.require("warmup", self.warmup < steps, "fewer than the steps of the run")
        if self.optimizer == "sparse":
            unclipped = "None with optimizer='sparse', which torch cannot clip"
            self.require("clip", self.clip is None, unclipped)

    def rate(self, step: int) -> float:
        """What the learning rates are multiplied by in a step, counted from 1.

        Up to `warmup` it is step/warmup. Then x rises from 0 to 1 in the run's last step, and the
        factor is 1 ("constant"), or with e = 0.1

            e + (1-e) (1-x)  ("linear"),  e + (1-e) (1 + cos πx)/2  ("cosine").

        >>> spec = Spec(method="ce", vocab=9, steps=110, warmup=10, schedule="cosine")
        >>> [round(spec.rate(step), 3) for step in (1, 10, 60, 110)]
        [0.1, 1.0, 0.55, 0.1]
        """
        if step <= self.warmup:
            return step / self.warmup
        if self.schedule == "constant":
            return 1.0
        steps = self.steps or self.steps_total
        x = (step - self.warmup) / (steps - self.warmup)
        falling = 1 - x if self.schedule == "linear" else (1 + math.cos(math.pi * x)) / 2
        return END + (1 - END) * falling


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What reads the embeddings."""

    input_dim: int | None = None  # width of the input embeddings, from which a matrix leads to d
    backbone: str = "gru"  # which has one layer, as in the paper
    layers: int | None = None  # blocks of the transformer; by default 1
    heads: int | None = None  # attention heads of each block; by default 4
    mlp_ratio: int | None = None  # width of a block's MLP over d; by default 4; 1: a GRU's size

    def check_backbone(self) -> None:
        self.check_one_of("backbone", BACKBONES)
        for name in ("input_dim", *BLOCKS):
            self.check_integer(name, 1)
        if self.backbone == "gru":
            for name in BLOCKS:
                self.require(name, getattr(self, name) is None, "None with backbone='gru'")
            return
        even = "an even number with backbone='transformer', which rotates pairs of them"
        self.require("hidden", self.hidden % 2 == 0, even)
        divides = f"a number that divides hidden={self.hidden} into heads of an even width"
        self.require("heads", self.hidden % (2 * self.heads) == 0, divides)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The losses beside the paper's two, and what the paper leaves open of its own."""

    sampler: str | None = None  # q, from which negatives are drawn
    shared: int | None = None  # S, negatives shared by all positions; 0: each position has K
    init_std: float | None = None
    mask_hits: bool = False  # leave out a negative that is the target itself
    scores: str = "cosine"  # products with the semantic rows, of unit vectors or as they are
    log_unigram: bool = False  # add the training text's log unigram to the scores
    cutoffs: tuple[int, ...] | None = None  # ranks at which adaptive softmax's clusters begin
    div_value: float = 4.0  # by which each of those clusters is narrower than the one before

    def check_head(self) -> None:
        self.check_one_of("sampler", SAMPLERS)
        self.check_integer("shared", 0)
        self.check_one_of("mask_hits", (True, False))
        self.check_one_of("scores", SCORES)
        self.check_one_of("log_unigram", (True, False))
        self.check_clusters()
        is_first_stage = not self.token_head
        head = f"method={self.method!r}, token_head={self.token_head!r}"
        if self.log_unigram:
            has_bias = is_first_stage and self.method in (*EXACT, "sampled_softmax")
            self.require("log_unigram", has_bias, f"False with {head}")
        if self.scores == "dot":
            has_vectors = is_first_stage and self.method in ("ce_lowrank", *SAMPLED)
            self.require("scores", has_vectors, f"cosine with {head}")
        self.check_method()

    def check_clusters(self) -> None:
        """The adaptive softmax's; other methods have none."""
        for name in ("cutoffs", "div_value"):
            its_default = self.method == "adaptive" or getattr(self, name) == self.default(name)
            self.require(name, its_default, f"{self.default(name)} with method={self.method!r}")
        rising = f"integers that rise, from 1 to vocab - 1 = {self.vocab - 1}"
        self.check("cutoffs", self.can_be_cutoffs, rising, lambda ranks: tuple(map(int, ranks)))
        self.check_positive("div_value")
        if self.method == "adaptive":
            enough = self.cutoffs is not None or self.vocab >= 20
            self.require("method", enough, "vocab from 20 up, for its clusters")
            n = len(self.clusters)
            most = self.hidden ** (1 / n)
            right = f"a number from 1 to {most:.4g}, for {n} clusters of hidden={self.hidden}"
            in_range = 1 <= self.div_value <= most + 1e-9
            self.require("div_value", in_range and self.hidden // self.div_value**n >= 1, right)

    def can_be_cutoffs(self, value: Any) -> bool:
        are_numbers = isinstance(value, list | tuple) and all(map(checks.is_number, value))
        if not are_numbers or not value or any(rank != int(rank) for rank in value):
            return False
        return all(before < rank for before, rank in pairwise([0, *value, self.vocab]))

    @property
    def clusters(self) -> tuple[int, ...]:
        """The ranks by frequency at which its clusters begin; by default after 1% and 10%."""
        return self.cutoffs or (max(1, self.vocab // 100), max(1, self.vocab // 10))

    def check_method(self) -> None:
        """What single methods ask of other settings."""
        if self.method == "semantic_prior":
            unmasked = "False for method='semantic_prior', whose estimate needs the hits"
            self.require("mask_hits", not self.mask_hits, unmasked)
        if self.method in SAMPLED and self.sampler == "in_batch":
            another = "another, as a batch of one position has no other targets"
            self.require("sampler", self.positions >= 2, another)
        if self.method == "backbone":
            alone = "optimizer='dense' and evaluate=False: it has no table or head"
            self.require("method", self.optimizer == "dense" and not self.evaluate, alone)


@dataclass(frozen=True, kw_only=True)
class SecondStage:
    """The paper's alignment; the other settings are then those of the first stage."""

    stage1: str | None = None  # <run id>.safetensors of a first stage, from whose model this begins
    token_head: str | None = None  # how a new head begins; without it stage 1 goes on
    sampled_head: bool = False  # train it by sampled softmax over S shared negatives
    freeze: bool = False  # train that head alone (option A), not all (option B)

    def check_second_stage(self) -> None:
        self.check_name("stage1")
        self.check_one_of("token_head", TOKEN_HEADS)
        self.check_one_of("sampled_head", (True, False))
        self.check_one_of("freeze", (True, False))
        if self.token_head:
            self.require("token_head", self.stage1 is not None, "None without stage1")
            sampled = f"the first stage's, one of {', '.join(SAMPLED)}"
            self.require("method", self.method in SAMPLED, sampled)
        else:
            for name in ("sampled_head", "freeze"):
                self.require(name, not getattr(self, name), "a token_head with it")
        if self.sampled_head:
            self.require("shared", self.shared > 0, "an integer from 1 up for a sampled_head")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How it is run, which changes no loss beyond rounding."""

    capture: bool | None = None  # do a GPU's steps as one CUDA graph; by default where it can be
    threads: int | None = None  # of the CPU; by default torch's choice

    def check_machine(self) -> None:
        self.check_one_of("capture", (True, False))
        self.check_integer("threads", 1, MOST_THREADS)
        if self.capture:
            cause = self.why_not_captured
            self.require("capture", cause is None, f"None or False: {cause}")

    @property
    def why_not_captured(self) -> str | None:
        """Why no CUDA graph can hold a step; None where one can."""
        if self.method == "adaptive":
            return "which clusters method='adaptive' uses depends on the data"
        if self.optimizer == "sparse":
            return "how many rows optimizer='sparse' moves depends on the data"
        return None


@dataclass(frozen=True, kw_only=True)
class Spec(Text, Looks, Schedule, Backbone, Head, SecondStage, Machine, paper.Spec):
    """One run, whole. On one processor equal Specs train equal models, unless seconds end them.

    On a GPU they differ in last digits: there torch adds some gradients in no fixed order.
    ValueError names a bad argument.

    >>> Spec(method="semantic_prior", vocab=50_000).sampler
    'unigram'
    """

    METHODS: ClassVar[tuple[str, ...]] = METHODS
    OPTIMIZERS: ClassVar[tuple[str, ...]] = ("dense", "rows", "sparse")
    PRECISIONS: ClassVar[tuple[str, ...]] = ("float32", "tf32", "bfloat16")

    def __post_init__(self):
        for name in (*PLAIN, *BLOCKS):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.default(name))
        self.check_paper()
        self.check_text()
        self.check_looks()
        self.check_schedule()
        self.check_backbone()
        self.check_second_stage()
        self.check_head()
        self.check_machine()

    def check_negatives(self) -> None:
        """K below V, where each position has its own; single numbers have no direction to learn."""
        if self.method in SAMPLED and self.shared == 0:
            fewer = f"fewer than vocab={self.vocab}"
            self.require("negatives", self.negatives < self.vocab, fewer)
        if self.method in (*SAMPLED, "ce_lowrank") and self.scores == "cosine":
            self.check_integer("semantic_dim", 2)

    def check_rows(self) -> None:
        """By a rate of their own RowAdamW itself refuses: a search has that as a failed run."""
        if self.table_lr is None:
            super().check_rows()

    def default(self, name: str) -> Any:
        """The setting's default, which for some depends on the method or on the backbone."""
        if name in BLOCKS:
            return BLOCKS[name] if self.backbone == "transformer" else None
        if name in PLAIN:
            tuned = self.method in ("sampled_softmax", "semantic_prior")
            return (TUNED if tuned else PLAIN)[name]
        return super().default(name)

    def run_id(self, fingerprint: str) -> str:
        """As the paper's Spec has it; a text counts by its fingerprint, a first stage by its id.

        >>> Spec(method="ce", vocab=50_000).run_id("zipf-1")
        'ce-50000-8d6f397c'
        """
        settings = {**self.changes(), "corpus": fingerprint}
        if not self.capture:  # what was not asked for is told by the run's file
            settings.pop("capture", None)
        if self.stage1:
            settings["stage1"] = Path(self.stage1).stem
        return self.named(settings)
