"""The Transformer against its plain twin, and all that takes a backbone with it in the GRU's place."""

import json
import math
from dataclasses import replace
from itertools import islice

import pytest
import reference
import torch
from conftest import CHAT

from scta_lab import Spec, decode, load, load_runs, sweep, train
from scta_lab.judge import cost
from scta_lab.methods.backbone import BACKBONES, angles, rotate
from scta_lab.methods.model import LanguageModel
from scta_lab.run import hooks
from scta_lab.run.command import train_command as main
from scta_lab.run.table import ratios

SIZES = [  # layers, heads, d, mlp_ratio, T
    (1, 1, 2, 1, 1),
    (1, 4, 8, 4, 9),
    (2, 2, 12, 1, 7),
    (3, 3, 18, 2, 5),
]


@pytest.fixture
def block(tiny):
    """Makes Specs with a Transformer of a few milliseconds."""
    return lambda method="semantic", **changes: tiny(method, **{"backbone": "transformer", "heads": 2} | changes)


def backbone(spec, dtype=torch.float64):
    """The backbone, its norms' scales no longer 1."""
    torch.manual_seed(0)
    made = BACKBONES[spec.backbone](spec).to(dtype)
    for name, weight in made.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return made


@pytest.mark.parametrize(("layers", "heads", "d", "mlp_ratio", "T"), SIZES)
def test_the_transformer_is_its_plain_twin(block, layers, heads, d, mlp_ratio, T):
    """Hidden states and all gradients, in float64."""
    made = backbone(block(hidden=d, layers=layers, heads=heads, mlp_ratio=mlp_ratio))
    x, back = torch.randn(2, T, d).double().requires_grad_(), torch.randn(2, T, d).double()
    weights = dict(made.named_parameters())
    expected = torch.stack([reference.transformer(weights, text, heads) for text in x])
    found = made(x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    leaves = [x, *weights.values()]
    grads = ([*torch.autograd.grad((h * back).sum(), leaves)] for h in (found, expected))
    for mine, twins in zip(*grads, strict=True):
        torch.testing.assert_close(mine, twins, rtol=1e-11, atol=1e-12)


def test_in_float32_it_errs_no_more_than_its_twin_does(block):
    spec, x = block(hidden=12, layers=2), torch.randn(9, 12)
    exact, made = backbone(spec), backbone(spec, torch.float32)
    with torch.no_grad():
        expected = exact(x[None].double())[0][0]
        plain = reference.transformer(dict(made.named_parameters()), x, 2)
        errors = [(h - expected).abs().max().item() for h in (made(x[None])[0][0], plain)]
    assert errors[0] <= errors[1] + 1e-6


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 1, 5], [11, 1], [1, 11], [4, 4, 4]])
@pytest.mark.parametrize("name", BACKBONES)
def test_read_in_pieces_is_read_at_once(tiny, name, pieces):
    made = backbone(tiny(backbone=name, hidden=16, **{"layers": 2, "heads": 2} if name == "transformer" else {}))
    x = torch.randn(3, 12, 16).double()
    state, hidden = None, []
    for piece in x.split(pieces, dim=1):
        part, state = made(piece, state)
        hidden.append(part)
    torch.testing.assert_close(torch.cat(hidden, dim=1), made(x)[0], rtol=0, atol=1e-14)


def test_the_cache_gives_the_tokens_that_reading_all_anew_gives(block):
    torch.manual_seed(0)
    model, ids = LanguageModel(block("ce", layers=2)), [3, 1, 4]
    found = list(islice(decode.generate(model, torch.tensor(ids), temperature=0), 20))
    for i in found:
        with torch.no_grad():
            assert i == model.head.scores(model(torch.tensor([ids]))[:, -1])[0].argmax()
        ids.append(i)
    assert len(set(found)) > 3


def test_what_comes_later_changes_nothing(block):
    made, x = backbone(block(layers=2)), torch.randn(1, 6, 8).double()
    changed = x.clone()
    changed[:, 4, 0] += 1
    before, after = (made(inputs)[0][0] for inputs in (x, changed))
    assert torch.equal(before[:4], after[:4])
    assert not torch.isclose(before[4:], after[4:]).all(1).any()


