"""Step times of every method, side by side: rounds of fresh processes, one alive at a time. `make bench`, 45 minutes.

Each round runs all of them once and has a seed of its own; a ratio is taken within a round. The runs are kept in
runs/bench, and those that are there are not run again; `tools/bench.py DIR` keeps them elsewhere.
"""

import sys

from scta_lab import Spec, sweep
from scta_lab.base.files import ROOT
from scta_lab.run.table import ratios
from scta_lite import PAPER

METHODS = [  # method, optimizer, then steps and rounds up to V = 200K, and at 1M; a third of the steps warms up
    ("backbone", "dense", (30, 5), (30, 5)),
    ("semantic", "rows", (30, 5), (30, 5)),
    ("semantic", "sparse", (30, 5), (30, 5)),
    ("semantic_prior", "rows", (30, 5), (30, 5)),
    ("semantic", "dense", (15, 5), (12, 3)),
    ("adaptive", "rows", (12, 5), (6, 3)),
    ("adaptive", "dense", (12, 5), (6, 3)),
    ("ce_lowrank", "rows", (12, 5), (0, 0)),  # like CE, it needs 17 GB at 1M
    ("ce_chunked", "rows", (12, 5), (6, 3)),
    ("ce", "dense", (12, 5), (6, 3)),
]


def specs() -> list[Spec]:
    """The runs in their order: rounds outermost, then V, so that what drifts drifts for all."""
    runs = []
    for seed in range(5):
        for vocab in PAPER.vocabs:
            for method, optimizer, *sizes in METHODS:
                steps, rounds = sizes[vocab > 200_000]
                if seed < rounds:
                    runs.append(Spec(method=method, optimizer=optimizer, vocab=vocab, steps=steps, seed=seed))
        if seed < 3:  # ids by Zipf's law, for tables larger than any text's
            runs += [Spec(method="semantic", optimizer="rows", vocab=V, steps=30, seed=seed, corpus="zipf")
                     for V in (50_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)]  # fmt: skip
    return runs


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs" / "bench"
    runs = sweep(specs(), folder)
    for corpus, of_corpus in runs.groupby("corpus"):
        print(f"\n{corpus}:")
        table = ratios(of_corpus, method="semantic", optimizer="rows")
        print(table.to_string(index=False, float_format="{:.2f}".format, na_rep="–"))
    print("ms: medians; ratio: of the step to SEMANTIC rows' in the same round; _q1, _q3: quartiles over the rounds")
    for run in runs[runs.status != "ok"].itertuples():
        print(f"{run.run_id}: {run.status}: {run.reason}")
