import dataclasses

import pandas as pd
import pytest

from scta_lab import Spec
from scta_lab.base.files import ROOT
from scta_lab.study.statements import published_statements
from scta_lite import PAPER, paper, published_epoch_losses, published_runs


def test_settings_are_the_defaults_of_a_run():
    spec = Spec(method="ce", vocab=PAPER.vocabs[0])
    for field in dataclasses.fields(PAPER):
        if field.name != "vocabs":
            assert getattr(spec, field.name) == getattr(PAPER, field.name), field.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.hidden = 1


def test_published_tables_are_whole():
    runs = published_runs()
    assert len(runs) == 12
    assert set(runs.method) == {"ce", "semantic"}
    assert runs[runs.status != "ok"][["machine", "vocab", "method"]].values.tolist() == [
        ["RTX 4070 Laptop", 1_000_000, "ce"]
    ]
    done = runs[runs.status == "ok"]
    assert (done.seconds * done.tokens_per_s / 2.52e6 - 1).abs().max() < 1e-3  # tokens = seconds × tokens/s
    assert done.step_ms.tolist() == pytest.approx((done.seconds / 2.5).tolist())
    assert published_epoch_losses().method.value_counts().to_dict() == {"ce": 6, "semantic": 6}


def test_a_missing_table_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(paper, "TABLES", tmp_path / "data" / "paper")
    with pytest.raises(FileNotFoundError, match=r"runs\.csv"):
        published_runs()
    (tmp_path / "data/paper").mkdir(parents=True)
    (tmp_path / "data/paper/runs.csv").write_text("gpu,vocab\nA,5\n")
    with pytest.raises(ValueError, match=r"runs\.csv: the columns \['method', 'seconds', 'viable'\] are missing"):
        published_runs()


def test_speedup_is_against_ce_on_the_same_machine_and_vocabulary():
    runs = published_runs()
    for run in runs[runs.status == "ok"].itertuples():
        ce = runs[(runs.machine == run.machine) & (runs.vocab == run.vocab) & (runs.method == "ce")].seconds.item()
        assert run.speedup == pytest.approx(ce / run.seconds, nan_ok=True)


SEVEN = {  # the results' section on degradation, by GPU, method, and the smaller V
    ("RTX 4070 Laptop", "ce", 50_000): -74.2, ("RTX 4070 Laptop", "semantic", 50_000): -60.7,
    ("RTX 4070 Laptop", "semantic", 200_000): -75.9, ("RTX A6000", "ce", 50_000): -68.8,
    ("RTX A6000", "ce", 200_000): -79.1, ("RTX A6000", "semantic", 50_000): -42.3,
    ("RTX A6000", "semantic", 200_000): -68.9,
}  # fmt: skip


def test_the_seven_exact_percentages_are_those_of_the_table():
    found = published_statements().query("quantity == 'throughput_change_pct' and unit < 1")
    assert found.set_index(["machine", "method", "vocab"]).stated.to_dict() == SEVEN
    assert found.agrees.all()
    rate = published_runs().set_index(["machine", "method", "vocab"]).tokens_per_s
    larger = {50_000: 200_000, 200_000: 1_000_000}
    for (gpu, method, V), stated in SEVEN.items():
        assert round(100 * (rate[gpu, method, larger[V]] / rate[gpu, method, V] - 1), 1) == stated


def test_what_does_not_recompute_is_rounded_in_words_and_stated_exactly_too():
    found = published_statements()
    wrong = found[~found.agrees]
    assert sorted(wrong.stated) == [-75, -68]
    for row in wrong.itertuples():
        exact = found[(found.machine == row.machine) & (found.method == row.method) & (found.unit < 1)]
        exact = exact[(exact.quantity == row.quantity) & (exact.vocab == row.vocab)]
        assert exact.agrees.item()
        assert abs(exact.stated.item() - row.stated) < 1
    assert found.recomputed.notna().all()
    assert found.quantity.nunique() == 12


def test_statements_that_are_off_do_not_agree(monkeypatch, tmp_path):
    monkeypatch.setattr(paper, "TABLES", tmp_path / "data" / "paper")
    (tmp_path / "data/paper").mkdir(parents=True)
    for name in ("runs.csv", "epoch_losses.csv"):
        (tmp_path / "data/paper" / name).write_text((ROOT / "data/paper" / name).read_text())
    text = pd.read_csv(ROOT / "data/paper/statements.csv")
    text["stated"] += 2 * text.unit
    text.to_csv(tmp_path / "data/paper/statements.csv", index=False)
    moved = published_statements().iloc[: len(text)]
    assert not moved.agrees.any()
