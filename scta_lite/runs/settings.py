"""The ways to give Specs: as a grid, on a command line, as the parameters of a notebook."""

import ast
import difflib
import json
import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from itertools import product
from pathlib import Path
from typing import Any

from scta_lite.runs.spec import BLOCKS, PLAIN, TUNED, Spec

GROUPS = {
    "method": "the run",
    "examples": "the paper's settings and their variants",
    "stage1": "the second stage",
    "betas": "what the paper leaves open",
}  # the field of Spec with which each group of options begins
METAVARS = {"vocab": "V", "batch": "B", "seq_len": "T", "hidden": "d", "input_dim": "WIDTH", "semantic_dim": "D",
            "negatives": "K", "shared": "S", "temperature": "TAU", "corpus": "TEXT", "device": "DEVICE",
            "stage1": "FILE", "budget_s": "SECONDS", "eval_every_s": "SECONDS", "steps": "STEPS", "eval_every": "STEPS",
            "warmup": "STEPS", "lr": "RATE", "table_lr": "RATE", "betas": ("BETA1", "BETA2")}  # fmt: skip


def grid(**settings: Any) -> list[Spec]:
    """A Spec for each combination of the settings' values, vocabularies outermost.

    `vocab`, `method` and `optimizer` take one value, a list, or a string such as "50k,200k,1M" or "ce,semantic".

    >>> [(s.vocab, s.method) for s in grid(vocab="2k, 1M", method="ce,semantic")]
    [(2000, 'ce'), (2000, 'semantic'), (1000000, 'ce'), (1000000, 'semantic')]
    """
    names = [name for name in ("vocab", "method", "optimizer") if name in settings]
    if unknown := settings.keys() - {f.name for f in fields(Spec)}:
        raise ValueError(f"{min(unknown)}={settings[min(unknown)]!r}: no such setting")
    lists = [_listed(name, settings.pop(name)) for name in names]
    specs = [Spec(**dict(zip(names, values, strict=True)), **settings) for values in product(*lists)]
    return list(dict.fromkeys(specs))


def _listed(name: str, value: Any) -> list:
    """The values that a list, one value, or a string such as "50k, 200k" stands for."""
    values = []
    for part in list(value) if isinstance(value, list | tuple) else [value]:
        if isinstance(part, str):
            if re.search(r"\d,0\d", part):  # "2,000" would be 2 and 0
                raise ValueError(f"{name}={part!r}: a comma stands between two values; expected a number as 2000 or 2k")
            values += [_suffixed(word) for word in part.strip("[]() ").split(",")]
        else:
            values.append(part)
    if not values or values == [""]:
        raise ValueError(f"{name}={value!r}: expected at least one value")
    return values


def _suffixed(part: str) -> float | str:
    """The number that "50k" or "1.5M" or "1_000" means; any other string as it is."""
    part = part.strip().strip("'\"")
    match = re.fullmatch(r"(-?[\d_]*\.?\d+(?:e\d+)?)([kKmM]?)", part)
    return float(match[1].replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()] if match else part


def annotations(cells: Iterable[str]) -> dict[str, str]:
    """The names that the cells annotate at their top level, each with its annotation as it is written.

    The source is read, not `__annotations__`: IPython compiles a cell statement by statement, and from Python 3.14 on
    (PEP 649) a kernel's globals then keep no more than how the last annotated statement would be read.

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


def parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook: the names that its parameters cell annotates, with the values they have now.

    `namespace` is the notebook's `globals()`, in which IPython keeps the cells' sources as `In`; of a notebook that was
    converted to a script its file is read. papermill only warns of a parameter that no cell declares: here the first
    call in a kernel raises ValueError for any other plain value in small letters. Later calls do not: a reader may have
    made some.
    """
    cells = namespace["In"] if "In" in namespace else [Path(namespace["__file__"]).read_text()]
    declared = annotations(cells)
    for name, annotation in declared.items():  # papermill hands `-p resume false` on as a string, which is true
        if annotation == "bool" and not isinstance(namespace[name], bool):
            raise ValueError(f"{name}={namespace[name]!r}: expected True or False")
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    given = {name for name, x in namespace.items() if type(x) in plain and name.islower() and name[0] != "_"}
    strange = given - set(declared)
    if strange and not namespace.get("_parameters_read"):
        name = min(strange)
        close = difflib.get_close_matches(name, declared, n=1) or [", ".join(declared)]
        raise ValueError(f"{name}={namespace[name]!r}: no such parameter; expected {close[0]}")
    namespace["_parameters_read"] = True
    return {name: namespace[name] for name in declared}


