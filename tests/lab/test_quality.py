import json
import math

import numpy as np
import pytest
from conftest import SIZES
from numbers_in import behind_unigram

from scta_lab import Spec
from scta_lab.judge import uncertainty as spread
from scta_lab.run.result import Result
from scta_lab.study import quality, two_stages

POSITIONS = [40, 60, 100]


def by_document(nll, hits=0.25):
    """Three documents, whose NLL lies around `nll`."""
    nats = [(nll + shift) * n for shift, n in zip((-0.5, 0.0, 0.3), POSITIONS, strict=True)]
    counts = {f"hit@{k}": [hits * n for n in POSITIONS] for k in (1, 5, 10)}
    return {"document": [0, 1, 2], "positions": POSITIONS, "nats": nats, "bytes": [3 * n for n in POSITIONS], **counts}


def store(folder, nll, validation, step_ms=10.0, **settings):
    spec = Spec(**{**SIZES, "vocab": 300, "optimizer": "rows", "corpus": "zipf", **settings})
    sums = by_document(nll) | {"calibrated_nats": [0.9 * x for x in by_document(nll)["nats"]]}
    control = {"nll": 9.0, "bits_per_byte": 5.0, "hit@1": 0.01, "hit@5": 0.02, "hit@10": 0.03}
    Result(spec=spec, status="ok", fingerprint="x", corpus="zipf", step_ms=step_ms, by_document=sums,
           validation=[{"step": spec.steps, "nll": validation}],
           controls={"unigram": control, "constant": control}).save(folder)  # fmt: skip
    return spec.run_id("x")


@pytest.fixture
def study(tmp_path):
    home = tmp_path / "300"
    for seed in range(2):
        store(home / "equal", 4.0 + 0.1 * seed, 4.0, method="ce", steps=20, seed=seed)
        store(home / "equal", 5.0, 3.9, method="ce", steps=20, seed=seed, log_unigram=True)
        store(home / "equal", 3.0, 3.0, method="semantic_prior", semantic_dim=64, steps=20, seed=seed)
    store(home / "seconds", 2.0, 2.0, method="ce", steps=100, examples=1600, epochs=1)
    for seed, step_ms in enumerate((9.0, 10.0, 50.0)):
        store(home / "cost", 4.0, 4.0, step_ms=step_ms, method="ce", steps=5, seed=seed)
    same = {"seconds": 0.5, "full_vocab": {}}
    counted = [{"order": order, "examples": n, **same, "by_document": by_document(5.0 - n / 1e5)}
               for n in (20_000, 90_000) for order in (2, 3)]  # fmt: skip
    (home / "controls.json").write_text(json.dumps(counted))
    return tmp_path


def test_a_table_has_every_row_with_its_spread(study):
    equal, seconds = quality.views(study, 300)
    assert (equal.name, seconds.name) == ("20 steps", "1 seconds")  # 100 steps of 10 ms
    row = equal.table.loc["CE"]
    mean = (-0.5 * 40 + 0.3 * 100) / 200
    assert row["NLL"] == pytest.approx(4.05 + mean)
    assert row["calibrated"] == pytest.approx(0.9 * (4.05 + mean))
    assert row["bits/byte"] == pytest.approx((4.05 + mean) / 3 / math.log(2))
    assert (row["seeds"], row["steps"], row["seconds"]) == (2, 20, 0.2)
    assert row["NLL ± seeds"] == pytest.approx(0.05)
    assert row["NLL ± documents"] == pytest.approx(spread.standard_error([by_document(4.05)], "nll"))
    assert np.isnan(equal.table.loc["SEMANTIC with prior", "seconds"])  # its step was not measured
    assert equal.table.index[0] == "SEMANTIC with prior"
    assert {"unigram", "constant", "bigram of 20,000 examples", "trigram of 90,000 examples"} <= set(equal.table.index)


def test_ce_is_the_better_of_its_starts_by_validation_not_by_the_test_half(study):
    equal, seconds = quality.views(study, 300)
    assert (equal.ce, seconds.ce) == ("CE from log u", "CE")


def test_the_trigram_is_of_what_all_rows_saw_or_of_all_the_text(study):
    equal, seconds = quality.views(study, 300)
    assert (equal.trigram["examples"], seconds.trigram["examples"]) == (20_000, 90_000)


def test_a_row_is_judged_by_the_unigram_of_its_own_text(study):
    """Of another row's text the unigram would be another: 9.0 is that of all these, but 3.9 of the last one."""
    store(study / "300" / "seconds", 9.2, 9.0, method="semantic", steps=100, examples=1600, epochs=1)
    low = store(study / "300" / "seconds", 4.0, 4.0, method="ce", log_unigram=True, steps=100, examples=1600, epochs=1)
    path = study / "300" / "seconds" / f"{low}.json"
    run = json.loads(path.read_text())
    run["controls"]["unigram"]["nll"] = 3.9
    path.write_text(json.dumps(run))
    timed = quality.views(study, 300)[-1]
    assert {row: behind_unigram(timed, row) for row in timed.rows} == {
        "CE": False, "SEMANTIC as published": True, "CE from log u": True
    }  # fmt: skip


