"""The control that knows two tokens of context: an n-gram model, counted, not trained.

It is an interpolated Kneser–Ney model (Kneser and Ney 1995; Chen and Goodman 1999). With c the
counts of the highest order, and of a lower one the number of different tokens that stand before:

p(w | ctx) = max(c(ctx w) - δ, 0) / c(ctx ·) + δ N(ctx ·) / c(ctx ·) p(w | shorter ctx)

down to 1/V; N(ctx ·) counts the different tokens after a context. One that was never seen leaves it
to the shorter one. δ = n₁/(n₁ + 2 n₂) for each order, from the numbers of n-grams that come once
and twice (Ney, Essen and Kneser 1994). Left out: three discounts an order, and longer n-grams.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scta_lite import checks
from torch import Tensor

from scta_lab.judge import evaluate

POSITIONS = 1024  # that are scored at a time
Array = np.ndarray


@dataclass
class Order:
    """The n-grams of one order: entries begins[i] to begins[i + 1] are those of contexts[i]."""

    contexts: Array  # (C,), rising
    begins: Array  # (C + 1,)
    words: Array  # (n,)
    weights: Array  # (n,), (c - δ) / c(ctx ·)
    rest: Array  # (C,), δ N(ctx ·) / c(ctx ·), by which the shorter context's p is multiplied

    @staticmethod
    def counted(ngrams: Array, counts: Array, vocab: int) -> "Order":
        """From distinct n-grams, rising, each the number of its context · V + its last token."""
        contexts, firsts = np.unique(ngrams // vocab, return_index=True)
        begins = np.append(firsts, len(ngrams))
        totals = np.add.reduceat(counts, firsts)  # (C,), c(ctx ·)
        sizes = np.diff(begins)  # (C,), N(ctx ·)
        delta = discount(counts)
        weights = np.maximum(counts - delta, 0) / np.repeat(totals, sizes)
        return Order(contexts, begins, ngrams % vocab, weights, rest=delta * sizes / totals)

    def after(self, contexts: Array) -> tuple[Array, Array, Array, Array]:
        """What may follow the contexts (N,): `rest` (N,), 1 where a context was never seen.

        And of each of E entries the row of its context, the word, and the weight.
        """
        place = np.searchsorted(self.contexts, contexts).clip(max=len(self.contexts) - 1)
        seen = self.contexts[place] == contexts  # (N,)
        sizes = np.where(seen, np.diff(self.begins)[place], 0)
        rows, entries = ragged_ranges(self.begins[place], sizes)
        rest = np.where(seen, self.rest[place], 1.0)
        return rest, rows, self.words[entries], self.weights[entries]


def numbered(ids: Array, vocab: int, order: int) -> Array:
    """Each n-gram of the examples (n, T) as one number: (n, T - order + 1).

    >>> numbered(np.array([[1, 2, 3]]), vocab=10, order=2)
    array([[12, 23]])
    """
    places = ids.shape[1] - order + 1
    ngrams = 0
    for i in range(order):
        ngrams = ngrams * vocab + ids[:, i : i + places]
    return ngrams


def ragged_ranges(begins: Array, sizes: Array) -> tuple[Array, Array]:
    """Which range each number is of, and the numbers, of many ranges one after the other.

    >>> ragged_ranges(np.array([50, 0, 70]), np.array([2, 0, 3]))
    (array([0, 0, 2, 2, 2]), array([50, 51, 70, 71, 72]))
    """
    rows = np.repeat(np.arange(len(sizes)), sizes)
    firsts = sizes.cumsum() - sizes  # where each range begins in the result
    within = np.arange(len(rows)) - firsts[rows]  # 0, 1, 2, … in each range
    return rows, begins[rows] + within


def discount(counts: Array) -> float:
    """δ, of the counts of an order's n-grams; 1/2 where none comes once or none twice.

    >>> discount(np.array([1, 1, 2, 5]))
    0.5
    """
    once = (counts == 1).sum()
    twice = (counts == 2).sum()
    return float(once / (once + 2 * twice)) if once and twice else 0.5


class KneserNey:
    """An n-gram model of training examples (n, T) over V tokens, `order` 2 or 3.

    Within an example the first token predicts the second by a bigram. ValueError for ids that are
    not below V, or a V above 2,097,152, whose cube no 64-bit integer holds.
    """

    def __init__(self, examples: Array, vocab: int, order: int = 3):
        _check(examples, vocab, order)
        self.vocab = vocab
        ngrams = numbered(examples.astype(np.int64), vocab, order)
        orders = []
        for length in range(order, 0, -1):
            ngrams, counts = np.unique(ngrams, return_counts=True)
            orders.append(Order.counted(ngrams, counts, vocab))
            # Without its first token one comes as often as there are tokens that stand before it.
            ngrams = ngrams % vocab ** (length - 1)
        unigrams = orders.pop()
        self.p = np.full(vocab, unigrams.rest[0] / vocab)  # (V,), without a context
        self.p[unigrams.words] += unigrams.weights
        self.rising = np.sort(self.p)
        self.orders = orders[::-1]  # the shorter context first

    def metrics(self, ids: Tensor, *, lengths: Tensor | None = None) -> dict:
        """As `evaluate.metrics` of a model: of each id from the two before it; ids (n, T)."""
        nll, ranks = self.judge(ids)
        return evaluate.summary(nll, ranks, evaluate.target_lengths(ids, lengths))

    def judge(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of each position the NLL in nats (N,) and the target's rank (N,); ids (n, T)."""
        last, target = ids[:, :-1], ids[:, 1:]  # (n, T - 1)
        earlier = F.pad(last, (1, 0), value=-1)[:, :-1]  # of the first token none
        positions = torch.stack([last, earlier, target]).flatten(1).numpy()  # (3, N)
        N = positions.shape[1]
        nll = np.empty(N)
        ranks = np.empty(N, np.int64)
        for start in range(0, N, POSITIONS):
            part = slice(start, start + POSITIONS)
            nll[part], ranks[part] = self._judged(*positions[:, part])
        return torch.from_numpy(nll), torch.from_numpy(ranks)

    def _judged(self, last: Array, earlier: Array, target: Array) -> tuple[Array, Array]:
        """NLL (N,) and rank (N,), of the token before, the one before that, and the target.

        Only the tokens that have followed the context are gone through: all others keep the order
        of `self.p`, times a scale of the position's.
        """
        scale, rows, words, p = self._followers(last, earlier)
        least = self.p[target]  # (N,), what another token's self.p must be to rank as high
        p_target = scale * least
        hits = np.flatnonzero(words == target[rows])  # entries that are their position's target
        p_target[rows[hits]] = p[hits]
        least[rows[hits]] = p[hits] / scale[rows[hits]]
        ranks = self.vocab - np.searchsorted(self.rising, least)  # as if none had followed
        ranks_as_high = (p >= p_target[rows]).astype(np.int64)
        was_counted = self.p[words] >= least[rows]
        correction = np.bincount(rows, ranks_as_high - was_counted, len(target))
        return -np.log(p_target), ranks + correction.astype(np.int64)

    def _followers(self, last: Array, earlier: Array) -> tuple[Array, ...]:
        """The tokens that have followed the contexts, of one token and of two, (N,).

        What `self.p` is multiplied by where none has, (N,); and of E entries the row, word and p.
        """
        scale = np.ones(len(last))
        rows = words = np.empty(0, np.int64)
        weights = np.empty(0)
        contexts = (last, np.where(earlier < 0, -1, earlier * self.vocab + last))
        for order, context in zip(self.orders, contexts, strict=False):
            rest, new_rows, new_words, new_weights = order.after(context)
            scale = scale * rest
            weights = np.append(weights * rest[rows], new_weights)
            rows = np.append(rows, new_rows)
            words = np.append(words, new_words)
        # A token that has followed both contexts has two entries: their weights are added.
        keys, place = np.unique(rows * self.vocab + words, return_inverse=True)
        rows, words = keys // self.vocab, keys % self.vocab
        p = scale[rows] * self.p[words] + np.bincount(place, weights, len(keys))
        return scale, rows, words, p


def _check(examples: Array, vocab: int, order: int) -> None:
    checks.integer("vocab", vocab, 1)
    if vocab > 1 << 21:
        raise ValueError(f"vocab={vocab}: expected at most {1 << 21:,}")
    if order not in (2, 3):
        raise ValueError(f"order={order!r}: expected 2 or 3")
    fits = examples.ndim == 2 and examples.shape[1] >= order and len(examples) > 0
    if not fits or not 0 <= examples.min() <= examples.max() < vocab:
        expected = f"expected (n, T), n from 1 and T from {order} up, ids below {vocab}"
        raise ValueError(f"examples of shape {examples.shape}: {expected}")
