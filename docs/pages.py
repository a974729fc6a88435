"""The notebooks as the web book shows them: with links, folded code and words for pictures."""

import re
import textwrap
from pathlib import Path

import nbformat

# where a text gets no links: code, formulas, links, HTML, bold, headings, tables
LEFT_ALONE = (
    r"```.*?```",
    r"`[^`]*`",
    r"\$\$.*?\$\$",
    r"\$[^$]*\$",
    r"\[[^\]]*\]\([^)]*\)",
    r"<[^>]*>",
    r"\*\*.*?\*\*",
    r"^#[^\n]*$",
    r"^\|[^\n]*$",
)
WORD = re.compile(r"^- \*\*(.+?)\*\*: (.+(?:\n  .+)*)", re.M)  # of docs/glossary.md
PRINTS = ("Markdown(", "display(Markdown(")
MOST_CHARACTERS = 400  # that say what a picture shows


def terms(glossary: str) -> list[str]:
    """The words that the glossary explains, long ones first."""
    return sorted((word for word, _ in WORD.findall(glossary)), key=len, reverse=True)


def as_glossary(page: str) -> str:
    """The page with its list of words as Sphinx's glossary, to which the notebooks have links."""
    words = [f"{word}\n  {meaning}" for word, meaning in WORD.findall(page)]
    before, after = page[: WORD.search(page).start()], WORD.sub("", page).partition("\n## Symbols")
    return f"{before}```{{glossary}}\n{(chr(10) * 2).join(words)}\n```\n\n## Symbols{after[2]}"


def linked(markdown: str, words: list[str]) -> str:
    """The text with a link from the first use of each word, which is then taken off the list.

    Headings, code, formulas, links and bold text stay as they are.
    """
    pieces = re.split(f"({'|'.join(LEFT_ALONE)})", markdown, flags=re.S | re.M)
    for n in range(0, len(pieces), 2):  # between them stand those that are left alone
        for word in list(words):
            pattern = rf"(?<![\w{{`*-])({re.escape(word)})(?![\w`*}}-])"
            if "{term}" not in pieces[n] and re.search(pattern, pieces[n]):
                pieces[n] = re.sub(pattern, f"{{term}}`{word}`", pieces[n], count=1)
                words.remove(word)
    return "".join(pieces)


def plain(markdown: str) -> str:
    """What the Markdown says, without its marks, on one line."""
    text = re.sub(r"\*\*What it shows\.?\*\*", "", markdown)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"[*`$|]|^- ", "", text, flags=re.M)
    return " ".join(text.split())


def finding(after: nbformat.NotebookNode) -> str:
    """What the cell after a picture says that it shows, or its beginning."""
    markdown = after.source
    if after.cell_type == "code":
        texts = [output.get("data", {}).get("text/markdown", "") for output in after.outputs]
        markdown = "".join(texts)
    return textwrap.shorten(plain(markdown), MOST_CHARACTERS, placeholder=" …")


def shown(cell: nbformat.NotebookNode) -> set[str]:
    """The kinds of what a code cell shows; text that it prints is "text"."""
    kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
    return kinds | {"text" for output in cell.outputs if "text" in output}


def is_folded(cell: nbformat.NotebookNode) -> bool:
    """Whether its author folded it, or it draws."""
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        return True
    kinds = shown(cell)
    draws = "image/png" in kinds or cell.source.lstrip().startswith("def draw")
    return draws or "text/markdown" in kinds or "hide-input" in cell.metadata.get("tags", [])


def tag(cell: nbformat.NotebookNode) -> str | None:
    """What the book folds or leaves out: never a closed bar with nothing under it."""
    if "interactive(" in cell.source:
        return "remove-cell"  # it needs a kernel
    if not is_folded(cell):
        return None
    if not shown(cell):
        return "remove-cell"
    return "remove-input" if cell.source.lstrip().startswith(PRINTS) else "hide-input"


def join(cells: list[nbformat.NotebookNode]) -> None:
    """Puts folded code that shows nothing before that of the next cell, if that is folded too."""
    waiting = []
    for cell in cells:
        if cell.cell_type == "code" and is_folded(cell) and not shown(cell):
            waiting.append(cell.source)
            continue
        if cell.cell_type == "code" and tag(cell) == "hide-input":
            cell.source = "\n\n\n".join([*waiting, cell.source])
        waiting = []


def table(html: str) -> str:
    """The HTML of a table with classes for book.css: `words` where few cells are numbers."""
    html = re.sub(r"<table(?![^>]*class=)", '<table class="dataframe"', html)
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", html, re.S)]
    numbers = sum(bool(re.match(r"[^A-Za-z]*\d|\W*$|nan", cell.strip())) for cell in cells)
    if 2 * numbers < len(cells):
        html = html.replace('class="dataframe', 'class="words dataframe')
    return html


def notebook(path: Path, words: list[str]) -> nbformat.NotebookNode:
    """The notebook as the book shows it."""
    page = nbformat.read(path, 4)
    words = list(words)
    join(page.cells)
    for n, cell in enumerate(page.cells):
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, words)
            continue
        for data in (output.get("data", {}) for output in cell.outputs):
            if "text/markdown" in data:  # myst-nb takes a link in an output as it stands
                data["text/markdown"] = data["text/markdown"].replace(".ipynb)", ".html)")
            if "text/html" in data:
                data["text/html"] = table(data["text/html"])
        if chosen := tag(cell):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), chosen]
        if "image/png" in shown(cell):
            cell.metadata["mystnb"] = {"image": {"alt": finding(page.cells[n + 1])}}
    return page
