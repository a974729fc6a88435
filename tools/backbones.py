"""A Transformer beside the GRU at V = 8,192, which the paper leaves open: `make backbones`. Some hours on two cores.

CE and the method with a prior, each over three backbones of width 256: the paper's GRU; one Transformer block with an
MLP of the same width, which has as many parameters as the GRU, within 0.2%; two blocks of the usual shape, four times
as many. Resumable, a run is one file.

tune     every row looks for its settings as in `tools/study.py`: ten trainings of 400 steps, then its weight decay
cost     step times, in rounds of fresh processes, alone on the machine
equal    after the paper's 2,500 steps, three seeds
seconds  after equal seconds, as many steps as the measured step allows

`tools/backbones.py tune cost` does a part; `--out` names the folder.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import study
from study import LOW, METHODS, PRIOR, Run
from tqdm import tqdm

from scta_lite import PAPER, Spec
from scta_lite.files import ROOT

SHAPES = {  # how a row's name ends in figures
    "": {},
    ", 1-block Transformer": {"backbone": "transformer", "layers": 1, "mlp_ratio": 1},
    ", 2-block Transformer": {"backbone": "transformer", "layers": 2, "mlp_ratio": 4},
}
ROWS = [label + shape for label, shape in product(("CE", PRIOR), SHAPES)]


def fixed(row: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the row always has, and where the setting of its own begins that is tuned."""
    label, comma, shape = row.partition(",")
    always, own = METHODS[label]
    return always | SHAPES[comma + shape], own


@cache
def tune(row: str, run: Run) -> dict[str, Any]:
    """The settings that the row's search finds."""
    own = fixed(row)[1]
    always = study.common(LOW) | study.scheduled(study.TUNED_STEPS) | {"eval_every": study.TUNED_STEPS}
    always |= fixed(row)[0]

    def score(settings: list[dict]) -> list[float]:
        return study.nlls(run([Spec(**always | changes) for changes in settings], f"{LOW}/tune"))

    return study.search(study.START | own, study.TRIALS[LOW], score)


@cache
def settled(row: str, run: Run) -> dict[str, Any]:
    """The same with the best weight decay of a long training."""
    found = tune(row, run)
    always = study.planned(LOW, study.EQUAL[LOW][0], 0) | fixed(row)[0] | found

    def score(settings: list[dict]) -> list[float]:
        return study.nlls(run([Spec(**always | changes) for changes in settings], f"{LOW}/decay"))

    return found | study.search({"weight_decay": found["weight_decay"]}, 3, score)


@cache
def cost(run: Run) -> dict[str, float]:
    """Each row's milliseconds a step, the median of its rounds."""
    specs = {(row, seed): Spec(vocab=LOW, optimizer="rows", steps=30, seed=seed, **fixed(row)[0] | tune(row, run))
             for seed in range(study.ROUNDS) for row in ROWS}  # fmt: skip
    found = dict(zip(specs, run(list(specs.values()), f"{LOW}/cost"), strict=True))
    return {row: median(found[row, seed]["step_ms"] for seed in range(study.ROUNDS)) for row in ROWS}


def trained(row: str, run: Run, steps: int, seed: int, **changes: Any) -> Spec:
    return Spec(**study.planned(LOW, steps, seed) | fixed(row)[0] | settled(row, run) | changes)


def equal(run: Run) -> list[Spec]:
    """Every row after equal steps."""
    return [trained(row, run, study.EQUAL[LOW][0], seed) for seed in range(study.SEEDS[LOW]) for row in ROWS]


def seconds(run: Run) -> list[Spec]:
    """Every row after equal seconds, over text that is new."""
    specs = []
    for row, step_ms in cost(run).items():
        steps = max(2, int(1e3 * study.SECONDS / step_ms))
        specs.append(trained(row, run, steps, 0, examples=steps * PAPER.batch, epochs=1))
    return specs


PARTS = {"tune": settled, "cost": cost, "equal": equal, "seconds": seconds}  # in this order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "backbones", help="folder (default: runs/backbones)"
    )
    asked = parser.parse_args()
    run = study.live(asked.out)
    for part in asked.parts:
        if part not in PARTS:
            parser.error(f"part={part!r}: expected one of {', '.join(PARTS)}")
        with ThreadPoolExecutor(2) as two:  # at a time, a core each; but for step times
            if part == "tune":
                for _ in tqdm(two.map(partial(settled, run=run), ROWS), part, total=len(ROWS)):
                    pass
            elif part == "cost":
                cost(run)
            else:
                run(PARTS[part](run), f"{LOW}/{part}", two)


if __name__ == "__main__":
    main()
