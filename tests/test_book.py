"""What the web book is assembled from; that it builds, without a warning, is `make book`."""

import json
import math
import re
import sys

import nbformat
import pytest

from scta_lab.base.files import ROOT
from scta_lite import published_epoch_losses

sys.path.insert(0, str(ROOT / "docs"))
import book
import front
import tables
from pages import as_glossary, linked, notebook, table, terms

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
WORDS = terms(GLOSSARY)
FRONT = (book.TEMPLATES / "front.html").read_text()


@pytest.mark.parametrize("path", [*book.LESSONS, *book.LAB], ids=lambda path: path.stem)
def test_a_notebooks_page_folds_nothing_empty_and_says_what_each_picture_shows(path):
    cells = [c for c in notebook(path, WORDS).cells if c.cell_type == "code"]
    folded = [
        c
        for c in cells
        if "hide-input" in c.metadata.get("tags", []) and "remove-cell" not in c.metadata.get("tags", [])
    ]
    assert all(c.outputs for c in folded)
    pictures = [c for c in cells if any("image/png" in o.get("data", {}) for o in c.outputs)]
    texts = [c.metadata["mystnb"]["image"]["alt"] for c in pictures]
    assert all(len(text) > 40 for text in texts)
    assert len(set(texts)) == len(texts)


def test_folded_code_joins_the_code_of_the_picture_after_it(tmp_path):
    picture = nbformat.v4.new_output("display_data", data={"image/png": ""})
    code = nbformat.v4.new_code_cell
    cells = [code("def draw():\n    ..."), code("draw()", outputs=[picture])]
    cells.append(nbformat.v4.new_markdown_cell("What it shows"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    drawn, shown, _ = notebook(tmp_path / "a.ipynb", []).cells
    assert drawn.metadata.tags == ["remove-cell"]
    assert shown.source == "def draw():\n    ...\n\n\ndraw()"


def test_a_table_of_words_is_told_from_one_of_numbers():
    numbers, words = ("<table><td>{}</td><td>{}</td></table>".format(*cells) for cells in [("−1.5", "≈ 3"), ("a", "b")])
    assert 'class="dataframe"' in table(numbers)
    assert 'class="words dataframe"' in table(words)


def test_the_first_use_of_a_word_is_linked_and_code_is_left_alone():
    words = ["sampled softmax", "softmax", "step"]
    text = "# A softmax\n\n`softmax`, $softmax$, [a step](x.md), step-by-step: the sampled softmax."
    assert linked(text, words) == text.replace("the sampled softmax", "the {term}`sampled softmax`")
    assert words == ["softmax", "step"]
    assert linked("A softmax is a softmax.", words) == "A {term}`softmax` is a softmax."


def test_the_glossary_is_short_and_the_book_has_all_of_it():
    assert len(set(WORDS)) == len(WORDS) == GLOSSARY.count("\n- **") <= 40
    whole = as_glossary(GLOSSARY)
    assert all(f"\n{word}\n  " in whole for word in WORDS)
    assert whole.endswith(GLOSSARY.partition("\n## Symbols")[2])


def test_the_first_page_is_short():
    said = re.sub(r"<details>.*</details>|<[^>]+>", " ", FRONT, flags=re.S)
    assert len(said.split()) <= 350


def test_every_name_in_a_template_has_its_part():
    texts = [page.read_text() for page in book.TEMPLATES.iterdir() if page.name != "README.md"]
    assert set(book.NAME.findall(" ".join(texts))) == set(book.PARTS)


def test_the_first_pages_numbers_are_those_that_are_stored():
    losses = published_epoch_losses().query("vocab == 1_000_000 and epoch == 2").set_index("method")["last"]
    assert f"ended at {losses['semantic']:.2f} (SEMANTIC) and {losses['ce']:.2f} (CE)" in FRONT
    assert f"guessing has {math.log(33):.2f};" in FRONT
    assert f"guessing has {math.log(1_000_000):.2f}." in FRONT
    views = list(tables.equal_steps().values())
    small = views[0]
    assert f"CE has {small.table.loc[small.ce, 'NLL']:.2f} nats" in FRONT
    assert f"settings {small.as_published('NLL', '.2f')}." in FRONT
    trigram = small.table.loc[front.rows(small)["trigram"][0]]
    assert f"in {trigram.seconds:.2f} seconds, has {trigram.NLL:.2f}." in FRONT
    pairs = [(view.table.loc[front.rows(view)["repaired"][0]], view.table.loc[view.ce]) for view in views]
    assert f"{max(own['bits/byte'] - ce['bits/byte'] for own, ce in pairs):.2f} bits per byte behind" in FRONT
    times = [f"1/{ce.seconds / own.seconds:.0f}" for own, ce in pairs]
    assert f"in {times[0]}, {times[1]} and {times[2]} of CE’s time" in FRONT
    assert front.chips().count("<li>") == int(re.search(r"(\d+) claims, checked", FRONT)[1])


def test_the_first_pages_script_has_what_its_controls_can_ask_for():
    data = json.loads(front.script().removeprefix("const FRONT = ").rstrip(";\n"))
    assert all(kind["vocab"] == [50_000, 200_000, 1_000_000] for kind in data["steps"].values())
    assert [panel["vocab"] for panel in data["quality"]] == [8_192, 50_000, 200_000]
    assert all(1 <= len(points) <= 2 for panel in data["quality"] for points in panel["points"].values())
    names, typed, nearest = data["words"].values()
    place = [names[n] for n in typed].index(" int")
    assert " float" in [names[n] for n in nearest["CE"][place]]
    assert all(own not in found for found_by in nearest.values() for own, found in zip(typed, found_by, strict=True))
