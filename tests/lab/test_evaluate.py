import math

import numpy as np
import pytest
import reference
import torch
from conftest import CHAT

from scta_lab import evaluate, text
from scta_lab.judge import uncertainty
from scta_lab.methods.model import LanguageModel


@pytest.mark.parametrize("method", ["ce", "semantic"])
@pytest.mark.parametrize("chunk", [1, 1 << 27])
def test_metrics_are_their_slow_twin(tiny, method, chunk, monkeypatch):
    monkeypatch.setattr(evaluate, "SCORES", chunk)  # one position at a time, and all at once
    torch.manual_seed(0)
    model = LanguageModel(tiny(method)).double()
    ids = torch.randint(300, (5, 6))
    with torch.no_grad():
        hidden, target = model.positions(ids)
        expected = reference.metrics(model.head.scores(hidden).tolist(), target.tolist())
    result = evaluate.metrics(model, ids)
    assert result["positions"] == 25
    assert result["perplexity"] == pytest.approx(math.exp(expected["nll"]), rel=1e-5)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("method", ["semantic", "semantic_prior", "ce"])
def test_what_is_made_of_the_whole_table_is_made_once_a_look(tiny, method, monkeypatch):
    """And not in every chunk of scores, of which each position has one here."""
    monkeypatch.setattr(evaluate, "SCORES", 1)
    monkeypatch.setattr(evaluate, "SCALED", 1)
    torch.manual_seed(0)
    model, ids = LanguageModel(tiny(method)), torch.randint(300, (5, 6))
    with torch.no_grad():
        hidden, target = model.positions(ids)
        nll = torch.nn.functional.cross_entropy(model.head.scores(hidden), target).item()
    calls, vectors = [], model.head.vectors

    def counted():
        calls.append(1)
        return vectors()

    monkeypatch.setattr(model.head, "vectors", counted)
    assert evaluate.metrics(model, ids)["nll"] == pytest.approx(nll, rel=1e-6)
    assert len(calls) == 1
    evaluate.best_scale(model, ids)
    assert len(calls) == 2


def test_ties_count_against_the_model(tiny):
    model = LanguageModel(tiny("ce"))
    torch.nn.init.zeros_(model.head.weight)  # every token has the same score: the target's rank is V
    result = evaluate.metrics(model, torch.randint(300, (2, 6)))
    assert result["nll"] == pytest.approx(math.log(300), rel=1e-6)
    assert result["mrr"] == pytest.approx(1 / 300)
    assert result["hit@10"] == 0


def test_a_diverged_model_hits_nothing(tiny):
    model = LanguageModel(tiny("ce"))
    torch.nn.init.constant_(model.head.weight, torch.nan)
    result = evaluate.metrics(model, torch.randint(300, (2, 6)))
    assert (result["hit@10"], result["mrr"]) == (0, pytest.approx(1 / 300))


def test_nothing_to_predict(tiny):
    with pytest.raises(ValueError, match=r"ids of shape \(0, 6\): expected"):
        evaluate.metrics(LanguageModel(tiny("ce")), torch.zeros(0, 6, dtype=torch.long))


def test_nats_per_character_and_bits_per_byte(tiny):
    model = LanguageModel(tiny("ce"))
    torch.nn.init.zeros_(model.head.weight)
    ids = torch.tensor([[5, 200, 7, 7]])
    lengths = torch.zeros(2, 300, dtype=torch.long)
    lengths[:, [5, 7]] = torch.tensor([[100, 4], [100, 6]])  # the first id of an example is not predicted
    lengths[:, 200] = torch.tensor([0, 1])  # a byte that begins no character
    result = evaluate.metrics(model, ids, lengths=lengths)
    assert result["nats_per_character"] == pytest.approx(3 * math.log(300) / 8)
    assert result["bits_per_byte"] == pytest.approx(3 * math.log2(300) / 13)
    without = evaluate.metrics(model, ids)
    assert (without["nats_per_character"], without["bits_per_byte"]) == (None, None)


def test_bits_per_byte_of_a_constant_is_the_texts_tokens_per_byte():
    """Over held-out text as it is cut: all bits over all bytes of what the targets say, an accent being two of them."""
    corpus = text.load(str(CHAT), progress=False)
    vocabulary = corpus.vocabulary(300)
    ids = torch.from_numpy(vocabulary.encode("user: ¿Qué hora es?")).long()[None]
    result = evaluate.metrics(
        reference.SameScores(torch.zeros(300)), ids, lengths=torch.from_numpy(vocabulary.lengths())
    )
    targets = vocabulary.decode(ids[0, 1:].tolist())
    assert len(targets.encode()) > len(targets)
    assert result["bits_per_byte"] == pytest.approx(math.log2(300) * (ids.shape[1] - 1) / len(targets.encode()))
    assert result["nats_per_character"] == pytest.approx(math.log(300) * (ids.shape[1] - 1) / len(targets))


