import pandas as pd
import pytest

from scta_lite import figures, published_runs
from scta_lite.figures import METHODS


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
        assert figure.axes[0].get_legend().get_texts()[0].get_text() == "extrapolated"


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
        figures.throughput(published_runs().drop(columns="seconds"))


def test_figures_are_the_same_bytes_every_time(tmp_path):
    saved = [figures.save(figures.throughput(published_runs()), tmp_path / name) for name in ("a", "b")]
    assert [p.suffix for p in saved[0]] == [".png", ".pdf"]
    for a, b in zip(*saved, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_methods_differ_in_colour_marker_and_line():
    for style in zip(*METHODS.values(), strict=True):
        assert len(set(style)) == len(METHODS)


def test_one_method_alone_draws():
    runs = published_runs().query("method == 'semantic'")
    assert {label for _, label in lines(figures.training_time(pd.DataFrame(runs)))} == {"SEMANTIC"}
