"""The notebooks as they are committed, and the sweep notebook as papermill runs it."""

import json
import os
import re
import sys
from itertools import pairwise

import controls
import ipywidgets
import papermill
import papermill.cli
import papermill.parameterize
import pytest
import yaml
from matplotlib.figure import Figure
from papermill.iorw import load_notebook_node

from scta_lab.base.files import ROOT
from scta_lab.study import figures
from scta_lite import notebook as notebook_module
from scta_lite import published_runs

sys.path.insert(0, str(ROOT / "docs"))
import notebooks

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb"))
SWEEP = ROOT / "notebooks" / "03_sweep.ipynb"


def name_of(path):
    """As `make notebooks ONLY=` takes it: 01_loss_math, lab/05_study."""
    return path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()


@pytest.fixture(params=NOTEBOOKS, ids=name_of)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text())


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def parameters_cell(notebook):
    (cell,) = [c for c in code(notebook) if "parameters" in c["metadata"].get("tags", [])]
    return cell


def test_there_are_notebooks():
    assert SWEEP in NOTEBOOKS


def test_executed_in_order_without_errors(notebook):
    cells = code(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]


def test_cleaning_leaves_a_clean_notebook_as_it_is(tmp_path, path):
    """As before each commit, and after JupyterLab has left its marks on it."""
    notebook = json.loads(path.read_text())
    notebook["metadata"]["widgets"] = {}
    for cell in notebook["cells"]:
        cell["metadata"]["execution"] = cell["metadata"]["collapsed"] = {}
    for cell in code(notebook):
        cell["execution_count"] = None
    used = tmp_path / path.name
    used.write_text(json.dumps(notebook))
    notebooks.clean_file(used)
    assert used.read_text() == path.read_text()


def test_clean(notebook):
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags", "nbmake", "jupyter"}
        assert cell["metadata"].get("jupyter") in (None, {"source_hidden": True})
    whole = json.dumps(notebook)
    assert len(whole) < 500_000
    assert not re.search(r"/(home|root|Users|tmp|work)/|widget-view", whole)


def test_shape(notebook):
    """A question first; imports, parameters and their check; a next step last."""
    cells, kinds = notebook["cells"], [c["cell_type"] for c in notebook["cells"]]
    assert kinds[0] == kinds[-1] == "markdown"
    assert "".join(code(notebook)[0]["source"]).startswith(("import", "from"))
    assert code(notebook)[1] is parameters_cell(notebook)
    assert "parameters(globals())" in "".join(code(notebook)[2]["source"])
    for cell in code(notebook)[1:]:  # the first one imports
        assert cell is parameters_cell(notebook) or len("".join(cell["source"]).splitlines()) <= 20
    for cell, after in pairwise(cells):
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])):  # a figure's finding stands as text
            assert after["cell_type"] == "markdown" or "Markdown(" in "".join(after["source"])


def test_every_link_to_a_file_leads_there(path):
    text = "\n".join(
        "".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"
    )
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (path.parent / link).resolve().exists(), link


def test_mocks_are_parameters(notebook):
    cell = parameters_cell(notebook)
    declared = re.findall(r"^(\w+)\s*:", "".join(cell["source"]), re.M)
    assert set(cell["metadata"]["nbmake"]["mock"]) <= set(declared)
    assert all("#" in line for line in "".join(cell["source"]).splitlines())  # each parameter has its help


def test_papermill_lists_every_parameter_with_its_help(path):
    """Its --help-notebook passes over an annotation such as `str | None`."""
    cell = parameters_cell(json.loads(path.read_text()))
    found = papermill.inspect_notebook(path)
    assert list(found) == re.findall(r"^(\w+)\s*:", "".join(cell["source"]), re.M)
    assert all(parameter["help"] for parameter in found.values())


def test_controls_are_moved_after_the_last_cell(path, notebook):
    """By nbmake, which runs the notebook: see controls.py."""
    has_controls = "interactive(" in json.dumps([cell["source"] for cell in code(notebook)])
    moves = [cell["metadata"].get("nbmake", {}).get("post_cell_execute") for cell in code(notebook)]
    tests = os.path.relpath(ROOT / "tests", path.parent)
    lines = ["import sys", f"sys.path.append('{tests}')", "import controls", "controls.move_all(globals())"]
    assert moves == [None] * (len(moves) - 1) + [lines if has_controls else None]


def picture(draw, control):
    return {"Out": {1: notebook_module.interactive(draw, control=control)}, "In": ["interactive("]}


@pytest.mark.parametrize(("control", "values"), [
    (ipywidgets.FloatSlider(2, min=1, max=3), [2, 1, 3]),
    (ipywidgets.FloatLogSlider(10, min=0, max=2), [10, 1, 100]),
    (ipywidgets.Checkbox(True), [True, False, True]),
    (ipywidgets.Dropdown(value=3, options={"all": (1, 2), "one": 3}), [3, (1, 2), 3]),
    (ipywidgets.ToggleButtons(options=[("a", 1), ("b", 2)]), [1, 2]),
    (ipywidgets.Dropdown(options=["x", "y", "z"]), ["x", "z"]),
    (ipywidgets.Combobox(value="any", options=["x", "y"]), ["any", "x", "y"]),
])  # fmt: skip
def test_a_control_is_moved_to_its_ends(control, values):
    drawn = []
    controls.move_all(picture(lambda control: drawn.append(control) or Figure(), control))
    assert drawn == values


