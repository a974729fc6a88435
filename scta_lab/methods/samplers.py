"""The samplers of negatives beside the uniform one, and the log-probabilities of each token under them."""

import math

import torch
from torch import Generator, Tensor

from scta_lab.base.spec import SAMPLERS
from scta_lite import checks

ALPHA = 0.1  # added to each token's count


def weighted(shape: tuple[int, ...], cumulative: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Ids of `shape`, drawn with replacement with q in proportion to weights; by a binary search, in log V time each.

    `cumulative`: (V,), float64, the running sums of the weights, made once.

    >>> weighted((4,), torch.tensor([0.0, 0.0, 2.0]).cumsum(0))
    tensor([2, 2, 2, 2])
    """
    checks.shape("cumulative", cumulative, "V")
    u = torch.rand(shape, generator=generator, device=cumulative.device, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, u, right=True).clamp_(max=len(cumulative) - 1)


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
