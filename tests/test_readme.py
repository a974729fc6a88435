"""What README and the project's files promise is there."""

import ast
import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata

import pytest
import yaml
from conftest import CHAT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from scta_lab.base.files import ROOT
from scta_lab.base.spec import SAMPLERS
from scta_lab.base.words import FIELDS, MEANINGS, OPTIONS
from scta_lab.run.command import sweep_command, train_command
from scta_lab.run.result import read

README = (ROOT / "README.md").read_text()
USE = (ROOT / "docs" / "use.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")]
PAGES += sorted(ROOT.glob("docs/*.md"))
BENCH = ROOT / "data" / "runs" / "amd-epyc-2-cores" / "bench"
STUDY = ROOT / "data" / "runs" / "two-cores" / "quality"
OUTSIDE = ("https://doi.org/", "https://github.com/", "https://arxiv.org/", "https://proceedings.mlr.press/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert not [at for at in links if not at.startswith(OUTSIDE) and not (page.parent / at).exists()]
    assert page != ROOT / "README.md" or len(links) > 12


def test_readme_is_short():
    """One minute: 500 words with its code, 60 lines, no table wider than three columns."""
    without_targets = re.sub(r"\]\([^)]*\)", "]", README)
    assert sum(bool(re.search("[A-Za-z0-9]", word)) for word in without_targets.split()) <= 500
    assert len(README.splitlines()) <= 60
    assert max(line.count("|") - 1 for line in README.splitlines() if line.startswith("|")) <= 3


def test_both_records_are_cited():
    for name in ("README.md", "CITATION.cff"):
        text = (ROOT / name).read_text()
        assert "10.5281/zenodo.17931292" in text, name
        assert "10.17605/OSF.IO/MRKPU" in text, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    said = re.findall(r"(?:`|^)make ([a-z]+)", README + USE + CONTRIBUTING, re.M)
    assert len(said) > 6
    assert set(said) <= targets
    assert {"help", "demo", "lab", "test", "lint", "notebooks", "bench"} <= targets


def reading_order():
    """The modules as the table of CONTRIBUTING lists them."""
    return re.findall(r"`(scta_l\w+\.[\w.]+)`", CONTRIBUTING.partition("| module |")[2].partition("\n\n")[0])


def module_path(name):
    return ROOT / f"{name.replace('.', '/')}.py"


def imported(name):
    """The modules of ours that a module imports; of a package's own names, the package's modules that give them."""
    for node in ast.walk(ast.parse(module_path(name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("scta_l"))
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("scta_l"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if module_path(inner).is_file() else node.module


def test_every_module_is_in_the_reading_order():
    paths = [path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("scta_l*/**/[a-z]*.py")]
    assert {".".join(path.parts) for path in paths} == set(reading_order())


@pytest.mark.parametrize("name", reading_order())
def test_modules_import_only_from_those_above(name):
    above = reading_order()[: reading_order().index(name)]
    for module in imported(name):
        inside = [other for other in above if other.startswith(f"{module}.")]  # a package: of what is above
        assert module in above or inside, f"{name} imports {module}"


def test_the_papers_package_imports_nothing_of_the_laboratory():
    for name in reading_order():
        if name.startswith("scta_lite."):
            assert not [module for module in imported(name) if module.startswith("scta_lab")], name
        if name.startswith("scta_lite.rows."):
            assert {module.rpartition(".")[0] for module in imported(name)} <= {"scta_lite.rows", "scta_lite"}


def requirements(*extras):
    """What the package needs with these extras, as {name: version range}."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    needed = [Requirement(line) for line in lines]
    return {requirement.name: str(requirement.specifier) for requirement in needed}


def test_no_extra_names_another_of_ours():
    """The Makefile joins them, by names that there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "scta_lite" not in requirements(*project["optional-dependencies"])
    joined = re.findall(r"^EXTRAS_\w+ := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert {name for line in joined for name in re.findall(r"\b[a-z]+\b", line)} <= {*project["optional-dependencies"]}


def test_conda_and_pip_install_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = re.findall(r"^ +- ([^\s:]+)$", (ROOT / "environment.yml").read_text(), re.M)
    conda = [Requirement(line) for line in lines if line not in ("conda-forge", "nodefaults", "pip")]
    ranges = {requirement.name.replace("pytorch", "torch"): str(requirement.specifier) for requirement in conda}
    assert ranges.pop("python") == project["requires-python"]
    assert ranges == requirements("notebooks", "lab", "dask", "parquet", "serve", "test")


def test_every_requirement_is_pinned_to_a_version_in_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # names and versions, no address
    assert lines == sorted(lines, key=str.lower)
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for name, range_ in requirements(*set(project["optional-dependencies"]) - {"gpu", "peers"}).items():
        assert SpecifierSet(range_).contains(pins[canonicalize_name(name)]), name


def test_every_pin_serves_the_oldest_python():
    """Where one does not, pip looks at every version of everything, for many minutes (Debian 12 has 3.11.2)."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    pins = [line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
    for name in pins:
        try:
            needed = metadata(name).get("Requires-Python")
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        assert needed is None or SpecifierSet(needed).contains(f"{oldest}.0"), f"{name} needs Python {needed}"


def test_no_requirement_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*requirements(*project["optional-dependencies"]).values(), project["requires-python"]]
    assert not [range_ for range_ in ranges if not re.fullmatch(r">=[\d.]+", range_)]


def test_every_python_in_the_classifiers_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python ::" in line]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    for text in ("README.md", "Makefile"):
        assert f"Python {named[0]} to {named[-1]}" in (ROOT / text).read_text()


def test_workflows_pin_their_actions_and_may_only_read():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())
        for action in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action


@pytest.mark.parametrize("command", [train_command, sweep_command])
def test_help_explains_every_setting(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    groups = re.findall(r"^(\S.*):$", text, re.M)
    assert groups == ["options", *OPTIONS, "examples"]
    assert "None" not in text
    shown = " ".join(text.split())
    for part in ("V, the number of tokens", "--betas BETAS BETAS", "--evaluate [EVALUATE]",
                 "(default: 0.9 0.999)", "one of constant, linear, cosine (default: constant)"):  # fmt: skip
        assert part in shown


def test_the_comment_behind_each_setting_is_its_meaning():
    assert set(MEANINGS) == set(FIELDS)
    assert MEANINGS["sampler"] == f"q, from which negatives are drawn; one of {', '.join(SAMPLERS)}"


def test_data_dictionary_knows_every_field():
    from scta_lab.run.result import Result

    dictionary = (ROOT / "data" / "README.md").read_text()
    for name in Result.__dataclass_fields__:
        if name not in ("spec", "model"):
            assert re.search(rf"^\|[^|]*\b{name}\b", dictionary, re.M), name


def test_the_python_examples_run():
    (first,) = re.findall(r"```python\n(.*?)```", README, re.S)
    tokenizer, loss, rows, _ = re.findall(r"```python\n(.*?)```", USE, re.S)
    compile(tokenizer, "use.md", "exec")  # its library is not among the tests'
    exec(first.replace("50_000", "2_000"), {})
    exec(loss, {})
    exec(rows.replace("_000", "0"), {})


def test_the_three_stages_run(tmp_path, monkeypatch):
    """On a small chat file, with few steps."""
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", USE, re.S)[-1]
    small = {"8_192, steps=600": f"400, steps=4, corpus={str(CHAT)!r}", "steps=200": "steps=4", "8_192": "400",
             "text.load()": f"text.load({str(CHAT)!r})"}  # fmt: skip
    for wanted, instead in small.items():
        assert wanted in code, wanted
        code = code.replace(wanted, instead)
    exec(code, {})


def test_every_stored_run_is_one_and_names_no_folder():
    paths = list((ROOT / "data" / "runs").rglob("*-*-????????.json"))
    assert len(paths) > 600
    for path in paths:
        assert read(path)["run_id"] == path.stem
        assert not re.search(r"/(home|root|Users|tmp|work)/", path.read_text()), path


def test_the_seven_figures_of_the_paper_are_there():
    for gpu in ("rtx_4070", "rtx_a6000"):
        for what in ("throughput", "speedup", "time"):
            for suffix in ("png", "pdf"):
                assert (ROOT / "figures" / f"fig_{what}_vs_vocab_{gpu}.{suffix}").is_file()
    assert (ROOT / "figures" / "fig_comparison_all_gpus.png").is_file()
