"""The paper's package alone: what it trains is what the laboratory trains, and its loop, hooks, files and table."""

import json
import sys
from dataclasses import asdict

import pytest
import torch

import scta_lab
import scta_lite
from scta_lab import text
from scta_lite import Spec, load_runs, sweep, train
from scta_lite.train import DrawnIds, Run, fit, measured

SIZES = {"vocab": 300, "hidden": 8, "semantic_dim": 4, "negatives": 3, "examples": 24, "batch": 4, "seq_len": 8}


def tiny(method="semantic", **changes):
    return Spec(**{"method": method, "device": "cpu", "lr": 1e-2, **SIZES, **changes})


class Zipf:
    """The laboratory's ids as data of the paper's package."""

    fingerprint = "zipf-2"

    def __init__(self, spec):
        self.examples = text.load("zipf").examples(spec.vocab, spec.seq_len, spec.examples)

    def __len__(self):
        return len(self.examples)

    def rows(self, numbers, device):
        return self.examples.rows(numbers, device)


@pytest.mark.parametrize(("method", "optimizer", "tolerance"), [
    ("ce", "dense", 0), ("ce", "rows", 0), ("semantic", "dense", 1e-6), ("semantic", "rows", 1e-6),
])  # fmt: skip
def test_it_trains_what_the_laboratory_trains(method, optimizer, tolerance):
    """To the bit, but for the cosines, whose gradient the laboratory takes by hand."""
    spec = tiny(method, optimizer=optimizer)
    theirs = scta_lab.train(scta_lab.Spec(**asdict(spec), corpus="zipf")).loss_curve["loss"]
    ours = train(spec, Zipf(spec)).losses
    assert len(ours) == spec.steps_total == 12
    assert [round(loss, 7) for loss in ours] == pytest.approx(theirs, rel=tolerance, abs=tolerance)


def test_a_spec_has_the_name_that_the_laboratory_gives_it():
    for spec in (tiny(), tiny("ce", optimizer="rows"), Spec(method="semantic", vocab=50_000, init_std=0.02)):
        assert spec.run_id("x") == scta_lab.Spec(**asdict(spec)).run_id("x")


def test_the_default_spec_is_the_papers():
    assert len(asdict(tiny())) == 20
    with pytest.raises(ValueError, match=r"^method='adaptive': expected one of ce, semantic"):
        tiny("adaptive")
    assert tiny(vocab=300.0).vocab == 300


def test_a_hook_sees_each_step_and_ends_the_training():
    steps = []

    def watch(run):
        steps.append((run.done, run.losses[run.done - 1].item()))

    def stop(run):
        return run.done == 5

    run = Run(tiny(), DrawnIds(tiny()))
    fit(run, [stop, watch])  # the second is called too
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5]
    assert all(loss > 0 for _, loss in steps)
    fit(run)  # goes on where it was
    assert run.done == 12
    assert measured(run, 2.0).losses == train(tiny()).losses


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny(steps=2))
    assert torch.equal(torch.rand(3), expected)


def test_seconds_are_extrapolated_where_steps_are_missing():
    part, whole = train(tiny(steps=4)), train(tiny())
    assert (part.extrapolated, whole.extrapolated) == (True, False)
    assert part.seconds == pytest.approx(part.step_ms * 12 / 1e3)
    assert whole.tokens_per_s * whole.seconds == pytest.approx(4 * 7 * 12)
    assert whole.final_loss == pytest.approx(sum(whole.losses) / 12)


def test_a_sweep_is_a_file_a_run_and_is_not_done_twice(tmp_path):
    specs = [tiny("ce"), tiny()]
    runs = sweep(specs, tmp_path)
    assert runs.method.tolist() == ["ce", "semantic"]
    assert runs.status.tolist() == ["ok", "ok"]
    assert runs.speedup[0] == 1
    assert runs.speedup[1] == pytest.approx(runs.seconds[0] / runs.seconds[1])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 2
    assert sweep(specs, tmp_path).equals(runs)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert load_runs(tmp_path).equals(runs)


def test_a_run_without_memory_takes_no_other_with_it(tmp_path, monkeypatch):
    def no_memory(spec, data):
        if spec.method == "ce":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(spec, data)

    monkeypatch.setattr(sys.modules["scta_lite.sweep"], "train", no_memory)  # the package's `sweep` is the function
    runs = sweep([tiny("ce"), tiny()], tmp_path)
    assert runs.status.tolist() == ["out_of_memory", "ok"]
    assert json.loads(next(tmp_path.glob("ce-*.json")).read_text())["reason"] == "CUDA out of memory"


def test_the_papers_figures_take_its_runs(tmp_path):
    from scta_lab.study import figures

    runs = sweep([tiny("ce"), tiny()], tmp_path)
    assert figures.throughput(runs).axes
    assert figures.results_table(runs).method.tolist() == ["CE", "SEMANTIC"]


def test_scores_are_over_the_whole_vocabulary():
    for method in ("ce", "semantic"):
        model = train(tiny(method, steps=2)).model
        scores = model.head.scores(model(torch.arange(8).view(1, 8)).flatten(0, 1))
        assert scores.shape == (8, 300)
        if method == "semantic":
            assert scores.abs().max() <= 1 / 0.07 + 1e-3


def test_its_public_names_are_there():
    for name in ("PAPER", "Spec", "train", "sweep", "load_runs", "VocabTable", "RowAdamW", "semantic_loss"):
        assert hasattr(scta_lite, name)
