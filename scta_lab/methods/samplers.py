"""The samplers of negatives beside the uniform one, and each token's log probability under them."""

import math

import torch
from scta_lite import checks
from scta_lite.losses import uniform
from torch import Generator, Tensor, nn

from scta_lab.base.spec import SAMPLERS, Spec

ALPHA = 0.1  # added to each token's count
Shape = tuple[int, ...]
Random = Generator | None


class Negatives(nn.Module):
    """Draws negatives from the q of `spec.sampler`; `counts`: (V,), of the ids in training."""

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__()
        self.spec = spec
        sampled_softmax = spec.method == "sampled_softmax" or spec.sampled_head
        self.leaves_hits_out = spec.mask_hits or sampled_softmax
        log_probabilities = log_q(spec.sampler, counts)
        self.register_buffer("log_q", log_probabilities.float())  # (V,)
        self.register_buffer("cumulative", log_probabilities.exp().cumsum(0))  # (V,)

    def forward(self, target: Tensor, generator: Random = None) -> tuple[Tensor, Tensor | None]:
        """S ids (S,) for all targets (N,), or K for each (N, K).

        And where a target leaves one out, bool (N, S) or (N, K); None if it leaves out none.
        """
        S, left_out = self.spec.shared, None
        shape = (S,) if S else (len(target), self.spec.negatives)
        if self.spec.sampler == "in_batch":
            negatives, left_out = in_batch(shape, target, generator)
        elif self.spec.sampler == "uniform":
            negatives = uniform(shape, self.spec.vocab, generator=generator).to(target.device)
        else:
            negatives = weighted(shape, self.cumulative, generator=generator)
        if self.leaves_hits_out:
            hits = negatives == target.unsqueeze(1)
            left_out = hits if left_out is None else hits | left_out
        return negatives, left_out

    def log_Sq(self, negatives: Tensor) -> Tensor:
        """ln(S q) of each negative, for the sampled softmax to subtract."""
        return self.log_q[negatives] + math.log(negatives.shape[-1])


def in_batch(shape: Shape, target: Tensor, generator: Random = None) -> tuple[Tensor, Tensor]:
    """Ids of `shape` from the batch's targets (N,), and where a position has drawn its own."""
    N = len(target)
    places = uniform(shape, N, generator=generator).to(target.device)
    own = torch.arange(N, device=target.device).unsqueeze(1)  # (N, 1)
    return target[places], places == own


def weighted(shape: Shape, cumulative: Tensor, *, generator: Random = None) -> Tensor:
    """Ids of `shape`, drawn with replacement, each with q in proportion to its weight.

    By a binary search, in log V time each. `cumulative`: (V,), float64, the running sums of the
    weights, made once.

    >>> weighted((4,), torch.tensor([0.0, 0.0, 2.0]).cumsum(0))
    tensor([2, 2, 2, 2])
    """
    checks.shape("cumulative", cumulative, "V")
    device = cumulative.device
    u = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    ids = torch.searchsorted(cumulative, u * cumulative[-1], right=True)
    return ids.clamp_(max=len(cumulative) - 1)


def log_unigram(counts: Tensor) -> Tensor:
    """The unigram's log probabilities ln((count + α) / (N + αV)), α = 0.1: (V,) float64.

    `counts`: (V,), N in all. α, because up to half of a large vocabulary never occurs in training:
    ln 0 would rule it out on held-out text.

    >>> log_unigram(torch.tensor([3, 0])).exp()  # 3.1 and 0.1 of 3.2
    tensor([0.96..., 0.03...], dtype=torch.float64)
    """
    checks.shape("counts", counts, "V", (*checks.INTEGERS, *checks.FLOATS))
    total = counts.sum() + ALPHA * len(counts)
    return ((counts.double() + ALPHA) / total).log()


def log_q(sampler: str, counts: Tensor) -> Tensor:
    """Log probabilities (V,), float64, under one of SAMPLERS; `counts`: (V,), in training."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r}: expected one of {', '.join(SAMPLERS)}")
    V, unigram = len(counts), log_unigram(counts)
    if sampler == "uniform":
        return torch.full_like(unigram, -math.log(V))
    if sampler == "log_uniform":
        rank = frequency_rank(counts).double()
        q = ((rank + 2) / (rank + 1)).log() / math.log(V + 1)
        return q.log()
    if sampler == "unigram^0.75":
        return torch.log_softmax(0.75 * unigram, 0)
    return unigram


def frequency_rank(counts: Tensor) -> Tensor:
    """Each token's place (V,) by its count, 0 the most frequent; of equals the smaller id first.

    >>> frequency_rank(torch.tensor([2, 5, 5]))
    tensor([2, 0, 1])
    """
    by_frequency = counts.argsort(descending=True, stable=True)
    return by_frequency.argsort()
