import math
from itertools import islice

import pytest
import torch
from conftest import CHAT

from scta_lab import decode, text
from scta_lab.methods.model import LanguageModel

PROMPT = torch.tensor([3, 1, 4, 1, 5])


@pytest.fixture
def model(tiny):
    torch.manual_seed(0)
    return LanguageModel(tiny("ce"))


def first(model, n=20, seed=0, **how):
    return list(islice(decode.generate(model, PROMPT, generator=torch.Generator().manual_seed(seed), **how), n))


def test_greedy_takes_the_best_of_the_whole_text_so_far(model):
    """The carried state is that of reading everything again."""
    ids = PROMPT.tolist()
    for i in first(model, temperature=0):
        with torch.no_grad():
            scores = model.head.scores(model(torch.tensor([ids]))[:, -1])[0]
        assert i == scores.argmax()
        ids.append(i)


def test_samples_follow_the_softmax_of_what_is_left(model):
    with torch.no_grad():
        model.head.weight.mul_(5)
        scores = model.head.scores(model.advance(PROMPT.view(1, -1))[0])[0]
    p = (scores / 0.7).softmax(0)
    best = p.argsort(descending=True)

    def frequencies(**how):
        generator = torch.Generator().manual_seed(0)
        drawn = [next(decode.generate(model, PROMPT, generator=generator, **how)) for _ in range(3000)]
        return torch.bincount(torch.tensor(drawn), minlength=300) / 3000

    holding = int((p[best].cumsum(0) < 0.2).sum()) + 1  # the fewest that hold 0.2
    for how, left in (({}, 300), ({"top_k": 5}, 5), ({"top_p": 0.2}, holding)):
        expected = torch.zeros(300)
        expected[best[:left]] = p[best[:left]] / p[best[:left]].sum()
        drawn = frequencies(temperature=0.7, **how)
        assert set(drawn.nonzero().flatten().tolist()) <= set(best[:left].tolist())
        assert (drawn - expected).abs().sum() < (0.35 if left > 100 else 0.1), how


def test_top_k_of_one_is_greedy(model):
    greedy = first(model, temperature=0)
    assert greedy == first(model, top_k=1) == first(model, top_p=1e-9) == first(model, temperature=1e-39)
    assert first(model, seed=1) != first(model, seed=2)
    assert first(model, seed=1) == first(model, seed=1)


@pytest.mark.parametrize(("how", "message"), [
    ({"temperature": -1}, "^temperature=-1: expected a number from 0 up"),
    ({"temperature": "1"}, "^temperature='1': expected a number from 0 up"),
    ({"temperature": None}, "^temperature=None: expected a number from 0 up"),
    ({"temperature": math.nan}, "^temperature=nan: expected a number from 0 up"),
    ({"top_k": 0}, "^top_k=0: expected an integer from 1 up"),
    ({"top_k": 2.5}, "^top_k=2.5: expected an integer from 1 up"),
    ({"top_k": "5"}, "^top_k='5': expected an integer from 1 up"),
    ({"top_p": "1"}, "^top_p='1': expected above 0, at most 1"),
    ({"top_p": 0}, "^top_p=0: expected above 0, at most 1"),
    ({"top_p": 1.5}, "^top_p=1.5: expected above 0"),
])  # fmt: skip
def test_bad_arguments_of_generate(model, how, message):
    """At the call, before a token is asked for."""
    with pytest.raises(ValueError, match=message):
        decode.generate(model, PROMPT, **how)


def test_text_in_and_text_out(tiny):
    vocabulary = text.load(str(CHAT)).vocabulary(300)
    pieces = list(decode.write(LanguageModel(tiny("semantic_prior")), vocabulary, "user: the", 7))
    assert pieces[0] == "user: the"
    assert len(pieces) == 8


def test_bytes_wait_until_they_are_a_character(monkeypatch, tiny):
    vocabulary = text.load(str(CHAT)).vocabulary(300)
    ids = [*"é".encode(), ord("!"), *"𝄞".encode()[:3]]
    monkeypatch.setattr(decode, "generate", lambda *_, **__: iter(ids))
    pieces = list(decode.write(LanguageModel(tiny()), vocabulary, "a", len(ids)))
    assert pieces == ["a", "", "é", "!", "", "", "", "�"]  # the last one did not come to its end


def test_a_vocabulary_of_another_size(tiny):
    with pytest.raises(ValueError, match=r"^vocabulary of 301 entries: expected the model's, V = 300"):
        next(decode.write(LanguageModel(tiny()), text.load(str(CHAT)).vocabulary(301), "a", 1))


def test_an_empty_prompt(tiny):
    vocabulary = text.load(str(CHAT)).vocabulary(300)
    with pytest.raises(ValueError, match=r"^prompt of shape \(0,\): expected"):
        list(decode.write(LanguageModel(tiny()), vocabulary, "", 1))


def test_scores_that_are_not_numbers_choose_nothing(model):
    with torch.no_grad():
        model.head.weight[7] = math.nan
    for temperature in (0, 1.0):
        with pytest.raises(ValueError, match=r"^scores with NaN"):
            first(model, temperature=temperature)