def test_controls():
    """The unigram's own likelihood, and the level of knowing nothing."""
    counts, ids = torch.tensor([0, 6, 3, 0]), torch.tensor([[2, 1, 1, 2, 3]])
    result = evaluate.controls(counts, ids)
    p = [0.1 / 9.4, 6.1 / 9.4, 3.1 / 9.4, 0.1 / 9.4]
    assert result["unigram"]["nll"] == pytest.approx(-sum(math.log(p[i]) for i in (1, 1, 2, 3)) / 4)
    assert result["unigram"]["hit@1"] == 0.5
    assert result["unigram"]["mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 4) / 4)  # ids 0 and 3 tie: both rank last
    assert result["constant"]["nll"] == pytest.approx(math.log(4))
    assert result["constant"]["hit@1"] == 0


@pytest.mark.parametrize("wrong", [0.2, 1.0, 6.0])
def test_the_best_scale_undoes_a_wrong_temperature(wrong):
    truth = torch.tensor([0.0, 1, 2, 3])
    ids = torch.multinomial(truth.softmax(0), 50_000, True, generator=torch.Generator().manual_seed(0)).view(1000, 50)
    scale = evaluate.best_scale(reference.SameScores(truth * wrong), ids, positions=50_000)
    assert scale * wrong == pytest.approx(1, rel=0.02)
    calibrated = evaluate.metrics(reference.SameScores(truth * wrong), ids, scale=scale)
    assert calibrated["nll"] == pytest.approx(evaluate.metrics(reference.SameScores(truth), ids)["nll"], abs=1e-3)


@pytest.mark.parametrize(("vocab", "score"), [(50_000, 6.5), (8192, 5.5)])
def test_the_best_scale_is_found_where_newtons_steps_go_round(vocab, score):
    """One token scores, and is right a quarter of the time: at the best scale that is its probability."""
    scores = torch.zeros(vocab)
    scores[1] = score
    ids = torch.tensor([[0, 1, 2, 3, 4], [0, 5, 6, 1, 7]])
    expected = math.log((vocab - 1) / 3) / score
    assert evaluate.best_scale(reference.SameScores(scores), ids) == pytest.approx(expected, rel=1e-3)


def test_the_best_scale_of_constant_scores_is_one():
    assert evaluate.best_scale(reference.SameScores(torch.zeros(4)), torch.zeros(2, 5, dtype=torch.long)) == 1


def examples(ids, documents, counts, lengths=None):
    return text.Examples("x", None, ids.shape[1], counts, ids.numpy(), lengths, documents.numpy())


def test_the_halves_of_the_held_out_text_share_no_document():
    ids, counts = torch.arange(80).view(8, 10), torch.ones(80)
    documents = torch.tensor([0] * 25 + [1] * 22 + [2] * 33).view(8, 10)
    held = evaluate.HeldOut.split(examples(ids, documents, counts), 3)
    assert torch.equal(held.validation, ids[[0, 2]])  # of 0 to 3 every second; 4 has documents 1 and 2
    assert torch.equal(held.test, ids[5:])
    assert torch.equal(held.documents, documents[5:])


def test_a_document_larger_than_a_half_lies_in_both():
    ids, counts = torch.arange(70).view(7, 10), torch.ones(70)
    held = evaluate.HeldOut.split(examples(ids, torch.zeros_like(ids), counts), 3)
    assert torch.equal(held.validation, ids[0:4:2])  # of 4 every second, so that there are at most 3
    assert torch.equal(held.test, ids[4:])
    assert evaluate.HeldOut.split(examples(ids[:1], torch.zeros_like(ids[:1]), counts), 3) is None


def test_what_is_reported_by_document_adds_up(tiny):
    torch.manual_seed(0)
    model = LanguageModel(tiny("ce")).double()
    ids, documents = torch.randint(300, (9, 6)), torch.arange(54).view(9, 6) // 8
    lengths = torch.randint(1, 9, (2, 300))
    held = evaluate.HeldOut.split(examples(ids, documents, torch.ones(300), lengths), 100)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        result = held.report(model)
    by, whole = result["by_document"], result["full_vocab"]
    assert not saved, "the report keeps the scores of all positions, for a backward pass that never comes"
    assert by["document"] == sorted(set(held.documents[:, 1:].flatten().tolist()))
    assert sum(by["positions"]) == whole["positions"] == held.test[:, 1:].numel()
    nll = evaluate.metrics(model, held.test[:1], lengths=lengths)["nll"]
    first = held.documents[0, 1:]
    assert first.unique().tolist() == [by["document"][0], by["document"][1]]
    assert nll == pytest.approx(evaluate.metrics(model, held.test[:1])["nll"])
    for metric in uncertainty.RATIOS:
        above, below = uncertainty.sums([by], metric)
        expected = result["calibrated"]["nll"] if metric.startswith("calibrated") else whole[metric]
        assert above.sum() / below.sum() == pytest.approx(expected, rel=1e-4), metric
    one = held.documents[:, 1:].flatten() == by["document"][-1]
    with torch.no_grad():
        hidden, target = model.positions(held.test)
        losses = torch.nn.functional.cross_entropy(model.head.scores(hidden), target, reduction="none")
    assert by["nats"][-1] == pytest.approx(losses[one].sum().item(), rel=1e-4)
    assert by["bytes"][-1] == lengths[1][target[one]].sum()


def test_controls_are_scores_that_are_the_same_everywhere():
    counts, ids = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 50)), torch.randint(50, (4, 9))
    lengths = torch.randint(1, 5, (2, 50))
    result = evaluate.controls(counts, ids, lengths=lengths)
    same = {"unigram": evaluate.log_unigram(counts), "constant": torch.zeros(50)}
    for name, scores in same.items():
        expected = evaluate.metrics(reference.SameScores(scores), ids, lengths=lengths)
        assert result[name] == pytest.approx(expected, rel=1e-6)
