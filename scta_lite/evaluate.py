"""Full-vocabulary metrics: the same ruler for every method, whatever loss it was trained with.

Left out so far: the controls (unigram, constant score).
"""

import math

import torch
from torch import Tensor, nn

HITS = (1, 5, 10)
_SCORES = 1 << 27  # scores alive at a time: 0.5 GB in float32, and a few times that within one chunk


@torch.no_grad()
def metrics(model: nn.Module, ids: Tensor) -> dict:
    """NLL (nats), perplexity, MRR and Hit@1/5/10 of predicting each id from those before it; ids: (n, T).

    Every one of the V tokens is scored. A target's rank counts the tokens that score at least as high, so ties count
    against the model. ValueError without an id to predict.
    """
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise ValueError(f"ids of shape {tuple(ids.shape)}: expected (n, T) with n from 1 up and T from 2 up")
    nll, ranks = [], []
    for batch in ids.split(max(1, (1 << 16) // ids.shape[1])):
        hidden, target = model.positions(batch)
        for h, y in zip(*(part.split(max(1, _SCORES // model.vocab)) for part in (hidden, target)), strict=True):
            scores = model.head.scores(h).float()  # (chunk, V)
            wanted = scores.gather(1, y[:, None])  # (chunk, 1)
            nll.append(scores.logsumexp(1) - wanted[:, 0])
            ranks.append((~(scores < wanted)).sum(1))  # so that a score that is no number ranks last, not first
    nll, rank = torch.cat(nll).double().mean().item(), torch.cat(ranks).double()
    hits = {f"hit@{k}": (rank <= k).double().mean().item() for k in HITS}
    perplexity = math.exp(nll) if nll < 700 else math.inf
    return {"nll": nll, "perplexity": perplexity, "mrr": (1 / rank).mean().item(), **hits, "positions": len(rank)}
