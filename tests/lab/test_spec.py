import json
import math
import re
import runpy
from argparse import ArgumentParser
from decimal import Decimal

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

import scta_lite
from scta_lab import Result, Spec, grid
from scta_lab.base.words import add_arguments, arguments, parsed
from scta_lite.notebook import parameters


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("vocab", 0, "an integer from 2 up"),
        ("vocab", 1, "an integer from 2 up"),
        ("vocab", -5, "an integer from 2 up"),
        ("vocab", 2.5, "an integer from 2 up"),
        ("vocab", "many", "an integer from 2 up"),
        ("vocab", None, "an integer from 2 up"),
        ("vocab", True, "an integer from 2 up"),
        ("vocab", math.nan, "an integer from 2 up"),
        ("vocab", 10**400, "an integer from 2 up"),
        ("seed", 2**64, "an integer from 0 up"),
        ("negatives", 0, "an integer from 1 up"),
        ("negatives", 1000, "fewer than vocab=1000"),
        ("temperature", 0, "a finite number above 0"),
        ("temperature", math.nan, "a finite number above 0"),
        ("temperature", "warm", "a finite number above 0"),
        ("lr", -1e-3, "a finite number above 0"),
        ("weight_decay", -0.1, "a finite number from 0 up"),
        ("betas", (0.9, 1.0), "two numbers from 0 up and below 1"),
        ("betas", 0.9, "two numbers from 0 up and below 1"),
        ("batch", 20_001, "at most examples=20000"),
        ("steps", 2501, "at most 2500"),
        ("steps", 1, "an integer from 2 up"),
        ("method", "magic", "one of ce, semantic"),
        ("method", 3, "one of ce, semantic"),
        ("optimizer", "sgd", "one of dense"),
        ("evaluate", "false", "one of True, False"),
        ("evaluate", 1, "one of True, False"),
        ("corpus", "", "a name"),
        ("seed", -1, "an integer from 0 up"),
        ("threads", 100_000, "an integer from 1 to 1,024"),
        ("vocab", Decimal("NaN"), "an integer from 2 up"),
        ("vocab", np.zeros(3), "an integer from 2 up"),
        ("precision", "float16", "one of float32, tf32, bfloat16"),
        ("schedule", "sawtooth", "one of constant, linear, cosine"),
        ("warmup", -1, "an integer from 0 up"),
        ("warmup", 2500, "fewer than the steps of the run"),
        ("clip", 0, "a finite number above 0"),
    ],
)
def test_bad_arguments_are_named(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name}=.*: expected {expected}") as error:
        Spec(**{"method": "semantic", "vocab": 1000, name: value})
    assert "\n" not in str(error.value)


def test_integral_floats_are_integers_and_specs_hash():
    spec = Spec(method="ce", vocab=1e6)
    assert spec.vocab == 1_000_000
    assert isinstance(spec.vocab, int)
    assert len({spec, Spec(method="ce", vocab=1_000_000)}) == 1


def test_the_papers_numbers():
    spec = Spec(method="semantic", vocab=50_000)
    assert (spec.epoch_steps, spec.steps_total, spec.positions) == (1250, 2500, 16 * 63)
    assert spec.positions * spec.steps_total == 2_520_000


def test_run_id_is_frozen():
    """Ids of committed runs: a new field with a default must not change them."""
    assert Spec(method="ce", vocab=50_000).run_id("zipf-1") == "ce-50000-8d6f397c"
    spec = Spec(method="semantic", vocab=1_000_000, steps=12, seed=3, lr=1e-3, betas=[0.9, 0.99])
    assert spec.run_id("abc") == "semantic-1000000-13e45c7e"


def test_equal_specs_have_equal_ids():
    """Whatever kind of number was given."""
    pairs = ((0, 0.9), (0.0, 0.9), [np.float64(0), 0.9])
    specs = [Spec(method="ce", vocab=9, negatives=3, betas=betas) for betas in pairs]
    assert len(set(specs)) == len({spec.run_id("x") for spec in specs}) == 1


def test_run_id_knows_the_corpus_by_its_fingerprint():
    here, there = (Spec(method="ce", vocab=99, corpus=path) for path in ("a/chat.json", "b/chat.json"))
    assert here.run_id("f") == there.run_id("f") != here.run_id("g")


@pytest.mark.parametrize(
    ("value", "vocabs"),
    [
        (1000, [1000]),
        (1e6, [1_000_000]),
        ([50_000, 200_000], [50_000, 200_000]),
        ("50k,200k,1M", [50_000, 200_000, 1_000_000]),
        ("[1_000, 2.5K]", [1000, 2500]),
        ("1e6", [1_000_000]),
        (["50k", 7], [50_000, 7]),
        (["50k,200k", "1M"], [50_000, 200_000, 1_000_000]),
    ],
)
def test_vocabularies_can_be_given_in_many_ways(value, vocabs):
    assert [s.vocab for s in grid(vocab=value, method="ce")] == vocabs


