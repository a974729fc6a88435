"""The paper's headline, measured on your GPU by one command: `make gpu`, 25 minutes; `make gpu MINUTES=60` has more.

checks   small cases against float64 on the CPU, and that no step waits for the GPU (`gpu_checks.py`); if one is wrong
         that the runs need, nothing is measured
paper    the paper's own six trainings: CE and SEMANTIC, dense, two whole epochs
rows     SEMANTIC on rows, as long, and the same with each step as one CUDA graph
peers    the loss and its gradients alone: CE by torch, in chunks, and by Liger Kernel and Cut Cross-Entropy where they
         are installed (`pip install -e '.[peers]'`), beside the paper's loss
capped   CE, with all logits and in chunks, and SEMANTIC at V = 1M: ten steps each, where torch may take 8 GiB, the
         memory of a laptop's GPU
bench    step times of every method at every V, in three rounds, each in a process of its own
large    SEMANTIC on rows with 2, 5 and 10 million tokens, of random ids
prior    SEMANTIC with a prior, and CE that never holds its logits, as long as the paper's; how good all that is on
         held-out text, each run says
quality  an epoch of all the text at V = 200,000 and 1M: CE in chunks, and SEMANTIC with a prior at equal steps and at
         equal seconds

The list is in the order of what it tells; what would no longer fit into the minutes is left out, and named. A run is
one file, and the same command goes on where it was. At the end stand the paper's table with ours beside it, and a
folder to send (CONTRIBUTING says how). Energy is read from the GPU's counter (`pip install -e '.[gpu]'`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from gpu_checks import checks

from scta_lab import Spec, sweep, text, train
from scta_lab.base import machine
from scta_lab.base.files import ROOT, replace_file, writable
from scta_lab.judge import cost
from scta_lab.run.processes import is_done
from scta_lab.run.table import ratios
from scta_lite import PAPER, cross_entropy, figures, published_runs, semantic_loss
from scta_lite.timing import finish

BENCH = [  # method, optimizer, whether a step is a CUDA graph
    ("ce", "dense", False), ("semantic", "dense", False), ("semantic", "rows", False), ("semantic", "rows", True),
    ("ce", "dense", True), ("semantic", "dense", True), ("semantic_prior", "rows", False),
    ("semantic_prior", "rows", True), ("ce_chunked", "dense", False), ("adaptive", "rows", False),
    ("backbone", "dense", False), ("backbone", "dense", True),
]  # fmt: skip
ROUNDS, STEPS = 3, 60
LARGE = (2_000_000, 5_000_000, 10_000_000)
BEGIN_S = 20  # seconds that a run's process takes before its first step, until one has told
TINY = {"hidden": 16, "semantic_dim": 8, "negatives": 4, "examples": 96, "batch": 4, "seq_len": 8, "epochs": 1}
# The best of those that the search on two CPU cores found at V = 50,000 (notebook 06):
TUNED = {
    "ce_chunked": {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1},
    "semantic_prior": {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1, "temperature": 0.1, "optimizer": "rows"},
}


class Campaign:
    """What is measured into a folder within some minutes: its runs, what was left out, and what is known of times."""

    def __init__(self, out: Path, minutes: float, device: torch.device, corpus: str, tiny: bool):
        self.out, self.device, self.corpus, self.tiny = out, device, corpus, tiny
        self.until = perf_counter() + 60 * minutes
        self.step_ms: dict[tuple, float] = {}  # of (V, method, optimizer)
        self.begin_s, self.left_out = BEGIN_S, []
        self.found: dict[str, list[dict]] = {}  # of each part the runs that are there
        self.fingerprint = cache(lambda corpus: text.load(corpus, progress=False).fingerprint)
        self.ceilings = apart(device, machine.ceilings, device, 3)
        replace_file(out / "found" / "ceilings.json", json.dumps(self.ceilings).encode())
        self.vocabs = (300, 600) if tiny else PAPER.vocabs
        self.captures = False  # whether a step as a CUDA graph was found right

    def spec(self, method: str, vocab: int, optimizer: str = "dense", zipf: bool = False, **changes: Any) -> Spec:
        corpus = "zipf" if zipf or self.tiny else self.corpus.format(vocab=vocab)
        own = {"method": method, "vocab": vocab, "optimizer": optimizer, "corpus": corpus, "device": str(self.device)}
        return Spec(**own | (TINY if self.tiny else {}) | changes)

    def seconds(self, spec: Spec) -> float:
        """What the run takes, by the step times so far; where none is known, by twice the floor that `cost` gives."""
        step = self.step_ms.get(_kind(spec))
        step = step if step is not None else 2 * cost.floor(spec, self.ceilings).sum()
        return self.begin_s + step * (spec.steps or spec.steps_total) / 1e3

    def run(self, part: str, specs: list[Spec]) -> None:
        """Those of the runs that were done before, or that the minutes are enough for, one after the other."""
        found = []
        for n, spec in enumerate(specs):
            there = is_done(self.out / part / f"{spec.run_id(self.fingerprint(spec.corpus))}.json")
            left, needed = self.until - perf_counter(), 0 if there else self.seconds(spec)
            about = f"{part} {n + 1}/{len(specs)}: {spec.method} {spec.optimizer}{', captured' * spec.capture}, "
            about += f"V = {figures.short(spec.vocab)}"
            if not there and needed > left:
                self.left_out.append(f"{about}: left out, it needs about {needed:.0f} s of {max(left, 0):.0f} s")
                continue
            told = "was done before" if there else f"about {needed:.0f} s of {left:.0f} s that are left"
            print(f"{about}, {told}", flush=True)
            began = perf_counter()
            (run,) = sweep([spec], self.out / part, progress=False).to_dict("records")
            found.append(run)
            if run["status"] == "ok":
                self.step_ms[_kind(spec)] = min(run["step_ms"], self.step_ms.get(_kind(spec), np.inf))
                if not there:
                    took = perf_counter() - began - run["step_ms"] * run["steps_run"] / 1e3
                    self.begin_s = 0.5 * self.begin_s + 0.5 * max(1.0, took)
            else:
                print(f"  {run['status']}: {run['reason']}")
        print(f"{part}: {len(found)} of {len(specs)} runs are there")
        self.found.setdefault(part, []).extend(found)


def _kind(spec: Spec) -> tuple:
    """Runs of which one tells how long a step of the other takes."""
    return spec.vocab, spec.method, spec.optimizer, spec.capture


def apart(device: torch.device, work: Callable, *of: Any) -> Any:
    """What `work` gives, made by a process that ends with it: here it would keep a GPU's context, and all memory it had
    once taken, from the runs."""
    if device.type == "cpu":
        return work(*of)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *of).result()


def examined(campaign: Campaign) -> list[dict]:
    """What the checks found, now or before, of the same code on the same machine."""
    device, path = campaign.device, campaign.out / "found" / "checks.json"
    about = {"device": machine.name(device), "host": machine.host(device)}
    before = json.loads(path.read_bytes()) if path.is_file() else {}
    changed = (about["host"]["commit"] or "+").endswith("+")  # files that no commit has
    if about.items() <= before.items() and not changed:
        return before["checks"]
    found = apart(device, checks, device)
    replace_file(path, json.dumps(about | {"checks": found}, indent=1).encode())
    return found


def parts(campaign: Campaign) -> Iterator[tuple[str, list[Spec]]]:
    """Each part's Specs; asked for when its turn comes, for the later ones depend on measured times."""
    spec, vocabs, captures = campaign.spec, campaign.vocabs, (False, True)[: 1 + campaign.captures]
    steps = 6 if campaign.tiny else STEPS
    judged = {"evaluate": True}
    yield "paper", [spec(m, V, **judged) for V, m in product(vocabs, ("semantic", "ce"))]
    yield "rows", [spec("semantic", V, "rows", capture=c, **judged) for V, c in product(vocabs, captures)]
    yield "bench", [spec(m, V, o, steps=steps, seed=seed, capture=c) for seed in range(ROUNDS)
                    for V in reversed(vocabs) for m, o, c in BENCH if c in captures]  # fmt: skip
    large = (1_000, 2_000) if campaign.tiny else (vocabs[0], vocabs[-1], *LARGE)
    yield "large", [spec("semantic", V, "rows", zipf=True, steps=steps, capture=c) for V in large for c in captures]
    prior = {**TUNED["semantic_prior"], "capture": captures[-1]}
    yield "prior", [each for V in vocabs for each in (spec("semantic_prior", V, **judged, **prior),
                                                      spec("ce_chunked", V, **judged))]  # fmt: skip
    for V in vocabs[1:]:
        yield "quality", list(quality(campaign, V))


