"""README's numbers and the verdicts are those of the stored runs.

Where stored runs settle a claim, its test says what would overturn the verdict.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from numbers_in import behind_unigram, shown_by, told, unfounded

from scta_lab import load_runs
from scta_lab.base.files import ROOT
from scta_lab.judge.uncertainty import difference
from scta_lab.study import figures, quality
from scta_lab.study.claims import VERDICTS, claims
from scta_lab.study.statements import published_statements
from scta_lite import PAPER, published_epoch_losses, published_runs

README = (ROOT / "README.md").read_text()
RUNS = ROOT / "data" / "runs"
BENCH = RUNS / "amd-epyc-2-cores" / "bench"
STUDY = RUNS / "two-cores" / "quality"
RACE = RUNS / "two-cores" / "race"  # of equal seconds again
LOW, MID, HIGH = 8_192, 50_000, 200_000
REPAIRED = "SEMANTIC with prior"
CLAIMS = claims().set_index("id")


def answer(question):
    """README's line for the question that begins so."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {question}")]
    return line


@cache
def step_ms():
    """Of the rounds of `make bench`, by V, method, optimizer and round."""
    runs = load_runs(BENCH).query("status == 'ok' and corpus != 'zipf'")
    return runs.set_index(["vocab", "method", "optimizer", "seed"]).step_ms.astype(float).sort_index()


def times(above, below, vocabs=PAPER.vocabs):
    """How many times as long a step of the first takes: the median over rounds of each round's ratio."""
    return [(step_ms()[(V, *above)] / step_ms()[(V, *below)]).median() for V in vocabs]


def growth(kind):
    """A step at V = 1M over one at 50K, the median over rounds."""
    return (step_ms()[(1_000_000, *kind)] / step_ms()[(50_000, *kind)]).median()


@cache
def on_h200():
    """The last training of each kind: method, optimizer (captured is one of its own), V."""
    parts = [load_runs(RUNS / "h200" / part).sort_values("date") for part in ("bench", "rows", "paper")]
    kinds = ["method", "optimizer", "vocab"]
    runs = figures.by_kind(pd.concat(parts))
    again = figures.by_kind(parts[0]).set_index(kinds).step_ms  # as published, in another turn
    return runs.drop_duplicates(kinds, keep="last").set_index(kinds).sort_index(), again


@cache
def after(vocab, what):
    """The comparison after "steps", the most of them, or after "seconds"."""
    raced = what == "seconds" and vocab in quality.vocabs(RACE)
    folder = RACE if raced else STUDY
    return [view for view in quality.views(folder, vocab) if what in view.name][-1]


def test_how_much_faster_a_step_is():
    ce, dense, rows = ("ce", "dense"), ("semantic", "dense"), ("semantic", "rows")
    assert "{:.0f}, {:.0f}, {:.0f} times".format(*times(ce, dense)) in answer("Is a step faster")
    assert f"{growth(dense):.1f}, row-sparse {growth(rows):.2f} (" in answer("Must a step grow")
    assert all(ratio > 1 for ratio in times(ce, dense))


def test_how_much_faster_it_is_on_a_gpu():
    runs, again = on_h200()
    ratio = (runs.step_ms["ce", "dense"] / runs.step_ms["semantic", "dense"]).astype(float).tolist()
    lowest, highest = sorted([ratio[0], runs.step_ms["ce", "dense"][50_000] / again["semantic", "dense"][50_000]])
    captured = runs.step_ms["ce", "dense, captured"] / runs.step_ms["semantic", "dense, captured"]
    told = f"{lowest:.1f} to {highest:.1f}, {ratio[1]:.1f}, {ratio[2]:.1f}"
    told += f", at 1M as graphs {captured[1_000_000]:.1f} (H200"
    assert told in answer("Is a step faster")
    assert highest < 1 < ratio[1] < ratio[2]


def test_how_good_the_model_is():
    view = after(LOW, "steps")
    assert view.name == "2,500 steps"
    rows = ["CE", REPAIRED, *quality.PUBLISHED]
    assert all(len(view.rows[row]) == 3 for row in rows), "means of three seeds"
    ce, repaired = view.table.loc["CE"], view.table.loc[REPAIRED]
    trigram = view.trigram["full_vocab"]["nll"]
    (at_its_rate,) = quality.runs_of(STUDY / "8192" / "changed", steps=2_500, lr=3e-4).full_vocab
    told = f"paper's settings {view.as_published('NLL', '.2f')}, CE {at_its_rate['nll']:.2f}; searched "
    told += f"{view.table.NLL['SEMANTIC tuned']:.2f}, CE {ce.NLL:.2f}; trigram {trigram:.2f}. At 50K searched "
    middle = after(MID, "steps")
    told += f"{middle.table.NLL['SEMANTIC tuned']:.2f}, trigram {middle.trigram['full_vocab']['nll']:.2f}"
    assert told in answer("Is the model as good?")
    told = f"error {repaired.NLL:.2f} in {repaired.seconds:.0f} s; CE {ce.NLL:.2f} in {ce.seconds:.0f} s"
    assert told in answer("Can that be repaired?")
    start, end = quality.PUBLISHED[1], "SEMANTIC tuned"
    assert view.difference(start, end).low > view.difference(end, REPAIRED).high, "a search gains most"
    for row in quality.PUBLISHED:
        assert view.difference(row, "trigram").low > 0, row
    assert view.difference(REPAIRED, "trigram").high < 0
    assert view.difference(REPAIRED, "CE").low > 0, "nearly"


