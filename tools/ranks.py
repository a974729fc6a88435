"""Two ranks beside one, on this machine: step times of whole batches and of half ones, in rounds, for notebook 08.

Each rank has one thread. `one` holds runs of one rank, of the paper's batch of 16 and of 8; `two` those of two ranks
that share a batch of 16. A round runs all of them, one after the other: `.venv/bin/python tools/ranks.py` (10 minutes).
"""

import argparse
import subprocess
import sys
from itertools import product
from pathlib import Path

from tqdm import tqdm

from scta_lite import Spec
from scta_lite.files import ROOT
from scta_lite.runs.settings import arguments

ROUNDS, STEPS = 3, 60
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ranks", help="folder (default: runs/ranks)")
    asked = parser.parse_args()
    kinds = [("one", 16, ()), ("one", 8, ()), ("two", 16, TORCHRUN)]
    methods = "semantic", "semantic_prior"
    for seed, method, (name, batch, torchrun) in tqdm(list(product(range(ROUNDS), methods, kinds))):
        spec = Spec(method=method, vocab=asked.vocab, optimizer="rows", batch=batch, steps=STEPS, seed=seed, threads=1)
        out = asked.out / name
        command = [sys.executable, *torchrun, "-m", "scta_lite.train", *arguments(spec), "--out", out]
        subprocess.run(command, check=True, capture_output=True)
        for model in out.glob("*.safetensors"):
            model.unlink()


if __name__ == "__main__":
    main()