def test_a_row_of_two_methods_is_told(study):
    store(study / "300" / "equal", 3.0, 3.0, method="semantic_prior", semantic_dim=64, steps=20, lr=0.5)
    with pytest.raises(ValueError, match="SEMANTIC with prior at V = 300 after 20 steps: expected one run a seed"):
        quality.views(study, 300)


def test_differences_say_what_stays_open(study):
    equal, _ = quality.views(study, 300)
    gap = equal.difference("SEMANTIC with prior", "CE")
    assert gap.gap == pytest.approx(-1.05)
    assert not gap.inconclusive
    assert f"{gap:+.2f}" == f"-1.05 [{gap.low:+.2f}, {gap.high:+.2f}]"
    assert f"{equal.difference('CE', 'CE')}".startswith("≈ +0.000")
    table = equal.compared({"CE": "less CE", "trigram": "less the trigram"})
    assert table.index.tolist() == ["SEMANTIC with prior", "CE", "CE from log u"]
    assert table.loc["CE", "less CE"] == "–"
    assert table.loc["CE from log u", "less CE"] == f"{equal.difference('CE from log u', 'CE')}"
    with pytest.raises(ValueError, match="row='CEE': expected one of CE, "):
        equal.difference("CEE", "CE")


def test_two_stages_stand_beside_one_of_as_many_steps(study, tmp_path):
    """CE takes 10 ms in the study and 20 beside second stages, which take 30 and 40."""
    home, prior = tmp_path / "stages" / "300", {"method": "semantic_prior", "semantic_dim": 64}
    kinds = ({"token_head": "plain", "freeze": True}, 30.0), ({}, 40.0)
    for seed in range(2):
        first = store(home / "first", 3.4, 3.4, steps=15, seed=seed, **prior)
        for kind, step_ms in kinds:
            stage1 = prior | kind | {"stage1": f"{first}.safetensors"}
            store(home / "second", 3.1, 3.1, steps=5, seed=seed + 100, **stage1)
            store(home / "cost", 4.0, 4.0, step_ms=step_ms, steps=2, seed=seed, **stage1)
    for steps in (20, 25):  # the shorter one is in the study too
        store(home / "first", 4.0, 4.0, method="ce", steps=steps)
    store(home / "cost", 4.0, 4.0, step_ms=20.0, method="ce", steps=2)
    store(study / "300" / "cost", 4.0, 4.0, step_ms=6.0, steps=5, **prior)
    view = two_stages.alignment(tmp_path / "stages", study, 300)
    alone = "SEMANTIC with prior, 15 steps"
    seconds = {alone: 0.09, f"{alone}, then plain, A": 0.165, f"{alone}, then goes on": 0.19,
               "SEMANTIC with prior, 20 steps": 0.12, "CE, 20 steps": 0.2, "CE, 25 steps": 0.25}  # fmt: skip
    assert view.table.loc[list(view.rows), "seconds"].to_dict() == pytest.approx(seconds)
    assert view.table.loc[f"{alone}, then goes on", ["seeds", "steps"]].tolist() == [2, 20]
    assert view.table.loc["CE, 20 steps", "seeds"] == 2
    assert view.difference(f"{alone}, then plain, A", alone).gap == pytest.approx(-0.3)


def test_what_is_no_study(tmp_path):
    with pytest.raises(ValueError, match="expected one that `make study` wrote"):
        quality.vocabs(tmp_path)


def test_backbones_are_timed_by_their_turns_with_the_gru(study):
    """The GRU took 10 ms beside the methods; beside the Transformer 20, and that 30: so its step is 15 ms."""
    home, block = study / "300", {"backbone": "transformer", "layers": 1, "mlp_ratio": 1}
    for settings, step_ms in (({}, 20.0), (block, 30.0)):
        store(home / "backbone-cost", 4.0, 4.0, step_ms=step_ms, method="ce", steps=5, seed=3, **settings)
        store(home / "backbone-equal", 4.0, 4.0, method="ce", steps=20, **settings)
    (equal,) = quality.views(study, 300, "backbone-")
    assert equal.step_ms["CE"] == 10
    assert equal.step_ms["CE, 1-block Transformer"] == pytest.approx(15)
    assert equal.table.loc["CE, 1-block Transformer", "seconds"] == pytest.approx(0.3)
    assert set(equal.rows) == {"CE", "CE, 1-block Transformer"}


def test_as_published_is_a_range_of_two_starts(tmp_path):
    home = tmp_path / "300"
    for nll, std in ((5.0, 0.02), (6.0, 1.0)):
        store(home / "equal", nll, nll, method="semantic", lr=3e-4, steps=20, init_std=std)
        store(home / "cost", nll, nll, method="semantic", lr=3e-4, steps=5, init_std=std)
    counted = [{"order": 3, "examples": 20, "seconds": 0.5, "full_vocab": {}, "by_document": by_document(5.0)}]
    (home / "controls.json").write_text(json.dumps(counted))
    (view,) = quality.views(tmp_path, 300)
    mean = (-0.5 * 40 + 0.3 * 100) / 200
    assert view.as_published("NLL", ".2f") == f"{5 + mean:.2f} to {6 + mean:.2f}"
