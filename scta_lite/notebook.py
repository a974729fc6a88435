"""What notebooks need of Jupyter: their parameters, checked, and pictures that controls move."""

import ast
import difflib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))  # types that a parameter may have


def parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """The names that the notebook's parameters cell annotates, with the values they have now.

    `namespace` is the notebook's `globals()`, in which IPython keeps the cells' sources as `In`;
    of a notebook that was converted to a script its file is read. papermill only warns of a
    parameter that no cell declares: here the first call in a kernel raises ValueError for any
    other plain value in small letters. Later calls do not: a reader may have made some."""
    cells = namespace["In"] if "In" in namespace else [Path(namespace["__file__"]).read_text()]
    declared = annotations(cells)
    for name, annotation in declared.items():
        is_bool = isinstance(namespace[name], bool)
        if (
            annotation == "bool" and not is_bool
        ):  # papermill's `-p resume false` is a string, so true
            raise ValueError(f"{name}={namespace[name]!r}: expected True or False")
    if not namespace.get("_parameters_read"):
        _refuse_strangers(namespace, declared)
        namespace["_parameters_read"] = True
    return {name: namespace[name] for name in declared}


def annotations(cells: Iterable[str]) -> dict[str, str]:
    """The names that the cells annotate at their top level, each with its annotation as it is
    written.

    The source is read, not `__annotations__`: IPython compiles a cell statement by statement, and
    from Python 3.14 on (PEP 649) a kernel's globals then hold the last annotated statement's at
    most.

    >>> annotations(["import math", "vocab: int = 5  # V", "for i in:"])
    {'vocab': 'int'}
    """
    declared = {}
    for cell in cells:
        try:
            statements = ast.parse(cell).body
        except SyntaxError:  # of a reader's cell that never ran
            continue
        for statement in statements:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                declared[statement.target.id] = ast.unparse(statement.annotation)
    return declared


def _refuse_strangers(namespace: dict[str, Any], declared: dict[str, str]) -> None:
    """ValueError for a plain value in small letters that no cell declares: a misspelt parameter."""
    names = [name for name, value in namespace.items() if type(value) in PLAIN]
    strangers = [n for n in names if n.islower() and not n.startswith("_") and n not in declared]
    if strangers:
        name = min(strangers)
        close = difflib.get_close_matches(name, declared, n=1) or [", ".join(declared)]
        raise ValueError(f"{name}={namespace[name]!r}: no such parameter; expected {close[0]}")


def interactive(draw: Callable[..., Figure], **controls: Any) -> Any:
    """A widget: the controls, and under them the picture of `draw(**values)`, drawn anew at a
    change.

    The picture is an image, not an Output widget: with those, nbclient sometimes waits for ever
    (its issue 312)."""
    import ipywidgets  # only here: a sweep on a cluster needs no Jupyter

    picture = ipywidgets.Image(format="png")

    def redraw(_: Any = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        buffer = io.BytesIO()
        draw(**values).savefig(buffer, format="png", dpi=100)
        picture.value = buffer.getvalue()

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    row = ipywidgets.HBox(list(controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
    return ipywidgets.VBox([row, picture])