@pytest.mark.parametrize("value", [[], "", "many", "0", -5, [50_000, 1], 2.5, {}, "50k;200k"])
def test_bad_vocabularies(value):
    with pytest.raises(ValueError, match=r"^vocab="):
        grid(vocab=value, method="ce")


@pytest.mark.parametrize("asked", ["2,000", "50,000,1M", ["1k", "200,048"]])
def test_a_number_with_commas_is_told(asked):
    """ "2,000" would be the sizes 2 and 0."""
    with pytest.raises(ValueError, match="a comma stands between two values; expected a number as 2000 or 2k"):
        grid(vocab=asked, method="ce")


def test_grid_knows_its_settings():
    with pytest.raises(ValueError, match=r"^vocba=9: no such setting"):
        grid(vocab=1000, method="ce", vocba=9)


def spec_of(words):
    """The Spec that the words of a command line give."""
    parser = ArgumentParser()
    add_arguments(parser)
    settings, _ = parsed(parser, words)
    return Spec(**settings)


def test_arguments_round_trip():
    spec = Spec(method="semantic", vocab=777, betas=(0.5, 0.9), evaluate=True, corpus='a "b" c.json', budget_s=1.5)
    assert spec_of(arguments(spec)) == spec


@pytest.mark.parametrize("name", ["2024", "50k", "null", "true", "a.txt"])
def test_a_text_may_have_any_name(name):
    assert spec_of(["--method", "ce", "--vocab", "2k", "--corpus", name]).corpus == name


@pytest.mark.parametrize("words", ["--vocab 50q", "--vocab 2k --lr fast", "--vocab 2k --betas 0.9"])
def test_a_word_that_is_no_number_is_told_at_once(words, capsys):
    with pytest.raises(SystemExit):
        spec_of(["--method", "ce", *words.split()])
    assert re.search(r"expected a number, as 2000, 50k or 1M|expected 2 arguments", capsys.readouterr().err)


CELLS = ["import json", "vocab: int = 5  # V\nfast: bool = False"]


def notebook(*cells, **injected):
    """The globals of a kernel in which CELLS ran, then these cells, with what papermill injected into them."""
    return {"In": ["", *CELLS, *cells], "vocab": 5, "fast": False, "_": 1, **injected}


def test_parameters_of_a_notebook():
    namespace = notebook(json=json)
    assert parameters(namespace) == {"vocab": 5, "fast": False}
    namespace["mine"] = 3  # a reader's own variable, later
    assert parameters(namespace) == {"vocab": 5, "fast": False}
    with pytest.raises(ValueError, match=r"^vocba=7: no such parameter; expected vocab"):
        parameters(notebook("vocba = 7", vocba=7))
    with pytest.raises(ValueError, match=r"^zzz='a': no such parameter; expected vocab, fast"):
        parameters(notebook(zzz="a"))
    with pytest.raises(ValueError, match=r"^fast='false': expected True or False"):
        parameters(notebook('fast = "false"', fast="false"))


def test_a_cell_that_never_ran_declares_nothing():
    assert parameters(notebook("for i in:", "%time 3")) == {"vocab": 5, "fast": False}


@pytest.mark.parametrize("injected", [(), ("vocab = 9",)])
def test_parameters_in_a_kernel(injected):
    """IPython compiles a cell statement by statement: what Python keeps of annotations then depends on its version."""
    shell = InteractiveShell()
    for cell in (*CELLS, *injected, "from scta_lite.notebook import parameters", "read = parameters(globals())"):
        shell.run_cell(cell, store_history=True).raise_error()
    assert shell.user_ns["read"] == {"vocab": 9 if injected else 5, "fast": False}


def test_parameters_of_a_notebook_as_a_script(tmp_path, capsys):
    script = tmp_path / "script.py"
    call = "from scta_lite.notebook import parameters\nprint(parameters(globals()))"
    script.write_text("\n".join([*CELLS, call]))
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out == "{'vocab': 5, 'fast': False}\n"


def test_result_round_trip(tmp_path):
    spec = Spec(method="ce", vocab=50, corpus="/somewhere/secret/chat.json")
    result = Result(spec=spec, status="ok", fingerprint="abc", corpus="chat.json", step_ms=2.5, final_loss=math.nan)
    path = result.save(tmp_path)
    run = json.loads(path.read_text())
    assert path.name == f"{spec.run_id('abc')}.json"
    assert run["final_loss"] is None  # JSON has no NaN
    assert "secret" not in path.read_text()
    again = Result.from_dict(run)
    assert again.run_id == result.run_id
    assert (again.step_ms, again.spec.vocab, again.spec.betas) == (2.5, 50, (0.9, 0.999))
    assert list(tmp_path.iterdir()) == [path]  # no temporary file stays


