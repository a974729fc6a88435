"""The two losses of the paper as pure functions of tensors, and the samplers of negatives.

`cross_entropy` is the full softmax over V. `contrastive_loss` is the paper's loss on scores; `semantic_loss` makes the
scores from vectors: cosine over τ. Neither touches a table: the caller gathers the K+1 rows that a position needs, so
nothing in the semantic loss is of size V. Left out: NCE and negative sampling; notebook 01 sets them beside these.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

LogQ = tuple[Tensor, Tensor]
ALPHA = 0.1  # added to each token's count
_LEAST_NORM = 1e-12  # F.normalize's


def cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor, *, chunk: int | None = None) -> Tensor:
    """Mean negative log-likelihood, in nats, of the softmax over all V tokens.

    L = -1/N Σ_t log softmax(W h_t)[y_t], for hidden: (N, d), weight W: (V, d), target y: (N,).

    With `chunk`, only (chunk, V) logits exist at a time: each chunk's are computed again in the backward pass, for the
    same result at one more product with W. ValueError if chunk < 1.

    >>> cross_entropy(torch.zeros(3, 4), torch.ones(50_000, 4), torch.tensor([0, 1, 2])).item()  # ln V
    10.819...
    """
    if chunk is None:
        return F.cross_entropy(hidden @ weight.T, target)  # (N, V) logits
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: expected an integer from 1 up, or None")

    def summed(h: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(h @ weight.T, y, reduction="sum")  # (chunk, V) logits

    pairs = zip(hidden.split(chunk), target.split(chunk), strict=True)
    return sum(checkpoint(summed, h, y, use_reentrant=False) for h, y in pairs) / len(target)


def contrastive_loss(
    positive_score: Tensor, negative_scores: Tensor, *, log_q: LogQ | None = None, hits: Tensor | None = None
) -> Tensor:
    """The paper's loss on scores that are already divided by τ; mean over N, in nats.

    L = -1/N Σ_t log( exp(s_t) / (exp(s_t) + Σ_j exp(s_tj)) ), for positive_score s: (N,), negative_scores: (N, K).

    `log_q`, the log probabilities under the sampler of the positive (N,) and of the negatives (N, K) or (K,), is
    subtracted from the scores first. `hits`, bool (N, K), leaves a negative out where it is True.

    >>> contrastive_loss(torch.zeros(5), torch.zeros(5, 32)).item()  # constant scores: ln(K + 1)
    3.496...
    """
    if log_q is not None:
        positive_score, negative_scores = positive_score - log_q[0], negative_scores - log_q[1]
    if hits is not None:
        negative_scores = negative_scores.masked_fill(hits, -math.inf)
    return F.softplus(negative_scores.logsumexp(dim=-1) - positive_score).mean()  # log(1 + Σ_j exp(s_tj - s_t))


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

    >>> q = torch.tensor([[2.0, 0.0]])
    >>> semantic_loss(q, positive=q, negatives=torch.tensor([[-1.0, 0.0], [0.0, 5.0]]), temperature=1.0).item()
    0.407...
    """
    scores = [cosines(query, vectors) / temperature for vectors in (positive.unsqueeze(1), negatives)]
    return contrastive_loss(scores[0].squeeze(1), scores[1], log_q=log_q, hits=hits)


def cosines(query: Tensor, vectors: Tensor) -> Tensor:
    """Cosine of each query (N, D) with its own vectors (N, K, D), or with all vectors (S, D): (N, K) or (N, S).

    The products are divided by the lengths, so that no normalised copy of the vectors is made. A zero vector has cosine
    0 with every other (in float32 and float64).

    >>> cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 3.0], [0.0, 0.0]]))
    tensor([[0.7071, 0.0000]])
    """
    z = F.normalize(query, dim=-1)
    if vectors.dim() == 3:
        return _OwnCosines.apply(z, vectors)
    return z @ vectors.T / torch.linalg.vector_norm(vectors, dim=-1).clamp_min(_LEAST_NORM)


class _OwnCosines(torch.autograd.Function):
    """cos_nk = z_n · v_nk / |v_nk|, unit z: (N, D), v: (N, K, D); ∂cos/∂z = v/|v|, ∂cos/∂v = (z - cos v/|v|) / |v|.

    The gradient by hand takes two passes over (N, K, D), half as long as autograd's.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, v: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(v, dim=-1).clamp_min(_LEAST_NORM)  # (N, K)
        cos = torch.einsum("nd,nkd->nk", z, v) / norm
        ctx.save_for_backward(z, v, norm, cos)
        return cos

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        z, v, norm, cos = ctx.saved_tensors
        g = grad / norm  # (N, K)
        of_z = torch.einsum("nk,nkd->nd", g, v)
        of_v = (g.unsqueeze(2) * z.unsqueeze(1)).addcmul_(v, (g * cos / norm).unsqueeze(2), value=-1)  # (N, K, D)
        return of_z, of_v


def uniform(shape: tuple[int, ...], vocab: int, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape` in [0, V), drawn with replacement, each with q = 1/V; on the generator's device."""
    return torch.randint(vocab, shape, generator=generator, device=generator.device if generator else None)


def weighted(shape: tuple[int, ...], cumulative: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape`, drawn with replacement with q in proportion to weights; by a binary search, in log V time each.

    `cumulative`: (V,), float64, the running sums of the weights, made once.

    >>> weighted((4,), torch.tensor([0.0, 0.0, 2.0]).cumsum(0))
    tensor([2, 2, 2, 2])
    """
    u = torch.rand(shape, generator=generator, device=cumulative.device, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, u, right=True).clamp_(max=len(cumulative) - 1)


def log_uniform(shape: tuple[int, ...], vocab: int, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape` in [0, V), drawn with replacement by Zipf's law, q(i) = ln((i+2)/(i+1)) / ln(V+1)."""
    u = torch.rand(shape, generator=generator, device=generator.device if generator else None, dtype=torch.float64)
    return ((u * math.log(vocab + 1)).exp() - 1).long().clamp_(max=vocab - 1)


def log_unigram(counts: Tensor) -> Tensor:
    """The unigram's log-probabilities ln((count + α) / (N + αV)), α = 0.1; counts (V,), N in all: (V,) float64.

    α, because up to half of a large vocabulary never occurs in training: ln 0 would rule it out on held-out text.

    >>> log_unigram(torch.tensor([3, 0])).exp()  # 3.1 and 0.1 of 3.2
    tensor([0.96..., 0.03...], dtype=torch.float64)
    """
    return (counts.double() + ALPHA).div(counts.sum() + ALPHA * len(counts)).log()


def log_q(sampler: str, counts: Tensor) -> Tensor:
    """Log-probabilities (V,), float64, of a token under a `Spec.sampler`, from its counts (V,) in training."""
    unigram = log_unigram(counts)
    if sampler == "uniform":
        return torch.full_like(unigram, -math.log(len(counts)))
    if sampler == "log_uniform":
        rank = counts.argsort(descending=True, stable=True).argsort().double()  # 0 the most frequent
        return (((rank + 2) / (rank + 1)).log() / math.log(len(counts) + 1)).log()
    return torch.log_softmax(0.75 * unigram, 0) if sampler == "unigram^0.75" else unigram
