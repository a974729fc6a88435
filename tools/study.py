"""The study of quality that notebook 06 shows: `make study`. Hours on two cores; resumable, a run is one file.

tune: settings at V = 8,192, 400 steps each, one changed at a time; chosen by the validation half of the held-out text.
8192, 50000, 200000: the chosen settings, for one epoch with 3 seeds; for 600 steps; for ten minutes of training each.
stage1: two models of V = 8,192, and space.npz, their tokens' vectors. cost: step times, in rounds.
`tools/study.py tune 8192` does a part.
"""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from scta_lite import PAPER, Spec, load, sweep, text, train
from scta_lite.files import ROOT
from scta_lite.model import LanguageModel

EVALUATED = {"evaluate": True, "eval_every": 200}
TRIED = {"steps": 400, "vocab": 8192, "threads": 1, **EVALUATED}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
METHODS = ("ce", "ce_lowrank", "adaptive", "semantic", "sampled_softmax", "semantic_prior")
CHANGES = {  # to what each method is by default, at lr 3e-3
    "ce": [{"table_lr": 1e-2}, {"table_lr": 3e-2}, {"table_lr": 1e-2, "log_unigram": True},
           {"table_lr": 1e-2, "lr": 1e-3}, {"table_lr": 1e-2, "betas": (0.9, 0.99)}],
    "ce_lowrank": [
        *({"init_std": std} for std in (0.1, 0.02)),
        *({"init_std": 0.02, **change} for change in (
            {"learn_temperature": True}, {"learn_temperature": True, "semantic_dim": 256}, {"temperature": 0.1},
            {"temperature": 0.1, "semantic_dim": 256}, {"table_lr": 1e-2}, {"lr": 1e-2})),
    ],
    "adaptive": [{"table_lr": 1e-2}, {"table_lr": 3e-2}],
    "semantic": [
        *({"init_std": std} for std in (0.3, 0.1, 0.02)),
        *({"temperature": τ} for τ in (0.05, 0.1)), {"learn_temperature": True},
        *({"negatives": K} for K in (8, 128)), {"shared": 1024}, {"mask_hits": True},
        *({"semantic_dim": D} for D in (32, 256)), {"table_lr": 1e-2},
        *({"init_std": 0.02, **change} for change in (
            {"temperature": 0.1}, {"temperature": 0.1, "negatives": 128}, {"learn_temperature": True},
            {"semantic_dim": 256}, {"table_lr": 1e-2}, {"lr": 1e-2})),
    ],
    "sampled_softmax": [{"shared": 4096}, {"learn_temperature": True}, {"init_std": 0.1}, {"sampler": "log_uniform"},
                        {"temperature": 0.1}, {"temperature": 0.1, "shared": 4096}, {"table_lr": 1e-2},
                        {"shared": 4096, "table_lr": 1e-2}],
    "semantic_prior": [
        *({"init_std": std} for std in (1.0, 0.1, 0.05, 0.01)),
        *({"temperature": τ} for τ in (0.05, 0.1, 0.14, 0.2)), {"learn_temperature": True},
        *({"shared": S} for S in (256, 4096)), {"shared": 0, "negatives": 32},
        *({"semantic_dim": D} for D in (32, 128, 256)),
        {"semantic_dim": 256, "shared": 4096, "learn_temperature": True},
        *({"sampler": q} for q in ("unigram^0.75", "log_uniform", "in_batch")), {"table_lr": 1e-2},
        *({"temperature": 0.1, **change} for change in (
            {"shared": 4096}, {"semantic_dim": 256}, {"semantic_dim": 256, "shared": 4096}, {"table_lr": 1e-2})),
        {"temperature": 0.14, "semantic_dim": 256, "shared": 4096},
        {"temperature": 0.1, "semantic_dim": 256, "shared": 4096, "table_lr": 1e-2},
    ],
}  # fmt: skip