def quality(campaign: Campaign, vocab: int) -> Iterator[Spec]:
    """CE and the method with a prior over all the text, for equal steps, and the second for CE's seconds too."""
    ce = campaign.spec("ce_chunked", vocab, evaluate=True, **TUNED["ce_chunked"])
    available = len(text.load(ce.corpus, progress=False).examples(vocab, ce.seq_len, ce.examples))
    ce = replace(ce, examples=min(available, 200_000), epochs=1, schedule="cosine")
    ce = replace(ce, warmup=ce.steps_total // 20)
    prior = replace(ce, method="semantic_prior", **TUNED["semantic_prior"], sampler=None, shared=None, init_std=None)
    prior = replace(prior, capture=campaign.captures)
    ours, theirs = (campaign.step_ms.get(_kind(s)) for s in (prior, ce))
    yield from (prior, ce)
    if ours and theirs and theirs > ours:
        longer = replace(prior, epochs=-(-int(theirs / ours * 10) // 10) + 1)
        steps = int(ce.steps_total * theirs / ours)
        yield replace(longer, steps=steps, warmup=steps // 20)


def capped(device: torch.device, specs: list[Spec], most: int = 8 << 30) -> list[dict]:
    """How a few steps of each end, on the GPU, where torch may take so many bytes."""
    found = []
    share = min(1.0, most / torch.cuda.get_device_properties(device).total_memory)  # an "8 GB" GPU has a bit less
    torch.cuda.set_per_process_memory_fraction(share, device)
    for spec in specs:
        try:
            run = train(spec)
            ended = {"status": run.status, "step_ms": float(run.step_ms), "peak_memory_bytes": run.peak_memory_bytes}
        except Exception as error:
            status = "out_of_memory" if machine.is_out_of_memory(error) else "failed"
            ended = {"status": status, "reason": f"{type(error).__name__}: {error}"[:300]}
        found.append({"method": spec.method, "vocab": spec.vocab, "limit_bytes": most, **ended})
    return found


def peers(device: torch.device, vocabs: tuple[int, ...], repeats: int = 20) -> pd.DataFrame:
    """Median milliseconds of a loss and its gradients over N = 1,008 positions, d = 256; null where it did not run."""
    kernels: dict[str, Callable] = {
        "torch": lambda h, w, y: F.cross_entropy(h @ w.T, y),
        "torch in bfloat16": lambda h, w, y: F.cross_entropy((h.bfloat16() @ w.bfloat16().T).float(), y),
        "chunks": lambda h, w, y: cross_entropy(h, w, y, chunk=128),
    }
    if hasattr(F, "linear_cross_entropy"):
        kernels["torch's linear_cross_entropy"] = F.linear_cross_entropy
    for name, load in (("Liger", _liger), ("Cut Cross-Entropy in bfloat16", _cut)):
        try:
            kernels[name] = load()
        except ImportError as error:
            print(f"{name}: {error}; expected `pip install -e '.[peers]'`")
    rows = []
    for vocab in vocabs:
        h, w = (torch.randn(n, PAPER.hidden, device=device) for n in (1_008, vocab))
        w /= PAPER.hidden**0.5  # logits of N(0, 1), as at the start of a training
        y = torch.randint(vocab, (1_008,), device=device)
        q, v = (torch.randn(*shape, PAPER.semantic_dim, device=device) for shape in ((1_008,), (1_008, 33)))
        cases = {name: (lambda *x, f=f, y=y: f(*x, y), (h, w)) for name, f in kernels.items()}
        cases["the paper's, of rows that were read"] = (lambda q, v: semantic_loss(q, v[:, 0], v[:, 1:]), (q, v))
        for name, (loss, inputs) in cases.items():
            rows.append({"vocab": vocab, "loss": name, **_timed(loss, inputs, device, repeats)})
    return pd.DataFrame(rows)


def _timed(loss: Callable, inputs: tuple, device: torch.device, repeats: int) -> dict[str, Any]:
    inputs = [x.clone().requires_grad_() for x in inputs]
    times = []
    try:
        for _ in range(repeats):
            finish(device)
            began = perf_counter()
            torch.autograd.grad(loss(*inputs), inputs)
            finish(device)
            times.append(1e3 * (perf_counter() - began))
    except Exception as error:  # of a kernel that is not ours
        return {"ms": None, "reason": f"{type(error).__name__}: {error}"[:200]}
    return {"ms": float(np.median(times[len(times) // 3 :])), "reason": None}


def _liger() -> Callable:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy


def _cut() -> Callable:
    """Its backward pass takes hidden states of 16 bits alone, and by default leaves out small gradients: here none."""
    from cut_cross_entropy import linear_cross_entropy

    return lambda h, w, y: linear_cross_entropy(h.bfloat16(), w.bfloat16(), y, filter_eps=None)


def save_ids(folder: Path, most: int = 40_000) -> None:
    """The installed text's ids at each V, as `--corpus 'FOLDER/ids-{vocab}.npy'` reads them: so many examples of it."""
    corpus = text.load()
    for vocab in PAPER.vocabs:
        train, held = corpus.ids(vocab)
        train = train[: most * PAPER.seq_len]
        held = held[: len(train) * 3 // 97]  # the last 3% of a file are held out
        np.save(writable(folder) / f"ids-{vocab}.npy", np.concatenate([train, held]).astype(np.int32))


def no_runs(campaign: Campaign) -> None:
    """What is no run: losses beside their peers', and trainings in 8 GB. What fails is told with what was left out."""
    device, specs = campaign.device, [campaign.spec("ce", vocab) for vocab in campaign.vocabs]
    small = tuple(spec.vocab for spec in specs if cost.fits(spec)[0])
    tried = (("ce", "dense"), ("ce_chunked", "rows"), ("semantic", "dense"))
    large = [campaign.spec(method, campaign.vocabs[-1], kind, steps=10) for method, kind in tried]
    work = {"peers.csv": lambda: apart(device, peers, device, small).to_csv(index=False)} if small else {}
    if device.type == "cuda":
        work["capped.json"] = lambda: json.dumps(apart(device, capped, device, large), indent=1)
    for name, measured in work.items():
        if not (path := campaign.out / "found" / name).is_file():
            try:
                replace_file(path, measured().encode())
            except Exception as error:
                campaign.left_out.append(f"{name}: left out, {type(error).__name__}: {error}")


def report(campaign: Campaign) -> None:
    """The tables and figures of this campaign's runs, into the folder and onto the screen; not of an earlier text's."""
    out, said = campaign.out, []
    if bench := campaign.found.get("bench"):
        bench = ratios(pd.DataFrame(bench))
        bench["capture"] = bench.get("capture", False)
        columns = ["vocab", "method", "optimizer", "capture", "step_ms", "step_ms_q1", "step_ms_q3", "ratio", "rounds"]
        said.append(
            bench.sort_values(["vocab", "step_ms"])[columns].to_string(index=False, float_format="{:.3f}".format)
        )
    if trained := [run for part in ("paper", "rows", "prior") for run in campaign.found.get(part, ())]:
        runs = pd.DataFrame(trained)
        ce = runs[(runs.method == "ce") & (runs.optimizer == "dense")].set_index("vocab").seconds
        runs["speedup"] = runs.vocab.map(ce) / runs.seconds
        published = published_runs()
        both = pd.concat([runs, published.assign(machine=published.machine + " (published)", optimizer="dense")])
        said.append(figures.results_table(both).to_string(index=False))
        shown = ["vocab", "method", "optimizer", "capture", "step_ms", "seconds", "energy_joules", "peak_memory_bytes"]
        said.append(runs.reindex(columns=shown).sort_values(["vocab", "method"]).to_string(index=False))
        dense = runs[(runs.optimizer == "dense") & runs.method.isin(("ce", "semantic"))]
        drawn = (("throughput", figures.throughput), ("time", figures.training_time))
        for name, draw in drawn if dense.seconds.notna().any() else ():
            figures.save(draw(dense), out / "found" / f"fig_{name}")
    if (out / "found" / "peers.csv").is_file():
        said.append(pd.read_csv(out / "found" / "peers.csv").to_string(index=False))
    said += campaign.left_out
    replace_file(out / "found" / "table.txt", "\n\n".join(said).encode())
    print("\n\n".join(said))
    print(f"\nThe folder to send: {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25, help="what is done in (default: 25)")
    parser.add_argument("--out", type=Path, help="folder (default: runs/<gpu>)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …; cpu to try the command (default: cuda)")
    parser.add_argument("--corpus", default="installed", metavar="TEXT", help="text, or ids 'DIR/ids-{vocab}.npy'")
    parser.add_argument("--save-ids", type=Path, metavar="DIR", help="write such ids of the installed text, and end")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the command itself")
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
    found = examined(campaign)
    wrong = [check for check in found if not check["right"]]
    print(f"{len(found)} checks, {len(wrong)} wrong: {wrong}")
    if any(check["needed"] for check in wrong):
        sys.exit(1)
    campaign.captures = device.type == "cuda" and all(c["right"] for c in found if c["check"].startswith("captured"))
    for part, specs in parts(campaign):
        campaign.run(part, specs)
        if part == "rows":
            no_runs(campaign)
    report(campaign)


if __name__ == "__main__":
    main()
