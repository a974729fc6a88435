"""What is stored is what `make study` and `make stages` would run today: no setting was chosen by hand."""

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from scta_lab import text
from scta_lab.base.files import ROOT
from scta_lab.judge import cost
from scta_lab.run.result import Result
from scta_lab.study import labels

sys.path.insert(0, str(ROOT / "studies"))
import initial
import padded_race
import plan
import race
import search
import second_stages
import study
import trainings
from second_stages import Kind, Stages

RUNS = ROOT / "data" / "runs" / "two-cores"


class Stored:
    """The runs of a folder; `asked` are those that have been read."""

    def __init__(self, folder):
        self.runs, self.asked = {}, set()
        for path in sorted(folder.glob("*/*/*.json")):
            run = json.loads(path.read_text())
            part = path.parent.relative_to(folder).as_posix()
            self.runs[part, Result.from_dict(run).spec.run_id("")] = run

    def __call__(self, specs, part, executor=None):
        keys = [(part, spec.run_id("")) for spec in specs]
        self.asked |= set(keys)
        return [self.runs[key] for key in keys]


@pytest.mark.parametrize("vocab", plan.VOCABS)
def test_the_study_that_is_stored_is_the_one_that_would_be_run(vocab):
    stored = Stored(RUNS / "quality")
    parts = {part.partition("/")[2] for part, _ in stored.runs if part.startswith(f"{vocab}/")}
    if not parts:
        pytest.skip(f"no run of V = {vocab:,} is stored")
    try:
        begun = any(run.get("backbone") == "transformer" for run in stored.runs.values() if run["vocab"] == vocab)
        rows = plan.ROWS if begun else plan.METHODS
        for label in rows if "tune" in parts else ():
            trainings.tune(vocab, label, stored)
        for part, labels in (("cost", plan.LABELS), ("backbone-cost", plan.BACKBONES)):
            if part in parts:
                trainings.cost(vocab, stored, labels)
        found = {f"{vocab}/{part}" for part in ("tune", "cost", "backbone-cost")}
        assert {key for key in stored.runs if key[0] in found} <= stored.asked
        for label in plan.METHODS if vocab == plan.LOW else ():
            trainings.decay(label, stored)
    except KeyError as missing:
        pytest.skip(f"the study goes on: {missing} is not stored yet")
    planned = set(stored.asked)
    plans = dict(study.PLANS)
    plans |= {f"backbone-{part}": partial(plans[part], labels=plan.BACKBONES) for part in ("equal", "seconds")}
    for part in parts & plans.keys():
        planned |= {(f"{vocab}/{part}", spec.run_id("")) for spec in plans[part](vocab, run=stored)}
    there = {key for key in stored.runs if key[0].startswith(f"{vocab}/")}
    assert there <= planned
    if missing := {key for key in planned if key[0].startswith(f"{vocab}/")} - there:
        pytest.skip(f"{len(missing)} of {len(planned)} trainings are not stored yet")


@pytest.mark.parametrize("vocab", [plan.MID, plan.HIGH])
def test_the_race_that_is_stored_is_the_one_that_would_be_run(vocab):
    if not (RUNS / f"race/{vocab}/controls.json").is_file():
        pytest.skip(f"the race at V = {vocab:,} is not stored whole")
    stored = Stored(RUNS / "race")
    with ThreadPoolExecutor(1) as one:
        race.Race(vocab, stored, Stored(RUNS / "quality")).hold(one)
    assert stored.asked == {key for key in stored.runs if key[0].startswith(f"{vocab}/")}