def tune() -> list[Spec]:
    """Each method at each learning rate, then each other setting, at 3e-3."""
    rates = [Spec(method=method, optimizer="rows", lr=lr, **TRIED) for method in METHODS for lr in reversed(RATES)]
    others = [Spec(method=method, optimizer="rows", **TRIED, **{"lr": 3e-3, **change})
              for method, changes in reversed(CHANGES.items()) for change in changes]  # fmt: skip
    return list(dict.fromkeys(rates + others))


LARGE = {  # V: how CE is computed, its steps, those of the one with a prior; what is best at 8,192 need not be here
    50_000: ("ce", 150, 400),
    200_000: ("ce_chunked", 60, 400),  # the same loss, in three quarters of the time
}
PAIRS = {  # learning rates, and those of the tables, of CE, of CE that begins from the unigram, of the one with a prior
    "ce": ((3e-3, 1e-2), (3e-3, 3e-3)),
    "log u": ((3e-3, 1e-2), (3e-3, 3e-3), (3e-3, 1e-3), (1e-3, 3e-3)),
    "prior": ((3e-3, 1e-2), (3e-3, 3e-3), (1e-3, 1e-2), (3e-3, 3e-2)),
}
WIDE = [  # of the one with a prior, at V = 200,000: what its scores can say of tokens that are hardly ever read
    *({"temperature": τ} for τ in (0.1, 0.2, 0.3)),
    *({"temperature": τ, "semantic_dim": 256, "shared": 4096} for τ in (0.1, 0.2)),
]


def tune_large(vocab: int) -> list[Spec]:
    """Learning rates of CE, with and without the unigram to begin from, and of the method with a prior, at larger V."""
    ce, steps, sampled_steps = LARGE[vocab]
    heads = {
        "prior": {"method": "semantic_prior", "temperature": 0.1, "steps": sampled_steps},
        "log u": {"method": ce, "log_unigram": True, "steps": steps},
        "ce": {"method": ce, "steps": steps},
    }
    common = {"vocab": vocab, "optimizer": "rows", "evaluate": True, "eval_every": 1000, "eval_examples": 64}
    rates = [Spec(**common, lr=lr, table_lr=table_lr, **settings)
             for name, settings in heads.items() for lr, table_lr in PAIRS[name]]  # fmt: skip
    wide = {**common, "method": "semantic_prior", "steps": 1500, "lr": 3e-3, "table_lr": 1e-2}
    return [Spec(**wide, **changes) for changes in WIDE if vocab > 50_000] + rates


CHOSEN = [  # each method's settings of the least NLL on the validation half
    ("ce", {"lr": 3e-3, "table_lr": 1e-2}),
    ("semantic_prior", {"lr": 3e-3, "table_lr": 1e-2, "temperature": 0.1}),
    ("semantic", {}),  # as published
    ("semantic_prior", {"lr": 3e-3, "table_lr": 1e-2, "temperature": 0.1, "semantic_dim": 256, "shared": 4096}),
    ("adaptive", {"lr": 3e-3, "table_lr": 3e-2}),
    ("ce_lowrank", {"lr": 3e-3, "table_lr": 1e-2, "init_std": 0.02}),
    ("semantic", {"lr": 3e-3, "init_std": 0.02, "temperature": 0.1, "negatives": 128}),
    ("sampled_softmax", {"lr": 3e-3, "shared": 4096}),
    ("ce", {"lr": 3e-3, "table_lr": 1e-2, "log_unigram": True}),
]
WIDEST = [  # at V = 200,000, where CE and the one with a prior were tuned anew
    ("ce_chunked", {"lr": 3e-3, "table_lr": 3e-3, "log_unigram": True}),
    ("ce_lowrank", {"lr": 3e-3, "table_lr": 1e-2, "init_std": 0.02}),
    ("semantic_prior", {"lr": 3e-3, "table_lr": 1e-2, "temperature": 0.2}),
    ("semantic_prior", {"lr": 3e-3, "table_lr": 1e-2, "temperature": 0.1, "semantic_dim": 256, "shared": 4096}),
    *(CHOSEN[i] for i in (2, 6, 4, 7)),
]
SIZES = {
    8_192: {"steps": 1250, "eval_every": 125, "threads": 1},
    50_000: {"steps": 600, "eval_every": 100},
    200_000: {"examples": 37_000, "epochs": 12, "budget_s": 600, "eval_every_s": 100, "eval_examples": 128},
}
EXACT = ("ce_chunked", "ce_lowrank")  # at 200,000 these have the machine to themselves


