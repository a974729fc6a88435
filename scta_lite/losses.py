"""The two losses of the paper as pure functions of tensors, and two samplers; see notebook 01.

`cross_entropy` is the full softmax over V. `contrastive_loss` is the paper's loss on scores;
`semantic_loss` makes the scores from vectors: cosine over τ. Neither touches a table: the caller
gathers the K + 1 rows that a position needs, so nothing in the semantic loss is of size V.
Left out: NCE and negative sampling; notebook 01 sets them beside these.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from scta_lite import checks

LogQ = tuple[Tensor, Tensor]  # log probabilities of the positives, and of the negatives
IGNORED = -100  # a target that counts for nothing, as for torch's cross_entropy
LEAST_LENGTH = 1e-12  # of a vector that is divided by its length, as F.normalize has it


def cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, *, chunk: int | None = None
) -> Tensor:
    """Mean negative log-likelihood, in nats, of the softmax over all V tokens.

    L = -1/N Σ_t log softmax(W h_t)[y_t], for hidden: (N, d), weight W: (V, d), target y: (N,)
    int64. Targets of -100 are left out of the sum and of N, as torch leaves them out; where all
    are, L is NaN, as torch's.

    With `chunk`, only (chunk, V) logits exist at a time: each chunk's are computed again in the
    backward pass, for the same result at one more product with W. Sums are in float32 at least.
    ValueError names an argument of a wrong shape or dtype, or chunk < 1. Two float dtypes that do
    not go together are torch's own error.

    >>> hidden, weight, target = torch.zeros(3, 4), torch.ones(50_000, 4), torch.arange(3)
    >>> cross_entropy(hidden, weight, target).item()  # ln V
    10.819...
    """
    checks.shape("hidden", hidden, "N d")
    checks.shape("weight", weight, "V d", d=hidden.shape[1])
    checks.shape("target", target, "N", checks.INTEGERS, N=len(hidden))

    def loss(h: Tensor, y: Tensor, reduction: str) -> Tensor:
        logits = h @ weight.T  # (N, V) or (chunk, V)
        return F.cross_entropy(_wide(logits), y, reduction=reduction)

    if chunk is None:
        return loss(hidden, target, "mean")
    checks.integer("chunk", chunk, 1)
    total = 0
    for h, y in zip(hidden.split(chunk), target.split(chunk), strict=True):
        total += checkpoint(loss, h, y, "sum", use_reentrant=False, preserve_rng_state=False)
    return total / (target != IGNORED).sum()


def _wide(x: Tensor) -> Tensor:
    """In float32 at least, for sums of many numbers."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def contrastive_loss(
    positive_score: Tensor,
    negative_scores: Tensor,
    *,
    log_q: LogQ | None = None,
    hits: Tensor | None = None,
) -> Tensor:
    """The paper's loss on scores that are already divided by τ; mean over N, in nats.

    L = -1/N Σ_t log( exp(s_t) / (exp(s_t) + Σ_j exp(s_tj)) ), for positive_score s: (N,) and
    negative_scores: (N, K).

    `log_q`, the log probabilities under the sampler of the positive (N,) and of the negatives (N,
    K) or (K,), is subtracted from the scores first. `hits`, bool (N, K), leaves a negative out
    where it is True. Sums are in float32 at least. ValueError names an argument of a wrong shape or
    dtype, or on a CPU a positive that the sampler never draws, log q = -inf.

    >>> contrastive_loss(torch.zeros(5), torch.zeros(5, 32)).item()  # constant scores: ln(K + 1)
    3.496...
    """
    checks.shape("positive_score", positive_score, "N")
    checks.shape("negative_scores", negative_scores, "N K", N=len(positive_score))
    N, K = negative_scores.shape
    if log_q is not None:
        _check_log_q(log_q, N, K)
        positive_score = positive_score - log_q[0]
        negative_scores = negative_scores - log_q[1]
    if hits is not None:
        checks.shape("hits", hits, "N K", (torch.bool,), N=N, K=K)
        negative_scores = negative_scores.masked_fill(hits, -math.inf)
    rivals = _wide(negative_scores).logsumexp(dim=-1)  # (N,)
    # log(1 + exp(rivals - s)). Above its threshold softplus gives x itself; at the default of 20
    # that shows in float64.
    return F.softplus(rivals - positive_score, threshold=40).mean()


