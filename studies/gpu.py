"""The paper's headline, measured on your GPU by one command: `make gpu`, 15 minutes.

`make gpu MINUTES=60` has more. An earlier version made data/runs/h200 (data/README.md).

checks   small cases against float64 on the CPU, and that no step waits for the GPU
         (`tests/device`); if one is wrong that the runs need, nothing is measured
bench    60 steps of CE, each a CUDA graph, in float32 and in TF32, and of SEMANTIC in TF32
kernels  CE's step by other code, its input table on rows: torch in bfloat16, in chunks, and Liger
         Kernel and Cut Cross-Entropy where they are installed (`pip install -e '.[peers]'`)
race     20 seconds of training at V = 50,000, and how good the models are then
capped   CE, with all logits and in chunks, and SEMANTIC at V = 1M: ten steps each, where torch may
         take 8 GiB, the memory of a laptop's GPU
padded   the paper's training on the ids of V = 50,000 in larger tables, from the start whose losses
         are nearest to the paper's
large    SEMANTIC on rows with 2, 5 and 10 million tokens, of random ids
paper    the paper's own trainings, CE and SEMANTIC, two whole epochs; and SEMANTIC on rows
rounds   twice more, both in both precisions, with steps launched one by one beside them

What matters most comes first; what would no longer fit into the minutes is left out, and named. A
run is one file, and the same command goes on where it was. At the end stand the paper's table with
ours beside it, and a folder to send (CONTRIBUTING says how). Energy is read from the GPU's counter
(`pip install -e '.[gpu]'`).
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np

from campaign import Campaign, in_a_process, kind
from padded import FITS, ids_file
from peers import capped, whole_steps
from report import report
from scta_lab import Spec, text
from scta_lab.base import machine
from scta_lab.base.files import ROOT, replace_file, writable
from scta_lite import PAPER

sys.path.insert(0, str(ROOT / "tests" / "device"))
from checks import checks

BENCH = (("ce", "dense"), ("semantic", "dense"), ("semantic", "rows"))
PRECISIONS = ("float32", "tf32")
ROUNDS = 3
STEPS = 60
LARGE = (2_000_000, 5_000_000, 10_000_000)
CAPPED = (("ce", "dense"), ("ce_chunked", "rows"), ("semantic", "dense"))
# What the search on two CPU cores chose at V = 50,000 (lab/05), for all four:
SEARCHED = {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1}
RACE = (
    {"method": "ce", "precision": "tf32"},
    {"method": "ce", "precision": "bfloat16"},
    {"method": "semantic_prior", "optimizer": "rows", "temperature": 0.1},
    {"method": "sampled_softmax", "optimizer": "rows", "scores": "dot", "temperature": 0.7},
    {"method": "adaptive", "optimizer": "rows", "precision": "tf32"},
)
RACE_S = 20
KERNELS_S, CAPPED_S = 120, 45  # what these may take


def examined(campaign: Campaign) -> list[dict]:
    """What the checks say, now or before, of the same code on the same machine."""
    path = campaign.out / "found" / "checks.json"
    host = machine.host(campaign.device)
    about = {"device": machine.name(campaign.device), "host": host}
    has_a_commit = host["commit"] and not host["commit"].endswith("+")  # no changed files
    if has_a_commit and path.is_file():
        before = json.loads(path.read_bytes())
        if about.items() <= before.items():
            return before["checks"]
    results = in_a_process(campaign.device, checks, campaign.device)
    replace_file(path, json.dumps(about | {"checks": results}, indent=1).encode())
    return results


def bench(campaign: Campaign) -> None:
    """One process each. Compared runs follow one another."""
    grid = product(campaign.vocabs, [("float32", BENCH[:1]), ("tf32", BENCH)])
    specs = [timed(campaign, V, kind, p) for V, (p, kinds) in grid for kind in kinds]
    campaign.run("bench", specs)


def rounds(campaign: Campaign) -> None:
    """Two more rounds, with steps launched one by one beside the captured ones."""
    specs = []
    for seed, V, p, method in product(range(1, ROUNDS), campaign.vocabs, PRECISIONS, BENCH):
        specs.append(timed(campaign, V, method, p, seed=seed))
        if campaign.captures:
            specs.append(timed(campaign, V, method, p, seed=seed, capture=False))
    campaign.run("rounds", specs)


def timed(campaign: Campaign, vocab: int, kind: tuple, precision: str, **changes) -> Spec:
    method, optimizer = kind
    steps = 6 if campaign.tiny else STEPS
    return campaign.spec(method, vocab, optimizer, steps=steps, precision=precision, **changes)


def beside(campaign: Campaign) -> None:
    """CE's step by other code, and trainings in 8 GiB. What fails is named as left out."""
    device, steps = campaign.device, 6 if campaign.tiny else STEPS
    settings = {"steps": steps, "precision": "tf32"} | SEARCHED
    exact = [campaign.spec("ce", V, "rows", **settings) for V in campaign.vocabs]
    large = [campaign.spec(m, campaign.vocabs[-1], kind, steps=10) for m, kind in CAPPED]

    def kernels_csv() -> str:
        return in_a_process(device, whole_steps, exact).to_csv(index=False)

    def capped_json() -> str:
        return json.dumps(in_a_process(device, capped, device, large), indent=1)

    made_once(campaign, "kernels.csv", kernels_csv, KERNELS_S)
    if device.type == "cuda":
        made_once(campaign, "capped.json", capped_json, CAPPED_S)


