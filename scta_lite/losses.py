"""The two losses of the paper as pure functions of tensors, and the samplers of negatives.

`cross_entropy` is the full softmax over V. `contrastive_loss` is the paper's loss on scores; `semantic_loss` makes the
scores from vectors: cosine over τ. Neither touches a table: the caller gathers the K+1 rows that a position needs, so
nothing in the semantic loss is of size V. Left out: NCE and negative sampling; notebook 01 sets them beside these.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint

from scta_lite import checks

LogQ = tuple[Tensor, Tensor]
SAMPLERS = ("uniform", "log_uniform", "unigram", "unigram^0.75", "in_batch")
ALPHA = 0.1  # added to each token's count
IGNORED = -100  # a target that counts for nothing, as for torch's cross_entropy
_LEAST_NORM = 1e-12  # F.normalize's


def cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor, *, chunk: int | None = None) -> Tensor:
    """Mean negative log-likelihood, in nats, of the softmax over all V tokens.

    L = -1/N Σ_t log softmax(W h_t)[y_t], for hidden: (N, d), weight W: (V, d), target y: (N,), int64. Targets of -100
    are left out of the sum and of N, as torch leaves them out; where all are, L is NaN, as torch's.

    With `chunk`, only (chunk, V) logits exist at a time: each chunk's are computed again in the backward pass, for the
    same result at one more product with W. The sum over chunks is in float32 at least. ValueError names an argument of
    a wrong shape or dtype, or chunk < 1.

    >>> cross_entropy(torch.zeros(3, 4), torch.ones(50_000, 4), torch.tensor([0, 1, 2])).item()  # ln V
    10.819...
    """
    checks.shape("hidden", hidden, "N d")
    checks.shape("weight", weight, "V d", d=hidden.shape[1])
    checks.shape("target", target, "N", checks.INTEGERS, N=len(hidden))
    if chunk is None:
        return F.cross_entropy(hidden @ weight.T, target)  # (N, V) logits
    checks.integer("chunk", chunk, 1)

    def summed(h: Tensor, y: Tensor) -> Tensor:
        logits = h @ weight.T  # (chunk, V)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y, reduction="sum")

    pairs = zip(hidden.split(chunk), target.split(chunk), strict=True)
    total = sum(checkpoint(summed, h, y, use_reentrant=False, preserve_rng_state=False) for h, y in pairs)
    return total / (target != IGNORED).sum()


def contrastive_loss(
    positive_score: Tensor, negative_scores: Tensor, *, log_q: LogQ | None = None, hits: Tensor | None = None
) -> Tensor:
    """The paper's loss on scores that are already divided by τ; mean over N, in nats.

    L = -1/N Σ_t log( exp(s_t) / (exp(s_t) + Σ_j exp(s_tj)) ), for positive_score s: (N,), negative_scores: (N, K).

    `log_q`, the log probabilities under the sampler of the positive (N,) and of the negatives (N, K) or (K,), is
    subtracted from the scores first. `hits`, bool (N, K), leaves a negative out where it is True. ValueError names an
    argument of a wrong shape or dtype.

    >>> contrastive_loss(torch.zeros(5), torch.zeros(5, 32)).item()  # constant scores: ln(K + 1)
    3.496...
    """
    checks.shape("positive_score", positive_score, "N")
    checks.shape("negative_scores", negative_scores, "N K", N=len(positive_score))
    N, K = negative_scores.shape
    if log_q is not None:
        if not isinstance(log_q, tuple) or len(log_q) != 2:
            kind = type(log_q).__name__
            raise ValueError(f"log_q of type {kind}: expected a pair, of the positive and of the negatives")
        checks.shape("log_q[0]", log_q[0], "N", N=N)
        if isinstance(log_q[1], Tensor) and log_q[1].dim() == 1:
            checks.shape("log_q[1]", log_q[1], "K", K=K)
        else:
            checks.shape("log_q[1]", log_q[1], "N K", N=N, K=K)
        positive_score, negative_scores = positive_score - log_q[0], negative_scores - log_q[1]
    if hits is not None:
        checks.shape("hits", hits, "N K", (torch.bool,), N=N, K=K)
        negative_scores = negative_scores.masked_fill(hits, -math.inf)
    # log(1 + Σ_j exp(s_tj - s_t)); softplus takes x itself above its threshold, which at 20 shows in float64
    return F.softplus(negative_scores.logsumexp(dim=-1) - positive_score, threshold=40).mean()


def semantic_loss(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    log_q: LogQ | None = None,
    hits: Tensor | None = None,
) -> Tensor:
    """The paper's semantic contrastive loss, from raw vectors: `contrastive_loss` of cosines over τ.

    s_t = cos(q_t, p_t)/τ and s_tj = cos(q_t, n_tj)/τ, for query q: (N, D), positive p: (N, D), and negatives n:
    (N, K, D), K of its own for each position, or (S, D), shared by all. `log_q` and `hits` as in `contrastive_loss`.
    Differentiable twice, in reverse mode, under `torch.func` and `torch.compile` too. ValueError names an argument of a
    wrong shape or dtype, or a temperature that is not above 0; one that is a tensor is not read.

    >>> q = torch.tensor([[2.0, 0.0]])
    >>> semantic_loss(q, positive=q, negatives=torch.tensor([[-1.0, 0.0], [0.0, 5.0]]), temperature=1.0).item()
    0.407...
    """
    checks.positive("temperature", temperature)
    checks.shape("query", query, "N D")
    checks.shape("positive", positive, "N D", N=query.shape[0], D=query.shape[1])
    scores = [cosines(query, vectors, "negatives") / temperature for vectors in (positive.unsqueeze(1), negatives)]
    return contrastive_loss(scores[0].squeeze(1), scores[1], log_q=log_q, hits=hits)


def cosines(query: Tensor, vectors: Tensor, name: str = "vectors") -> Tensor:
    """Cosine of each query (N, D) with its own vectors (N, K, D), or with all vectors (S, D): (N, K) or (N, S).

    The products are divided by the lengths, so that no normalised copy of the vectors is made. A zero vector has cosine
    0 with every other (in float32 and float64). `name` is what an error calls the vectors.

    >>> cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 3.0], [0.0, 0.0]]))
    tensor([[0.7071, 0.0000]])
    """
    checks.shape("query", query, "N D")
    own = isinstance(vectors, Tensor) and vectors.dim() == 3
    checks.shape(name, vectors, "N K D" if own else "S D", N=query.shape[0], D=query.shape[1])
    z = F.normalize(query, dim=-1)
    if own:
        return _OwnCosines.apply(z, vectors)[0]
    return z @ vectors.T / torch.linalg.vector_norm(vectors, dim=-1).clamp_min(_LEAST_NORM)


class _OwnCosines(torch.autograd.Function):
    """cos_nk = z_n · v_nk / |v_nk|, unit z: (N, D), v: (N, K, D); ∂cos/∂z = v/|v|, ∂cos/∂v = (z - cos v/|v|) / |v|.

    The gradient by hand takes two passes over (N, K, D), half as long as autograd's. The lengths are an output too, so
    that a second derivative finds where they come from: ∂|v|/∂v = v/|v|.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(v, dim=-1).clamp_min(_LEAST_NORM)  # (N, K)
        return torch.einsum("nd,nkd->nk", z, v) / norm, norm

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, of_norm: Tensor) -> tuple[Tensor, Tensor]:
        z, v, cos, norm = ctx.saved_tensors
        g = grad / norm  # (N, K)
        of_z = torch.einsum("nk,nkd->nd", g, v)
        along = (g * cos - of_norm) / norm  # (N, K)
        of_v = (g.unsqueeze(2) * z.unsqueeze(1)).addcmul_(v, along.unsqueeze(2), value=-1)  # (N, K, D)
        return of_z, of_v


