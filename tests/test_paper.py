import dataclasses

import pytest

from scta_lite import PAPER, Spec, files, published_epoch_losses, published_runs


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
    monkeypatch.setattr(files, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data/paper/runs\.csv is missing"):
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
