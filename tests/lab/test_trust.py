"""What is read from disk is data: nothing of it is executed, and nothing of it reaches outside its place."""

import ast
import json

import pytest
from conftest import LENGTHS, SIZES

from scta_lab import Spec, load, load_runs, train
from scta_lab.base.files import ROOT

EXECUTES = {"eval", "exec", "compile", "__import__", "pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
FOLDERS = ("scta_lite", "scta_lab", "studies", "docs", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_is_executed(path):
    """No eval and no pickle, by whatever name: numpy's arrays without objects, torch's tensors as safetensors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", None)}
            assert not modules & EXECUTES
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in EXECUTES
            assert called not in ("torch.load", "torch.export.load", "torch.jit.load", "pd.read_pickle")
            assert not any(k.arg in ("allow_pickle", "shell") for k in node.keywords)


def test_a_run_file_cannot_name_a_place(tmp_path):
    """A stranger's run is known by its settings: no field of it becomes a path."""
    result = train(Spec(method="semantic", corpus="zipf", device="cpu", steps=4, **SIZES, **LENGTHS))
    run = json.loads(json.dumps(result.to_dict())) | {"run_id": "../../outside"}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{result.run_id}.json").write_text(json.dumps(run))
    again = load(tmp_path / "runs", result.run_id)
    again.save(tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [f"{result.run_id}.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "runs"]
    with pytest.raises(FileNotFoundError, match="expected one of"):
        load(tmp_path / "kept", f"../runs/{result.run_id}")
    assert len(load_runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize(("where", "text"), [
    ("machine", "a GPU\x1b]0;gone\x07"), ("machine", "<b>a GPU</b>"), ("reason", "\x1b[2J"),
    ("host", {"torch": "<script>alert(1)</script>"}),
])  # fmt: skip
def test_words_that_would_act_where_they_are_shown_are_refused(tmp_path, where, text):
    """In a terminal, or in the web book: in one place, where a run's file is read."""
    result = train(Spec(method="semantic", corpus="zipf", device="cpu", steps=4, **SIZES, **LENGTHS))
    path = result.save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {where: text}))
    with pytest.raises(ValueError, match=r"not a run's file \(.*expected plain words"):
        load_runs(tmp_path)
