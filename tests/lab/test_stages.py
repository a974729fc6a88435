"""The paper's second stage: token heads that begin where the first stage ended, and their training."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CHAT

from scta_lab import Spec, load, text, train
from scta_lab.base.spec import SAMPLED
from scta_lab.judge.evaluate import HeldOut, best_scale, metrics
from scta_lab.methods.model import LanguageModel
from scta_lab.methods.samplers import log_unigram
from scta_lab.run import hooks

SETTINGS = {"corpus": str(CHAT), "vocab": 400, "semantic_dim": 8, "hidden": 16, "shared": 20, "lr": 1e-2, "epochs": 3}
SIZES = {"examples": 24, "batch": 4, "seq_len": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def firsts(tmp_path_factory):
    """A saved first stage of each method, and its file."""
    folder = tmp_path_factory.mktemp("stage1")
    narrow = {"semantic_prior": 8}
    results = {
        method: train(Spec(method=method, **SETTINGS, **SIZES, input_dim=narrow.get(method))) for method in SAMPLED
    }
    return {
        method: (result, str(result.save(folder).with_suffix(".safetensors"))) for method, result in results.items()
    }


def begun(spec):
    """The second stage's model before its first step: after two steps that move nothing."""
    still = replace(spec, lr=1e-30, weight_decay=0.0, steps=2, table_lr=None)
    return train(still).model


