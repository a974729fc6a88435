import math

import pytest
import reference
import torch

from scta_lite import evaluate
from scta_lite.model import LanguageModel


@pytest.mark.parametrize("method", ["ce", "semantic"])
@pytest.mark.parametrize("chunk", [1, 1 << 27])
def test_metrics_are_their_slow_twin(tiny, method, chunk, monkeypatch):
    monkeypatch.setattr(evaluate, "_SCORES", chunk)  # one position at a time, and all at once
    torch.manual_seed(0)
    model = LanguageModel(tiny(method)).double()
    ids = torch.randint(300, (5, 6))
    with torch.no_grad():
        hidden, target = model.positions(ids)
        expected = reference.metrics(model.head.scores(hidden).tolist(), target.tolist())
    found = evaluate.metrics(model, ids)
    assert found["positions"] == 25
    assert found["perplexity"] == pytest.approx(math.exp(expected["nll"]), rel=1e-5)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_ties_count_against_the_model(tiny):
    model = LanguageModel(tiny("ce"))
    torch.nn.init.zeros_(model.head.weight)  # every token has the same score: the target's rank is V
    found = evaluate.metrics(model, torch.randint(300, (2, 6)))
    assert found["nll"] == pytest.approx(math.log(300), rel=1e-6)
    assert found["mrr"] == pytest.approx(1 / 300)
    assert found["hit@10"] == 0


def test_a_diverged_model_hits_nothing(tiny):
    model = LanguageModel(tiny("ce"))
    torch.nn.init.constant_(model.head.weight, torch.nan)
    found = evaluate.metrics(model, torch.randint(300, (2, 6)))
    assert (found["hit@10"], found["mrr"]) == (0, pytest.approx(1 / 300))


def test_nothing_to_predict(tiny):
    with pytest.raises(ValueError, match=r"ids of shape \(0, 6\): expected"):
        evaluate.metrics(LanguageModel(tiny("ce")), torch.zeros(0, 6, dtype=torch.long))