def race(campaign: Campaign) -> None:
    """Equal seconds, by the step times of a few steps just before."""
    seconds, steps = (0.1, 6) if campaign.tiny else (RACE_S, STEPS)
    V = campaign.vocabs[0]
    runners = [campaign.spec(vocab=V, **settings, **SEARCHED) for settings in RACE]
    campaign.run("pace", [replace(spec, steps=steps) for spec in runners])
    specs = []
    for spec in runners:
        step_ms = campaign.step_ms.get(kind(spec))
        if step_ms is not None:
            steps = max(20, int(1e3 * seconds / step_ms))
            specs.append(lasting(spec, steps))
    campaign.run("race", specs)


def lasting(spec: Spec, steps: int) -> Spec:
    """So many steps over text that is new for as long as there is any, with a cosine."""
    corpus = text.load(spec.corpus, progress=False)
    available = len(corpus.examples(spec.vocab, spec.seq_len, spec.examples))
    examples = min(available, steps * spec.batch)
    epochs = -(-steps // (examples // spec.batch))  # rounded up
    size = {"examples": examples, "epochs": epochs}
    schedule = {"schedule": "cosine", "warmup": steps // 20}
    return replace(spec, steps=steps, evaluate=True, eval_every=steps, **size, **schedule)


def padded(campaign: Campaign) -> None:
    """Their tokens are the same, so that their errors compare across V."""
    corpus = campaign.spec("ce", campaign.vocabs[0]).corpus
    if corpus == "installed":
        corpus = str(ids_file(campaign.out / "found" / "ids.npy"))
    settings = {"init_std": FITS, "evaluate": True, "corpus": corpus}
    specs = [campaign.spec("semantic", V, "rows", **settings) for V in reversed(campaign.vocabs)]
    campaign.run("padded", specs)


def large(campaign: Campaign) -> None:
    vocabs = (1_000, 2_000) if campaign.tiny else LARGE
    steps = 6 if campaign.tiny else STEPS
    ids = {"corpus": "zipf", "steps": steps}
    campaign.run("large", [campaign.spec("semantic", V, "rows", **ids) for V in vocabs])


def paper(campaign: Campaign) -> None:
    specs = []
    for V, (method, optimizer) in product(campaign.vocabs, reversed(BENCH)):
        specs.append(campaign.spec(method, V, optimizer, evaluate=True))
    campaign.run("paper", specs)


def made_once(campaign: Campaign, name: str, content: Callable[[], str], needed: float) -> None:
    """The file, made if it is not there and the minutes are enough for so many seconds."""
    path = campaign.out / "found" / name
    if path.is_file():
        return
    left = campaign.until - perf_counter()
    if needed > left:
        times = f"it needs about {needed} s of {max(left, 0):.0f} s"
        campaign.left_out.append(f"{name}: left out, {times}")
        return
    try:
        replace_file(path, content().encode())
    except Exception as error:
        campaign.left_out.append(f"{name}: left out, {type(error).__name__}: {error}")


def save_ids(folder: Path, most: int = 40_000) -> None:
    """The installed text's ids at each V, so many examples of it.

    `--corpus 'FOLDER/ids-{vocab}.npy'` reads them.
    """
    corpus = text.load()
    for vocab in PAPER.vocabs:
        train, held = corpus.ids(vocab)
        train = train[: most * PAPER.seq_len]
        held = held[: len(train) * 3 // 97]  # the last 3% of a file are held out
        ids = np.concatenate([train, held]).astype(np.int32)
        np.save(writable(folder) / f"ids-{vocab}.npy", ids)


def words() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    option = parser.add_argument
    option("--minutes", type=float, default=15, help="what is done in (default: 15)")
    option("--out", type=Path, help="folder (default: runs/<gpu>)")
    option("--device", default="cuda", help="cuda, cuda:1, …; cpu to try it (default: cuda)")
    ids = "text, or ids 'DIR/ids-{vocab}.npy'"
    option("--corpus", default="installed", metavar="TEXT", help=ids)
    ids = "write such ids of the installed text, and end"
    option("--save-ids", type=Path, metavar="DIR", help=ids)
    option("--tiny", action="store_true", help="tiny sizes, to try the command itself")
    return parser


def main() -> None:
    parser = words()
    asked = parser.parse_args()
    if asked.save_ids:
        save_ids(asked.save_ids)
        return
    try:
        device = machine.device(asked.device)
        out = writable(asked.out or ROOT / "runs" / machine.slug(device))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    campaign = Campaign(out, asked.minutes, device, asked.corpus, asked.tiny)
    results = examined(campaign)
    wrong = [check for check in results if not check["right"]]
    print(f"{len(results)} checks, {len(wrong)} wrong: {wrong}")
    if any(check["needed"] for check in wrong):
        sys.exit(1)
    captured = [check["right"] for check in results if check["check"].startswith("captured")]
    campaign.captures = device.type == "cuda" and all(captured)
    for part in (bench, beside, race, padded, large, paper, rounds):
        part(campaign)
        table = report(campaign)  # after each: whatever ends this, what was measured is told
    print(f"{table}\n\nThe folder to send: {out}")


if __name__ == "__main__":
    main()
