"""The two ways to give Specs: as a grid, and as the words of a command line."""

import difflib
import inspect
import json
import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from itertools import product
from typing import Any

import scta_lite.spec as paper

import scta_lab.base.spec as lab
from scta_lab.base.spec import PLAIN, TUNED, Spec

GROUPS = {
    "the paper's settings": paper.Spec,
    "the text": lab.Text,
    "looks at quality": lab.Looks,
    "the learning rates, and when a run ends": lab.Schedule,
    "the backbone": lab.Backbone,
    "the head": lab.Head,
    "the second stage": lab.SecondStage,
    "the machine": lab.Machine,
}
CHOICES = {
    "method": Spec.METHODS,
    "optimizer": Spec.OPTIMIZERS,
    "precision": Spec.PRECISIONS,
    "schedule": lab.SCHEDULES,
    "backbone": lab.BACKBONES,
    "sampler": lab.SAMPLERS,
    "scores": lab.SCORES,
    "token_head": lab.TOKEN_HEADS,
}
FIELDS = {f.name: f for f in fields(Spec)}


def meanings(group: type) -> dict[str, str]:
    """Of each setting of the group what it means: the comment behind it, and its choices."""
    comments = dict(re.findall(r"^    (\w+): .+?  # (.+)$", inspect.getsource(group), re.M))
    for name in comments.keys() & CHOICES:
        comments[name] += f"; one of {', '.join(CHOICES[name])}"
    return comments


OPTIONS = {title: meanings(group) for title, group in GROUPS.items()}
MEANINGS = {name: meaning for group in OPTIONS.values() for name, meaning in group.items()}


def grid(**settings: Any) -> list[Spec]:
    """A Spec for each combination of the settings' values, vocabularies outermost.

    `vocab`, `method` and `optimizer` take one value, a list, or a string such as "50k,200k,1M" or
    "ce,semantic".

    >>> [(s.vocab, s.method) for s in grid(vocab="2k, 1M", method="ce,semantic")]
    [(2000, 'ce'), (2000, 'semantic'), (1000000, 'ce'), (1000000, 'semantic')]
    """
    for name, value in settings.items():
        if name not in FIELDS:
            raise ValueError(f"{name}={value!r}: no such setting")
    names = [name for name in ("vocab", "method", "optimizer") if name in settings]
    lists = [_listed(name, settings.pop(name)) for name in names]
    combinations = [dict(zip(names, values, strict=True)) for values in product(*lists)]
    specs = [Spec(**combination, **settings) for combination in combinations]
    return list(dict.fromkeys(specs))


def _listed(name: str, value: Any) -> list:
    """The values that a list, one value, or a string such as "50k, 200k" stands for."""
    values = []
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, str):
            values += _values_in(name, part)
        else:
            values.append(part)
    if not values or values == [""]:
        raise ValueError(f"{name}={value!r}: expected at least one value")
    return values


def _values_in(name: str, text: str) -> list:
    """The values that stand in the text between commas."""
    if re.search(r"\d,0\d", text):  # "2,000" would be 2 and 0
        expected = "a comma stands between two values; expected a number as 2000 or 2k"
        raise ValueError(f"{name}={text!r}: {expected}")
    return [suffixed(word) for word in text.strip("[]() ").split(",")]


def suffixed(word: str) -> float | str:
    """The number that "50k" or "1.5M" or "1_000" means; any other string as it is."""
    word = word.strip().strip("'\"")
    match = re.fullmatch(r"(-?[\d_]*\.?\d+(?:e\d+)?)([kKmM]?)", word)
    if match is None:
        return word
    factor = {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()]
    return float(match[1].replace("_", "")) * factor


def parsed(parser: ArgumentParser, words: list[str] | None) -> tuple[dict[str, Any], Namespace]:
    """The settings of a Spec that the words give, and all options.

    An unknown option ends the program with the name of the nearest one.
    """
    options, unknown = parser.parse_known_args(words)
    for word in unknown:
        option = word.partition("=")[0]
        longer = [name for name in parser._option_string_actions if name.startswith(option)]
        close = difflib.get_close_matches(option, parser._option_string_actions, n=1)
        nearest = " or ".join(longer or close) or "one that --help lists"
        parser.error(f"{word}: no such option; expected {nearest}")
    settings = {name: value for name, value in vars(options).items() if name in FIELDS}
    return settings, options


def add_arguments(parser: ArgumentParser, *, several: Mapping[str, tuple] | None = None) -> None:
    """An option for each setting of a Spec, `--seq-len` for seq_len, in groups.

    Those named in `several` take one value or more, and by default its values.
    """
    several = several or {}
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, meaning in options.items():
            default = several.get(name, FIELDS[name].default)
            group.add_argument(
                option(name),
                type=_reader(FIELDS[name]),
                **_words_taken(name, name in several),
                default=SUPPRESS,
                required=default is MISSING,
                help=f"{meaning}{_default_in_words(name, default)}".replace("%", "%%"),
            )


def _words_taken(name: str, is_several: bool) -> dict[str, Any]:
    """How many words follow the option of a setting, as argparse has it."""
    if FIELDS[name].type is bool:
        return {"nargs": "?", "const": True}  # `--evaluate` alone is true
    if name == "betas":
        return {"nargs": 2}
    return {"nargs": "+"} if is_several or name == "cutoffs" else {}


def _default_in_words(name: str, default: Any) -> str:
    """What holds where the option is not given; empty where its meaning says so."""
    if name in PLAIN:
        return f" (default: {PLAIN[name]}; of sampled_softmax and semantic_prior: {TUNED[name]})"
    if default in (None, False, MISSING):
        return ""
    values = default if isinstance(default, tuple) else (default,)
    return f" (default: {' '.join(map(str, values))})"


def arguments(spec: Spec) -> list[str]:
    """The command line that `add_arguments` reads as this Spec."""
    words = []
    for name, value in spec.changes().items():
        parts = value if isinstance(value, tuple) else [value]
        words += [option(name), *(json.dumps(part) for part in parts)]
    return words


def option(name: str) -> str:
    """The option of a setting.

    >>> option("seq_len")
    '--seq-len'
    """
    return "--" + name.replace("_", "-")


def _reader(field: Field) -> Callable[[str], Any]:
    """The function that reads a word as a value of the field; whether it will do, the Spec says."""
    is_name = field.name in ("corpus", "device", "stage1")
    is_number = field.type not in (str, str | None, bool)

    def read(word: str) -> Any:
        if is_name and not word.startswith('"'):  # a folder may be called 2024
            return word
        try:
            value = json.loads(word)
        except ValueError:
            value = suffixed(word)
        if isinstance(value, str) and is_number:
            for part in value.split(","):
                if isinstance(suffixed(part), str):
                    raise ArgumentTypeError(f"{part!r}: expected a number, as 2000, 50k or 1M")
        return value

    return read
