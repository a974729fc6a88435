"""Executes the notebooks and keeps them clean: `make notebooks`.

Each is run as a reader runs it, from its own folder, but with `save` True and `resume` False. What
only this execution knows (times of cells, papermill's cell, widget state, the steps of progress
bars) is removed; outputs stay, pictures with 64 colours, a third of the bytes. `--clean FILE…` does
that alone, to notebooks that were run elsewhere.
"""

import io
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import papermill
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from PIL import Image

from scta_lab.base.files import ROOT

WIDGET = (
    "application/vnd.jupyter.widget-view+json"  # needs a kernel; its static figure stands above
)
NOTEBOOKS = ROOT / "notebooks"


def build(path: Path) -> None:
    """Executes one notebook and replaces it by the result; a failing cell leaves it as it was."""
    wanted = {"save": True, "resume": False}  # what is shown was run by the code that shows it
    declared = papermill.inspect_notebook(path)
    given = {name: value for name, value in wanted.items() if name in declared}
    notebook = papermill.execute_notebook(path, None, parameters=given, cwd=path.parent)
    nbformat.write(clean(notebook), path)


def clean_file(path: Path) -> None:
    nbformat.write(clean(nbformat.read(path, 4)), path)


def clean(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what only its execution knows; one that is clean stays as it is."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    count = 0
    for cell in notebook.cells:
        metadata = cell.metadata
        cell.metadata = {key: metadata[key] for key in ("tags", "nbmake") if metadata.get(key)}
        if is_hidden(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type == "code":
            count += 1
            number(cell, count)
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def is_hidden(cell: NotebookNode) -> bool:
    """Whether a reader can do without its source: it prints a finding, or is tagged so."""
    kinds = {kind for output in cell.get("outputs", ()) for kind in output.get("data", {})}
    return "text/markdown" in kinds or "hide-input" in tags(cell)


def number(cell: NotebookNode, count: int) -> None:
    """Gives the code cell and its outputs its place, and leaves out outputs that say nothing."""
    outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    cell.outputs = [output for output in outputs if output.get("text", " x").strip()]
    cell.execution_count = count
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            picture = smaller(b64decode(output.data["image/png"]))
            output.data["image/png"] = b64encode(picture).decode()
        if output.output_type == "execute_result":
            output.execution_count = count


def smaller(picture: bytes) -> bytes:
    """The PNG with a palette of 64 colours.

    They are picked by octree: by median cut a line that is thin loses its colour.
    """
    image = Image.open(io.BytesIO(picture))
    if image.mode == "P":
        return picture
    few = image.convert("RGB").quantize(64, Image.Quantize.FASTOCTREE)
    content = io.BytesIO()
    few.save(content, "PNG", optimize=True)
    return content.getvalue()


def main(words: list[str]) -> None:
    if words[:1] == ["--clean"]:
        for path in words[1:]:
            clean_file(Path(path))
        return
    for name in [word.removesuffix(".ipynb") for word in words] or names():
        build(NOTEBOOKS / f"{name}.ipynb")


def names() -> list[str]:
    """The lessons in order, then the laboratory's notebooks as lab/<name>."""
    lessons, lab = sorted(NOTEBOOKS.glob("*.ipynb")), sorted(NOTEBOOKS.glob("lab/*.ipynb"))
    return [path.relative_to(NOTEBOOKS).with_suffix("").as_posix() for path in [*lessons, *lab]]


if __name__ == "__main__":
    main(sys.argv[1:])
