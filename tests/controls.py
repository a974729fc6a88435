"""Moves the controls of an executed notebook to their ends, as a reader's mouse would.

nbmake calls `move_all` in the kernel after the last cell, as that cell's metadata say: so the notebook runs once, and
its pictures are drawn with all that it left behind.
"""

from typing import Any

from ipywidgets import HBox, Image, VBox, Widget


def move_all(names: dict[str, Any]) -> None:
    """`names`: the kernel's `globals()`. What the drawing of a picture raises is raised here."""
    pictures = [shown for shown in names["Out"].values() if is_picture(shown)]
    assert len(pictures) == "".join(names["In"]).count("interactive(") > 0
    for picture in pictures:
        move(picture)


def is_picture(shown: Any) -> bool:
    """Whether it is one that `scta_lite.notebook.interactive` made."""
    return isinstance(shown, VBox) and [type(part) for part in shown.children] == [HBox, Image]


def move(picture: VBox) -> None:
    """One control after the other to its first end, then one after the other to its last."""
    row, _ = picture.children
    for end in (0, -1):
        for control in row.children:
            control.value = ends(control)[end]


def ends(control: Widget) -> list:
    """The least and the greatest value of a control, or the values of its options."""
    if isinstance(control.value, bool):
        return [False, True]
    if hasattr(control, "index"):  # of options that may have names
        return [value for _, value in control._options_full]
    if hasattr(control, "options"):
        return list(control.options)
    if hasattr(control, "base"):
        return [control.base**control.min, control.base**control.max]
    return [control.min, control.max]
