"""What a step costs on paper, from its Spec alone: parameters, work, memory and whether it fits; the line t = a + bV.

The work is a floor for code of whole arrays, such as torch's: products of matrices only, each array moved as often as
its operations need; a kernel that keeps tiles of it on the chip can do with less. Left out: launches, and the GRU's 63
steps that wait for each other.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from scta_lab.base import machine
from scta_lab.base.spec import CHUNK, EXACT, SAMPLED, SHAPE, Spec, adaptive_cutoffs

# How often a number is read or written in a step, by whole-array code:
LOGIT_FORWARD, LOGIT_BACKWARD = 3, 4  # a logit: written, made a log-probability; made a gradient, read by two products
VECTOR = 3  # a vector of a sampling head: in the table, gathered, in the product
CAUGHT_UP, GIVEN_BACK = 3, 4  # a number of a borrowed row: value and moments read; its gradient read, the three written
ADAMW = 7  # a parameter that AdamW moves: read with its gradient and two moments, written with the moments
GRU_STATES = 12  # arrays (N, d) of the GRU and its gates, written forward, and both read and written backward
BLOCK_STATES, MLP_STATES, END_STATES = 11, 2, 6  # the same of a Transformer: a block; of the MLP's width; at its ends
FLOAT = 4  # bytes; the tables, their gradients and AdamW's moments are float32 whatever the precision
HOLES = {"cpu": 0.15, "cuda": 0.0}  # share of the backbone's arrays that the C library's heap leaves free between them
CONTEXT = 600_000_000  # bytes that a CUDA context takes on its GPU
IMPORTED = machine.resident_memory()  # bytes of this process once Python, torch and pandas are loaded; builds differ
LATE = 1.35  # times as much once a step was done: torch loads some parts late (303 to 403 MB, 813 to 1,029 with CUDA)


def parameters(spec: Spec) -> dict[str, int]:
    """Numbers in the model, by part: the input table, the backbone with what leads to it, and the head."""
    spec = _alike(spec)
    V, d, D = spec.vocab, spec.hidden, spec.semantic_dim
    if spec.method == "adaptive":
        head = sum(width * (size + d * (width < d)) for width, size, _ in _clusters(spec)) + 2 * d
    else:
        head = {"ce": V * d, "ce_chunked": V * d, "backbone": 0}.get(spec.method, V * D + D * d)
    backbone = 6 * d * d + 6 * d
    if spec.backbone == "transformer":
        backbone = spec.layers * ((4 + 2 * spec.mlp_ratio) * d * d + 2 * d) + d
    narrow = spec.input_dim or 0
    return {"input": V * (narrow or d), "backbone": backbone + narrow * d, "head": head}


def rows_used(spec: Spec) -> dict[str, tuple[float, int]]:
    """Of each table that RowAdamW trains, the distinct rows that a step uses, and their dimension.

    Of the input table at most one for each position; of the semantic table what as many uniform draws as vectors are
    read are expected to hit: other samplers hit fewer.
    """
    spec = _alike(spec)
    if spec.optimizer == "dense":
        return {}
    drawn = spec.vocab * -math.expm1(-_vectors(spec) / spec.vocab)
    semantic = {"head": (drawn, spec.semantic_dim)} if spec.method in SAMPLED else {}
    return {"input": (min(spec.positions, spec.vocab), spec.input_dim or spec.hidden), **semantic}


def work(spec: Spec) -> pd.DataFrame:
    """FLOPs (two for a multiply-add) and bytes moved by a step for each phase: columns `flops`, `bytes`.

    The accesses that are counted stand at the top of the module. CE in chunks makes its gradients in the forward pass,
    chunk by chunk. The exact head of a second stage computes each chunk's logits again in the backward pass.
    """
    again, spec = bool(spec.token_head) and not spec.sampled_head, _alike(spec)
    N, D, d = spec.positions, spec.semantic_dim, spec.hidden
    rows = sum(n * dim for n, dim in rows_used(spec).values())
    dense, logits, states = _dense(spec), _logits(spec), _states(spec) * N * d
    read = VECTOR * _vectors(spec) * D if spec.method in SAMPLED else parameters(spec)["head"]
    forward = states + read + LOGIT_FORWARD * logits + CAUGHT_UP * rows
    of_head = read + LOGIT_BACKWARD * logits
    floats = {
        "forward": forward,
        "backward": 2 * states + dense + of_head,
        "optimizer": ADAMW * dense + GIVEN_BACK * rows,
    }
    (forward, backward), head = _backbone_products(spec), _head_products(spec)
    products = {"forward": forward + head, "backward": backward + 2 * head, "optimizer": 0}
    if again:
        products["backward"] += head
        floats["backward"] += read + LOGIT_FORWARD * logits
    elif spec.method == "ce_chunked":
        for counted, moved in ((floats, of_head), (products, 2 * head)):
            counted["forward"] += moved
            counted["backward"] -= moved
        floats["forward"] += read
    return pd.DataFrame({"flops": pd.Series(products) * 2, "bytes": pd.Series(floats) * FLOAT})


def floor(spec: Spec, ceilings: dict[str, float]) -> pd.Series:
    """Milliseconds of each phase that its `work` takes at least, by `machine.ceilings`: the roofline.

    Each phase takes its FLOPs at the matrix rate or its bytes at the bandwidth, whichever is longer.
    """
    needed = work(spec)
    return 1e3 * np.maximum(needed.flops / ceilings["flops_per_s"], needed.bytes / ceilings["bytes_per_s"])


def memory(spec: Spec) -> dict[str, int]:
    """Bytes of one training step at its peak, by what holds them.

    Weights and AdamW's two moments: 12 bytes a parameter. The rest peaks either in the backward pass of an exact head,
    with three (N, V) arrays (log-probabilities, their gradient, that of the logits) and no table's gradient yet, or
    with every gradient there, 4 bytes a parameter that is trained densely. A sampling head holds its vectors three
    times, and a borrowed row six times: value, moments, gradient, and two while it catches up.
    """
    spec = _alike(spec)
    counts, used = parameters(spec), rows_used(spec)
    dense, logits, V = _dense(spec), _logits(spec), spec.vocab
    on_rows = sum(V * (2 * dim + 2) for _, dim in used.values())  # two moments, and two integers
    moments = sum(counts.values()) + 2 * dense + on_rows
    working = {
        "ce_chunked": dense + 3 * logits * CHUNK // max(CHUNK, spec.positions),
        "ce_lowrank": max(3 * logits + 3 * V * spec.semantic_dim, dense),
        **dict.fromkeys(SAMPLED, 3 * _vectors(spec) * spec.semantic_dim + 3 * _scores(spec) + dense),
    }.get(spec.method, max(3 * logits, dense))
    working += _states(spec) * spec.positions * spec.hidden + 6 * sum(n * dim for n, dim in used.values())
    return {"weights and moments": moments * FLOAT, "gradients and activations": int(working) * FLOAT}


def memory_bytes(spec: Spec, device: str = "cpu", *, context: bool = True) -> int:
    """Bytes that the run needs at its peak, the process's own included; `device`: "cpu" or "cuda".

    Without the GPU's `context` it is what `machine.peak_memory` measures.
    """
    holes = HOLES[device] * _states(spec) * spec.positions * spec.hidden * FLOAT
    process = int(LATE * IMPORTED) if device == "cpu" else CONTEXT if context else 0
    return sum(memory(spec).values()) + int(holes) + process


def fits(spec: Spec) -> tuple[bool, int, int]:
    """Whether the run fits into the memory that is free on its device now; the bytes needed and the bytes free."""
    device = machine.device(spec.device)
    needed, free = memory_bytes(spec, device.type), machine.free_memory(device)
    return needed <= free, needed, free


def lines(runs: pd.DataFrame) -> pd.DataFrame:
    """The line t = a + bV through the step times of each machine, method and optimizer, by least relative squares.

    Backbones of several shapes, and steps that were each one CUDA graph, have lines of their own. `a_ms`; `b_us`,
    microseconds for 1,000 tokens of vocabulary; `residual`, the largest distance from the line over the measured time;
    `points`, the vocabularies. Those with fewer than two are left out.
    """
    runs = runs[runs.step_ms.notna()]
    keys = [name for name in ("machine", "method", "optimizer") if name in runs]
    keys += [name for name in (*SHAPE, "capture") if name in runs and runs[name].nunique() > 1]
    found = []
    for key, of_one in runs.groupby(keys, sort=False, dropna=False):
        points = of_one.astype({"step_ms": float}).groupby("vocab").step_ms.median()
        if len(points) > 1:
            b, a = np.polyfit(points.index, points, 1, w=1 / points)
            residual = (np.abs(a + b * points.index - points) / points).max()
            found.append({**dict(zip(keys, key, strict=True)), "a_ms": a, "b_us": 1e6 * b, "residual": residual,
                          "points": len(points)})  # fmt: skip
    return pd.DataFrame(found)


def _alike(spec: Spec) -> Spec:
    """Of a second stage, a first one that costs about the same, at least as much where parts are narrower or frozen."""
    method, width = ("sampled_softmax", spec.hidden) if spec.sampled_head else ("ce_chunked", spec.semantic_dim)
    first = {"stage1": None, "token_head": None, "sampled_head": False, "freeze": False}
    return replace(spec, method=method, semantic_dim=width, mask_hits=False, **first) if spec.token_head else spec


def _dense(spec: Spec) -> int:
    """Parameters that have a gradient and moments of their whole size; the backbone alone trains no table."""
    counts = parameters(spec)
    if spec.method == "backbone":
        return counts["backbone"]
    return sum(counts.values()) - sum(spec.vocab * dim for _, dim in rows_used(spec).values())


def _states(spec: Spec) -> int:
    """Arrays (N, d) that the backbone keeps for its backward pass, and those alive beside them at its peak."""
    if spec.backbone == "gru":
        return GRU_STATES
    return spec.layers * (BLOCK_STATES + MLP_STATES * spec.mlp_ratio) + END_STATES


def _backbone_products(spec: Spec) -> tuple[int, int]:
    """Multiply-adds of the backbone's products, forward and backward.

    Of a GRU three gates, of input and state. Of a Transformer its matrices and, for each position, the products with
    all T - 1 keys and values, not with those alone that came before; backward the keys' are made again.
    """
    N, d, widen = spec.positions, spec.hidden, spec.positions * spec.hidden * (spec.input_dim or 0)
    if spec.backbone == "gru":
        return 6 * N * d * d + widen, 12 * N * d * d + 2 * widen
    matrices, keys = spec.layers * N * (4 + 2 * spec.mlp_ratio) * d * d, spec.layers * N * (spec.seq_len - 1) * d
    return matrices + 2 * keys + widen, 2 * matrices + 5 * keys + 2 * widen


def _vectors(spec: Spec) -> int:
    """Rows that a sampling head reads in a step, as often as it reads them: the targets' and the negatives'."""
    return spec.positions + (spec.shared or spec.positions * spec.negatives)


def _scores(spec: Spec) -> int:
    """Scores that a sampling head computes in a step."""
    return spec.positions * (1 + (spec.shared or spec.negatives))


def _logits(spec: Spec) -> int:
    """Scores that one step computes over the vocabulary; of the adaptive softmax's clusters those of their tokens."""
    if spec.method == "adaptive":
        return int(sum(spec.positions * share * size for _, size, share in _clusters(spec)))
    return spec.positions * spec.vocab if spec.method in EXACT else 0


def _head_products(spec: Spec) -> float:
    """Multiply-adds of the head's products in a forward pass."""
    N, V, d, D = spec.positions, spec.vocab, spec.hidden, spec.semantic_dim
    if spec.method == "backbone":
        return 0
    if spec.method in SAMPLED:
        return N * D * d + D * _scores(spec)
    if spec.method == "ce_lowrank":
        return N * D * (V + d)
    if spec.method == "adaptive":
        return sum(N * share * (size + d * (width < d)) * width for width, size, share in _clusters(spec))
    return N * V * d


def _clusters(spec: Spec) -> list[tuple[int, int, float]]:
    """Width and size of the adaptive softmax's head and clusters, and the share of the positions that need each.

    The shares are rough ones of phrases: the larger V, the flatter are its frequencies.
    """
    ends = [0, *adaptive_cutoffs(spec.vocab), spec.vocab]
    return list(zip((spec.hidden >> 2 * i for i in range(3)), np.diff(ends).tolist(), (1.0, 0.3, 0.45), strict=True))
