"""The paper's headline, measured on your GPU by one command: `make gpu`, 25 minutes.

`make gpu MINUTES=60` has more. It made data/runs/h200, as far as data/README.md says.

checks   small cases against float64 on the CPU, and that no step waits for the GPU
         (`tests/device`); if one is wrong that the runs need, nothing is measured
paper    the paper's own six trainings: CE and SEMANTIC, dense, two whole epochs
rows     SEMANTIC on rows, as long, and the same with each step as one CUDA graph
peers    the loss and its gradients alone: CE by torch, in chunks, and by Liger Kernel and Cut
         Cross-Entropy where they are installed (`pip install -e '.[peers]'`); the paper's loss
capped   CE, with all logits and in chunks, and SEMANTIC at V = 1M: ten steps each, where torch may
         take 8 GiB, the memory of a laptop's GPU
bench    step times of every method at every V, in three rounds, each in a process of its own
large    SEMANTIC on rows with 2, 5 and 10 million tokens, of random ids
prior    SEMANTIC with a prior, and CE that never holds its logits, as long as the paper's; how good
         all that is on held-out text, each run says
quality  an epoch of all the text at V = 200,000 and 1M: CE in chunks, and SEMANTIC with a prior at
         equal steps and at equal seconds

What matters most comes first; what would no longer fit into the minutes is left out, and named. A
run is one file, and the same command goes on where it was. At the end stand the paper's table with
ours beside it, and a folder to send (CONTRIBUTING says how). Energy is read from the GPU's counter
(`pip install -e '.[gpu]'`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from campaign import Campaign, in_a_process, kind
from peers import capped, peers
from report import report
from scta_lab import Spec, text
from scta_lab.base import machine
from scta_lab.base.files import ROOT, replace_file, writable
from scta_lab.judge import cost
from scta_lite import PAPER

sys.path.insert(0, str(ROOT / "tests" / "device"))
from checks import checks

BENCH = [  # method, optimizer, whether a step is a CUDA graph
    ("ce", "dense", False),
    ("semantic", "dense", False),
    ("semantic", "rows", False),
    ("semantic", "rows", True),
    ("ce", "dense", True),
    ("semantic", "dense", True),
    ("semantic_prior", "rows", False),
    ("semantic_prior", "rows", True),
    ("ce_chunked", "dense", False),
    ("adaptive", "rows", False),
    ("backbone", "dense", False),
    ("backbone", "dense", True),
]
ROUNDS = 3
STEPS = 60
LARGE = (2_000_000, 5_000_000, 10_000_000)
CAPPED = (("ce", "dense"), ("ce_chunked", "rows"), ("semantic", "dense"))
# The best of those that the search on two CPU cores chose at V = 50,000 (notebook 05):
CE_TUNED = {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1}
PRIOR_TUNED = CE_TUNED | {"temperature": 0.1, "optimizer": "rows"}


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


def parts(campaign: Campaign) -> Iterator[tuple[str, list[Spec]]]:
    """Each part's Specs, asked for when its turn comes: the later ones depend on measured times."""
    spec = campaign.spec
    vocabs = campaign.vocabs
    captures = (False, True) if campaign.captures else (False,)
    steps = 6 if campaign.tiny else STEPS
    judged = {"evaluate": True}
    yield "paper", [spec(m, V, **judged) for V, m in product(vocabs, ("semantic", "ce"))]
    yield (
        "rows",
        [spec("semantic", V, "rows", capture=c, **judged) for V, c in product(vocabs, captures)],
    )
    timed = []
    for seed, V, (method, optimizer, capture) in product(range(ROUNDS), reversed(vocabs), BENCH):
        if capture in captures:
            timed.append(spec(method, V, optimizer, steps=steps, seed=seed, capture=capture))
    yield "bench", timed
    large = (1_000, 2_000) if campaign.tiny else (vocabs[0], vocabs[-1], *LARGE)
    sizes = {"zipf": True, "steps": steps}
    yield (
        "large",
        [spec("semantic", V, "rows", capture=c, **sizes) for V, c in product(large, captures)],
    )
    whole = []
    for V in vocabs:
        whole.append(spec("semantic_prior", V, **judged, **PRIOR_TUNED, capture=captures[-1]))
        whole.append(spec("ce_chunked", V, **judged))
    yield "prior", whole
    for V in vocabs[1:]:
        yield "quality", quality(campaign, V)


def quality(campaign: Campaign, vocab: int) -> list[Spec]:
    """The method with a prior and CE over all the text, and the first for CE's seconds too."""
    ce = campaign.spec("ce_chunked", vocab, evaluate=True, **CE_TUNED)
    corpus = text.load(ce.corpus, progress=False)
    available = len(corpus.examples(vocab, ce.seq_len, ce.examples))
    ce = replace(ce, examples=min(available, 200_000), epochs=1, schedule="cosine")
    ce = replace(ce, warmup=ce.steps_total // 20)
    drawn = {"sampler": None, "shared": None, "init_std": None}  # as the method draws by default
    prior = replace(ce, method="semantic_prior", capture=campaign.captures, **PRIOR_TUNED, **drawn)
    specs = [prior, ce]
    prior_ms = campaign.step_ms.get(kind(prior))
    ce_ms = campaign.step_ms.get(kind(ce))
    if prior_ms and ce_ms and ce_ms > prior_ms:
        epochs = -(-int(ce_ms / prior_ms * 10) // 10) + 1  # rounded up, and one to spare
        steps = int(ce.steps_total * ce_ms / prior_ms)
        specs.append(replace(prior, epochs=epochs, steps=steps, warmup=steps // 20))
    return specs


def beside_runs(campaign: Campaign) -> None:
    """Losses beside their peers', and trainings in 8 GiB. What fails is named as left out."""
    device = campaign.device
    small = tuple(V for V in campaign.vocabs if cost.fits(campaign.spec("ce", V))[0])
    large = [campaign.spec(m, campaign.vocabs[-1], kind, steps=10) for m, kind in CAPPED]

    def peers_csv() -> str:
        return in_a_process(device, peers, device, small).to_csv(index=False)

    def capped_json() -> str:
        return json.dumps(in_a_process(device, capped, device, large), indent=1)

    if small:
        made_once(campaign, "peers.csv", peers_csv)
    if device.type == "cuda":
        made_once(campaign, "capped.json", capped_json)


def made_once(campaign: Campaign, name: str, content: Callable[[], str]) -> None:
    path = campaign.out / "found" / name
    if path.is_file():
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
    option("--minutes", type=float, default=25, help="what is done in (default: 25)")
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
    for part, specs in parts(campaign):
        campaign.run(part, specs)
        if part == "rows":
            beside_runs(campaign)
    report(campaign)


if __name__ == "__main__":
    main()