def final(vocab: int, seeds: int = 1) -> list[Spec]:
    """The chosen settings, each method once for each seed."""
    common = {"vocab": vocab, "optimizer": "rows", "evaluate": True, **SIZES[vocab]}
    chosen = WIDEST if vocab == 200_000 else CHOSEN
    return [
        Spec(method=method, seed=seed, **common, **settings) for seed in range(seeds) for method, settings in chosen
    ]


def cost(rounds: int = 5) -> list[Spec]:
    """Steps of the published method, dense and on rows, and of the one with a prior, interleaved as in `make bench`.

    At V = 8,192 of all chosen ones: their final trainings ran two at a time.
    """
    few = [("semantic", "dense", {}), ("semantic", "rows", {}), *((m, "rows", s) for m, s in (CHOSEN[1], CHOSEN[3]))]
    heads = {8_192: [(m, "rows", s) for m, s in CHOSEN], **dict.fromkeys(PAPER.vocabs, few)}
    return [Spec(method=method, optimizer=optimizer, vocab=vocab, steps=30, seed=seed, **settings)
            for seed in range(rounds) for vocab in heads for method, optimizer, settings in heads[vocab]]  # fmt: skip


def stage1(folder: Path) -> None:
    """SEMANTIC as published and with its prior, one epoch at V = 8,192, with their models; and their token spaces."""
    common = {"vocab": 8_192, "optimizer": "rows", "steps": 1250}
    specs = [Spec(method=method, **common, **settings) for method, settings in (CHOSEN[2], CHOSEN[1])]
    models = {spec.method: saved(spec, folder / "stage1") for spec in specs}
    corpus = text.load(progress=False)
    words = [corpus.vocabulary(8_192).decode([i]) for i in range(8_192)]
    counts = np.bincount(text.examples(corpus.ids(8_192)[0], 64)[:20_000].flatten(), minlength=8_192)
    rows = {m: F.normalize(model.head.table.weight, dim=1).mul(127).round().to(torch.int8).numpy()
            for m, model in models.items()}  # fmt: skip
    np.savez_compressed(folder / "space.npz", words=np.array(words), counts=counts, **rows)


def saved(spec: Spec, folder: Path, also: Path | None = None) -> LanguageModel:
    """The trained model of the Spec, from the folder if it is there; its run is kept in `also` too."""
    run_id = spec.run_id(text.load(spec.corpus, progress=False).fingerprint)
    if not (folder / f"{run_id}.json").is_file():
        train(spec, checkpoint=folder).save(folder)
    if also:
        shutil.copy(folder / f"{run_id}.json", also)
    return load(folder, run_id).model


if __name__ == "__main__":
    folder, wanted = (
        ROOT / "runs" / "study",
        sys.argv[1:] or ["tune", "tune50000", "tune200000", "8192", "stage1", "50000", "200000", "cost"],
    )
    if "tune" in wanted:  # two at a time, on a core each
        sweep(tune(), folder / "tune", executor=ThreadPoolExecutor(2))
    for vocab in LARGE:
        if f"tune{vocab}" in wanted:
            sweep(tune_large(vocab), folder / f"tune{vocab}")
    if "8192" in wanted:
        sweep(final(8_192, seeds=3), folder, executor=ThreadPoolExecutor(2))
    if "stage1" in wanted:
        stage1(folder)
    if "50000" in wanted:  # alone, on two
        sweep(final(50_000), folder)
    if "200000" in wanted:
        specs = final(200_000)
        sweep([spec for spec in specs if spec.method in EXACT], folder)
        sweep([replace(spec, threads=1) for spec in specs if spec.method not in EXACT], folder,
              executor=ThreadPoolExecutor(2))  # fmt: skip
    if "cost" in wanted:
        sweep(cost(), folder / "cost")
