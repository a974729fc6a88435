"""What a step costs on paper, from its Spec alone: parameters, work, memory; the line t = a + bV.

The work is a floor for code of whole arrays, such as torch's: products of matrices only, each array
moved as often as its operations need. A kernel that keeps tiles of it on the chip can do with less.
Left out: launches, and the GRU's 63 steps that wait for each other.
"""

import math
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from scta_lab.base import machine
from scta_lab.base.spec import CHUNK, EXACT, SAMPLED, SHAPE, Spec
from scta_lab.judge import evaluate

# How often a number is read or written in a step, by whole-array code.
LOGIT_FORWARD = 3  # a logit: written, and made a log-probability
LOGIT_BACKWARD = 4  # a logit: made a gradient, which two products read
VECTOR = 3  # a vector of a sampling head: in the table, gathered, in the product
CAUGHT_UP = 3  # a number of a borrowed row: its value and two moments are read
GIVEN_BACK = 4  # the same: its gradient is read, value and moments are written
ADAMW = 7  # a dense parameter: read with its gradient and two moments, written with the moments
# Arrays (N, d) that a backbone writes forward, and both reads and writes backward.
GRU_STATES = 12  # of the GRU and its gates
BLOCK_STATES = 11  # of a Transformer's block
MLP_STATES = 2  # of its MLP, for each d of the MLP's width
END_STATES = 6  # at the ends of a Transformer
LOOK_STATES = 6  # of either, where nothing is kept for a backward pass
FLOAT = 4  # bytes; tables, gradients and AdamW's moments are float32 whatever the precision
HOLES = {"cpu": 0.15, "cuda": 0.0}  # share of the backbone's arrays that the C library leaves free
CONTEXT = 600_000_000  # bytes that a CUDA context takes on its GPU
# Bytes of this process once Python, torch and pandas are loaded; builds differ.
IMPORTED = machine.resident_memory()
LATE = 1.35  # times that, once torch loads the rest: 303 to 403 MB, with CUDA 813 to 1,029
# Rough share of the positions whose token is rarer than the first 0.01%, 1%, 10%, all of the ids.
RANKS, RARER = np.array([1e-4, 0.01, 0.1, 1.0]), (1.0, 0.75, 0.45, 0.0)


class Cluster(NamedTuple):
    """A part of the adaptive softmax: its head, or a cluster of rarer tokens."""

    tokens: int
    numbers: int  # of parameters; and of multiply-adds for a position that needs it
    share: float  # of the positions that need it


def parameters(spec: Spec) -> dict[str, int]:
    """Numbers in the model, by part: input table, backbone with what leads to it, and head."""
    spec = as_first_stage(spec)
    d, narrow = spec.hidden, spec.input_dim or 0
    backbone = 6 * d * d + 6 * d
    if spec.backbone == "transformer":
        backbone = spec.layers * ((4 + 2 * spec.mlp_ratio) * d * d + 2 * d) + d
    table, head = spec.vocab * (narrow or d), _head_parameters(spec)
    return {"input": table, "backbone": backbone + narrow * d, "head": head}


def rows_used(spec: Spec) -> dict[str, tuple[float, int]]:
    """Of each table that RowAdamW trains the distinct rows that a step uses, and their dimension.

    Of the input table at most one for each position. Of the semantic table what as many uniform
    draws as vectors are read are expected to hit: other samplers hit fewer.
    """
    spec = as_first_stage(spec)
    if spec.optimizer == "dense":
        return {}
    V = spec.vocab
    used = {"input": (min(spec.positions, V), spec.input_dim or spec.hidden)}
    if spec.method in SAMPLED:
        drawn = -V * math.expm1(-_vectors(spec) / V)
        used["head"] = (drawn, spec.semantic_dim)
    return used


def work(spec: Spec) -> pd.DataFrame:
    """FLOPs (two for a multiply-add) and bytes moved by a step, for each phase: `flops`, `bytes`.

    The accesses that are counted stand at the top of the module. CE in chunks makes its gradients
    in the forward pass, chunk by chunk. The exact head of a second stage computes each chunk's
    logits again in the backward pass.
    """
    logits_made_twice = spec.token_head is not None and not spec.sampled_head
    spec = as_first_stage(spec)
    states, dense, borrowed = _states(spec), _dense(spec), _borrowed(spec)
    vectors, logits, product = _vectors_moved(spec), _logits(spec), _head_products(spec)
    # Of the head, forward and backward: multiply-adds, and floats that are moved.
    products = [product, 2 * product]
    floats = [vectors + LOGIT_FORWARD * logits, vectors + LOGIT_BACKWARD * logits]
    if logits_made_twice:
        products[1] += product
        floats[1] += floats[0]
    elif spec.method == "ce_chunked":
        products = [3 * product, 0]
        floats = [sum(floats) + vectors, 0]
    forward, backward = _backbone_products(spec)
    phases = {
        "forward": (forward + products[0], states + floats[0] + CAUGHT_UP * borrowed),
        "backward": (backward + products[1], 2 * states + dense + floats[1]),
        "optimizer": (0, ADAMW * dense + GIVEN_BACK * borrowed),
    }
    return pd.DataFrame.from_dict(phases, orient="index", columns=["flops", "bytes"]) * [2, FLOAT]