def _check_log_q(log_q: LogQ, N: int, K: int) -> None:
    if not isinstance(log_q, tuple) or len(log_q) != 2:
        expected = "expected a pair, of the positive and of the negatives"
        raise ValueError(f"log_q of type {type(log_q).__name__}: {expected}")
    checks.shape("log_q[0]", log_q[0], "N", N=N)
    shared = isinstance(log_q[1], Tensor) and log_q[1].dim() == 1
    checks.shape("log_q[1]", log_q[1], "K" if shared else "N K", N=N, K=K)
    is_read = log_q[0].device.type == "cpu" and not torch.compiler.is_compiling()
    if is_read and log_q[0].isneginf().any():
        raise ValueError("log_q[0] with -inf: expected a sampler that may draw every positive")


def semantic_loss(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    log_q: LogQ | None = None,
    hits: Tensor | None = None,
) -> Tensor:
    """The paper's semantic contrastive loss, from raw vectors: `contrastive_loss` of cosines over
    τ.

    s_t = cos(q_t, p_t)/τ and s_tj = cos(q_t, n_tj)/τ, for query q: (N, D), positive p: (N, D), and
    negatives n: (N, K, D), K of its own for each position, or (S, D), shared by all. `log_q` and
    `hits` as in `contrastive_loss`. Differentiable twice, and under `torch.func` and
    `torch.compile`. ValueError names an argument of a wrong shape or dtype, or a temperature that
    is not above 0; one that is a tensor is not read. Two float dtypes that do not go together are
    torch's own error.

    >>> q = torch.tensor([[2.0, 0.0]])
    >>> rivals = torch.tensor([[-1.0, 0.0], [0.0, 5.0]])
    >>> semantic_loss(q, q, rivals, temperature=1.0).item()
    0.407...
    """
    checks.positive("temperature", temperature)
    checks.shape("query", query, "N D")
    checks.shape("positive", positive, "N D", N=query.shape[0], D=query.shape[1])
    s = cosines(query, positive.unsqueeze(1)).squeeze(1) / temperature  # (N,)
    s_j = cosines(query, negatives, "negatives") / temperature  # (N, K) or (N, S)
    return contrastive_loss(s, s_j, log_q=log_q, hits=hits)


def cosines(query: Tensor, vectors: Tensor, name: str = "vectors") -> Tensor:
    """Cosine of each query (N, D) with its own vectors (N, K, D), or with all vectors (S, D).

    (N, K) or (N, S). The products are divided by the lengths, so that no normalised copy of the
    vectors is made. A zero vector has cosine 0 with every other (in float32 and float64). `name` is
    what an error calls the vectors.

    >>> cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 3.0], [0.0, 0.0]]))
    tensor([[0.7071, 0.0000]])
    """
    checks.shape("query", query, "N D")
    own = isinstance(vectors, Tensor) and vectors.dim() == 3
    N, D = query.shape
    checks.shape(name, vectors, "N K D" if own else "S D", N=N, D=D)
    z = F.normalize(query, dim=-1)
    lengths = torch.linalg.vector_norm(vectors, dim=-1).clamp_min(LEAST_LENGTH)  # (N, K) or (S,)
    if own:
        return torch.einsum("nd,nkd->nk", z, vectors) / lengths
    return z @ vectors.T / lengths


def uniform(shape: tuple[int, ...], vocab: int, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape` in [0, V), with replacement, each with q = 1/V; on the generator's device."""
    checks.integer("vocab", vocab, 1)
    device = generator.device if generator else None
    return torch.randint(vocab, shape, generator=generator, device=device)


def log_uniform(
    shape: tuple[int, ...], vocab: int, *, generator: Generator | None = None
) -> Tensor:
    """Ids of `shape` in [0, V), with replacement, by Zipf: q(i) = ln((i+2)/(i+1)) / ln(V+1)."""
    checks.integer("vocab", vocab, 1)
    device = generator.device if generator else None
    u = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    drawn = (u * math.log(vocab + 1)).exp() - 1  # from 0 up to V
    return drawn.long().clamp_(max=vocab - 1)
