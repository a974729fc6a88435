"""What the web book is assembled from; that it builds, without a warning, is `make book`."""

import sys

import pytest

from scta_lab.base.files import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import book
from controls import control
from pages import linked, notebook, terms

WORDS = terms((ROOT / "docs" / "glossary.md").read_text())


def test_every_notebook_has_its_page():
    assert [*book.LESSONS, *book.LAB] == sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted(
        (ROOT / "notebooks").glob("lab/*.ipynb")
    )


@pytest.mark.parametrize("path", [*book.LESSONS, *book.LAB], ids=lambda path: path.stem)
def test_every_picture_has_its_finding_as_alternative_text(path):
    cells = [c for c in notebook(path, WORDS).cells if c.cell_type == "code"]
    pictures = [c for c in cells if any("image/png" in o.get("data", {}) for o in c.outputs)]
    texts = [c.metadata["mystnb"]["image"]["alt"] for c in pictures]
    assert all(len(text) > 40 for text in texts)
    assert len(set(texts)) == len(texts)


def test_the_first_use_of_a_word_is_linked_and_code_is_left_alone():
    words = ["sampled softmax", "softmax", "step"]
    text = "# A softmax\n\n`softmax`, $softmax$, [a step](x.md), step-by-step: the sampled softmax."
    assert linked(text, words) == text.replace("the sampled softmax", "the {term}`sampled softmax`")
    assert words == ["softmax", "step"]
    assert linked("A softmax is a softmax.", words) == "A {term}`softmax` is a softmax."


def test_what_a_control_says_cannot_end_its_script():
    form = control("a", {"Model": {"x": "x"}}, {"x": {"says": "</script><b>"}})
    assert form.count("</script>") == 1
