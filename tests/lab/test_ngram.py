import math

import numpy as np
import pytest
import reference
import torch

from scta_lab.judge import ngram


def test_a_bigram_counted_by_hand():
    """Each bigram of 0 1 0 2 comes once: δ = 1/2, p(w) = 1/3; p(1|0) = 1/4 + 1/2 · 1/3, p(0|1) = 1/2 + 1/6."""
    found = ngram.KneserNey(np.array([[0, 1, 0, 2]]), 3, order=2).metrics(torch.tensor([[0, 1, 0]]))
    assert found["nll"] == pytest.approx(-(math.log(5 / 12) + math.log(2 / 3)) / 2)
    assert (found["hit@1"], found["hit@5"]) == (0.5, 1)  # 1 ties with 2 after 0, which counts against the model
    assert found["mrr"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_trigram_counted_by_hand():
    """0 1 0 1 2: the trigrams 010, 101, 012 once each, δ = 1/2. Continuations: 10, 01, 12 once each, 0, 1, 2 once each.

    p(2|01) = 1/2 · 1/2 + 1/2 · 2/2 · p(2|1), p(2|1) = 1/2 · 1/2 + 1/2 · 2/2 · 1/3.
    """
    model = ngram.KneserNey(np.array([[0, 1, 0, 1, 2]]), 3)
    found = model.metrics(torch.tensor([[0, 1, 2]]))
    first = 1 / 2 + 1 / 2 * 1 / 3  # p(1|0): 0 is always followed by 1
    second = 1 / 4 + 1 / 2 * (1 / 4 + 1 / 2 * 1 / 3)
    assert found["nll"] == pytest.approx(-(math.log(first) + math.log(second)) / 2)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("chunk", [3, 1000])
def test_an_ngram_model_is_its_slow_twin(order, chunk, monkeypatch):
    monkeypatch.setattr(ngram, "POSITIONS", chunk)
    rng, V = np.random.default_rng(0), 12
    train = (rng.pareto(1.0, (20, 9)) * 2).astype(int).clip(max=V - 2)  # the last token is never seen
    ids = rng.integers(0, V, (6, 8))
    p, nll, ranks = reference.kneser_ney(train.tolist(), V, order), [], []
    for row in ids.tolist():
        for i in range(1, len(row)):
            every = [p(tuple(row[max(0, i - order + 1) : i]), w) for w in range(V)]
            assert sum(every) == pytest.approx(1)
            nll.append(-math.log(every[row[i]]))
            ranks.append(sum(q >= every[row[i]] - 1e-12 for q in every))
    found = ngram.KneserNey(train, V, order).metrics(torch.from_numpy(ids))
    assert found["nll"] == pytest.approx(np.mean(nll))
    assert found["mrr"] == pytest.approx(np.mean([1 / r for r in ranks]))
    assert found["hit@5"] == pytest.approx(np.mean([r <= 5 for r in ranks]))


@pytest.mark.parametrize(("examples", "vocab", "order", "message"), [
    (np.zeros((2, 4), int), 9, 4, "order=4: expected 2 or 3"),
    (np.zeros((2, 2), int), 9, 3, r"examples of shape \(2, 2\): expected \(n, T\), .* T from 3 up, ids below 9"),
    (np.zeros((0, 4), int), 9, 3, r"examples of shape \(0, 4\): expected \(n, T\), n from 1 and T from 3 up"),
    (np.full((2, 4), 9), 9, 3, "ids below 9"),
    (np.zeros((2, 4), int), 3_000_000, 3, "vocab=3000000: expected at most 2,097,152"),
])  # fmt: skip
def test_what_cannot_be_counted(examples, vocab, order, message):
    with pytest.raises(ValueError, match=message):
        ngram.KneserNey(examples, vocab, order)
