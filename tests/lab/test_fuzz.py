"""Whatever comes in: a result, or an error that says what is wrong with it. `make drill` tries 10,000 of each."""

import gzip
import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from conftest import CHAT, LENGTHS, SIZES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scta_lab import Spec, grid, text, train
from scta_lab.run.result import read
from scta_lab.study.claims import claims
from scta_lite import paper
from scta_lite.notebook import parameters

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])

NAMES = [f.name for f in fields(Spec)]
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.just(10**400),
    st.sampled_from(["50k", "1M", "ce", "semantic", "rows", "", "-", "nan", "1e999", "\x1b[31m"]),
    st.sampled_from([2, 16, 64, 1000, 0.9, 1e-3]),
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@calm
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=4))
def test_a_spec_is_one_or_says_why_not(changes):
    try:
        spec = Spec(**{"method": "semantic", "vocab": 1000} | changes)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert spec == Spec(**spec.changes())
        json.dumps(spec.changes())
        assert spec.run_id("x").isascii()
        assert not set(spec.run_id("x")) & set("/\\. ")


@calm
@given(st.dictionaries(st.sampled_from(["vocab", "method", "optimizer", "lr", "seeds"]), values, max_size=3))
def test_a_grid_is_one_or_says_why_not(asked):
    try:
        specs = grid(**{"vocab": 100, "method": "ce"} | asked)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert len(set(specs)) == len(specs) >= 1


@calm
@given(st.dictionaries(st.sampled_from(["vocab", "steps", "vocabb", "out", "resume"]), values, max_size=4))
def test_the_parameters_of_a_notebook(given_values):
    cell = {"In": ["vocab: int = 5\nresume: bool = True"], "vocab": 5, "resume": True}
    try:
        names = set(parameters({**cell, **given_values}))
    except ValueError as error:
        assert "expected" in str(error)
    else:
        assert names == {"vocab", "resume"}


RECORDS = CHAT.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@calm
@given(
    st.sampled_from([".json", ".jsonl", ".txt", ".md", ".csv", ".tsv", ".json.gz", ".parquet", ".npy"]),
    st.one_of(
        st.binary(max_size=300),
        st.text(max_size=200).map(str.encode),
        values.map(lambda value: json.dumps(value).encode()),
        st.tuples(st.integers(0, len(RECORDS) - 1), st.binary(max_size=5)).map(
            lambda at: RECORDS[: at[0]] + at[1] + RECORDS[at[0] + 1 :]
        ),
    ),
    st.booleans(),
)
def test_a_file_of_text_is_read_or_says_why_not(folder, suffix, content, packed):
    path = folder / f"text{suffix}"
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        corpus = text.load(str(path), progress=False)
        corpus.ids(300)
    except (ValueError, OSError) as error:
        assert "corpus=" in str(error) or "vocab=" in str(error)
        assert len(str(error)) < 1000
    else:
        assert corpus.ids_made_elsewhere or corpus.about["documents"] >= 2


SAMPLES = sorted((Path(__file__).parent / "dialects").iterdir())
KEYS = ["text", "role", "from", "messages", "turns", "system", "output", "chosen", "rejected", "replies", "tool_calls"]


def places(value, path=()):
    """The paths of keys and indices to all that a JSON value holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def strings(value):
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inner)


def letters(texts):
    return sum(letter.isalpha() for text in texts for letter in text)


@calm
@given(st.sampled_from(SAMPLES), st.data())
def test_of_a_changed_sample_not_half_is_lost_without_a_word(folder, sample, data):
    whole = sample.read_text()
    records = json.loads(whole) if sample.suffix == ".json" else [json.loads(line) for line in whole.splitlines()]
    records = [records, [{"text": "One more."}, {"text": "And one."}]]
    for _ in range(data.draw(st.integers(1, 4))):
        *path, last = data.draw(st.sampled_from(list(places(records))[1:]))
        holder = records
        for key in path:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            holder[data.draw(st.sampled_from(KEYS))] = holder.pop(last)
        else:
            holder[last] = data.draw(values)
    parts = [part if isinstance(part, list) else [part] for part in records]
    path = folder / "changed.json"
    path.write_text(json.dumps([record for part in parts for record in part]))
    try:
        corpus = text.load(str(path), progress=False)
    except ValueError as error:
        assert "corpus=" in str(error)
        assert "\n" not in str(error)
    else:
        is_half = letters(text.documents(path)) < letters(strings(json.loads(path.read_text()))) / 2
        assert corpus.about["not_read"] or not is_half


@pytest.fixture(scope="module")
def run():
    """The text of a run's file, and its name."""
    result = train(Spec(method="semantic", corpus="zipf", device="cpu", steps=4, **SIZES, **LENGTHS))
    return json.dumps(result.to_dict()), f"{result.run_id}.json"


@calm
@given(st.data())
def test_a_run_file_is_read_or_refused_by_name(folder, run, data):
    good, name = run
    changed = json.loads(good)
    if data.draw(st.booleans()):
        changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(values)
    written = json.dumps(changed).encode()
    at = data.draw(st.integers(0, len(written)))
    if data.draw(st.booleans()):
        written = written[:at] + data.draw(st.binary(max_size=3)) + written[at + data.draw(st.integers(0, 40)) :]
    (folder / name).write_bytes(written)
    try:
        status = read(folder / name)["status"]
    except ValueError as error:
        assert str(error).startswith(f"{name}: not a run's file")
    else:
        assert status in ("ok", "out_of_memory", "killed", "failed", "skipped")


@calm
@given(st.text(max_size=200), st.integers(0, 2000))
def test_claims_are_read_or_say_why_not(tmp_path_factory, noise, at):
    made = tmp_path_factory.getbasetemp() / "claims.csv"
    good = (paper.TABLES / "claims.csv").read_text()
    made.write_text(good[:at] + noise + good[at:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "TABLES", made.parent)
        try:
            table = claims()
        except ValueError as error:
            assert "claims.csv" in str(error)
        else:
            assert isinstance(table, pd.DataFrame)
    assert Path(made).is_file()
