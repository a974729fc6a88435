"""Full-vocabulary metrics: the same ruler for every method, whatever its loss; and two controls.

The n-gram controls are in `ngram`, and what a difference is worth in `uncertainty`. Perplexities
compare models of one vocabulary. Across vocabularies the unit of text differs: compare bits per
byte.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scta_lite import checks
from torch import Tensor, nn

from scta_lab.methods.heads import Head
from scta_lab.methods.samplers import log_unigram
from scta_lab.text import Examples

HITS = (1, 5, 10)
# Scores alive at a time. In float32 0.13 GB, and a few times that within one chunk, which is to fit
# where a step's gradients were. Fewer where five arrays are made of them: 0.34 GB.
SCORES = 1 << 25
SCALED = 1 << 24
POSITIONS = 1 << 16  # whose hidden states are alive at a time
Bias = Tensor | float  # (V,), or one number
Lengths = Tensor | None  # (2, V), characters and bytes of each token; or (2, N), of each target


@dataclass
class HeldOut:
    """The held-out text of a run: a half to choose by and one to report, that share no document."""

    validation: Tensor  # (n, T) ids
    test: Tensor  # (n, T)
    documents: Tensor  # (n, T), which of the held-out documents an id of `test` is of
    counts: Tensor  # (V,), of the ids in training
    lengths: Lengths  # (2, V)

    @staticmethod
    def split(text: Examples, most: int) -> "HeldOut | None":
        """The first half of the held-out examples and the second, evenly thinned to `most` each.

        An example with the end of the first half's last document and the beginning of the next is
        in neither. Where one document is all of a half, it may lie across. None if there is not an
        example for each half.
        """
        if len(text.heldout) < 2:
            return None
        documents = text.documents
        first, second = _halves(documents)  # row numbers
        first = first[:: max(1, math.ceil(len(first) / most))]
        second = second[:: max(1, math.ceil(len(second) / most))]
        return HeldOut(
            validation=_tensor(text.heldout[first]),
            test=_tensor(text.heldout[second]),
            documents=_tensor(documents[second]),
            counts=text.counts,
            lengths=text.lengths,
        )

    def to(self, device: torch.device) -> "HeldOut":
        fields = vars(self).items()
        return HeldOut(**{name: x if x is None else x.to(device) for name, x in fields})

    def look(self, model: nn.Module) -> dict:
        """Metrics on the half to choose by."""
        return metrics(model, self.validation, lengths=self.lengths)

    @torch.no_grad()
    def report(self, model: nn.Module) -> dict:
        """On the other half: the metrics, the same with the first half's best scale, the controls.

        And, by document, the sums over its positions that the metrics are made of.
        """
        scale = best_scale(model, self.validation)
        (nll, calibrated), ranks = _judged(model, self.test, (1.0, scale))
        lengths = target_lengths(self.test, self.lengths)
        return {
            "full_vocab": summary(nll, ranks, lengths),
            "calibrated": {"scale": scale, **summary(calibrated, ranks, lengths)},
            "controls": controls(self.counts, self.test, lengths=self.lengths),
            "by_document": self.by_document(ranks, nats=nll, calibrated_nats=calibrated),
        }

    def by_document(self, ranks: Tensor, **nats: Tensor) -> dict[str, list]:
        """Sums over the positions of each document of the test half, as `uncertainty` reads them.

        `ranks` and each of `nats`: (N,).
        """
        columns = {"positions": torch.ones_like(ranks), **nats}
        columns |= {f"hit@{k}": ranks <= k for k in HITS}
        if self.lengths is not None:
            columns["bytes"] = target_lengths(self.test, self.lengths)[1]
        documents, place = self.documents[:, 1:].flatten().unique(return_inverse=True)
        sums = {"document": documents.tolist()}
        for name, column in columns.items():
            zeros = torch.zeros(len(documents), dtype=torch.float64, device=place.device)
            total = zeros.index_add(0, place, column.double())
            sums[name] = [round(x, 4) for x in total.tolist()]
        return sums


def _halves(documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows of each half; documents: (n, T), which document an id is of."""
    n = len(documents)
    last = documents[(n - 1) // 2, 0]  # of the first half
    in_first, in_second = documents[:, -1] <= last, documents[:, 0] > last
    if not (in_first.any() and in_second.any()):
        in_first = np.arange(n) < (n + 1) // 2
        in_second = ~in_first
    return np.flatnonzero(in_first), np.flatnonzero(in_second)


def _tensor(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))


@torch.no_grad()
def metrics(model: nn.Module, ids: Tensor, *, lengths: Lengths = None, scale: float = 1.0) -> dict:
    """NLL (nats), perplexity, MRR and Hit@1/5/10 of predicting each id from those before it.

    ids: (n, T). Every one of the V tokens is scored. A target's rank counts the tokens that score
    at least as high, so ties count against the model. With `lengths`, the characters and bytes of
    each token (2, V), also nats per character and bits per byte: all nats, or bits, over all
    characters, or bytes, of the targets; null where these have none. `scale` multiplies the scores.
    ValueError without an id to predict.
    """
    checks.positive("scale", scale)
    if lengths is not None:
        integers = (*checks.INTEGERS, torch.int32)
        checks.shape("lengths", lengths, "2 V", integers, V=model.vocab)
    (nll,), ranks = _judged(model, ids, (scale,))
    return summary(nll, ranks, target_lengths(ids, lengths))


