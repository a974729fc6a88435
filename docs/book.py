"""Builds the web book: `make book`, from the executed notebooks and the stored runs.

Nothing is run again. All is assembled in build/book/source. docs/templates has the first page,
front.html, and the pages that GitHub would not show as they are meant: most with %NAMES, in place
of which tables and links come. In the notebooks the input is hidden where it draws or prints a
finding, and the finding is its picture's alternative text.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

import front
import tables
from pages import as_glossary, notebook, terms
from scta_lab.base.files import ROOT

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LAB = sorted((ROOT / "notebooks" / "lab").glob("*.ipynb"))
DOCS = ROOT / "docs"
TEMPLATES = DOCS / "templates"
BUILT = ROOT / "build" / "book"
COPIED = "README.md data/README.md LICENSE CITATION.cff CONTRIBUTING.md CHANGELOG.md".split()
GROUPS = {  # the order of the pages
    "The lessons": [f"notebooks/{path.stem}" for path in LESSONS],
    "What was found": ["docs/claims", "docs/results", "docs/sliders"],
    "Use it": ["README", "docs/use", "docs/api", "docs/glossary", "docs/related"],
    "The laboratory": [f"notebooks/lab/{path.stem}" for path in LAB],
    "Data, runs and code": ["data/README", "docs/reproduce", "docs/faults"],
    "The repository": ["CONTRIBUTING", "CHANGELOG"],
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


PARTS = {  # what stands in a template for each %NAME
    "FRONT": (TEMPLATES / "front.html").read_text,
    "CONTENTS": contents,
    "FIRST_LESSON": lambda: f"notebooks/{LESSONS[0].stem}",
    "CHIPS": front.chips,
    "CLAIMS_COUNTED": tables.claims_counted,
    "CLAIMS_TABLE": tables.claims_table,
    "CLAIMS": tables.claims_in_full,
    "STEP_TIMES": tables.step_times,
    "GPU_TIMES": tables.gpu_times,
    "VIEWS": tables.comparisons,
    "RUNS": tables.stored_runs,
    "DRILLS": tables.drills,
}
NAME = re.compile(r"%([A-Z]{3}[A-Z_]*)\b")


def filled(text: str) -> str:
    """The text with a part for each %NAME, also for those in a part."""
    while NAME.search(text):
        text = NAME.sub(lambda name: PARTS[name[1]](), text)
    return text


def assemble(source: Path) -> None:
    """Writes all that Sphinx reads."""
    shutil.rmtree(source, ignore_errors=True)
    copy(source)
    for page in TEMPLATES.glob("[a-z]*.md"):
        (source / "docs" / page.name).write_text(filled(page.read_text()))
    (source / "docs" / "index.md").rename(source / "index.md")
    (source / "static" / "front-data.js").write_text(front.script())
    glossary = source / "docs" / "glossary.md"
    words = terms(glossary.read_text())
    glossary.write_text(as_glossary(glossary.read_text()))
    (source / "notebooks" / "lab").mkdir(parents=True)
    for path in [*LESSONS, *LAB]:
        nbformat.write(notebook(path, words), source / path.relative_to(ROOT))


def main() -> None:
    assemble(BUILT / "source")
    shutil.rmtree(BUILT / "html", ignore_errors=True)
    words = ["-W", "--keep-going", "-q", BUILT / "source", BUILT / "html"]
    subprocess.run([sys.executable, "-m", "sphinx", *words], check=True)
    print(f"The book: {BUILT / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