def test_products_of_rotated_pairs_depend_on_the_distance_alone():
    q, k = torch.randn(2, 6).double()
    angle = angles(0, 50, 6)
    turned = [rotate(x.expand(1, 1, 50, 6), (angle.cos(), angle.sin()))[0, 0] for x in (q, k)]
    products = turned[0] @ turned[1].T  # of a query at s with a key at t
    for distance in range(-9, 10):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-13)
    assert products[0, 0] == pytest.approx(q @ k)
    assert torch.equal(angles(7, 3, 6), angles(0, 10, 6)[7:])


def test_matrices_begin_with_the_variance_of_one_over_their_inputs(block):
    made = BACKBONES["transformer"](block(hidden=128, mlp_ratio=4))
    for name, weight in made.named_parameters():
        if "norm" in name:
            assert weight.eq(1).all()
        else:
            assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.03), name


def test_one_block_can_have_as_many_parameters_as_the_gru():
    gru = Spec(method="ce", vocab=1000)
    same = replace(gru, backbone="transformer", mlp_ratio=1)
    usual = replace(gru, backbone="transformer", layers=3)
    sizes = [cost.parameters(spec)["backbone"] for spec in (gru, same, usual)]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.002)
    assert sizes[2] / sizes[0] == pytest.approx(6, rel=0.005)


