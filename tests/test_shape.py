"""The packages stay readable: one idea a line, short functions, and the paper's package small."""

import ast
from pathlib import Path

import pytest

from scta_lab.base.files import ROOT

PACKAGES = {"scta_lite": 5.6, "scta_lab": 5.7}  # expression nodes in a line of code, at most
MOST_LINES, MOST_IN_FUNCTION = 1_200, 40  # of scta_lite; and lines of any function


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def docstring_lines(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, node.end_lineno + 1)


def code_lines(path):
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text()
    docstrings = set(docstring_lines(ast.parse(text)))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in docstrings]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def expression_nodes(path):
    kinds = (ast.expr, ast.comprehension, ast.keyword)
    return sum(isinstance(node, kinds) for node in ast.walk(ast.parse(path.read_text())))


@pytest.mark.parametrize("package", PACKAGES)
def test_one_idea_a_line(package):
    nodes, lines = (sum(map(count, sources(package))) for count in (expression_nodes, code_lines))
    assert nodes / lines <= PACKAGES[package]


def test_the_papers_package_is_small():
    assert sum(map(code_lines, sources("scta_lite"))) <= MOST_LINES


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short_and_the_formatter_decides(package):
    for path in sources(package):
        text = path.read_text()
        assert "# fmt:" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                length = node.end_lineno - node.lineno + 1 - docstring.count("\n")
                assert length <= MOST_IN_FUNCTION, f"{Path(path).name}: {node.name}"
