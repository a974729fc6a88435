"""Executes the notebooks and keeps them clean: `make notebooks`. Not part of the package.

Each is run as a reader runs it, from notebooks/, except that `save` is True and `resume` False. What only this
execution knows (times of cells, papermill's cell, widget state, the steps of progress bars) is removed; outputs stay,
pictures with 64 colours, a third of the bytes. `--clean FILE…` does that alone, to notebooks that were run elsewhere.
"""

import io
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import papermill
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"  # needs a kernel; its static figure stands above it
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def build(path: Path) -> None:
    """Executes one notebook and replaces it by the result; a failing cell raises and leaves it as it was."""
    wanted = {"save": True, "resume": False}  # what is shown was run by the code that shows it
    given = {name: value for name, value in wanted.items() if name in papermill.inspect_notebook(path)}
    notebook = papermill.execute_notebook(path, None, parameters=given, cwd=path.parent)
    nbformat.write(clean(notebook), path)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what only its execution knows; one that is clean stays as it is."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    count = 0
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "nbmake") if cell.metadata.get(key)}
        hide(cell)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {}) and o.get("text", " x").strip()]
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if picture := output.get("data", {}).get("image/png"):
                    output.data["image/png"] = b64encode(smaller(b64decode(picture))).decode()
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def hide(cell: nbformat.NotebookNode) -> None:
    """Folds what a reader can do without: the source of a finding, which stands below it, and what is tagged so."""
    finding = any("text/markdown" in output.get("data", {}) for output in cell.get("outputs", ()))
    if finding or "hide-input" in cell.metadata.get("tags", ()):
        cell.metadata["jupyter"] = {"source_hidden": True}


def smaller(picture: bytes) -> bytes:
    """The PNG with a palette of 64 colours, picked by octree: by median cut a line that is thin loses its colour."""
    image, made = Image.open(io.BytesIO(picture)), io.BytesIO()
    if image.mode == "P":
        return picture
    image.convert("RGB").quantize(64, Image.Quantize.FASTOCTREE).save(made, "PNG", optimize=True)
    return made.getvalue()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--clean"]:
        for path in sys.argv[2:]:
            nbformat.write(clean(nbformat.read(path, 4)), path)
        sys.exit()
    names = sys.argv[1:] or sorted(p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb"))
    for name in sorted(names, key=lambda name: "04_figures" in name):  # last: its claims are what the others found
        build(NOTEBOOKS / f"{Path(name).stem}.ipynb")