def test_bfloat16_keeps_the_sums_in_float32(block):
    model, ids = LanguageModel(block("ce", hidden=16)), torch.randint(300, (2, 6))
    with torch.autocast("cpu", torch.bfloat16):
        hidden, loss = model(ids), model.loss(ids)
    plain = model(ids)
    assert (hidden.dtype, loss.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(hidden, plain, rtol=0, atol=0.1)
    assert not torch.equal(hidden, plain)
    loss.backward()


@pytest.mark.parametrize(("settings", "message"), [
    ({"backbone": "lstm"}, "^backbone='lstm': expected one of gru, transformer"),
    ({"layers": 2}, "^layers=2: expected None with backbone='gru'"),
    ({"heads": 4}, "^heads=4: expected None with backbone='gru'"),
    ({"mlp_ratio": 1}, "^mlp_ratio=1: expected None with backbone='gru'"),
    ({"backbone": "transformer", "layers": 0}, "^layers=0: expected an integer from 1 up"),
    ({"backbone": "transformer", "heads": 2.5}, "^heads=2.5: expected an integer from 1 up"),
    ({"backbone": "transformer", "hidden": 33}, "^hidden=33: expected an even number with backbone='transformer'"),
    ({"backbone": "transformer", "heads": 3}, "^heads=3: expected a number that divides hidden=256 into heads of an "),
    ({"backbone": "transformer", "heads": 256}, "^heads=256: expected a number that divides hidden=256 into heads of"),
    ({"backbone": "transformer", "hidden": 6}, "^heads=4: expected a number that divides hidden=6 into heads of an ev"),
])  # fmt: skip
def test_shapes_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        Spec(method="ce", vocab=1000, **settings)


def test_a_shape_enters_the_id_where_it_is_not_the_default():
    gru, plain = Spec(method="ce", vocab=1000), Spec(method="ce", vocab=1000, backbone="transformer")
    assert (gru.layers, gru.heads, gru.mlp_ratio) == (None, None, None)
    assert (plain.layers, plain.heads, plain.mlp_ratio) == (1, 4, 4)
    assert gru.changes() == {"method": "ce", "vocab": 1000}
    assert plain.changes() == gru.changes() | {"backbone": "transformer"}
    assert replace(plain, layers=1, heads=4) == plain
    assert len({spec.run_id("x") for spec in (gru, plain, replace(plain, layers=2), replace(plain, heads=8))}) == 4
    with pytest.raises(ValueError, match=r"^layers=1: expected None with backbone='gru'"):
        replace(plain, backbone="gru")


@pytest.mark.parametrize(
    "settings", [{"method": "ce"}, {"method": "semantic_prior", "optimizer": "rows", "shared": 20}]
)
def test_an_interrupted_training_ends_as_one_that_was_not(block, tmp_path, monkeypatch, settings):
    spec = block(**settings, corpus=str(CHAT), vocab=400, layers=2, lr=1e-2)
    whole = train(spec)
    assert whole.final_loss < whole.epoch_losses[0]["first"]

    def stop(step, steps, loss):
        if step == steps - 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks, "SHOW_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        train(spec, progress=stop, checkpoint=tmp_path, checkpoint_s=0)
    again = train(spec, checkpoint=tmp_path)
    assert again.steps_measured < whole.steps_measured
    assert again.loss_curve == whole.loss_curve


def test_the_commands_take_it_and_a_table_tells_it_apart(tmp_path, capsys):
    words = "--method ce --vocab 300 --corpus zipf --steps 2 --hidden 8 --device cpu".split()
    shape = "--backbone transformer --layers 2 --heads 4".split()
    main([*words, *shape, "--out", str(tmp_path)])
    found = load(tmp_path)
    assert (found.spec.backbone, found.spec.layers, found.spec.heads) == ("transformer", 2, 4)
    assert found.model.advance(torch.zeros(1, 3).long())[0].shape == (1, 8)
    again = sweep([found.spec, replace(found.spec, method="semantic")], tmp_path, progress=False)
    assert again.status.tolist() == ["ok", "ok"]
    with pytest.raises(SystemExit):
        main([*words, "--layers", "2", "--out", str(tmp_path)])
    assert "layers=2: expected None with backbone='gru'" in capsys.readouterr().err

    train(Spec(method="ce", vocab=300, corpus="zipf", steps=2, hidden=8, device="cpu")).save(tmp_path)
    old = next(path for path in tmp_path.glob("*.json") if '"gru"' in path.read_text())
    run = json.loads(old.read_text())
    old.write_text(json.dumps({name: x for name, x in run.items() if name not in ("backbone", "layers", "heads")}))
    runs = load_runs(tmp_path)
    assert runs.backbone.value_counts().to_dict() == {"transformer": 2, "gru": 1}
    ce = runs[runs.method == "ce"].set_index("backbone").seconds
    assert (runs.speedup * runs.seconds).tolist() == pytest.approx(ce[runs.backbone].tolist())
    assert len(ratios(runs)) == 3


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A first stage with a Transformer, and its file."""
    settings = {"corpus": str(CHAT), "vocab": 400, "hidden": 16, "semantic_dim": 8, "shared": 20, "lr": 1e-2}
    spec = Spec(method="semantic_prior", **settings, backbone="transformer", layers=2, heads=2, examples=24, batch=4,
                seq_len=8, device="cpu")  # fmt: skip
    result = train(spec)
    return result, str(result.save(tmp_path_factory.mktemp("stage1")).with_suffix(".safetensors"))


@pytest.mark.parametrize("freeze", [True, False])
def test_a_second_stage_begins_with_it(first, freeze):
    result, file = first
    aligned = train(replace(result.spec, stage1=file, token_head="normalised", freeze=freeze))
    before, after = (r.model.backbone.state_dict() for r in (result, aligned))
    assert all(torch.equal(before[name], after[name]) for name in before) is freeze
    assert math.isfinite(aligned.final_loss)


@pytest.mark.parametrize(("name", "changes"), [
    ("layers", {"layers": 1}),
    ("heads", {"heads": 4}),
    ("backbone, layers, heads, mlp_ratio", {"backbone": "gru", "layers": None, "heads": None, "mlp_ratio": None}),
])  # fmt: skip
def test_a_first_stage_of_another_shape_is_refused(first, name, changes):
    result, file = first
    with pytest.raises(ValueError, match=f"^stage1='.*': expected a first stage .* the same {name}$"):
        train(replace(result.spec, stage1=file, token_head="plain", **changes))
