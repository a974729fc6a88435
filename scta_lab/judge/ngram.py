"""The control that knows two tokens of context: an interpolated Kneser–Ney model of tokens, counted, not trained.

With c the counts of the highest order, and of a lower one the number of different tokens that stand before (Kneser and
Ney 1995, interpolated as in Chen and Goodman 1999):

p(w | ctx) = max(c(ctx w) - δ, 0) / c(ctx ·) + δ N(ctx ·) / c(ctx ·) p(w | shorter ctx)

down to 1/V; N(ctx ·) counts the different tokens after a context. One that was never seen leaves it to the shorter one.
δ = n₁/(n₁ + 2 n₂) for each order, from the numbers of n-grams that come once and twice (Ney, Essen and Kneser 1994).
Left out: three discounts an order, and more than three tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scta_lab import evaluate
from scta_lite import checks

POSITIONS = 1024  # that are scored at a time


@dataclass
class Order:
    """The n-grams of one order by context: the entries from begins[i] to begins[i + 1] are those of contexts[i]."""

    contexts: np.ndarray  # (C,), rising
    begins: np.ndarray  # (C + 1,)
    words: np.ndarray  # (n,)
    weights: np.ndarray  # (n,), (c - δ) / c(ctx ·)
    rest: np.ndarray  # (C,), what the shorter context's p is multiplied by

    @staticmethod
    def of(ngrams: np.ndarray, counts: np.ndarray, vocab: int) -> "Order":
        """Of distinct n-grams, rising, each the number of its context · V + its last token."""
        contexts, begins = np.unique(ngrams // vocab, return_index=True)
        totals, begins = np.add.reduceat(counts, begins), np.append(begins, len(ngrams))
        sizes, delta = np.diff(begins), discount(counts)
        weights = np.maximum(counts - delta, 0) / np.repeat(totals, sizes)
        return Order(contexts, begins, ngrams % vocab, weights, delta * sizes / totals)

    def after(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What may follow the contexts (N,): `rest` (N,), 1 where never seen; and entries: row, word, weight, (E,)."""
        place = np.searchsorted(self.contexts, contexts).clip(max=len(self.contexts) - 1)
        seen = self.contexts[place] == contexts
        sizes = np.where(seen, np.diff(self.begins)[place], 0)
        rows = np.repeat(np.arange(len(contexts)), sizes)
        entries = np.arange(sizes.sum()) + np.repeat(self.begins[place] - sizes.cumsum() + sizes, sizes)
        return np.where(seen, self.rest[place], 1.0), rows, self.words[entries], self.weights[entries]


def discount(counts: np.ndarray) -> float:
    """δ, of the counts of an order's n-grams; 1/2 where none comes once or none twice.

    >>> discount(np.array([1, 1, 2, 5]))
    0.5
    """
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    return float(once / (once + 2 * twice)) if once and twice else 0.5


class KneserNey:
    """An n-gram model of training examples (n, T) over V tokens, `order` 2 or 3.

    Within an example the first token predicts the second by a bigram. ValueError for ids that are not below V, or a V
    above 2,097,152, whose cube no 64-bit integer holds.
    """

    def __init__(self, examples: np.ndarray, vocab: int, order: int = 3):
        checks.integer("vocab", vocab, 1)
        if vocab > 1 << 21:
            raise ValueError(f"vocab={vocab}: expected at most {1 << 21:,}")
        if order not in (2, 3):
            raise ValueError(f"order={order!r}: expected 2 or 3")
        fits = examples.ndim == 2 and examples.shape[1] >= order and len(examples) > 0
        if not fits or not 0 <= examples.min() <= examples.max() < vocab:
            found = f"examples of shape {examples.shape}"
            raise ValueError(f"{found}: expected (n, T), n from 1 and T from {order} up, ids below {vocab}")
        self.vocab, ids = vocab, examples.astype(np.int64)
        ngrams = sum(ids[:, i : ids.shape[1] - order + 1 + i] * vocab ** (order - 1 - i) for i in range(order))
        ngrams, counts = np.unique(ngrams, return_counts=True)
        orders = [Order.of(ngrams, counts, vocab)]
        for length in range(order - 1, 0, -1):  # of the shorter: how many different tokens stand before
            ngrams, counts = np.unique(ngrams % vocab**length, return_counts=True)
            orders.append(Order.of(ngrams, counts, vocab))
        alone = orders.pop()  # (V,): of no context
        self.p = np.full(vocab, alone.rest[0] / vocab)
        self.p[alone.words] += alone.weights
        self.rising, self.orders = np.sort(self.p), orders[::-1]  # the shorter context first

    def metrics(self, ids: Tensor, *, lengths: Tensor | None = None) -> dict:
        """What `evaluate.metrics` gives of a model: of predicting each id from the two before it; ids (n, T)."""
        return evaluate.summary(*self.judge(ids), evaluate.said(ids, lengths))

    def judge(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of each position the NLL in nats (N,) and the target's rank (N,); ids (n, T), N = n (T - 1)."""
        before = F.pad(ids[:, :-1], (1, 0), value=-1)[:, :-1]  # of the first token none
        positions = torch.stack([ids[:, :-1], before, ids[:, 1:]]).flatten(1).numpy()  # (3, N)
        parts = [positions[:, i : i + POSITIONS] for i in range(0, positions.shape[1], POSITIONS)]
        nll, ranks = (np.concatenate(found) for found in zip(*map(self._judged, parts), strict=True))
        return torch.from_numpy(nll), torch.from_numpy(ranks)

    def _judged(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """NLL (N,) and the target's rank (N,); positions (3, N): the token before, the one before that, the target.

        Only the tokens that have followed the context are gone through: all others keep the order of `self.p`.
        """
        last, earlier, target = positions
        scale, keys, added = np.ones(len(last)), np.empty(0, np.int64), np.empty(0)
        contexts = last, np.where(earlier < 0, -1, earlier * self.vocab + last)
        for order, context in zip(self.orders, contexts, strict=False):
            rest, rows, words, weights = order.after(context)
            scale, added = scale * rest, np.append(added * rest[keys // self.vocab], weights)
            keys = np.append(keys, rows * self.vocab + words)
        keys, place = np.unique(keys, return_inverse=True)
        rows, words = keys // self.vocab, keys % self.vocab
        p = scale[rows] * self.p[words] + np.bincount(place, added, len(keys))  # of each that has followed
        wanted, least = scale * self.p[target], self.p[target]
        at = np.flatnonzero(words == target[rows])
        wanted[rows[at]] = p[at]
        least[rows[at]] = p[at] / scale[rows[at]]  # what a token that has not followed needs to be as likely
        ranks = self.vocab - np.searchsorted(self.rising, least)
        better = (p >= wanted[rows]).astype(np.int64) - (self.p[words] >= least[rows])
        return -np.log(wanted), ranks + np.bincount(rows, better, len(last)).astype(np.int64)
