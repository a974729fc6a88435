"""The ways to give Specs: as a grid, on a command line, as the parameters of a notebook."""

import difflib
import json
import re
from argparse import SUPPRESS, ArgumentParser
from dataclasses import MISSING, fields
from itertools import product
from typing import Any

from scta_lite.runs.spec import BLOCKS, PLAIN, TUNED, Spec


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


def parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook: the names that its parameters cell annotates, with the values they have now.

    `namespace` is the notebook's `globals()`. papermill only warns of a parameter that no cell declares: here the first
    call in a kernel raises ValueError for any other plain value in small letters. Later calls do not: a reader may have
    made some.
    """
    declared = namespace["__annotations__"]
    for name in declared:  # papermill hands `-p resume false` on as a string, which would count as true
        if declared[name] is bool and not isinstance(namespace[name], bool):
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


def add_arguments(parser: ArgumentParser, *, several: tuple[str, ...] = ()) -> None:
    """An option for each field of a Spec, `--seq-len` for seq_len; those named in `several` take one value or more."""
    for f in fields(Spec):
        nargs = {"nargs": "+"} if f.name in several else {"nargs": "?", "const": True} if f.default is False else {}
        required = f.default is MISSING and f.name not in several
        other = f"; of sampled_softmax and semantic_prior: {TUNED[f.name]}" if f.name in TUNED else ""
        other = f"; of a transformer: {BLOCKS[f.name]}" if f.name in BLOCKS else other
        default = "" if f.default is MISSING else f" (default: {PLAIN.get(f.name, f.default)}{other})"
        parser.add_argument(_option(f.name), type=_argument, default=SUPPRESS, required=required, metavar="X",
                            help=f"{f.metadata['meaning']}: {f.metadata['expected']}{default}", **nargs)  # fmt: skip


def arguments(spec: Spec) -> list[str]:
    """The command line that `add_arguments` reads as this Spec."""
    return [word for name, value in spec.changes().items() for word in (_option(name), json.dumps(value))]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _argument(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _suffixed(text)
