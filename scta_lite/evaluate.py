"""Full-vocabulary metrics: the same ruler for every method, whatever loss it was trained with; and its two controls.

Perplexities compare models of one vocabulary. Across vocabularies the unit of text differs: compare bits per byte.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scta_lite import checks
from scta_lite.losses import log_unigram
from scta_lite.text import Examples

HITS = (1, 5, 10)
_SCORES = 1 << 26  # scores alive at a time: 0.27 GB in float32, and a few times that within one chunk


@dataclass
class HeldOut:
    """The held-out text of a run, in two halves, one to choose by and one to report; a document may lie across."""

    validation: Tensor  # (n, T) ids
    test: Tensor  # (n, T)
    counts: Tensor  # (V,), of the ids in training
    lengths: Tensor | None  # (2, V), characters and bytes of each token

    @staticmethod
    def split(text: Examples, most: int) -> "HeldOut | None":
        """Of the held-out examples the first half and the second: of each at most so many, evenly spread.

        None if there is not an example for each.
        """
        if len(text.heldout) < 2:
            return None
        halves = np.array_split(text.heldout, 2)
        spread = (half[:: max(1, -(-len(half) // most))] for half in halves)
        return HeldOut(*(torch.from_numpy(half.astype(np.int64)) for half in spread), text.counts, text.lengths)

    def to(self, device: torch.device) -> "HeldOut":
        return HeldOut(*(None if x is None else x.to(device) for x in vars(self).values()))

    def look(self, model: nn.Module) -> dict:
        """Metrics on the half to choose by."""
        return metrics(model, self.validation, lengths=self.lengths)

    def report(self, model: nn.Module) -> dict:
        """On the other half: the metrics, the same with the scale that the first half chose, and the controls."""
        scale = best_scale(model, self.validation)
        return {
            "full_vocab": metrics(model, self.test, lengths=self.lengths),
            "calibrated": {"scale": scale, **metrics(model, self.test, lengths=self.lengths, scale=scale)},
            "controls": controls(self.counts, self.test, lengths=self.lengths),
        }


class Control(nn.Module):
    """A model that gives every position the same scores (V,), in float64."""

    def __init__(self, scores: Tensor):
        super().__init__()
        self.vocab, self.same, self.head = len(scores), scores, self

    def positions(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        target = ids[:, 1:].flatten()
        return target.new_zeros(len(target), 1), target

    def scores(self, hidden: Tensor) -> Tensor:
        return self.same.expand(len(hidden), -1)


@torch.no_grad()
def metrics(model: nn.Module, ids: Tensor, *, lengths: Tensor | None = None, scale: float = 1.0) -> dict:
    """NLL (nats), perplexity, MRR and Hit@1/5/10 of predicting each id from those before it; ids: (n, T).

    Every one of the V tokens is scored. A target's rank counts the tokens that score at least as high, so ties count
    against the model. With `lengths`, the characters and bytes of each token (2, V), also nats per character and bits
    per byte: all nats, or bits, over all characters, or bytes, of the targets; null where these have none. `scale`
    multiplies the scores. ValueError without an id to predict.
    """
    checks.positive("scale", scale)
    if lengths is not None:
        checks.shape("lengths", lengths, "2 V", (*checks.INTEGERS, torch.int32), V=model.vocab)
    nll, ranks, text = [], [], torch.zeros(2, dtype=torch.int64)
    for scores, y in _scored(model, ids):
        scores = scores.float() if scale == 1 else scores.float() * scale  # (chunk, V)
        wanted = scores.gather(1, y[:, None])  # (chunk, 1)
        nll.append(scores.logsumexp(1) - wanted[:, 0])
        ranks.append((~(scores < wanted)).sum(1))  # so that a score that is no number ranks last, not first
        text += 0 if lengths is None else lengths[:, y].sum(1).cpu()
    nll, rank = torch.cat(nll).double(), torch.cat(ranks).double()
    found = {"nll": nll.mean().item(), "perplexity": math.exp(nll.mean()) if nll.mean() < 700 else math.inf}
    hits = {f"hit@{k}": (rank <= k).double().mean().item() for k in HITS}
    nats, (characters, size) = nll.sum().item(), text.tolist()
    found["nats_per_character"] = nats / characters if characters else None
    found["bits_per_byte"] = nats / math.log(2) / size if size else None
    return {**found, "mrr": (1 / rank).mean().item(), **hits, "positions": len(rank)}


def controls(counts: Tensor, ids: Tensor, *, lengths: Tensor | None = None) -> dict:
    """The metrics of knowing no context: of the unigram of the training counts (V,), and of knowing nothing at all."""
    known = {"unigram": log_unigram(counts), "constant": torch.zeros(len(counts), device=counts.device)}
    return {name: metrics(Control(scores), ids, lengths=lengths) for name, scores in known.items()}


@torch.no_grad()
def best_scale(model: nn.Module, ids: Tensor, *, offset: Tensor | float = 0.0, positions: int = 1024) -> float:
    """The number that the scores are to be multiplied by, before `offset` (V,) is added, for the least NLL on `ids`.

    Temperature scaling (Guo et al. 2017), on that many positions, evenly spread. The NLL is convex in the scale, so its
    slope says on which side the best one is: Newton's step, or where that leaves the bracket, its middle.
    """
    ids = ids[:: max(1, ids.numel() // positions)]
    scale, low, high = 1.0, 1e-3, 1e3
    for _ in range(40):
        slope = curvature = 0.0
        for scores, y in _scored(model, ids):
            scores = scores.double()
            p = (scores * scale + offset).softmax(1)  # (chunk, V)
            mean = (p * scores).sum(1)
            slope += (mean - scores.gather(1, y[:, None])[:, 0]).sum().item()
            curvature += ((p * scores.square()).sum(1) - mean.square()).sum().item()
        low, high = (low, scale) if slope > 0 else (scale, high)
        before, scale = scale, scale - slope / curvature if curvature > 0 else scale
        if not low <= scale <= high:
            scale = (low * high) ** 0.5
        if abs(scale - before) < 1e-4 * before:
            break
    return scale


def _scored(model: nn.Module, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (chunk, V) and targets (chunk,) of all positions, chunk by chunk."""
    checks.dtype("ids", ids, checks.INTEGERS)
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise ValueError(f"ids of shape {tuple(ids.shape)}: expected (n, T) with n from 1 up and T from 2 up")
    for batch in ids.split(max(1, (1 << 16) // ids.shape[1])):
        hidden, target = model.positions(batch)
        for h, y in zip(*(part.split(max(1, _SCORES // model.vocab)) for part in (hidden, target)), strict=True):
            yield model.head.scores(h), y
