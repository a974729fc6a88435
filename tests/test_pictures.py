"""The pictures of README and the lessons: each draws, and says what the stored runs say."""

import sys

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from scta_lab.base.files import ROOT
from scta_lab.study.figures import STYLE

sys.path.insert(0, str(ROOT / "docs"))
import pictures


def words(figure):
    """All that stands in the picture."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture(scope="module", params=[{}, pictures.DARK], ids=["white", "dark"])
def drawn(request):
    with plt.style.context([STYLE, request.param]):
        made = {name: draw() for name, draw in pictures.PICTURES.items()}
    yield {name: words(figure) for name, figure in made.items() if isinstance(figure, Figure)}
    plt.close("all")


def test_each_draws_and_is_stored(drawn):
    assert set(drawn) == set(pictures.PICTURES)
    for name in drawn:
        for file in (f"{name}.png", f"{name}.svg", f"{name}.pdf", f"{name}_dark.png", f"{name}_dark.svg"):
            assert (ROOT / "figures" / file).is_file(), file


def test_step_times_are_those_of_the_bench(drawn):
    ms = pictures.step_ms()
    for method, optimizer in (("ce", "dense"), ("ce_chunked", "rows"), ("semantic", "dense"), ("semantic", "rows")):
        told = f"{ms[method, optimizer, 1_000_000]:,.0f} ms"
        assert told in drawn["fig_one_step"]
        assert told in drawn["fig_headline"]


def test_errors_are_those_of_the_study(drawn):
    table = pictures.equal_steps()[8_192].table
    for name, row in {"CE": "CE", "repaired": "SEMANTIC with prior", "SEMANTIC tuned": "SEMANTIC tuned"}.items():
        assert f"{name}, {table.NLL[row]:.2f}" in drawn["fig_headline"]
    assert f"trigram of the same text, {table.NLL['trigram of 20,000 examples']:.2f}" in drawn["fig_headline"]
    assert pictures.equal_steps()[8_192].as_published("NLL", ".2f") in drawn["fig_headline"]


def test_what_the_titles_say(drawn):
    """Behind a trigram from either start; near CE once repaired, in less time."""
    for V, view in pictures.equal_steps().items():
        error = pictures.errors(view)["bits/byte"]
        assert error["SEMANTIC, short start"] > error["trigram of the same text"]
        assert 0 < error["repaired"] - error["CE"] < 0.1 < error["SEMANTIC, short start"] - error["CE"], V
    assert "0.05 to 0.07 bits a byte behind CE, in 1/3 to 1/67 of its time" in drawn["fig_quality_over_time"]


def test_the_row_is_where_dense_adamw_has_it_whenever_it_is_read():
    path = pictures.row_in_time(read_at=(10, 60))
    for step in (9, 10, 60):
        assert path["row-sparse"][step] == pytest.approx(path["dense"][step], rel=1e-5)
    assert path["row-sparse"][10:59].nunique() == 1
    assert path["dense"][10:60].is_monotonic_increasing
    assert path["dense"][59] > 10 * path["dense"][10]


def test_neighbours_are_those_of_the_stored_vectors(drawn):
    assert pictures.nearest(" True", "SEMANTIC with prior")[0] == " False"
    for word in pictures.WORDS:
        assert word not in pictures.nearest(word, "CE")
        assert "  ".join(token.strip() for token in pictures.nearest(word, "CE")) in drawn["fig_neighbours"]
