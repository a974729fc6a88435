"""The notebooks as the web book shows them: with links, folded code and words for pictures."""

import re
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
PRINTS = ("Markdown(", "display(Markdown(")
MOST_LINES = 14  # of code that shows nothing and is not folded
MOST_WORDS = 400  # characters, for a picture


def terms(glossary: str) -> list[str]:
    """The words that the glossary explains, long ones first."""
    listed = glossary.partition("```{glossary}")[2].partition("```")[0]
    return sorted(re.findall(r"^(\S.*)$", listed, re.M), key=len, reverse=True)


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
    text = plain(markdown)
    if len(text) <= MOST_WORDS:
        return text
    return text[:MOST_WORDS].rsplit(" ", 1)[0] + " …"


def tags(source: str, kinds: set[str], shows: bool) -> list[str]:
    """What is folded or left out of a cell that has outputs of these kinds, or shows none."""
    chosen = []
    if "image/png" in kinds:
        chosen.append("hide-input")
    elif "text/markdown" in kinds:
        chosen.append("remove-input" if source.startswith(PRINTS) else "hide-input")
    elif source.startswith("def draw") or (not shows and len(source.splitlines()) > MOST_LINES):
        chosen.append("hide-input")
    if "interactive(" in source:
        chosen.append("remove-cell")  # it needs a kernel: explore.md has those that do not
    return chosen


def notebook(path: Path, words: list[str]) -> nbformat.NotebookNode:
    """The notebook as the book shows it."""
    page = nbformat.read(path, 4)
    words = list(words)
    for n, cell in enumerate(page.cells):
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, words)
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/markdown" in data:  # myst-nb takes a link in an output as it stands
                data["text/markdown"] = data["text/markdown"].replace(".ipynb)", ".html)")
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        old = cell.metadata.get("tags", [])
        cell.metadata["tags"] = old + tags(cell.source.strip(), kinds, bool(cell.outputs))
        if "image/png" in kinds:
            cell.metadata["mystnb"] = {"image": {"alt": finding(page.cells[n + 1])}}
    return page
