"""The notebooks as they are committed, and the sweep notebook as papermill runs it."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import ipywidgets
import papermill
import papermill.cli
import papermill.parameterize
import pytest
import torch
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


def extremes(control):
    """The least value of a control, its default, and its greatest, or first and last option."""
    if isinstance(control.value, bool):
        return False, control.value, True
    if isinstance(getattr(control, "options", None), dict):
        values = list(control.options.values())
        return values[0], control.value, values[-1]
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return values[0], control.value, values[-1]
    low, high = (control.base**edge if hasattr(control, "base") else edge for edge in (control.min, control.max))
    return low, control.value, high


def test_every_control_draws_at_its_ends(path, notebook, monkeypatch):
    """Runs the notebook in this process with its mock, and calls each widget's function as a reader's mouse would."""
    if "interactive(" not in json.dumps([cell["source"] for cell in code(notebook)]):
        pytest.skip("the notebook has no controls")
    recorded, sources = [], ["".join(cell["source"]) for cell in code(notebook)]
    namespace = {"__name__": "__main__", "In": sources}
    monkeypatch.setattr(notebook_module, "interactive", lambda draw, **controls: recorded.append((draw, controls)))
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("XDG_CACHE_HOME")  # the installed text is built once, where a reader's is
    before = torch.get_default_dtype()
    try:
        for cell in code(notebook):
            exec("".join(cell["source"]), namespace)
            if cell is parameters_cell(notebook):
                namespace.update(cell["metadata"]["nbmake"]["mock"])
        for draw, controls in recorded:
            ends = {name: extremes(control) for name, control in controls.items()}
            default = {name: values[1] for name, values in ends.items()}
            for name, values in ends.items():
                for value in values:
                    assert isinstance(draw(**{**default, name: value}), Figure)
            for i in (0, 2):
                assert isinstance(draw(**{name: values[i] for name, values in ends.items()}), Figure)
    finally:
        torch.set_default_dtype(before)
    assert recorded


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


def run_papermill(tmp_path, *words, cwd=ROOT):
    command = [sys.executable, "-m", "papermill", str(SWEEP), str(tmp_path / "out.ipynb"), "--log-level", "ERROR"]
    given = ["-p", "out", str(tmp_path / "runs"), *words]
    return subprocess.run([*command, *given], cwd=cwd, capture_output=True, text=True)


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
    done = run_papermill(tmp_path, "-p", "vocba", "5000")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: vocba=5000: no such parameter; expected vocab"), done.stderr[-2000:]


def test_papermill_runs_from_anywhere(tmp_path):
    words = [
        "-p",
        "vocab",
        "2000",
        "-p",
        "corpus",
        "zipf",
        "-p",
        "steps",
        "4",
        "-p",
        "hidden",
        "8",
        "-p",
        "examples",
        "64",
    ]
    done = run_papermill(tmp_path, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = sorted(re.sub("vocab_.*", "vocab", p.name) for p in (tmp_path / "runs").glob("fig_*"))
    assert made == 2 * ["fig_throughput_vs_vocab"] + 2 * ["fig_time_vs_vocab"]
    assert "SEMANTIC" in (tmp_path / "runs" / "table.txt").read_text()