def parsed(parser: ArgumentParser, words: list[str] | None) -> dict[str, Any]:
    """What the words set; an option that there is none of ends the program with the name of the nearest one."""
    found, unknown = parser.parse_known_args(words)
    for word in unknown:
        close = difflib.get_close_matches(word.partition("=")[0], parser._option_string_actions, n=1)
        parser.error(f"{word}: no such option; expected {close[0] if close else 'one that --help lists'}")
    return vars(found)


def add_arguments(parser: ArgumentParser, *, several: Mapping[str, tuple] | None = None) -> None:
    """An option for each field of a Spec, `--seq-len` for seq_len, in groups.

    Those named in `several` take one value or more, and by default its values.
    """
    several, group = several or {}, parser
    for f in fields(Spec):
        if f.name in GROUPS:
            group = parser.add_argument_group(GROUPS[f.name])
        default = several.get(f.name, f.default)
        nargs = {"betas": 2}.get(f.name, "+" if f.name in several else "?" if default is False else None)
        group.add_argument(
            _option(f.name), type=_read(f), nargs=nargs, default=SUPPRESS, metavar=_metavar(f), help=_help(f, default),
            required=default is MISSING, **{"const": True} if nargs == "?" else {},
        )  # fmt: skip


def _metavar(f: Field) -> str | tuple[str, str]:
    """What stands for the option's value: a symbol, a unit, or the few values that it can have."""
    choices = "|".join(json.dumps(choice).strip('"') for choice in f.metadata["choices"])
    kind = "N" if "integer" in f.metadata["expected"] else "X"
    return METAVARS.get(f.name) or (choices if len(choices) < 40 else f.name.upper()) or kind


def _help(f: Field, default: Any) -> str:
    """The option's meaning, what is expected unless the metavar says it, and its default."""
    meaning, expected = f.metadata["meaning"], f.metadata["expected"]
    plain = PLAIN.get(f.name, default)
    plain = plain if isinstance(plain, tuple) else (plain,)
    told = [" ".join(map(str, plain))] * (not any(plain[0] is nothing for nothing in (None, False, MISSING)))
    told += [f"of sampled_softmax and semantic_prior: {TUNED[f.name]}"] if f.name in TUNED else []
    told += [f"of a transformer: {BLOCKS[f.name]}"] if f.name in BLOCKS else []
    said = [meaning] + [expected] * (expected != "a name" and "|" not in _metavar(f))
    return ("; ".join(said) + f" (default: {'; '.join(told)})" * bool(told)).replace("%", "%%")


def arguments(spec: Spec) -> list[str]:
    """The command line that `add_arguments` reads as this Spec."""
    words = []
    for name, value in spec.changes().items():
        words += [_option(name), *(json.dumps(part) for part in (value if isinstance(value, tuple) else [value]))]
    return words


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(f: Field) -> Any:
    """What reads a word of the command line as a value of the field; the Spec says whether it will do."""

    def value(text: str) -> Any:
        if f.metadata["expected"] == "a name" and not text.startswith('"'):  # a folder may be called 2024
            return text
        try:
            found = json.loads(text)
        except ValueError:
            found = _suffixed(text)
        if "number" in f.metadata["expected"] or "integer" in f.metadata["expected"]:
            for part in found.split(",") if isinstance(found, str) else ():
                if isinstance(_suffixed(part), str):
                    raise ArgumentTypeError(f"{part!r}: expected a number, as 2000, 50k or 1M")
        return found

    return value
