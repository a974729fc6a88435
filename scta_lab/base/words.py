"""The two ways to give Specs: as a grid, and as the words of a command line."""

import difflib
import json
import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from itertools import product
from typing import Any

from scta_lab.base.spec import BACKBONES, METHODS, PLAIN, SAMPLERS, SCHEDULES, TUNED, Spec

# The options by group: of each setting what stands for its value in the help, and what it means.
OPTIONS: dict[str, dict[str, tuple[Any, str]]] = {
    "the run": {
        "method": ("METHOD", f"one of {', '.join(METHODS)}; the first two are the paper's"),
        "vocab": ("V", "the number of tokens, an integer from 2 up; 257 or more for a text"),
        "optimizer": (
            "dense|rows|sparse",
            "dense: torch's AdamW over all parameters; rows: RowAdamW over the rows in use; "
            "sparse: torch's SparseAdam over these, another algorithm, without weight decay",
        ),
        "corpus": ("TEXT", '"installed", "zipf", or the path of text or of .npy ids'),
        "max_characters": ("N", "characters of the text after which no further document is read"),
        "steps": ("STEPS", "steps to run; by default all of a training"),
        "budget_s": ("SECONDS", "seconds after which a run stops, once 4 steps are done"),
        "evaluate": ("true|false", "measure quality on held-out text, after an epoch or more"),
        "eval_every": ("STEPS", "steps between metrics on half of the held-out text"),
        "eval_examples": ("N", "held-out examples that evaluate reads, at most"),
        "device": ("DEVICE", '"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …'),
        "threads": ("N", "threads of the CPU; by default torch's choice"),
        "capture": (
            "true|false",
            "do a GPU's steps as one CUDA graph; by default where it can be",
        ),
        "seed": ("N", "of the initialisation, the order of the examples and the negatives"),
    },
    "the paper's settings": {
        "examples": ("N", "examples in an epoch"),
        "batch": ("B", "examples in a step"),
        "seq_len": ("T", "tokens in an example, of which T - 1 are predicted"),
        "epochs": ("N", "epochs in a training"),
        "lr": ("RATE", "learning rate"),
        "hidden": ("d", "width of the backbone"),
        "semantic_dim": ("D", "dimension of the semantic vectors"),
        "negatives": ("K", "negatives for each predicted position, drawn with replacement"),
        "temperature": ("TAU", "τ, by which the cosines are divided"),
    },
    "what the paper leaves open": {
        "sampler": ("Q", f"q, from which negatives are drawn; one of {', '.join(SAMPLERS)}"),
        "shared": ("S", "negatives shared by all positions; 0: each position has K of its own"),
        "mask_hits": ("true|false", "leave out a negative that is the target itself"),
        "init_std": ("X", "of the semantic table; 1 is torch's default for embeddings"),
        "betas": (("BETA1", "BETA2"), "of AdamW, from 0 up and below 1"),
        "eps": ("X", "of AdamW"),
        "weight_decay": ("X", "of AdamW"),
        "precision": ("float32|tf32|bfloat16", "of matrix products; bfloat16 leaves the GRU out"),
    },
    "beyond the paper": {
        "table_lr": ("RATE", "learning rate of what has a row for each token; by default lr"),
        "schedule": (
            "|".join(SCHEDULES),
            "of the learning rates, from the warm-up to the last step",
        ),
        "warmup": ("STEPS", "steps in which the learning rates rise in a straight line"),
        "clip": ("X", "the greatest norm of all gradients together; by default none"),
        "input_dim": ("WIDTH", "of the input embeddings, which a matrix takes to d; by default d"),
        "backbone": ("|".join(BACKBONES), "gru, of one layer, is the paper's"),
        "layers": ("N", "blocks of the transformer; by default 1"),
        "heads": ("N", "attention heads of each block; by default 4"),
        "mlp_ratio": ("N", "width of a block's MLP over d; by default 4; 1: a GRU's size"),
        "scores": ("cosine|dot", "products with the semantic rows, of unit vectors or not"),
        "log_unigram": ("true|false", "add the training text's log unigram to the scores"),
    },
    "the second stage": {
        "stage1": ("FILE", "<run id>.safetensors of a first stage, from whose model this begins"),
        "token_head": ("random|normalised|plain", "how a new head begins; else stage 1 goes on"),
        "sampled_head": ("true|false", "train it by sampled softmax over S shared negatives"),
        "freeze": ("true|false", "train that head alone (option A), not all (option B)"),
    },
}
MEANINGS = {name: meaning for group in OPTIONS.values() for name, (_, meaning) in group.items()}
FIELDS = {f.name: f for f in fields(Spec)}


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
        for name, (metavar, meaning) in options.items():
            default = several.get(name, FIELDS[name].default)
            group.add_argument(
                option(name),
                type=_reader(FIELDS[name]),
                **_words_taken(name, name in several),
                default=SUPPRESS,
                required=default is MISSING,
                metavar=metavar,
                help=f"{meaning}{_default_in_words(name, default)}".replace("%", "%%"),
            )


def _words_taken(name: str, is_several: bool) -> dict[str, Any]:
    """How many words follow the option of a setting, as argparse has it."""
    if FIELDS[name].type is bool:
        return {"nargs": "?", "const": True}  # `--evaluate` alone is true
    if name == "betas":
        return {"nargs": 2}
    return {"nargs": "+"} if is_several else {}


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
