"""Full-vocabulary metrics: the same ruler for every method, whatever loss it was trained with; and two controls.

The n-gram controls are in `ngram`, and what a difference is worth in `spread`. Perplexities compare models of one
vocabulary. Across vocabularies the unit of text differs: compare bits per byte.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scta_lab.methods.samplers import log_unigram
from scta_lab.text import Examples
from scta_lite import checks

HITS = (1, 5, 10)
_SCORES = 1 << 25  # scores alive at a time: 0.13 GB in float32, and a few times that within one chunk, which is to fit
_SCALED = 1 << 24  # where a step's gradients were; the same where five arrays are made of them: 0.34 GB


@dataclass
class HeldOut:
    """The held-out text of a run, in two halves, one to choose by and one to report, that share no document."""

    validation: Tensor  # (n, T) ids
    test: Tensor  # (n, T)
    documents: Tensor  # (n, T), which of the held-out documents an id of `test` is of
    counts: Tensor  # (V,), of the ids in training
    lengths: Tensor | None  # (2, V), characters and bytes of each token

    @staticmethod
    def split(text: Examples, most: int) -> "HeldOut | None":
        """Of the held-out examples the first half and the second: of each at most so many, evenly spread.

        An example with the end of the first half's last document and the beginning of the next is in neither. Where one
        document is all of a half, it may lie across. None if there is not an example for each half.
        """
        n = len(text.heldout)
        if n < 2:
            return None
        documents = text.documents
        last = documents[(n - 1) // 2, 0]
        parts = documents[:, -1] <= last, documents[:, 0] > last
        if not (parts[0].any() and parts[1].any()):
            first = np.arange(n) < (n + 1) // 2
            parts = first, ~first
        rows = [np.flatnonzero(part) for part in parts]
        validation, test = (part[:: max(1, -(-len(part) // most))] for part in rows)
        ids = [text.heldout[validation], text.heldout[test], documents[test]]
        return HeldOut(*(torch.from_numpy(x.astype(np.int64)) for x in ids), text.counts, text.lengths)

    def to(self, device: torch.device) -> "HeldOut":
        return HeldOut(*(None if x is None else x.to(device) for x in vars(self).values()))

    def look(self, model: nn.Module) -> dict:
        """Metrics on the half to choose by."""
        return metrics(model, self.validation, lengths=self.lengths)

    @torch.no_grad()
    def report(self, model: nn.Module) -> dict:
        """On the other half: the metrics, the same with the scale that the first half chose, and the controls.

        And, by document, the sums over its positions that the metrics are made of.
        """
        scale = best_scale(model, self.validation)
        (nll, calibrated), ranks = _judged(model, self.test, (1.0, scale))
        text = said(self.test, self.lengths)
        return {
            "full_vocab": summary(nll, ranks, text),
            "calibrated": {"scale": scale, **summary(calibrated, ranks, text)},
            "controls": controls(self.counts, self.test, lengths=self.lengths),
            "by_document": self.by_document(ranks, nats=nll, calibrated_nats=calibrated),
        }

    def by_document(self, ranks: Tensor, **nats: Tensor) -> dict[str, list]:
        """Sums over the positions of each document of the test half, as `spread` reads them; each (N,)."""
        summed = {"positions": torch.ones_like(ranks), **nats, **{f"hit@{k}": ranks <= k for k in HITS}}
        if self.lengths is not None:
            summed["bytes"] = said(self.test, self.lengths)[1]
        documents, place = self.documents[:, 1:].flatten().unique(return_inverse=True)
        none = torch.zeros(len(documents), dtype=torch.float64, device=place.device)
        sums = {name: none.index_add(0, place, x.double()) for name, x in summed.items()}
        return {"document": documents.tolist(), **{name: [round(s, 4) for s in x.tolist()] for name, x in sums.items()}}


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
    (nll,), ranks = _judged(model, ids, (scale,))
    return summary(nll, ranks, said(ids, lengths))


def controls(counts: Tensor, ids: Tensor, *, lengths: Tensor | None = None) -> dict:
    """The metrics of knowing no context: of the unigram of the training counts (V,), and of knowing nothing at all."""
    y, text, found = ids[:, 1:].flatten(), said(ids, lengths), {}
    for name, scores in (("unigram", log_unigram(counts)), ("constant", torch.zeros_like(counts).double())):
        log_p = scores.log_softmax(0)  # (V,), the same at every position
        ranks = len(log_p) - torch.searchsorted(log_p.sort().values, log_p[y])  # those that score at least as high
        found[name] = summary(-log_p[y], ranks, text)
    return found


def _judged(model: nn.Module, ids: Tensor, scales: tuple[float, ...]) -> tuple[list[Tensor], Tensor]:
    """Of every position the NLL (N,) under each scale of the scores, and the target's rank (N,)."""
    nlls, ranks = [[] for _ in scales], []
    for scores, y in _scored(model, ids):
        scores = scores.float()  # (chunk, V)
        wanted = scores.gather(1, y[:, None])  # (chunk, 1)
        for scale, nll in zip(scales, nlls, strict=True):
            scaled = scores if scale == 1 else scores * scale
            nll.append(F.cross_entropy(scaled, y, reduction="none"))
        as_high = ~(scores < wanted)  # so that a score that is no number ranks last, not first
        ranks.append(as_high.sum(1, dtype=torch.int32))  # faster than in int64
    return [torch.cat(nll).double() for nll in nlls], torch.cat(ranks).long()


def said(ids: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Characters and bytes of each target (2, N)."""
    return None if lengths is None else lengths[:, ids[:, 1:].flatten()]


def summary(nll: Tensor, ranks: Tensor, text: Tensor | None) -> dict:
    """The metrics of positions, of their NLL (N,), the targets' ranks (N,), and what the targets say (2, N)."""
    characters, size = (0, 0) if text is None else text.sum(1).tolist()
    mean, nats, rank = nll.mean().item(), nll.sum().item(), ranks.double()
    return {
        "nll": mean, "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "nats_per_character": nats / characters if characters else None,
        "bits_per_byte": nats / math.log(2) / size if size else None,
        "mrr": (1 / rank).mean().item(), **{f"hit@{k}": (rank <= k).double().mean().item() for k in HITS},
        "positions": len(rank),
    }  # fmt: skip


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
        for scores, y in _scored(model, ids, _SCALED):
            scores = scores.float()  # whose sums over V, then over positions, are in float64
            p = (scores * scale + offset).softmax(1)  # (chunk, V)
            mean = (p * scores).sum(1, dtype=torch.float64)
            slope += (mean - scores.gather(1, y[:, None])[:, 0]).sum().item()
            curvature += ((p * scores.square()).sum(1, dtype=torch.float64) - mean.square()).sum().item()
        low, high = (low, scale) if slope > 0 else (scale, high)
        before, scale = scale, scale - slope / curvature if curvature > 0 else scale
        if not low <= scale <= high:
            scale = (low * high) ** 0.5
        if abs(scale - before) < 1e-4 * before:
            break
    return scale


def _scored(model: nn.Module, ids: Tensor, most: int = _SCORES) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (chunk, V) and targets (chunk,) of all positions, chunk by chunk."""
    checks.dtype("ids", ids, checks.INTEGERS)
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise ValueError(f"ids of shape {tuple(ids.shape)}: expected (n, T) with n from 1 up and T from 2 up")
    for batch in ids.split(max(1, (1 << 16) // ids.shape[1])):
        hidden, target = model.positions(batch)
        rows = max(1, most // model.vocab)
        for h, y in zip(hidden.split(rows), target.split(rows), strict=True):
            yield model.head.scores(h), y