def test_in_a_larger_table_the_loss_falls_and_the_error_grows():
    """The ids of V = 50,000, SEMANTIC at the paper's settings, from the start that fits its losses best."""
    folders = [RUNS / "two-cores" / "padded" / f"{rows}" for rows in (MID, HIGH)]
    runs = pd.concat(map(load_runs, folders)).query("method == 'semantic' and steps == 2_500")
    assert runs.vocab.tolist() == [MID, HIGH]
    losses = [epochs[-1]["last"] for epochs in runs.epoch_losses]
    errors = [metrics["nll"] for metrics in runs.full_vocab]
    assert losses[0] > 1.2 * losses[1]
    assert errors[0] < errors[1] - 0.2
    told = "loss {:.2f}, {:.2f}; error {:.2f}, {:.2f}."
    assert told.format(*losses, *errors) in answer("Is a lower loss")


def test_what_to_use():
    """Those that no other is clearly ahead of after the same seconds, in bits per byte."""
    named = {
        MID: ["adaptive softmax"],
        LOW: ["adaptive softmax", "sampled softmax, dot"],
        HIGH: ["sampled softmax, dot, log q of both"],  # repaired with a dot product
    }
    views = {V: after(V, "seconds") for V in named}
    best = [min(views[V].table["bits/byte"][rows]) for V, rows in named.items()]
    ce = [view.table["bits/byte"][view.ce] for view in views.values()]
    told = "after 200 s: {:.2f}; {:.2f}; {:.2f}. CE {:.2f}, {:.2f}, {:.2f}"
    assert told.format(*best, *ce) in answer("What should I use")
    for V, rows in named.items():
        for row in rows:
            ahead = [other for other in views[V].rows if views[V].difference(other, row).high < 0]
            assert not ahead, f"V = {V}: {ahead} are clearly ahead of {row}"


def test_measured_steps_are_enough():
    """At least four of each method a round; five rounds up to 200K, three at 1M."""
    runs = load_runs(BENCH).query("status == 'ok' and corpus != 'zipf'")
    assert runs.steps_measured.min() >= 4
    rounds = runs.groupby(["vocab", "method", "optimizer"]).seed.nunique()
    assert rounds[[50_000, 200_000]].min() >= 5
    assert rounds[1_000_000].min() >= 3


# --- the verdicts


def test_the_table_of_claims_is_whole():
    assert [*CLAIMS.index] == [f"C{i}" for i in range(1, 14)] + [f"F{i}" for i in range(1, 7)]
    assert set(CLAIMS.verdict) <= set(VERDICTS)
    assert CLAIMS.notna().all(axis=None)
    for claim in CLAIMS.itertuples():
        assert len(claim.value.split()) <= 25, claim.Index
        assert len(claim.why.split()) <= 60, claim.Index


@pytest.mark.parametrize("claim", [*CLAIMS.itertuples()], ids=lambda claim: claim.Index)
def test_every_number_of_a_verdict_is_shown_in_its_notebook(claim):
    stated = {value for _, value, _ in told(claim.claim)} | {abs(value) for _, value, _ in told(claim.claim)}
    lessons = (ROOT / "notebooks").glob(f"{claim.notebook[:2]}_*.ipynb")
    shown = stated.union(shown_by(f"lab/{claim.notebook}"), *(shown_by(path.stem) for path in lessons))
    assert not unfounded(f"{claim.value}. {claim.why}", shown)


def verdict(claim):
    return CLAIMS.verdict[claim]


def test_c1_the_gain_grows_with_v_on_every_machine():
    """Overturned by a machine on which it falls."""
    assert verdict("C1") == "supported"
    published = published_runs().query("machine == 'RTX A6000' and method == 'semantic'").sort_values("vocab")
    assert published.speedup.round(2).tolist() == [1.61, 2.97, 4.43]
    runs, _ = on_h200()
    gpu = (runs.step_ms["ce", "dense"] / runs.step_ms["semantic", "dense"]).astype(float)
    for gains in (published.speedup, times(("ce", "dense"), ("semantic", "dense")), gpu):
        assert sorted(gains) == list(gains)


