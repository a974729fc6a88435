"""What a lesson is: short, with a picture at its beginning, and every number in its prose shown by a cell.

The laboratory's notebooks, in notebooks/lab/, are held to the last of these alone.
"""

import json
import re

import pytest
from numbers_in import prose, shown, unfounded, words

from scta_lab.base.files import ROOT

LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LAB = sorted((ROOT / "notebooks" / "lab").glob("[0-9]*.ipynb"))
CELLS, WORDS, CELL_WORDS, SENTENCE, LINE = 40, 1_200, 120, 25, 100  # at most


def load(path):
    return json.loads(path.read_text())["cells"]


def name_of(path):
    return path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()


def source(cell):
    return "".join(cell["source"])


def printed(cell):
    """What a code cell says in words: not its tables."""
    texts = ["".join(o.get("text", "")) for o in cell.get("outputs", ())]
    texts += ["".join(o.get("data", {}).get("text/markdown", "")) for o in cell.get("outputs", ())]
    return "\n".join(texts)


def sentences(markdown):
    """Without headings and tables; a point of a list is a sentence or more."""
    lines = [line for line in prose(markdown).splitlines() if not line.startswith(("#", "|"))]
    text = re.sub(r"\n\s*(?:[-*]|\d+\.)\s|\n\s*\n", ". ", "\n".join(lines))
    return re.split(r"(?<=[.!?:;])\s", text)


@pytest.fixture(params=LESSONS, ids=name_of)
def cells(request):
    return load(request.param)


def test_it_is_short(cells):
    assert len(cells) <= CELLS
    told = [words(source(c)) if c["cell_type"] == "markdown" else words(printed(c)) for c in cells]
    assert sum(map(len, told)) <= WORDS
    longest = max(told, key=len)
    assert len(longest) <= CELL_WORDS, " ".join(longest)


def test_a_picture_stands_at_its_beginning(cells):
    first = cells[:3]
    assert any("![" in source(c) or "image/png" in json.dumps(c.get("outputs", "")) for c in first)


def test_no_line_of_code_is_wide(cells):
    for cell in cells:
        if cell["cell_type"] == "code":
            assert max(map(len, source(cell).splitlines()), default=0) <= LINE, source(cell)


def test_sentences_are_short(cells):
    for cell in cells:
        if cell["cell_type"] == "markdown":
            for sentence in sentences(source(cell)):
                assert len(words(sentence)) <= SENTENCE, sentence


def test_it_ends_with_the_way_to_the_laboratory(cells):
    assert "lab/" in source(cells[-1])


# --- the lessons and the laboratory


@pytest.fixture(params=[*LESSONS, *LAB], ids=name_of)
def any_cells(request):
    return load(request.param)


def test_prose_is_written_and_not_printed(any_cells):
    """A finding is a sentence in a Markdown cell; a cell of code may make a table."""
    for cell in any_cells:
        if cell["cell_type"] == "code":
            for output in cell["outputs"]:
                made = "".join(output.get("data", {}).get("text/markdown", ""))
                assert not made or made.startswith("|"), made


def test_each_number_in_the_prose_rounds_from_one_that_is_shown(any_cells):
    numbers = shown(any_cells)
    for cell in any_cells:
        if cell["cell_type"] == "markdown":
            assert not unfounded(source(cell), numbers), source(cell)