def floor(spec: Spec, ceilings: dict[str, float]) -> pd.Series:
    """Milliseconds of each phase that its `work` takes at least: the roofline.

    Each phase takes its FLOPs at the matrix rate of `machine.ceilings`, or its bytes at the
    bandwidth, whichever is longer.
    """
    needed = work(spec)
    computing = needed.flops / ceilings["flops_per_s"]
    return 1e3 * np.maximum(computing, needed.bytes / ceilings["bytes_per_s"])


def memory(spec: Spec) -> dict[str, int]:
    """Bytes of one training step at its peak, by what holds them.

    Weights and AdamW's two moments: 12 bytes a parameter. The rest peaks in one of two places. In
    the backward pass of an exact head there are three (N, V) arrays (log-probabilities, their
    gradient, that of the logits) and no table's gradient yet. Later every gradient is there, 4
    bytes a parameter that is trained densely. A sampling head holds its vectors three times. A
    borrowed row is held six times: value, moments, gradient, and two while it catches up.
    """
    spec = as_first_stage(spec)
    V, used = spec.vocab, rows_used(spec)
    row_moments = sum(V * (2 * dim + 2) for _, dim in used.values())  # and two integers a row
    kept = sum(parameters(spec).values()) + 2 * _dense(spec) + row_moments
    working = _head_peak(spec) + _states(spec) + 6 * _borrowed(spec)
    return {"weights and moments": kept * FLOAT, "gradients and activations": int(working) * FLOAT}


def memory_bytes(spec: Spec, device: str = "cpu", *, context: bool = True) -> int:
    """Bytes that the run needs at its peak, the process's own included; on "cpu" or "cuda".

    A look at quality counts where it holds more than a step; beside a CUDA graph, which keeps its
    memory, as well. Without the GPU's `context` and looks
    it is what `machine.peak_memory` measures.
    """
    kept, working = memory(spec).values()
    if spec.evaluate:
        look = look_bytes(spec)
        is_kept = device == "cuda" and spec.eval_every and spec.capture is not False
        working = working + look if is_kept else max(working, look)
    holes = HOLES[device] * _states(spec) * FLOAT
    process = CONTEXT if context else 0
    if device == "cpu":
        process = int(LATE * IMPORTED)
    return kept + working + int(holes) + process


def look_bytes(spec: Spec) -> int:
    """Bytes that a look at quality holds at its peak, beside the weights and AdamW's moments.

    Four arrays of a chunk's scores, and two of booleans; what a head makes of its table, twice;
    and the hidden states of the positions that are read at a time.
    """
    V, d = spec.vocab, spec.hidden
    scores = 4.5 * max(V, evaluate.SCORES)
    vectors = 2 * V * spec.semantic_dim if spec.method in (*SAMPLED, "ce_lowrank") else 0
    states = LOOK_STATES * d * min(evaluate.POSITIONS, spec.eval_examples * spec.seq_len)
    return int(scores + vectors + states) * FLOAT


def fits(spec: Spec) -> tuple[bool, int, int]:
    """Whether the run fits into the memory that is free now; the bytes needed, the bytes free."""
    device = machine.device(spec.device)
    needed, free = memory_bytes(spec, device.type), machine.free_memory(device)
    return needed <= free, needed, free


def memory_words(needed: int, free: int) -> str:
    """The two numbers of `fits` for a reader, who is told next that the second are or were free."""
    return f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB"


def lines(runs: pd.DataFrame) -> pd.DataFrame:
    """The line t = a + bV through the step times, by least relative squares.

    One for each machine, method and optimizer. Backbones of several shapes, and steps that were
    each one CUDA graph, have lines of their own. `a_ms`; `b_us`, microseconds for 1,000 tokens of
    vocabulary; `residual`, the largest distance from the line over the measured time; `points`, the
    vocabularies. Those with fewer than two are left out.
    """
    runs = runs[runs.step_ms.notna()].astype({"step_ms": float})
    keys = [name for name in ("machine", "method", "optimizer") if name in runs]
    keys += [name for name in (*SHAPE, "captured") if name in runs and runs[name].nunique() > 1]
    fitted = []
    for key, group in runs.groupby(keys, sort=False, dropna=False):
        t = group.groupby("vocab").step_ms.median()
        if len(t) > 1:
            b, a = np.polyfit(t.index, t, 1, w=1 / t)
            residual = (np.abs(a + b * t.index - t) / t).max()
            line = {"a_ms": a, "b_us": 1e6 * b, "residual": residual, "points": len(t)}
            fitted.append(dict(zip(keys, key, strict=True)) | line)
    return pd.DataFrame(fitted)


