import pandas as pd
import pytest

from scta_lab.base import spec
from scta_lab.study import figures, labels
from scta_lab.study.figures import METHODS
from scta_lite import published_runs


def lines(figure):
    """(machine, label) → {vocab: value} of the lines drawn with a legend label."""
    drawn = [(ax.get_title(), line) for ax in figure.axes for line in ax.lines]
    return {
        (title, line.get_label()): dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for title, line in drawn
        if not line.get_label().startswith("_")
    }


@pytest.mark.parametrize(("draw", "column"), [(figures.throughput, "tokens_per_s"), (figures.training_time, "seconds")])
def test_the_numbers_drawn_are_those_of_the_table(draw, column):
    runs = published_runs()
    drawn = lines(draw(runs))
    assert len(drawn) == 4
    for (machine, label), points in drawn.items():
        part = runs[(runs.machine == machine) & (runs.method == label.lower()) & runs[column].notna()]
        assert points == dict(zip(part.vocab, part[column], strict=True))
        said = {text.get_text() for ax in draw(runs).axes for text in ax.texts}
        assert {figures.short(value) for value in part[column]} <= said


def test_the_speedups_drawn_are_those_of_the_table():
    runs = published_runs()
    drawn = lines(figures.speedup(runs))
    assert {key: list(points) for key, points in drawn.items()} == {
        ("RTX 4070 Laptop", "SEMANTIC"): [50_000, 200_000],
        ("RTX A6000", "SEMANTIC"): [50_000, 200_000, 1_000_000],
    }
    assert [round(x, 2) for x in drawn["RTX A6000", "SEMANTIC"].values()] == [1.61, 2.97, 4.43]
    said = [text.get_text() for ax in figures.speedup(runs).axes for text in ax.texts]
    assert "SEMANTIC: no such run of CE" in said


def test_all_machines_stand_side_by_side():
    runs = published_runs()
    figure = figures.comparison(runs)
    for ax, column in zip(figure.axes, ("tokens_per_s", "seconds"), strict=True):
        drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.lines if line.get_label()[0] != "_"}
        assert len(drawn) == 4
        for name, values in drawn.items():
            method, machine = name.split(", ")
            part = runs[(runs.machine == machine) & (runs.method == method.lower())]
            assert values == part[column].dropna().tolist()


def test_rounds_become_a_median_with_its_quartiles():
    runs = published_runs().query("machine == 'RTX A6000' and method == 'ce'")
    rounds = pd.concat([runs.assign(tokens_per_s=runs.tokens_per_s * x, seed=i) for i, x in enumerate((1, 2, 4))])
    figure = figures.throughput(rounds)
    (points,) = lines(figure).values()
    assert list(points.values()) == (2 * runs.tokens_per_s).tolist()
    bars = sorted(tuple(s[:, 1]) for c in figure.axes[0].collections for s in c.get_segments())
    assert bars == sorted((1.5 * v, 3.0 * v) for v in runs.tokens_per_s)


def test_a_value_hides_no_other_point():
    seconds = {
        "ce": (12.6, 123),
        "semantic": (19.1, 18.3),
        "ce_lowrank": (17.7, 18.5),
        "adaptive": (4.65, 4.67),
    }  # H200
    rows = [(method, V, s) for method, of in seconds.items() for V, s in zip((50_000, 1_000_000), of, strict=True)]
    runs = pd.DataFrame(rows, columns=["method", "vocab", "seconds"]).assign(machine="one", status="ok")
    figure = figures.training_time(pd.concat([runs, runs.assign(seconds=0.9 * runs.seconds)]))
    figure.canvas.draw()
    ax = figure.axes[0]
    points = [ax.transData.transform(point) for line in ax.lines for point in line.get_xydata()]
    assert len(ax.texts) == 8
    for text in ax.texts:
        box = text.get_window_extent().padded(5)  # a marker's radius
        assert not any(box.contains(*point) for point in points), f"{text.get_text()} stands on a point"


@pytest.mark.parametrize("draw", [figures.throughput, figures.speedup, figures.training_time, figures.comparison])
def test_a_missing_column_is_named(draw):
    with pytest.raises(ValueError, match=r"columns .*machine"):
        draw(published_runs().drop(columns="machine"))
    with pytest.raises(ValueError, match="method='magic': expected one of ce, semantic"):
        draw(published_runs().assign(method="magic"))


def test_every_method_has_its_own_look():
    looks = [tuple(figures.style(*pair).values())[1:] for pair in METHODS]
    assert len(set(looks)) == len(looks)
    assert {method for method, _ in METHODS} == set(spec.METHODS)
    assert figures.style("ce", "rows")["label"] == "CE, row-sparse"


def test_a_run_that_did_not_finish_is_said_not_drawn_as_zero():
    figure = figures.throughput(published_runs())
    said = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert said.count("CE: did not finish") == 1
    assert all(ax.get_ylim()[0] > 0 for ax in figure.axes)


