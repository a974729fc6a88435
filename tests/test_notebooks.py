"""The notebooks as they are committed, and the sweep notebook as papermill runs it."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from scta_lite.paper import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SWEEP = ROOT / "notebooks" / "03_sweep.ipynb"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text())


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


def test_clean(notebook):
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags", "nbmake"}
    whole = json.dumps(notebook)
    assert len(whole) < 500_000
    assert not re.search(r"/(home|root|Users|tmp|work)/|widget-view", whole)


def test_shape(notebook):
    cells, kinds = notebook["cells"], [c["cell_type"] for c in notebook["cells"]]
    assert kinds[0] == "markdown"
    assert "".join(code(notebook)[0]["source"]).startswith(("import", "from"))
    assert code(notebook)[1] is parameters_cell(notebook)
    assert "parameters(globals())" in "".join(code(notebook)[2]["source"])
    assert kinds[-1] == "markdown"
    lengths = sorted(
        len("".join(c["source"]).splitlines()) for c in code(notebook) if c is not parameters_cell(notebook)
    )
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 20
    for cell, after in pairwise(cells):
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])):  # a figure's finding stands as text
            assert "What it shows" in "".join(after["source"])


def test_mocks_are_parameters(notebook):
    cell = parameters_cell(notebook)
    declared = re.findall(r"^(\w+)\s*:", "".join(cell["source"]), re.M)
    assert set(cell["metadata"]["nbmake"]["mock"]) <= set(declared)
    assert all("#" in line for line in "".join(cell["source"]).splitlines())  # each parameter has its help


def papermill(tmp_path, *words, cwd=ROOT):
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
    ("-p corpus README.md", "ValueError: corpus='README.md': neither JSON"),
    ("-p out README.md/runs", "OSError: out folder 'README.md/runs': cannot be written"),
    ("-p resume false", "ValueError: resume='false': expected True or False"),
])  # fmt: skip
def test_bad_parameters_end_with_one_line(tmp_path, words, error):
    done = papermill(tmp_path, *words.replace(":[]", ": []").split(" ", 1) if "-y" in words else words.split())
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(error), done.stderr[-2000:]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


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
    done = papermill(tmp_path, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = sorted(re.sub("vocab_.*", "vocab", p.name) for p in (tmp_path / "runs").glob("fig_*"))
    assert made == 2 * ["fig_throughput_vs_vocab"] + 2 * ["fig_time_vs_vocab"]
    assert "SEMANTIC" in (tmp_path / "runs" / "table.txt").read_text()
