"""Two drawings for the first lessons: `python docs/picture_of_the_model.py` saves them in figures/.

`model` is the language model with its two heads, `riddle` the paper's last two losses. As PNG and
SVG.
"""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scta_lab.base.files import ROOT
from scta_lab.study.figures import STYLE
from scta_lite import published_epoch_losses

CE, SEMANTIC, GREY, PALE = "#c25500", "#0072b2", "#555555", "#dddddd"
LIT = (2, 7, 11, 18, 25)  # rows of SEMANTIC's table that are drawn as read
ROWS = 28  # that are drawn of a table


def model() -> Figure:
    """From tokens to the two losses; a coloured row of a table is one that is scored."""
    with plt.style.context(STYLE):
        figure, ax = plt.subplots(figsize=(9.6, 4.7), layout="constrained")
        body(ax)
        softmax_head(ax)
        semantic_head(ax)
        ax.set(xlim=(-3, 96), ylim=(1, 50))
        ax.axis("off")
        title = "One body, two heads: CE scores all V tokens, SEMANTIC scores 33 of them"
        ax.set_title(title, loc="left", fontsize=13)
    plt.close(figure)
    return figure


def body(ax: Axes) -> None:
    """Tokens, their rows of the input table, the GRU, and its state h."""
    for place, token in enumerate(("for", "i", "in")):
        write(ax, token, (1, 29.5 - 4 * place), family="monospace")
    table(ax, (10, 15), GREY, lit=(5, 13, 20))
    write(ax, "input table\nV × 256", (12, 11), color=GREY)
    box(ax, (22, 20.5), "GRU")
    box(ax, (38, 20.5), "h\n256")
    write(ax, "what the model\nknows so far", (42, 16), color=GREY)
    for start, end in ((4, 9.5), (14.5, 21.5), (30.5, 37.5)):
        arrow(ax, (start, 25.5), (end, 25.5), GREY)


def softmax_head(ax: Axes) -> None:
    """CE: every row of W makes a score."""
    arrow(ax, (46.5, 28), (62, 38.5), CE)
    table(ax, (63, 28), CE, lit=range(ROWS))
    write(ax, "table W\nV × 256", (61.5, 30.5), color=CE, ha="right")
    arrow(ax, (68, 38.5), (72, 38.5), CE)
    write(ax, "CE", (73.5, 44), color=CE, weight="bold", ha="left", fontsize=13)
    write(ax, "V scores:\na softmax over\nall V tokens", (73.5, 38.5), color=CE, ha="left")


def semantic_head(ax: Axes) -> None:
    """SEMANTIC: 64 numbers against the rows of 33 tokens."""
    arrow(ax, (46.5, 23), (50, 18.5), SEMANTIC)
    box(ax, (50.5, 8), "z\n64", SEMANTIC, width=6)
    arrow(ax, (57, 13), (63, 13), SEMANTIC)
    table(ax, (63.75, 2.5), SEMANTIC, lit=LIT, width=2.5)
    write(ax, "table E\nV × 64", (61.5, 5), color=SEMANTIC, ha="right")
    arrow(ax, (68, 13), (72, 13), SEMANTIC)
    write(ax, "SEMANTIC", (73.5, 19.5), color=SEMANTIC, weight="bold", ha="left", fontsize=13)
    text = "33 cosines over 0.07:\na softmax over the right\ntoken and 32 random ones"
    write(ax, text, (73.5, 13), color=SEMANTIC, ha="left")


def table(ax: Axes, corner: tuple, color: str, lit, width: float = 4) -> None:
    """A strip of rows, 21 high, of which some are coloured."""
    x, y = corner
    height = 21 / ROWS
    for row in range(ROWS):
        fill = color if row in lit else PALE
        ax.add_patch(Rectangle((x, y + row * height), width, 0.7 * height, color=fill, linewidth=0))


def box(ax: Axes, corner: tuple, text: str, color: str = GREY, width: float = 8) -> None:
    x, y = corner
    ax.add_patch(Rectangle(corner, width, 10, fill=False, edgecolor=color, linewidth=1.6))
    write(ax, text, (x + width / 2, y + 5), color=color)


def write(ax: Axes, text: str, place: tuple, **look) -> None:
    ax.text(*place, text, **{"ha": "center", "va": "center", "fontsize": 11, **look})


def arrow(ax: Axes, start: tuple, end: tuple, color: str) -> None:
    how = {"arrowstyle": "->", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=how)


def riddle() -> Figure:
    """The paper's last training losses at a million tokens, as they stand in its table."""
    last = published_epoch_losses().query("vocab == 1_000_000 and epoch == 2")
    loss = last.set_index("method")["last"]
    with plt.style.context(STYLE):
        figure, ax = plt.subplots(figsize=(8.4, 2.3), layout="constrained")
        for y, (method, color) in enumerate((("semantic", SEMANTIC), ("ce", CE))):
            ax.barh(y, loss[method], height=0.5, color=color)
            write(ax, f"{loss[method]:.2f}", (loss[method] + 0.1, y), color=color, ha="left")
        ax.set_yticks((0, 1), ("SEMANTIC", "CE"))
        ax.set(xlabel="published training loss at a million tokens (nats)", xlim=(0, 8))
        ax.grid(visible=False, axis="y")
        title = "SEMANTIC's loss is nine times smaller. Is its model better?"
        ax.set_title(title, loc="left", fontsize=13)
    plt.close(figure)
    return figure


def main() -> None:
    """The same bytes every time."""
    for name, figure in {"fig_model": model(), "fig_riddle": riddle()}.items():
        path = ROOT / "figures" / name
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        with plt.style.context(STYLE):  # its salt for the names within the SVG
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
