"""Numbers in prose, and the numbers that a notebook shows: each of the first has to round from one of the second."""

import json
import re

from scta_lab.base.files import ROOT
from scta_lab.judge.uncertainty import mean

# Settings of the paper or of ours, and sizes: they are given, not found.
GIVEN = {8_192, 50_000, 200_000, 1_000_000, 32, 33, 64, 256, 0.07, 16, 63, 1_008, 20_000, 2_500, 1_250, 600, 200}


def prose(markdown):
    """What is read as words: without formulas, code, the addresses of links, and tables' rules."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<[^>]+>", " ", markdown, flags=re.S)
    text = re.sub(r"\$[^$]*\$|`[^`]*`", " x ", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"^\|[-:| ]+\|$", "", text, flags=re.M)


def words(markdown):
    return re.findall(r"[^\W\d_][\w’'-]*|\d[\d.,]*", prose(markdown))


def behind_unigram(view, row):
    """Whether the row's NLL is worse than that of the unigram of its text, means of seeds."""
    unigram = [run["controls"]["unigram"]["nll"] for run in view.rows[row]]
    return mean(view.sums(row), "nll") > sum(unigram) / len(unigram)


def values(text):
    numbers = re.findall(r"\d(?:[\d_]|,(?=\d\d\d))*(?:\.\d+)?(?:e[-+]?\d+)?", text)
    return {float(number.replace(",", "").replace("_", "")) for number in numbers}


def shown(cells):
    """Every number that the cells of code hold or show, as floats."""
    numbers = set()
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        texts = ["".join(cell["source"])]
        for output in cell["outputs"]:
            data = output.get("data", {})
            texts.append("".join(output.get("text", "")))
            texts += ["".join(data.get(kind, "")) for kind in ("text/plain", "text/markdown")]
            texts.append(re.sub(r"<[^>]*>", " ", "".join(data.get("text/html", ""))))
        numbers |= values("\n".join(texts))
    return numbers


def shown_by(name):
    """Those of a notebook, named as `make notebooks ONLY=` takes it."""
    return shown(json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"])


def told(markdown):
    """The numbers in the prose: (as written, value, unit of the last place).

    Small whole numbers count things; answers of exercises are checked by the cells after them.
    """
    markdown = re.sub(r"<details>.*?</details>", "", markdown, flags=re.S)
    text = re.sub(r"^#.*$", "", prose(markdown), flags=re.M)
    for number, suffix in re.findall(r"(?<![\w.,/])(\d[\d,]*(?:\.\d+)?)(?![\d/])\s?(K\b|M\b|%)?", text):
        number = number.rstrip(",")
        scale = {"K": 1e3, "M": 1e6, "%": 1e-2}.get(suffix, 1)
        value = float(number.replace(",", ""))
        if "." not in number and value <= 20 and suffix != "%":
            continue
        digits = len(number.partition(".")[2])
        yield number + suffix, value * scale, 10.0**-digits * scale


def unfounded(markdown, numbers):
    """The numbers in the prose that round from none of these, as written."""
    known = numbers | GIVEN
    known |= {n / 100 for n in known}  # a percentage may stand in a table without its sign
    known |= {n * scale for n in known for scale in (1e3, 1e6)}  # "50K" on an axis, 50,000 in the text
    return [
        written for written, value, unit in told(markdown) if not any(abs(n - value) <= 0.5001 * unit for n in known)
    ]