def controls(counts: Tensor, ids: Tensor, *, lengths: Lengths = None) -> dict:
    """The metrics of knowing no context: of the unigram of the training counts, and of a constant.

    counts: (V,). A constant gives every token the same probability.
    """
    y, unigram = ids[:, 1:].flatten(), log_unigram(counts)
    result = {}
    for name, scores in (("unigram", unigram), ("constant", torch.zeros_like(unigram))):
        log_p = scores.log_softmax(0)  # (V,), the same at every position
        lower = torch.searchsorted(log_p.sort().values, log_p[y])  # (N,), tokens below the target
        result[name] = summary(-log_p[y], len(log_p) - lower, target_lengths(ids, lengths))
    return result


def target_lengths(ids: Tensor, lengths: Lengths) -> Lengths:
    """Characters and bytes of each target of ids (n, T), (2, N), from each token's (2, V)."""
    return None if lengths is None else lengths[:, ids[:, 1:].flatten()]


def summary(nll: Tensor, ranks: Tensor, lengths: Lengths) -> dict:
    """The metrics of positions: of their NLL (N,), the targets' ranks (N,) and lengths (2, N)."""
    characters, size = (0, 0) if lengths is None else lengths.sum(1).tolist()
    mean, nats, ranks = nll.mean().item(), nll.sum().item(), ranks.double()
    hits = {f"hit@{k}": (ranks <= k).double().mean().item() for k in HITS}
    return {
        "nll": mean,
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "nats_per_character": nats / characters if characters else None,
        "bits_per_byte": nats / math.log(2) / size if size else None,
        "mrr": (1 / ranks).mean().item(),
        **hits,
        "positions": len(ranks),
    }


def _judged(model: nn.Module, ids: Tensor, scales: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Of every position the NLL under each scale of the scores, (scales, N), and the rank (N,).

    Both arrays are made before the first chunk. Small ones made between large ones that come and go
    would keep the C library from giving memory back.
    """
    _check_ids(ids)
    N = ids[:, 1:].numel()
    nlls = torch.empty(len(scales), N, dtype=torch.float64, device=ids.device)
    ranks = torch.empty(N, dtype=torch.int64, device=ids.device)
    score, start = _scorer(model.head), 0
    for hidden, y in _chunks(model, ids, SCORES):
        part = slice(start, start + len(y))
        start = part.stop
        scores = score(hidden).float()  # (chunk, V)
        for nll, scale in zip(nlls, scales, strict=True):
            scaled = scores if scale == 1 else scores * scale
            nll[part] = F.cross_entropy(scaled, y, reduction="none")
        # Not `>=`, so that a score that is no number ranks last, not first.
        as_high = ~(scores < scores.gather(1, y.unsqueeze(1)))  # (chunk, V)
        ranks[part] = as_high.sum(1, dtype=torch.int32)  # faster than in int64
    return nlls, ranks


@torch.no_grad()
def best_scale(model: nn.Module, ids: Tensor, *, offset: Bias = 0, positions: int = 1024) -> float:
    """What the scores are to be multiplied by, before `offset` (V,) is added, for the least NLL.

    Temperature scaling (Guo et al. 2017), on that many positions of `ids`, evenly spread. The NLL
    is convex in the scale, so its slope says on which side the best one is: Newton's step, or where
    that leaves the bracket, its middle.
    """
    ids = ids[:: max(1, ids.numel() // positions)]
    _check_ids(ids)
    score, chunks = _scorer(model.head), list(_chunks(model, ids, SCALED))
    scale, low, high = 1.0, 1e-3, 1e3
    for _ in range(40):
        slope = curvature = 0.0
        for hidden, y in chunks:
            first, second = _derivatives(score(hidden).float(), y, scale, offset)
            slope += first
            curvature += second
        if slope > 0:
            high = scale
        else:
            low = scale
        before = scale
        if curvature > 0:
            scale -= slope / curvature
        if not low <= scale <= high:
            scale = (low * high) ** 0.5
        if abs(scale - before) < 1e-4 * before:
            break
    return scale


def _derivatives(scores: Tensor, y: Tensor, scale: float, offset: Bias) -> tuple[float, float]:
    """Of the summed NLL of scores (chunk, V) by the scale: the first derivative and the second.

    Under p they are Σ E[s] - s_y and Σ E[s²] - E[s]². The sums are taken in float64.
    """
    p = (scores * scale + offset).softmax(1)  # (chunk, V)
    mean = (p * scores).sum(1, dtype=torch.float64)  # (chunk,)
    of_squares = (p * scores.square()).sum(1, dtype=torch.float64)
    of_target = scores.gather(1, y.unsqueeze(1)).squeeze(1)
    return (mean - of_target).sum().item(), (of_squares - mean.square()).sum().item()


def _check_ids(ids: Tensor) -> None:
    checks.dtype("ids", ids, checks.INTEGERS)
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        shape = f"ids of shape {tuple(ids.shape)}"
        raise ValueError(f"{shape}: expected (n, T) with n from 1 up and T from 2 up")


def _scorer(head: nn.Module) -> Callable[[Tensor], Tensor]:
    """`head.scores`; what a head makes of its whole table is made once here, not in each chunk."""
    return partial(head.scores, vectors=head.vectors()) if isinstance(head, Head) else head.scores


def _chunks(model: nn.Module, ids: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states (chunk, d) and targets (chunk,) of all positions, `most` scores at a time."""
    rows = max(1, most // model.vocab)
    for batch in ids.split(max(1, POSITIONS // ids.shape[1])):
        hidden, target = model.positions(batch)
        yield from zip(hidden.split(rows), target.split(rows), strict=True)
