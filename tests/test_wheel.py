"""Installed, not cloned: what `pip install` from the repository's address brings, in an environment of its own."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from scta_lab.base.files import ROOT

CODE = """
import json
import sys
from pathlib import Path

import scta_lab
import scta_lite
assert not {"IPython", "jupyter_core"} & set(sys.modules), "a sweep needs no Jupyter"
from scta_lab.study import claims
from scta_lab.study import figures

assert "empty" in scta_lite.__file__, scta_lite.__file__
sizes = dict(vocab=300, hidden=8, semantic_dim=4, negatives=3, examples=24, batch=4, seq_len=8, corpus="zipf")
runs = scta_lab.sweep(scta_lab.grid(method="semantic", **sizes), "runs", progress=False)
assert runs.status.tolist() == ["ok"], runs.reason.tolist()
assert runs.host[0]["commit"] is None
figures.save(figures.throughput(runs), Path("figure"))
figures.save(figures.speedup(scta_lite.published_runs()), Path("published"))
assert len(scta_lite.published_epoch_losses()) == 12
assert len(claims.claims()) == 19
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for folder in ("scta_lite", "scta_lab", "data/paper"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    made = source / "dist"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", made, source], check=True)
    (path,) = made.glob("*.whl")
    return path


def test_a_wheel_has_the_paper_and_the_style_and_nothing_of_the_clone(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("scta_l*/**/*.py")}
    tables = {f"scta_lite/published/{name}.csv" for name in ("runs", "epoch_losses", "claims", "statements")}
    assert names == modules | tables | {"scta_lite/scta.mplstyle"}


def test_it_sweeps_and_draws_outside_a_clone(wheel, tmp_path):
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    python = empty / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], check=True
    )
    (packages,) = empty.glob("lib/python*/site-packages")
    Path(packages, "present.pth").write_text(sysconfig.get_path("purelib"))  # torch and the rest, without our clone
    done = subprocess.run([python, "-c", CODE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"runs", "figure.png", "figure.pdf", "published.png"}