def test_c2_the_published_step_grows_and_a_row_sparse_one_does_not():
    """Overturned by a dense step that is level, or a row-sparse one that is not."""
    assert verdict("C2") == "partly"
    assert growth(("semantic", "dense")) > 2
    assert growth(("semantic", "rows")) < 1.3
    runs, _ = on_h200()
    captured = runs.step_ms["semantic", "rows, captured"].astype(float)
    assert captured[1_000_000] / captured[50_000] < 1.1


def test_c6_on_one_ruler_the_paper_s_loss_learns_less_from_the_same_steps():
    """Overturned at a V where SEMANTIC, from either start, is not behind CE after equal steps."""
    assert verdict("C6") == "partly"
    for V in quality.vocabs(STUDY):
        for row in (*quality.PUBLISHED, "SEMANTIC tuned"):
            assert after(V, "steps").difference(row, "CE").low > 0, (V, row)


def test_c7_energy_is_saved_more_than_time():
    """Overturned if the ratios were the same."""
    assert verdict("C7") == "partly"
    runs, _ = on_h200()
    joules = runs.energy_joules.astype(float) / runs.steps_run.astype(float)
    ratio = {name: x["ce", "dense"] / x["semantic", "dense"] for name, x in {"j": joules, "s": runs.step_ms}.items()}
    assert (ratio["j"] > 1.5 * ratio["s"].astype(float)).all()


def test_c8_and_the_audit_count_every_statement():
    """Overturned by one exact percentage that does not recompute."""
    assert verdict("C8") == "supported"
    found = published_statements()
    exact = found[(found.quantity == "throughput_change_pct") & (found.unit == 0.1)]
    assert f"Of the {len(exact)} exact" in CLAIMS.why["C8"]
    assert f" {exact.agrees.sum()} are right to the digit" in CLAIMS.why["C8"]
    assert exact.agrees.all()


def test_c9_stays_open():
    """At V = 8,192 more negatives help; 64 dimensions are enough with the repaired loss."""
    assert verdict("C9") == "open"
    wider = after(LOW, "steps").difference(f"{REPAIRED} at D = 256", REPAIRED)
    assert wider.inconclusive
    assert f"{wider:+.3f}".removeprefix("≈ ") in CLAIMS.why["C9"]


def test_c11_no_alignment_reaches_ce():
    """Overturned, towards supported, by one that does."""
    assert verdict("C11") == "open"
    (ce,) = quality.runs_of(STUDY.parent / "stages" / "8192" / "first", steps=1_250, method="ce", seed=0).full_vocab
    assert ce["nll"] < 4.19


def test_c12_quality_per_second():
    """Overturned if SEMANTIC were ahead of CE at 50,000, or not with those tokens in 200,000 rows."""
    assert verdict("C12") == "partly"
    stays = quality.runs_of(RACE.parent / "padded-race" / "200000" / "seconds").set_index("row")
    for row in (quality.PUBLISHED[0], "SEMANTIC tuned"):
        _, _, high = difference([stays.by_document[row]], [stays.by_document["CE"]], "nll")
        assert high < 0, row
        assert stays.full_vocab[row]["hit@1"] < stays.full_vocab["CE"]["hit@1"]
    view = after(MID, "seconds")
    assert view.difference(REPAIRED, view.ce).high < 0
    for row in quality.PUBLISHED:
        assert view.difference(row, view.ce).low > 0, row
    view = after(HIGH, "seconds")
    (ce,) = view.rows[view.ce]
    assert ce["full_vocab"]["nll"] > ce["controls"]["unigram"]["nll"] - 0.05, "so that at 200,000 it stays open"
    assert [behind_unigram(view, row) for row in quality.PUBLISHED] == [False, True]


# --- the start that the paper does not name


def test_the_papers_losses_lie_between_those_of_two_starts():
    """By steps, at the end of each epoch at V = 50,000. Overturned by a paper's loss outside."""
    starts = {}
    for folder in ("initial/50000", "quality/50000/equal"):
        runs = load_runs(STUDY.parent / folder).query("method == 'semantic' and lr == 3e-4 and steps == 2_500")
        for run in runs.itertuples():
            starts.setdefault(run.init_std, []).append([epoch["last"] for epoch in run.epoch_losses])
    means = {std: np.mean(lasts, axis=0) for std, lasts in starts.items()}
    paper = published_epoch_losses().query("vocab == 50_000 and method == 'semantic'")["last"].to_numpy()
    assert (means[0.02] < paper).all()
    assert (paper < means[1.0]).all()
    assert min(means, key=lambda std: np.abs(np.log(means[std] / paper)).mean()) == 0.2