def as_first_stage(spec: Spec) -> Spec:
    """Of a second stage a first one that costs about the same; a first stage as it is.

    It costs at least as much, where parts of the second are narrower or frozen.
    """
    if not spec.token_head:
        return spec
    first = {"stage1": None, "token_head": None, "sampled_head": False, "freeze": False}
    first |= {"method": "ce_chunked", "mask_hits": False}
    if spec.sampled_head:
        first |= {"method": "sampled_softmax", "semantic_dim": spec.hidden}
    return replace(spec, **first)


def _dense(spec: Spec) -> int:
    """Parameters that have a gradient and moments of their whole size."""
    numbers, on_rows = parameters(spec), rows_used(spec).values()
    if spec.method == "backbone":  # whose table is not trained
        return numbers["backbone"]
    return sum(numbers.values()) - sum(spec.vocab * dim for _, dim in on_rows)


def _borrowed(spec: Spec) -> float:
    """Numbers of the rows that a step borrows."""
    return sum(rows * dim for rows, dim in rows_used(spec).values())


def _states(spec: Spec) -> int:
    """Numbers that the backbone keeps for its backward pass, and those beside them at its peak."""
    arrays = GRU_STATES
    if spec.backbone == "transformer":
        arrays = spec.layers * (BLOCK_STATES + MLP_STATES * spec.mlp_ratio) + END_STATES
    return arrays * spec.positions * spec.hidden


def _backbone_products(spec: Spec) -> tuple[int, int]:
    """Multiply-adds of the backbone's products, forward and backward.

    Of a GRU three gates, of input and state. Of a Transformer its matrices and, for each position,
    the products with all T - 1 keys and values, not with those alone that came before; backward the
    keys' are made again.
    """
    N, d = spec.positions, spec.hidden
    matrices, keys = 6 * d * d, 0  # for each position
    if spec.backbone == "transformer":
        matrices = spec.layers * (4 + 2 * spec.mlp_ratio) * d * d
        keys = spec.layers * (spec.seq_len - 1) * d
    matrices += (spec.input_dim or 0) * d
    return N * (matrices + 2 * keys), N * (2 * matrices + 5 * keys)


def _head_parameters(spec: Spec) -> int:
    V, d, D = spec.vocab, spec.hidden, spec.semantic_dim
    if spec.method == "backbone":
        return 0
    if spec.method == "adaptive":  # each cluster has a row in the head
        return sum(cluster.numbers for cluster in _clusters(spec)) + len(spec.clusters) * d
    return V * d if spec.method in ("ce", "ce_chunked") else V * D + D * d


def _head_products(spec: Spec) -> float:
    """Multiply-adds of the head's products in a forward pass."""
    N, d, D = spec.positions, spec.hidden, spec.semantic_dim
    if spec.method in SAMPLED:
        return N * D * d + D * _scores(spec)
    if spec.method == "adaptive":
        return N * sum(cluster.share * cluster.numbers for cluster in _clusters(spec))
    return N * _head_parameters(spec)


def _head_peak(spec: Spec) -> float:
    """Numbers alive at the head's peak, or with every dense gradient, where these are more."""
    dense, logits, D = _dense(spec), _logits(spec), spec.semantic_dim
    if spec.method in SAMPLED:
        return dense + 3 * _vectors(spec) * D + 3 * _scores(spec)
    if spec.method == "ce_chunked":
        return dense + 3 * logits * CHUNK // max(CHUNK, spec.positions)
    if spec.method == "ce_lowrank":
        logits += spec.vocab * D
    return max(dense, 3 * logits)


def _vectors(spec: Spec) -> int:
    """Rows that a sampling head reads, as often as it reads them: the targets', the negatives'."""
    return spec.positions + (spec.shared or spec.positions * spec.negatives)


def _vectors_moved(spec: Spec) -> int:
    """Numbers of the head's vectors that are read or written, forward and again backward."""
    if spec.method in SAMPLED:
        return VECTOR * _vectors(spec) * spec.semantic_dim
    return _head_parameters(spec)


def _scores(spec: Spec) -> int:
    """Scores that a sampling head computes in a step."""
    return spec.positions * (1 + (spec.shared or spec.negatives))


def _logits(spec: Spec) -> int:
    """Scores over the vocabulary in a step; of an adaptive softmax those of the clusters needed."""
    if spec.method == "adaptive":
        tokens = sum(cluster.share * cluster.tokens for cluster in _clusters(spec))
        return int(spec.positions * tokens)
    return spec.positions * spec.vocab if spec.method in EXACT else 0


def _clusters(spec: Spec) -> list[Cluster]:
    """The head and the clusters of rarer tokens, to each of which a matrix leads from d.

    The shares are rough ones of phrases: the larger V, the flatter are its frequencies.
    """
    d, ends = spec.hidden, [*spec.clusters, spec.vocab]
    rarer = np.interp(np.log(ends), np.log(spec.vocab * RANKS), RARER)  # share of the positions
    clusters = [Cluster(ends[0], d * ends[0], 1.0)]
    for n, (begin, end) in enumerate(pairwise(ends)):
        width = int(d // spec.div_value ** (n + 1))
        numbers = width * (end - begin + d)
        clusters.append(Cluster(end - begin, numbers, rarer[n] - rarer[n + 1]))
    return clusters