@pytest.mark.parametrize("status", ["out_of_memory", "killed", "failed", "skipped"])
def test_only_a_run_that_ends_well_replaces_one_that_did(tmp_path, status):
    run = {"spec": Spec(method="ce", vocab=50), "fingerprint": "abc", "corpus": "chat.json"}
    path = Result(**run, status="killed").save(tmp_path)
    assert Result(**run, status=status).save(tmp_path) == path  # of two that did not, the later one stands
    assert Result(**run, status="ok", step_ms=2.5).save(tmp_path) == path
    attempt = Result(**run, status=status, reason="why").save(tmp_path)
    assert attempt.name == f"{path.name}.attempt"
    assert json.loads(attempt.read_text())["reason"] == "why"
    assert json.loads(path.read_text())["step_ms"] == 2.5
    assert Result(**run, status="ok", step_ms=3.5).save(tmp_path) == path
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_method_takes_where_nothing_is_said():
    plain, prior = Spec(method="semantic", vocab=1000), Spec(method="semantic_prior", vocab=1000)
    assert (plain.sampler, plain.shared, plain.init_std) == ("uniform", 0, 1.0)
    assert (prior.sampler, prior.shared) == ("unigram", 1024)
    defaults = {"sampler": "unigram", "shared": 1024, "init_std": prior.init_std}
    assert Spec(method="semantic_prior", vocab=1000, **defaults).run_id("x") == prior.run_id("x")
    assert Spec(method="semantic_prior", vocab=1000, sampler="uniform").run_id("x") != prior.run_id("x")
    assert Spec(method="semantic", vocab=1000, sampler="uniform").run_id("x") == plain.run_id("x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ce", "optimizer": "sparse", "clip": 1.0}, r"^clip=1.0: expected None with optimizer='sparse'"),
        ({"method": "semantic", "log_unigram": True}, r"^log_unigram=True: expected False with method='semantic'"),
        (
            {"method": "semantic", "sampler": "in_batch", "batch": 1, "seq_len": 2},
            r"^sampler='in_batch': expected another",
        ),
        ({"method": "ce", "scores": "dot"}, r"^scores='dot': expected cosine with method='ce'"),
        ({"method": "ce", "cutoffs": (5, 9)}, r"^cutoffs=\(5, 9\): expected None with method='ce'"),
        ({"method": "ce", "div_value": 2.0}, r"^div_value=2.0: expected 4.0 with method='ce'"),
        ({"method": "ce", "eval_every": 5}, r"^eval_every=5: expected None without evaluate=True"),
    ],
)
def test_settings_that_a_method_does_not_have(settings, message):
    with pytest.raises(ValueError, match=message):
        Spec(vocab=1000, **settings)


@pytest.mark.parametrize("cutoffs", [(), (0, 5), (5, 5), (9, 5), (5, 1000), (1.5, 5), (True, 5), "5", 5, (5, None)])
def test_clusters_begin_at_ranks_that_rise(cutoffs):
    with pytest.raises(ValueError, match=r"^cutoffs=.*: expected integers that rise, from 1 to vocab - 1 = 999"):
        Spec(method="adaptive", vocab=1000, cutoffs=cutoffs)


@pytest.mark.parametrize("div_value", [0.5, 16.0000000001, 17.0, 1e300])
def test_no_cluster_has_less_than_one_number(div_value):
    with pytest.raises(
        ValueError, match=rf"^div_value={re.escape(str(div_value))}: expected a number from 1 to 16, for 2 clusters"
    ):
        Spec(method="adaptive", vocab=1000, hidden=256, div_value=div_value)


def test_a_small_vocabulary_has_clusters_if_they_are_given():
    with pytest.raises(ValueError, match=r"^method='adaptive': expected vocab from 20 up"):
        Spec(method="adaptive", vocab=19)
    spec = Spec(method="adaptive", vocab=19, cutoffs=[4.0])
    assert spec == Spec(method="adaptive", vocab=19, cutoffs=(4,))
    assert spec_of(arguments(spec)) == spec


def test_a_prior_needs_its_hits():
    with pytest.raises(ValueError, match=r"^mask_hits=True: expected False"):
        Spec(method="semantic_prior", vocab=1000, mask_hits=True)


@pytest.mark.parametrize(("changes", "message"), [
    ({"lr": 10.0, "weight_decay": 0.05}, r"^betas=\(0.9, 0.999\): expected 0 ≤ β1 < 0.9997 β2 \(1 - λ\)"),
    ({"betas": (0.95, 0.9)}, r"^betas=\(0.95, 0.9\): expected 0 ≤ β1 < 0.9997 β2"),
])  # fmt: skip
def test_settings_that_rows_cannot_have_are_refused_at_once(changes, message):
    for kind in (Spec, scta_lite.Spec):
        kind(method="ce", vocab=1000, **changes)
        with pytest.raises(ValueError, match=message):
            kind(method="ce", vocab=1000, optimizer="rows", **changes)


def test_cosines_of_single_numbers_are_refused():
    """They are 1 or -1: nothing would be trained, and the run would end well."""
    for kind in (Spec, scta_lite.Spec):
        with pytest.raises(ValueError, match=r"^semantic_dim=1: expected an integer from 2 up"):
            kind(method="semantic", vocab=1000, semantic_dim=1)
        kind(method="ce", vocab=1000, semantic_dim=1)
    assert Spec(method="sampled_softmax", vocab=1000, semantic_dim=1, scores="dot").semantic_dim == 1
