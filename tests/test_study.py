"""What is stored is what `make study` and `make stages` would run today: no setting was chosen by hand."""

import json
import sys
from types import SimpleNamespace

import pytest

from scta_lite import cost, figures, text
from scta_lite.files import ROOT
from scta_lite.runs.result import Result

sys.path.insert(0, str(ROOT / "tools"))
import backbones
import stages
import study

RUNS = ROOT / "data" / "runs" / "two-cores"


class Stored:
    """The runs of a folder; `asked` are those that have been read."""

    def __init__(self, folder):
        self.runs, self.asked = {}, set()
        for path in sorted(folder.glob("*/*/*.json")):
            run = json.loads(path.read_text())
            part = path.parent.relative_to(folder).as_posix()
            self.runs[part, Result.from_dict(run).spec.run_id("")] = run

    def __call__(self, specs, part):
        keys = [(part, spec.run_id("")) for spec in specs]
        self.asked |= set(keys)
        return [self.runs[key] for key in keys]


@pytest.mark.parametrize("vocab", study.VOCABS)
def test_the_study_that_is_stored_is_the_one_that_would_be_run(vocab):
    stored = Stored(RUNS / "quality")
    parts = {part.partition("/")[2] for part, _ in stored.runs if part.startswith(f"{vocab}/")}
    if not parts:
        pytest.skip(f"no run of V = {vocab:,} is stored")
    try:
        for label in study.METHODS if "tune" in parts else ():
            study.tune(vocab, label, stored)
        if "cost" in parts:
            study.cost(vocab, stored)
        assert {key for key in stored.runs if key[0] in (f"{vocab}/tune", f"{vocab}/cost")} <= stored.asked
        for label in study.METHODS if vocab == study.LOW else ():
            study.decay(label, stored)
    except KeyError as missing:
        pytest.skip(f"the study goes on: {missing} is not stored yet")
    planned = set(stored.asked)
    for part in parts & {"equal", "changed", "seconds", "data"}:
        planned |= {(f"{vocab}/{part}", spec.run_id("")) for spec in study.PARTS[part](vocab, stored)}
    there = {key for key in stored.runs if key[0].startswith(f"{vocab}/")}
    assert there <= planned
    if missing := {key for key in planned if key[0].startswith(f"{vocab}/")} - there:
        pytest.skip(f"{len(missing)} of {len(planned)} trainings are not stored yet")


def made_up(specs, part):
    """Runs in which the smallest rates and the largest S are best, and a step takes 40 ms."""
    nlls = [spec.lr + (spec.table_lr or spec.lr) + 1 / (1 + spec.shared) for spec in specs]
    same = {"status": "ok", "step_ms": 40.0, "examples_available": 70_000}
    return [{**same, "validation": [{"nll": nll}]} for nll in nlls]


def test_every_method_gets_its_trials():
    for vocab, trials in study.TRIALS.items():
        for label in study.METHODS:
            seen = {}

            def run(specs, part, seen=seen):
                seen.setdefault(part, set()).update(specs)
                return made_up(specs, part)

            study.tune(vocab, label, run)
            assert len(seen[f"{vocab}/tune"]) >= trials, (vocab, label)
            assert len({spec.steps for spec in seen[f"{vocab}/tune"]}) == 1


def searched(start, trials, best):
    """What a search tries and finds where the NLL is the distance from the best on each ladder."""
    tried = []

    def score(settings):
        tried.extend(settings)
        return [
            sum(abs(study.LADDERS[k].index(s[k]) - study.LADDERS[k].index(v)) for k, v in best.items())
            for s in settings
        ]

    return study.search(start, trials, score), tried


def test_a_search_has_its_trials_and_no_setting_twice():
    start = {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1, "temperature": 0.07}
    found, tried = searched(start, 10, start)
    assert found == start
    assert len(tried) == len({tuple(s.values()) for s in tried}) == 10