def test_what_races_has_the_steps_of_its_seconds():
    """Of 40 ms in what is made up. Rows decay by the same share, and CE is in chunks."""
    seen = {}

    def run(specs, part, executor=None):
        seen.setdefault(part, []).extend(specs)
        return made_up(specs, part)

    with ThreadPoolExecutor(1) as one:
        held = race.Race(plan.MID, run, run)
        held.hold(one)
    racers = seen[f"{plan.MID}/seconds"]
    assert len(racers) == len(set(racers)) == len(held.labels)
    decaying = [spec.table_lr * spec.weight_decay for spec in racers if spec.method != "semantic"]
    assert decaying == pytest.approx([race.SHRINKING] * 6)
    assert {spec.steps for spec in racers} == {1000 * plan.SECONDS // 40}
    assert "ce" not in {spec.method for spec in racers}


def test_the_padded_race_that_is_stored_is_the_one_that_would_be_run():
    stored = Stored(RUNS / "padded-race")
    with ThreadPoolExecutor(1) as one:
        padded_race.PaddedRace(plan.MID, stored, Stored(RUNS / "quality"), "ids50k.npy").hold(one)
    assert stored.asked <= set(stored.runs)
    more = {part for part, _ in set(stored.runs) - stored.asked}
    assert more == {"200000/turns"}, "SEMANTIC from N(0, 1), which took turns and did not race"


def test_the_padded_race_is_that_of_the_texts_own_vocabulary_in_a_larger_table():
    """But for its rows, its corpus and the adaptive softmax's groups."""
    held = padded_race.PaddedRace(plan.MID, made_up, made_up, "ids.npy")
    for label in held.labels:
        own = race.Race(plan.MID, made_up, made_up).row(label)
        assert held.row(label) == own | {"vocab": plan.HIGH, "corpus": "ids.npy"}


def made_up(specs, part):
    """Runs in which the smallest rates and the largest S are best, and a step takes 40 ms."""
    nlls = [spec.lr + (spec.table_lr or spec.lr) + 1 / (1 + spec.shared) for spec in specs]
    same = {"status": "ok", "step_ms": 40.0, "examples_available": 70_000}
    return [{**same, "validation": [{"nll": nll}]} for nll in nlls]


def test_every_method_gets_its_trials():
    for vocab, trials in plan.TRIALS.items():
        for label in plan.METHODS:
            seen = {}

            def run(specs, part, seen=seen):
                seen.setdefault(part, set()).update(specs)
                return made_up(specs, part)

            trainings.tune(vocab, label, run)
            assert len(seen[f"{vocab}/tune"]) >= trials, (vocab, label)
            assert len({spec.steps for spec in seen[f"{vocab}/tune"]}) == 1


def searched(start, trials, best):
    """What a search tries and finds where the NLL is the distance from the best on each ladder."""
    tried = []

    def score(settings):
        tried.extend(settings)
        return [
            sum(abs(plan.LADDERS[k].index(s[k]) - plan.LADDERS[k].index(v)) for k, v in best.items()) for s in settings
        ]

    return search.search(start, trials, score), tried


def test_a_setting_that_ends_without_a_number_will_not_do():
    ends = [[{"nll": 4.0}], [{"nll": None}], []]
    runs = [{"status": "ok", "validation": end} for end in ends] + [{"status": "failed", "validation": ends[0]}]
    assert search.nlls(runs) == [4.0, *[math.inf] * 3]


def test_a_search_has_its_trials_and_no_setting_twice():
    start = {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1, "temperature": 0.07}
    found, tried = searched(start, 10, start)
    assert found == start
    assert len(tried) == len({tuple(s.values()) for s in tried}) == 10


def test_second_stages_may_find_smaller_rates_than_first_ones():
    for name, ladder in second_stages.LADDERS.items():
        assert list(ladder) == sorted({*ladder, *plan.LADDERS[name]})
        assert ladder[0] <= plan.LADDERS[name][0] / 100


def test_a_search_goes_on_over_the_edge():
    """Up to 0.1 it is better: the six trials end at 0.03 with nothing beyond, and so it tries 0.1 and 0.3 as well."""
    found, tried = searched({"lr": 3e-3, "table_lr": 1e-2}, 6, {"lr": 1e-2, "table_lr": 1e-1})
    assert found == {"lr": 1e-2, "table_lr": 1e-1}
    assert {s["table_lr"] for s in tried} >= {3e-2, 1e-1, 3e-1}
    assert 6 < len(tried) < 10
    assert search.edges([{"lr": 1e-3}, {"lr": 3e-3}], {"lr": 3e-3}) == [("lr", 1)]
    assert search.edges([{"lr": 1e-3}, {"lr": 3e-3}], {"lr": 1e-3}) == [("lr", -1)]
    assert not search.edges([{"lr": 1e-3}, {"lr": 3e-3}, {"lr": 1e-2}], {"lr": 3e-3})
    assert not search.edges([{"lr": 3e-3}], {"lr": 3e-3})  # an axis along which nothing was tried


def test_every_row_has_the_name_that_it_has_in_figures():
    for vocab in plan.VOCABS:
        for label in dict.fromkeys(plan.LABELS + plan.BACKBONES):
            spec = trainings.row(vocab, label, made_up, 100, 0)
            assert labels.variant(spec) == label
            assert (spec.schedule, spec.warmup) == (("constant", 0) if label in plan.PUBLISHED else ("cosine", 5))


def test_equal_seconds_are_as_many_steps_as_fit():
    specs = trainings.seconds(plan.HIGH, made_up)
    assert {spec.steps for spec in specs} == {200_000 // 40}
    assert {(spec.examples, spec.epochs) for spec in specs} == {(70_000, 2)}  # 80,000 examples are needed
    assert all(spec.seed < plan.SEEDS[plan.HIGH] for spec in specs)


def test_a_slow_row_has_as_much_text_as_a_fast_one():
    """Of 4 s a step 50 fit into 200 s: 800 examples, drawn from as many as the fast rows read."""

    def slow(specs, part):
        return [run | {"step_ms": 4000.0, "examples_available": 90_000} for run in made_up(specs, part)]

    specs = trainings.seconds(plan.HIGH, slow)
    assert {(spec.steps, spec.examples, spec.epochs) for spec in specs} == {(50, plan.POOL, 1)}


def test_backbones_differ_in_nothing_but_their_shape_and_what_was_tuned():
    counts = {}
    for label in plan.BACKBONES:
        for spec in (trainings.row(plan.LOW, label, made_up, 100, 0), *trainings.seconds(plan.LOW, made_up, (label,))):
            counts[labels.variant(spec)] = cost.parameters(spec)["backbone"]
            assert (spec.hidden, spec.vocab, spec.optimizer) == (256, plan.LOW, "rows")
    assert tuple(counts) == plan.BACKBONES
    for label in ("CE", plan.PRIOR):
        same, more = (counts[label + shape] / counts[label] for shape in plan.TRANSFORMERS)
        assert same == pytest.approx(1, abs=0.002)
        assert more == pytest.approx(4, abs=0.02)
    equal = trainings.equal(plan.LOW, made_up, plan.BACKBONES)
    assert len(set(equal)) == 2 * plan.SEEDS[plan.LOW] + len(plan.GRU)


def test_a_transformers_seconds_are_those_of_the_gru_with_which_it_took_turns():
    """The GRU took 40 ms among all rows; beside the Transformers the machine was twice as slow, and they 1.5 times."""

    def run(specs, part):
        ms = {"gru": 80.0, "transformer": 120.0} if part.endswith("backbone-cost") else {}
        return [made_up([spec], part)[0] | {"step_ms": ms.get(spec.backbone, 40.0)} for spec in specs]

    label = plan.BACKBONES[-1]
    assert trainings.step_ms(plan.LOW, plan.PRIOR, run) == 40
    assert trainings.step_ms(plan.LOW, label, run) == pytest.approx(60)
    assert trainings.steps_in(plan.SECONDS, plan.LOW, label, run) == 3333


def test_the_stages_that_are_stored_are_those_that_would_be_run(monkeypatch):
    chosen, stored = Stored(RUNS / "quality"), Stored(RUNS / "stages")
    if not stored.runs:
        pytest.skip("no second stage is stored")
    fingerprint = next(iter(stored.runs.values()))["fingerprint"]
    monkeypatch.setattr(text, "load", lambda *corpus, **how: SimpleNamespace(fingerprint=fingerprint))
    planned = set()

    def add(specs, part):
        planned.update((part, spec.run_id("")) for spec in specs)

    for vocab in {int(part.partition("/")[0]) for part, _ in stored.runs}:
        stages = Stages(vocab, stored, chosen, RUNS)
        add(stages.begun(), f"{vocab}/first")
        replace(stages, run=add).cost()
        try:
            add(stages.ends(), f"{vocab}/second")
        except KeyError as missing:
            pytest.skip(f"the stages go on: {missing} is not stored yet")
    assert set(stored.runs) <= planned | stored.asked
    if missing := planned - set(stored.runs):
        pytest.skip(f"{len(missing)} of {len(planned)} trainings are not stored yet")


@pytest.mark.parametrize("vocab", plan.VOCABS)
def test_all_that_the_stages_would_run_can_be_said(vocab, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "load", lambda *corpus, **how: SimpleNamespace(fingerprint="x"))
    asked = []

    def run(specs, part):
        asked.extend(specs)
        return made_up(specs, part)

    stages = Stages(vocab, run, made_up, tmp_path)
    begun = stages.begun()
    ends = stages.ends()
    tuned = len(asked)
    stages.cost()
    there = {str(tmp_path / f"{spec.run_id('x')}.safetensors") for spec in begun}
    assert {spec.stage1 for spec in ends + asked} <= there | {None}
    assert len(set(ends)) == len(ends)
    kinds = second_stages.kinds(vocab)
    assert len(ends) == sum(len(second_stages.seeds(vocab, label)) for label, _ in kinds)
    assert tuned >= len(kinds) * second_stages.TRIALS
    assert len(asked) - tuned == (len(kinds) + 1) * plan.ROUNDS


def test_a_second_stage_has_its_own_rates_and_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "load", lambda *corpus, **how: SimpleNamespace(fingerprint="x"))
    first = Stages(plan.LOW, made_up, made_up, tmp_path).first(plan.PRIOR)
    frozen, whole = (
        second_stages.second(first, kind, tmp_path, 200, lr=1e-3)
        for kind in (second_stages.KINDS[0], second_stages.SAMPLED)
    )
    assert (frozen.token_head, frozen.freeze) == ("normalised", True)
    assert (frozen.steps, frozen.warmup, frozen.lr) == (200, 10, 1e-3)
    assert (whole.freeze, whole.sampled_head) == (False, True)
    assert (first.seed, whole.seed) == (0, 100)
    goes_on = second_stages.second(first, Kind(), tmp_path, 200)
    assert goes_on.changes().keys() - first.changes().keys() == {"seed", "stage1"}
    assert whole.stage1.startswith(str(tmp_path))


def test_the_starts_that_are_stored_are_those_of_the_plan():
    fingerprint = "1b777163afff"
    planned = {spec.run_id(fingerprint) for specs in initial.plan().values() for spec in specs}
    stored = {path.stem for path in (RUNS / "initial").rglob("*.json")}
    assert len(stored) >= 14
    assert stored <= planned
