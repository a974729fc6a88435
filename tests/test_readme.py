"""What README and the project's files promise is there."""

import re
import subprocess
import sys
import tomllib

import pytest

from scta_lite import load_runs
from scta_lite.paper import ROOT
from scta_lite.sweep import ratios

README = (ROOT / "README.md").read_text()


def test_links_and_pictures_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    assert not [link for link in links if not link.startswith("https://doi.org/") and not (ROOT / link).exists()]


def test_both_records_are_cited():
    for name in ("README.md", "CITATION.cff"):
        text = (ROOT / name).read_text()
        assert "10.5281/zenodo.17931292" in text, name
        assert "10.17605/OSF.IO/MRKPU" in text, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)(?=[`\s]+(?:#|lists|opens))", README)) <= targets
    assert {"help", "demo", "lab", "test", "lint", "notebooks", "bench"} <= targets


def test_every_module_is_in_the_reading_order():
    named = re.search(r"The package reads.*?\n\n", README, re.S)[0]
    modules = {p.stem for p in (ROOT / "scta_lite").glob("[a-z]*.py")}
    assert modules == set(re.findall(r"`(\w+)`", named))


def test_modules_import_only_from_those_above():
    order = re.findall(r"`(\w+)`", re.search(r"The package reads.*?\n\n", README, re.S)[0])
    for path in (ROOT / "scta_lite").glob("[a-z]*.py"):
        text = path.read_text()
        used = set(re.findall(r"^from scta_lite\.(\w+) import", text, re.M))
        for names in re.findall(r"^from scta_lite import (.*)$", text, re.M):
            used |= set(names.split(", "))
        assert all(order.index(name) < order.index(path.stem) for name in used), path.stem


def test_conda_and_pip_install_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = {*project["dependencies"], *project["optional-dependencies"]["dev"]}
    lines = re.findall(r"^  - (\S+)$", (ROOT / "environment.yml").read_text(), re.M)
    conda = {line.replace("pytorch", "torch") for line in lines} - {"conda-forge", "nodefaults", "pip"}
    python = {line for line in conda if line.startswith("python>")}
    assert conda - python == pip
    assert python == {f"python{project['requires-python']},<3.14"}


@pytest.mark.parametrize("module", ["train", "sweep"])
def test_help_explains_every_setting(module):
    command = [sys.executable, "-W", "error", "-m", f"scta_lite.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "--weight-decay" in done.stdout


def test_data_dictionary_knows_every_field():
    from scta_lite.result import Result

    dictionary = (ROOT / "data" / "README.md").read_text()
    for name in Result.__dataclass_fields__:
        if name not in ("spec", "model"):
            assert re.search(rf"^\|[^|]*\b{name}\b", dictionary, re.M), name


def test_the_python_example_runs():
    code = re.search(r"```python\n(.*?)```", README, re.S)[1].replace("vocab=50_000", 'vocab=2_000, corpus="zipf"')
    exec(code, {})


def test_the_table_of_step_times_is_that_of_the_stored_rounds():
    table = ratios(load_runs(ROOT / "data" / "runs" / "amd-epyc-2-cores" / "bench")).set_index(["vocab", "method"])
    for vocab in (50_000, 200_000):
        ce, semantic = table.loc[(vocab, "ce")], table.loc[(vocab, "semantic")]
        ratio = f"{ce.ratio:.1f} [{ce.ratio_q1:.1f}–{ce.ratio_q3:.1f}]"
        phases = f"{semantic.backward_ms:.0f} ms, {semantic.optimizer_ms:.0f} ms"
        assert f"{ce.step_ms:,.0f} ms | {semantic.step_ms:.3g} ms | {ratio} | {phases}" in README