def test_a_search_goes_on_over_the_edge():
    """Up to 0.1 it is better: the six trials end at 0.03 with nothing beyond, and so it tries 0.1 and 0.3 as well."""
    found, tried = searched({"lr": 3e-3, "table_lr": 1e-2}, 6, {"lr": 1e-2, "table_lr": 1e-1})
    assert found == {"lr": 1e-2, "table_lr": 1e-1}
    assert {s["table_lr"] for s in tried} >= {3e-2, 1e-1, 3e-1}
    assert 6 < len(tried) < 10
    assert study.edges([{"lr": 1e-3}, {"lr": 3e-3}], {"lr": 3e-3}) == [("lr", 1)]
    assert study.edges([{"lr": 1e-3}, {"lr": 3e-3}], {"lr": 1e-3}) == [("lr", -1)]
    assert not study.edges([{"lr": 1e-3}, {"lr": 3e-3}, {"lr": 1e-2}], {"lr": 3e-3})
    assert not study.edges([{"lr": 3e-3}], {"lr": 3e-3})  # an axis along which nothing was tried


def test_every_row_has_the_name_that_it_has_in_figures():
    for vocab in study.VOCABS:
        for label in study.LABELS:
            spec = study.row(vocab, label, made_up, 100, 0)
            assert figures.variant(spec) == label
            assert (spec.schedule, spec.warmup) == (("constant", 0) if label in study.PUBLISHED else ("cosine", 5))


def test_equal_seconds_are_as_many_steps_as_fit():
    specs = study.seconds(study.HIGH, made_up)
    assert {spec.steps for spec in specs} == {200_000 // 40}
    assert {(spec.examples, spec.epochs) for spec in specs} == {(70_000, 2)}  # 80,000 examples are needed
    assert all(spec.seed < study.SEEDS[study.HIGH] for spec in specs)


def test_backbones_differ_in_nothing_but_their_shape_and_what_was_tuned():
    counts = {}
    for row in backbones.ROWS:
        for spec in (backbones.trained(row, made_up, 100, 0), *backbones.seconds(made_up)):
            counts[figures.variant(spec)] = cost.parameters(spec)["backbone"]
            assert (spec.hidden, spec.vocab, spec.optimizer) == (256, study.LOW, "rows")
    assert list(counts) == backbones.ROWS
    for label in ("CE", study.PRIOR):
        gru, same, more = (counts[label + shape] for shape in backbones.SHAPES)
        assert same / gru == pytest.approx(1, abs=0.002)
        assert more / gru == pytest.approx(4, abs=0.02)
    assert len(set(backbones.equal(made_up))) == len(backbones.ROWS) * study.SEEDS[study.LOW]


def test_the_stages_that_are_stored_are_those_that_would_be_run(monkeypatch):
    chosen, stored = Stored(RUNS / "quality"), Stored(RUNS / "stages")
    if not stored.runs:
        pytest.skip("no second stage is stored")
    fingerprint = next(iter(stored.runs.values()))["fingerprint"]
    monkeypatch.setattr(text, "load", lambda **how: SimpleNamespace(fingerprint=fingerprint))
    for vocab in {int(part.partition("/")[0]) for part, _ in stored.runs}:
        stored(stages.ends(vocab, stored, chosen, RUNS), f"{vocab}/second")
        labels = [label for of, label in stages.STEPS if of == vocab]
        for seed in range(stages.SEEDS[vocab]):
            begun = [stages.first(vocab, label, chosen, seed) for label in labels]
            ces = [study.row(vocab, "CE", chosen, steps, seed) for steps in stages.CES[vocab]]
            stored(begun + ces, f"{vocab}/first")
    assert set(stored.runs) == stored.asked


def test_a_second_stage_has_its_own_rates_and_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "load", lambda **how: SimpleNamespace(fingerprint="x"))
    of = stages.first(study.LOW, study.PRIOR, made_up)
    frozen, whole = (stages.second(of, kind, tmp_path, 200, lr=1e-3) for kind in (stages.KINDS[0], stages.SAMPLED))
    assert (frozen.token_head, frozen.freeze, frozen.steps, frozen.warmup, frozen.lr) == (
        "normalised",
        True,
        200,
        10,
        1e-3,
    )
    assert (whole.freeze, whole.sampled_head) == (False, True)
    assert whole.stage1.startswith(str(tmp_path))
