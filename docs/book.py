"""Builds the web book: `make book`, from the executed notebooks, README, and the stored runs.

Nothing is run again. docs/ holds what was written for the book alone, with %NAMES in place of the
tables and controls that are made from data/. All is assembled in build/book/source. README is the
first page. In the notebooks the input is hidden where it draws or prints a finding, and the finding
is its picture's alternative text. A control needs no kernel: every state that it can have is made
here, as a picture or as text.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

import controls
import tables
from pages import notebook, terms
from scta_lab.base.files import ROOT

README = (ROOT / "README.md").read_text()
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LAB = sorted((ROOT / "notebooks" / "lab").glob("*.ipynb"))
DOCS = ROOT / "docs"
BUILT = ROOT / "build" / "book"
COPIED = ("data/README.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md")
GROUPS = {  # the order of the pages
    "The lessons": [f"notebooks/{path.stem}" for path in LESSONS],
    "Look for yourself": ["docs/explore"],
    "What was found": ["docs/claims", "docs/results"],
    "The laboratory": [f"notebooks/lab/{path.stem}" for path in LAB],
    "To use": ["docs/use", "docs/api", "docs/glossary"],
    "To check": ["data/README", "docs/reproduce", "docs/faults", "CONTRIBUTING", "CHANGELOG"],
}


def contents() -> str:
    """The pages in order, for the side of each page."""
    trees = []
    for name, pages in GROUPS.items():
        listed = "\n".join(pages)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {name}\n\n{listed}\n```")
    return "\n\n".join(trees)


def copy(source: Path) -> None:
    """What is shown as it stands, in the folders of the repository: links between files hold."""
    shutil.copytree(DOCS / "static", source / "static")
    shutil.copytree(ROOT / "figures", source / "figures")
    shutil.copy(DOCS / "conf.py", source)
    pages = [page.relative_to(ROOT) for page in DOCS.glob("*.md")]
    for name in (*COPIED, *pages):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)


def made(frames: Path) -> dict[str, str]:
    """What stands in a page for each %NAME."""
    return {
        "CLAIMS_COUNTED": tables.claims_counted(),
        "CLAIMS_TABLE": tables.claims_table(),
        "CLAIMS": tables.claims_in_full(),
        "STEP_TIMES": tables.step_times(),
        "GPU_TIMES": tables.gpu_times(),
        "VIEWS": tables.comparisons(),
        "RUNS": tables.stored_runs(),
        "DRILLS": tables.drills(),
        "FIGURES": controls.figure_chooser(frames),
        "COST": controls.cost_chooser(frames),
        "QUALITY": controls.quality_chooser(frames),
        "WORDS": controls.words_chooser(),
        "SAMPLES": controls.samples_chooser(),
    }


def assemble(source: Path) -> None:
    """Writes all that Sphinx reads."""
    shutil.rmtree(source, ignore_errors=True)
    copy(source)
    frames = source / "static" / "frames"
    frames.mkdir()
    parts = made(frames)
    for page in (source / "docs").glob("*.md"):
        text = re.sub(r"%([A-Z]{4}[A-Z_]*)\b", lambda name: parts[name[1]], page.read_text())
        page.write_text(text)
    (source / "index.md").write_text(f"{README}\n\n{contents()}\n")
    words = terms((source / "docs" / "glossary.md").read_text())
    (source / "notebooks" / "lab").mkdir(parents=True)
    for path in [*LESSONS, *LAB]:
        nbformat.write(notebook(path, words), source / path.relative_to(ROOT))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, default=BUILT, help="folder (default: build/book)")
    out = parser.parse_args().out
    assemble(out / "source")
    shutil.rmtree(out / "html", ignore_errors=True)
    words = ["-W", "--keep-going", "-q", out / "source", out / "html"]
    subprocess.run([sys.executable, "-m", "sphinx", *words], check=True)
    print(f"The book: {out / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