def test_quartiles_and_extrapolation_are_drawn():
    runs = published_runs().query("machine == 'RTX A6000'").assign(extrapolated=True)
    runs = runs.assign(step_ms_q1=runs.step_ms * 0.8, step_ms_q3=runs.step_ms * 1.25)
    for draw, column in ((figures.throughput, "tokens_per_s"), (figures.training_time, "seconds")):
        figure = draw(runs)
        bars = [segment for c in figure.axes[0].collections for segment in c.get_segments()]
        spans = sorted(tuple(segment[:, 1]) for segment in bars)
        expected = sorted((v * 0.8, v * 1.25) for v in runs[column])
        assert [pytest.approx(span) for span in expected] == spans
        assert figure.legends[0].get_texts()[-1].get_text() == "extrapolated"


def test_the_table_is_the_papers():
    table = figures.results_table(published_runs())
    assert table.columns.tolist()[4:] == [
        "time (s)",
        "tokens/s",
        "examples/s",
        "speedup",
        "viable",
        "final loss",
    ]
    a6000 = table[(table.machine == "RTX A6000") & (table.V == "1M")]
    assert a6000.speedup.tolist() == ["1.00", "4.43"]
    assert a6000["time (s)"].tolist() == ["535.1", "120.8"]
    assert table[table.viable != "yes"]["time (s)"].tolist() == ["–"]
    measured = figures.results_table(published_runs().assign(extrapolated=True))
    assert measured["time (s)"].str.endswith("*").all()


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"runs: the columns \['seconds'\] are missing"):
        figures.training_time(published_runs().drop(columns="seconds"))


@pytest.mark.parametrize("draw", [figures.throughput, figures.training_time, figures.comparison])
def test_a_run_that_failed_in_its_steps_is_said(draw):
    """It has step times, and no time of a whole training."""
    runs = published_runs().query("vocab == 50000").assign(step_ms=9.0, step_ms_q1=8.0, step_ms_q3=10.0)
    failed = runs.machine + runs.method == "RTX A6000ce"
    runs.loc[failed, ["seconds", "tokens_per_s", "status"]] = [None, None, "failed"]
    assert any("failed" in text.get_text() for ax in draw(runs.astype({"seconds": object})).axes for text in ax.texts)


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="runs: there is none with speedup; expected one or more"):
        figures.speedup(published_runs().query("method == 'ce'"))


def test_any_number_of_machines_stands_side_by_side():
    runs = pd.concat([published_runs().query("machine == 'RTX A6000'").assign(machine=name) for name in "abcdef"])
    assert len(figures.comparison(runs).axes[0].get_legend_handles_labels()[0]) == 12


def test_a_tuned_row_at_the_papers_rate_is_not_as_published():
    settings = {"method": "semantic", "optimizer": "rows", "vocab": 300, "init_std": 0.02}
    assert labels.variant(spec.Spec(**settings)) == "SEMANTIC as published, std 0.02"
    assert labels.variant(spec.Spec(**settings, table_lr=0.03)) == "SEMANTIC tuned"


def test_figures_are_the_same_bytes_every_time(tmp_path):
    runs = published_runs().query("machine == 'RTX A6000'")
    saved = [figures.save(figures.throughput(runs), tmp_path / name) for name in ("a", "b")]
    assert [p.suffix for p in saved[0]] == [".png", ".pdf"]
    for a, b in zip(*saved, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_one_method_alone_draws():
    runs = published_runs().query("method == 'semantic'")
    assert {label for _, label in lines(figures.training_time(pd.DataFrame(runs)))} == {"SEMANTIC"}


def study_runs():
    run = {"optimizer": "rows", "semantic_dim": 64, "lr": 3e-4, "init_std": 1.0, "scores": "cosine",
           "log_unigram": False}  # fmt: skip
    changes = ({"method": "ce"}, {"method": "semantic"}, {"method": "semantic", "lr": 1e-3},
               {"method": "semantic", "init_std": 0.02}, {"method": "semantic_prior", "semantic_dim": 256},
               {"method": "semantic_prior", "optimizer": "sparse"}, {"method": "ce_chunked", "log_unigram": True},
               {"method": "sampled_softmax"},
               {"method": "sampled_softmax", "scores": "dot", "log_unigram": True})  # fmt: skip
    return pd.DataFrame([{**run, **change} for change in changes])


def test_each_row_of_the_study_has_its_name():
    names = ["CE", "SEMANTIC as published", "SEMANTIC tuned", "SEMANTIC as published, std 0.02",
             "SEMANTIC with prior at D = 256", "SEMANTIC with prior, SparseAdam", "CE from log u",
             "sampled softmax, cosine", "sampled softmax, dot, from log u"]  # fmt: skip
    assert [labels.variant(run) for run in study_runs().itertuples()] == names