def ids_and_hidden(model):
    ids = torch.randint(400, (9, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ids, *model.positions(ids)


@pytest.mark.parametrize("method", SAMPLED)
def test_a_normalised_head_begins_with_the_first_stages_scores(firsts, method):
    result, file = firsts[method]
    model = begun(replace(result.spec, stage1=file, token_head="normalised"))
    _, hidden, _ = ids_and_hidden(result.model)
    _, same, _ = ids_and_hidden(model)
    torch.testing.assert_close(same, hidden)
    with torch.no_grad():
        torch.testing.assert_close(model.head.scores(hidden), result.model.head.scores(hidden), atol=1e-5, rtol=0)


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
@pytest.mark.parametrize("method", [*SAMPLED, "ce", "ce_lowrank", "adaptive"])
def test_without_a_token_head_the_first_stage_goes_on(tmp_path, method, optimizer):
    first = train(Spec(method=method, optimizer=optimizer, **SETTINGS, **SIZES))
    spec = replace(first.spec, stage1=str(first.save(tmp_path).with_suffix(".safetensors")))
    _, hidden, _ = ids_and_hidden(first.model)
    model = begun(spec)
    with torch.no_grad():
        torch.testing.assert_close(model.positions(ids_and_hidden(model)[0])[0], hidden)
        torch.testing.assert_close(model.head.scores(hidden), first.model.head.scores(hidden))
    after = train(spec)
    assert after.run_id != first.run_id
    assert after.epoch_losses[0]["first"] < first.epoch_losses[0]["first"]


@pytest.mark.parametrize("method", ["semantic", "sampled_softmax"])
def test_a_plain_head_begins_with_the_first_stages_ranking_and_not_its_likelihood(firsts, method):
    result, file = firsts[method]
    first = copy.deepcopy(result.model).double()
    model = LanguageModel(replace(result.spec, stage1=file, token_head="plain")).double()
    model.head.begin(first.head, scale=0.37)
    _, hidden, _ = ids_and_hidden(first)
    with torch.no_grad():
        plain, semantic = model.head.scores(hidden), first.head.scores(hidden)
    assert torch.equal(plain.argsort(1), semantic.argsort(1))
    ratio = plain / semantic  # one number for each position
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert ratio[:, 0].std() > 1e-3 * ratio[:, 0].mean()


def test_a_plain_heads_scale_is_the_best_one(firsts):
    for method in ("semantic", "semantic_prior"):
        result, file = firsts[method]
        spec = replace(result.spec, stage1=file, token_head="plain", evaluate=True, eval_every=1)
        look = train(replace(spec, lr=1e-30, steps=2)).validation[0]
        model = begun(spec)
        assert model.head.table.weight.shape == (400, 17 if method == "semantic_prior" else 16)
        for wrong in (0.8, 1.25):
            other = LanguageModel(spec)
            other.load_state_dict(model.state_dict())
            with torch.no_grad():
                other.head.table.weight[:, :16] *= wrong
            half = HeldOut.split(text.load(spec.corpus).examples(400, 8, 24), spec.eval_examples).validation
            assert metrics(other, half)["nll"] > look["nll"]
        if method == "semantic":  # a prior is not scaled
            assert best_scale(model, half) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("head", ["random", "normalised", "plain"])
def test_option_a_moves_the_head_alone_and_option_b_all(firsts, head, sampled, optimizer, tmp_path):
    result, file = firsts["semantic_prior"]
    spec = replace(result.spec, stage1=file, token_head=head, sampled_head=sampled, optimizer=optimizer)
    for freeze in (True, False):
        aligned = train(replace(spec, freeze=freeze, epochs=6))
        for part in ("embed", "backbone"):
            before, after = (getattr(r.model, part).state_dict() for r in (result, aligned))
            assert all(torch.equal(before[name], after[name]) for name in before) is freeze
        if head == "normalised":
            assert torch.equal(result.model.head.project.weight, aligned.model.head.project.weight) is freeze
        assert sampled or aligned.epoch_losses[-1]["last"] < aligned.epoch_losses[0]["first"]
        start = begun(replace(spec, freeze=freeze)).head.table.weight
        assert not torch.allclose(aligned.model.head.table.weight, start, atol=1e-4)
    aligned.save(tmp_path)
    again = load(tmp_path)
    assert "/" not in again.spec.stage1
    assert again.run_id == aligned.run_id
    _, hidden, _ = ids_and_hidden(aligned.model)
    with torch.no_grad():
        torch.testing.assert_close(again.model.head.scores(hidden), aligned.model.head.scores(hidden))


@pytest.mark.parametrize("head", ["normalised", "plain"])
def test_sampled_alignment_is_the_sampled_softmax_of_its_scores(firsts, head):
    result, file = firsts["semantic_prior"]
    model = begun(replace(result.spec, stage1=file, token_head=head, sampled_head=True))
    _, hidden, target = ids_and_hidden(model)
    drawn, _ = model.head.draw(target, torch.Generator().manual_seed(1))
    scores = model.head.scores(hidden)
    rivals = scores[:, drawn] - (len(drawn) * log_unigram(counts_of(result.spec)).exp()[drawn]).log()
    rivals[drawn == target[:, None]] = -torch.inf
    both = torch.cat([scores.gather(1, target[:, None]), rivals], dim=1)
    expected = torch.nn.functional.cross_entropy(both, torch.zeros(len(target)).long())
    loss = model.head.loss(hidden, target, torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def counts_of(spec):
    ids = text.examples(text.load(spec.corpus).ids(spec.vocab)[0], spec.seq_len)[: spec.examples]
    return torch.from_numpy(ids.astype("int64")).flatten().bincount(minlength=spec.vocab)


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
def test_an_interrupted_second_stage_ends_as_one_that_was_not(firsts, tmp_path, optimizer):
    result, file = firsts["semantic_prior"]
    spec = replace(result.spec, stage1=file, token_head="normalised", sampled_head=True, optimizer=optimizer)
    whole = train(spec)

    def stop(step, steps, loss):
        if step == steps - 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "SHOW_EVERY", 0)
        with pytest.raises(KeyboardInterrupt):
            train(spec, progress=stop, checkpoint=tmp_path, checkpoint_s=0)
    moved = shutil.copytree(Path(file).parent, tmp_path / "moved")  # the first stage may lie elsewhere by now
    again = train(replace(spec, stage1=str(moved / Path(file).name)), checkpoint=tmp_path)
    assert again.steps_measured <= 1
    assert again.loss_curve == whole.loss_curve


def test_a_first_stage_of_another_text_is_refused(firsts):
    result, file = firsts["semantic"]
    with pytest.raises(ValueError, match=r"^stage1='.*': expected a first stage .* the same corpus"):
        train(replace(result.spec, stage1=file, token_head="plain", corpus="zipf"))


def test_exact_alignment_is_cross_entropy(firsts):
    result, file = firsts["semantic_prior"]
    model = begun(replace(result.spec, stage1=file, token_head="plain"))
    _, hidden, target = ids_and_hidden(model)
    expected = torch.nn.functional.cross_entropy(model.head.scores(hidden), target)
    assert model.head.loss(hidden, target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"stage1": None}, "^token_head='plain': expected None without stage1"),
    ({"method": "ce"}, "^method='ce': expected the first stage's"),
    ({"sampled_head": True, "shared": 0}, "^shared=0: expected an integer from 1 up for a sampled_head"),
    ({"sampled_head": True, "stage1": None, "token_head": None}, "^sampled_head=True: expected a token_head"),
    ({"freeze": True, "stage1": None, "token_head": None}, "^freeze=True: expected a token_head"),
    ({"stage1": "no/such.safetensors"}, "^run_id='such': expected one of"),
    ({"semantic_dim": 9}, "^stage1='.*': expected a first stage .* the same semantic_dim"),
])  # fmt: skip
def test_stages_that_do_not_fit(firsts, changes, message):
    result, file = firsts["semantic"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(replace(result.spec, **{"stage1": file, "token_head": "plain", **changes}))