def test_a_picture_that_cannot_be_drawn_is_told():
    def draw(control):
        if control == 3:
            raise ZeroDivisionError
        return Figure()

    with pytest.raises(ZeroDivisionError):
        controls.move_all(picture(draw, ipywidgets.IntSlider(2, min=1, max=3)))
    with pytest.raises(AssertionError):
        controls.move_all({"Out": {}, "In": ["interactive("]})


def test_a_control_redraws():
    widget = notebook_module.interactive(
        lambda x: figures.training_time(published_runs().assign(seconds=lambda t: t.seconds * x)),
        x=ipywidgets.FloatSlider(value=1, min=1, max=9),
    )
    controls, picture = widget.children
    drawn = picture.value
    controls.children[0].value = 5
    assert drawn[:4] == picture.value[:4] == b"\x89PNG"
    assert picture.value != drawn


def run_papermill(tmp_path, words):
    """What papermill's command does, in this process; the notebook has a kernel of its own."""
    given = [str(SWEEP), str(tmp_path / "out.ipynb"), "--log-level", "ERROR", "-p", "out", str(tmp_path / "runs")]
    papermill.cli.papermill([*given, *words.split()], standalone_mode=False)


@pytest.mark.parametrize(("words", "error"), [
    ("-p vocab 0", "ValueError: vocab=0: expected an integer from 2 up"),
    ("-p vocab 1", "ValueError: vocab=1: expected an integer from 2 up"),
    ("-p vocab -5", "ValueError: vocab=-5: expected an integer from 2 up"),
    ("-p vocab 2.5", "ValueError: vocab=2.5: expected an integer from 2 up"),
    ("-p vocab many", "ValueError: vocab='many': expected an integer from 2 up"),
    ("-y vocab:[]", "ValueError: vocab=[]: expected at least one value"),
    ("-p vocba 5000", "ValueError: vocba=5000: no such parameter; expected vocab"),
    ("-p negatives 0", "ValueError: negatives=0: expected an integer from 1 up"),
    ("-p vocab 20 -p negatives 20", "ValueError: negatives=20: expected fewer than vocab=20"),
    ("-p temperature 0", "ValueError: temperature=0: expected a finite number above 0"),
    ("-p temperature nan", "ValueError: temperature="),
    ("-p batch 500 -p examples 64", "ValueError: batch=500: expected at most examples=64"),
    ("-p method magic", "ValueError: method='magic': expected one of ce, semantic"),
    ("-p device cuda:9", "ValueError: device='cuda:9': "),
    ("-p corpus no/such.json", "FileNotFoundError: corpus='no/such.json': no such file"),
    ("-p corpus figures/fig_speedup_limit.png", "ValueError: corpus='figures/fig_speedup_limit.png': no kind of file"),
    ("-p out README.md/runs", "OSError: out folder 'README.md/runs': cannot be written"),
    ("-p resume false", "ValueError: resume='false': expected True or False"),
])  # fmt: skip
def test_bad_parameters_are_told(tmp_path, monkeypatch, words, error):
    """As papermill hands them on, in this process: the cells run until one raises, before anything is trained."""
    given = {"out": str(tmp_path / "runs")}
    for option, name, value in re.findall(r"-(p|y) (\w+)[: ] ?(\S+)", words):
        given[name] = yaml.safe_load(value) if option == "y" else papermill.cli._resolve_type(value)
    notebook = papermill.parameterize.parameterize_notebook(load_notebook_node(str(SWEEP)), given)
    monkeypatch.chdir(ROOT)
    sources = [cell["source"] for cell in code(notebook)]
    before = next(i for i, source in enumerate(sources) if "sweep(" in source)
    with pytest.raises((ValueError, OSError)) as raised:
        exec("\n".join(sources[:before]), {"__name__": "__main__", "In": sources[:before]})
    assert f"{type(raised.value).__name__}: {raised.value}".startswith(error)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_bad_parameter_ends_papermill_with_one_line(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as raised:
        run_papermill(tmp_path, "-p vocba 5000")
    last = str(raised.value).strip().splitlines()[-1]
    assert last.startswith("ValueError: vocba=5000: no such parameter; expected vocab")


def test_papermill_runs_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_papermill(tmp_path, "-p vocab 2000 -p corpus zipf -p steps 4 -p hidden 8 -p examples 64")
    made = sorted(re.sub("vocab_.*", "vocab", p.name) for p in (tmp_path / "runs").glob("fig_*"))
    assert made == 2 * ["fig_throughput_vs_vocab"] + 2 * ["fig_time_vs_vocab"]
    assert "SEMANTIC" in (tmp_path / "runs" / "table.txt").read_text()
