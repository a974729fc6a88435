"""Step times of every method, side by side: `make bench`, 45 minutes on two cores.

It made data/runs/amd-epyc-2-cores/bench. Rounds of fresh processes, one alive at a time: each
round runs all methods once and has a seed of its own; a ratio is taken within a round. The runs are
kept in runs/bench, and those that are there are not run again; `studies/bench.py DIR` keeps them
elsewhere.
"""

import sys

from scta_lab import Spec, sweep
from scta_lab.base.files import ROOT
from scta_lab.run.table import ratios
from scta_lite import PAPER

# Method, optimizer, then steps and rounds up to V = 200K, and at 1M; a third of the steps warms up.
METHODS = [
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
LARGE = (50_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)  # with ids by Zipf's law


def specs() -> list[Spec]:
    """The runs in their order: rounds outermost, then V, so that what drifts drifts for all."""
    runs = []
    for seed in range(5):
        for vocab in PAPER.vocabs:
            for method, optimizer, small, large in METHODS:
                steps, rounds = small if vocab <= 200_000 else large
                own = {"method": method, "optimizer": optimizer, "steps": steps}
                if seed < rounds:
                    runs.append(Spec(vocab=vocab, seed=seed, **own))
        if seed < 3:
            own = {"method": "semantic", "optimizer": "rows", "steps": 30, "corpus": "zipf"}
            runs += [Spec(vocab=vocab, seed=seed, **own) for vocab in LARGE]
    return runs


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs" / "bench"
    runs = sweep(specs(), folder)
    for corpus, part in runs.groupby("corpus"):
        print(f"\n{corpus}:")
        table = ratios(part, method="semantic", optimizer="rows")
        print(table.to_string(index=False, float_format="{:.2f}".format, na_rep="–"))
    print("ms: medians; ratio: of the step to SEMANTIC rows' in the same round;")
    print("_q1, _q3: quartiles over the rounds")
    for run in runs[runs.status != "ok"].itertuples():
        print(f"{run.run_id}: {run.status}: {run.reason}")


if __name__ == "__main__":
    main()