def uniform(shape: tuple[int, ...], vocab: int, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape` in [0, V), drawn with replacement, each with q = 1/V; on the generator's device."""
    checks.integer("vocab", vocab, 1)
    return torch.randint(vocab, shape, generator=generator, device=generator.device if generator else None)


def weighted(shape: tuple[int, ...], cumulative: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape`, drawn with replacement with q in proportion to weights; by a binary search, in log V time each.

    `cumulative`: (V,), float64, the running sums of the weights, made once.

    >>> weighted((4,), torch.tensor([0.0, 0.0, 2.0]).cumsum(0))
    tensor([2, 2, 2, 2])
    """
    checks.shape("cumulative", cumulative, "V")
    u = torch.rand(shape, generator=generator, device=cumulative.device, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, u, right=True).clamp_(max=len(cumulative) - 1)


def log_uniform(shape: tuple[int, ...], vocab: int, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape` in [0, V), drawn with replacement by Zipf's law, q(i) = ln((i+2)/(i+1)) / ln(V+1)."""
    checks.integer("vocab", vocab, 1)
    u = torch.rand(shape, generator=generator, device=generator.device if generator else None, dtype=torch.float64)
    return ((u * math.log(vocab + 1)).exp() - 1).long().clamp_(max=vocab - 1)


def log_unigram(counts: Tensor) -> Tensor:
    """The unigram's log-probabilities ln((count + α) / (N + αV)), α = 0.1; counts (V,), N in all: (V,) float64.

    α, because up to half of a large vocabulary never occurs in training: ln 0 would rule it out on held-out text.

    >>> log_unigram(torch.tensor([3, 0])).exp()  # 3.1 and 0.1 of 3.2
    tensor([0.96..., 0.03...], dtype=torch.float64)
    """
    checks.shape("counts", counts, "V", (*checks.INTEGERS, *checks.FLOATS))
    return (counts.double() + ALPHA).div(counts.sum() + ALPHA * len(counts)).log()


def log_q(sampler: str, counts: Tensor) -> Tensor:
    """Log-probabilities (V,), float64, of a token under one of SAMPLERS, from its counts (V,) in training."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r}: expected one of {', '.join(SAMPLERS)}")
    unigram = log_unigram(counts)
    if sampler == "uniform":
        return torch.full_like(unigram, -math.log(len(counts)))
    if sampler == "log_uniform":
        rank = counts.argsort(descending=True, stable=True).argsort().double()  # 0 the most frequent
        return (((rank + 2) / (rank + 1)).log() / math.log(len(counts) + 1)).log()
    return torch.log_softmax(0.75 * unigram, 0) if sampler == "unigram^0.75" else unigram
