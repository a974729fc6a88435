"""A million items that are no words: which loss finds the next one, in a recommender's shape?

Nothing is read: histories are drawn, with Zipf's popularity and tastes, so that the best possible
answer is known. A history's vector is a matrix times the mean of its items' (two towers). Recall@20
is how often the next item is among the twenty best. Writes data/runs/two-cores/recommender.json, a
line a training; about an hour of one core. Resumable.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from scta_lab.base.files import ROOT, replace_file
from scta_lab.methods.samplers import in_batch, log_unigram, weighted
from scta_lite import RowAdamW, VocabTable, contrastive_loss, cross_entropy
from scta_lite.losses import cosines, uniform

SMALL, LARGE = 100_000, 1_000_000  # V, items
TASTES, OF_A_USER, FAITHFUL = 500, 3, 0.7  # share of a user's items that are of its tastes
HISTORY, BATCH, DIM = 10, 256, 64
STEPS, LONG, FEW = 1_000, 10_000, 100
RATES = (3e-3, 1e-2, 3e-2)
TAU, NEGATIVES, SHARED = 0.07, 32, 1_024
TESTED, BEST = 2_000, 20


@dataclass
class World:
    """Items by taste, their popularity 1/(rank + 10), and users who like some tastes."""

    vocab: int

    def __post_init__(self):
        generator = Generator().manual_seed(0)
        self.taste = torch.randint(TASTES, (self.vocab,), generator=generator)
        self.popularity = 1 / (torch.arange(self.vocab, dtype=torch.float64) + 10)
        self.by_taste = self.taste.argsort(stable=True)  # items of the first taste, then the next
        sums = self.popularity[self.by_taste].cumsum(0)
        ends = self.taste.bincount(minlength=TASTES).cumsum(0)
        self.high = sums[ends - 1]  # the popularity of all items up to each taste
        self.low = F.pad(self.high, (1, -1))
        self.sums = sums

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Histories (n, HISTORY + 1), the last item of which is to be found, and tastes (n, 3)."""
        tastes = torch.randint(TASTES, (n, OF_A_USER), generator=generator)
        shape = (n, HISTORY + 1)
        chosen = tastes.gather(1, torch.randint(OF_A_USER, shape, generator=generator))
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        inside = self.low[chosen] + u * (self.high - self.low)[chosen]
        of_taste = self.by_taste[torch.searchsorted(self.sums, inside).clamp_max(self.vocab - 1)]
        anywhere = weighted(shape, self.popularity.cumsum(0), generator=generator)
        is_faithful = torch.rand(shape, generator=generator) < FAITHFUL
        return torch.where(is_faithful, of_taste, anywhere), tastes

    def best_recall(self, items: Tensor, tastes: Tensor) -> float:
        """Of an answer that knows the users' tastes and every probability."""
        share = self.popularity / self.popularity.sum()
        in_taste = self.popularity / (self.high - self.low)[self.taste]
        found = 0
        for target, own in zip(items[:, -1], tastes, strict=True):
            times = (self.taste == own.unsqueeze(1)).sum(0)  # a taste may be drawn twice
            p = (1 - FAITHFUL) * share + FAITHFUL * times / OF_A_USER * in_taste
            found += int(target in p.topk(BEST).indices)
        return found / len(items)


class Towers(nn.Module):
    """Vectors of items as input and as output, and a matrix from one to the other."""

    def __init__(self, vocab: int, exact: bool):
        super().__init__()
        self.read = VocabTable(vocab, DIM)
        self.project = nn.Linear(DIM, DIM, bias=False)
        self.items = nn.Embedding(vocab, DIM) if exact else VocabTable(vocab, DIM)
        self.items.weight.data.mul_(0.02)

    def forward(self, history: Tensor) -> Tensor:
        """(N, DIM), of items (N, HISTORY)."""
        return self.project(self.read(history).mean(1))


Loss = Callable[[Towers, Tensor, Tensor, Tensor, Generator], Tensor]


def exact(model: Towers, z: Tensor, target: Tensor, log_u: Tensor, random: Generator) -> Tensor:
    return cross_entropy(z, model.items.weight, target)


def in_batch_negatives(
    model: Towers, z: Tensor, target: Tensor, log_u: Tensor, random: Generator
) -> Tensor:
    """Bengio and Senécal's correction, log q subtracted, over the other targets of the batch."""
    negatives, own = in_batch((len(target),), target, random)
    hits = own | (negatives == target.unsqueeze(1))
    return dots(model, z, target, negatives, log_u, hits)


def mixed_negatives(
    model: Towers, z: Tensor, target: Tensor, log_u: Tensor, random: Generator
) -> Tensor:
    """Half of the negatives are the batch's targets, half of them uniform (Yang et al. 2020)."""
    V = len(log_u)
    others, own = in_batch((len(target),), target, random)
    drawn = uniform((len(target),), V, generator=random)
    negatives = torch.cat([others, drawn])
    own = F.pad(own, (0, len(drawn)))
    log_q = torch.logaddexp(log_u, torch.tensor(-math.log(V))) - math.log(2)
    return dots(model, z, target, negatives, log_q, own | (negatives == target.unsqueeze(1)))


def dots(
    model: Towers, z: Tensor, target: Tensor, negatives: Tensor, log_q: Tensor, hits: Tensor
) -> Tensor:
    rows = model.items(torch.cat([target, negatives]))
    positive = (z * rows[: len(z)]).sum(1)
    rivals = z @ rows[len(z) :].T
    log_Sq = log_q[negatives] + math.log(len(negatives))
    return contrastive_loss(positive, rivals - log_Sq, hits=hits)


def published(model: Towers, z: Tensor, target: Tensor, log_u: Tensor, random: Generator) -> Tensor:
    negatives = uniform((len(target), NEGATIVES), len(log_u), generator=random)
    rows = model.items(torch.cat([target.unsqueeze(1), negatives], dim=1))
    scores = cosines(z, rows) / TAU
    return contrastive_loss(scores[:, 0], scores[:, 1:])


def repaired(model: Towers, z: Tensor, target: Tensor, log_u: Tensor, random: Generator) -> Tensor:
    negatives = weighted((SHARED,), log_u.double().exp().cumsum(0), generator=random)
    rows = model.items(torch.cat([target, negatives]))
    positive = cosines(z, rows[: len(z)].unsqueeze(1)).squeeze(1) / TAU
    return contrastive_loss(positive, cosines(z, rows[len(z) :]) / TAU)


LOSSES: dict[str, Loss] = {
    "CE": exact,
    "sampled softmax, in-batch": in_batch_negatives,
    "sampled softmax, mixed": mixed_negatives,
    "SEMANTIC": published,
    "repaired": repaired,
}
COSINES = ("SEMANTIC", "repaired")


@torch.no_grad()
def recall(model: Towers, name: str, log_u: Tensor, items: Tensor) -> float:
    z, vectors = model(items[:, :-1]), model.items.weight
    if name in COSINES:
        z, vectors = F.normalize(z, dim=1) / TAU, F.normalize(vectors, dim=1)
    found = 0
    for query, target in zip(z.split(50), items[:, -1].split(50), strict=True):
        scores = query @ vectors.T
        if name == "repaired":
            scores += log_u
        found += int((scores.topk(BEST).indices == target.unsqueeze(1)).sum())
    return found / len(items)


def trained(world: World, log_u: Tensor, name: str, rate: float, steps: int) -> dict:
    """One training and what it finds, of histories for choosing a rate and of others."""
    torch.manual_seed(0)
    random, drawn = Generator().manual_seed(1), Generator().manual_seed(2)
    model = Towers(world.vocab, exact=name == "CE")
    tables = [module for module in model.modules() if isinstance(module, VocabTable)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=rate), RowAdamW(tables, lr=rate)]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in optimizers]
    began = perf_counter()
    for _ in range(steps):
        items, _ = world.draw(BATCH, drawn)
        loss = LOSSES[name](model, model(items[:, :-1]), items[:, -1], log_u, random)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    seconds = perf_counter() - began
    chosen_on, tested = (world.draw(TESTED, Generator().manual_seed(seed))[0] for seed in (3, 4))
    recalls = {
        "recall_validation": recall(model, name, log_u, chosen_on),
        "recall": recall(model, name, log_u, tested),
    }
    return {"seconds": seconds, "loss_last": loss.item()} | recalls


def controls(world: World, log_u: Tensor) -> list[dict]:
    items, tastes = world.draw(TESTED, Generator().manual_seed(4))
    popular = torch.isin(items[:, -1], log_u.topk(BEST).indices).double().mean().item()
    best = world.best_recall(items, tastes)
    return [{"name": "the most popular", "recall": popular}, {"name": "the best", "recall": best}]


def main(out: Path) -> None:
    rows = json.loads(out.read_bytes()) if out.is_file() else []

    def do(world: World, log_u: Tensor, name: str, rate: float, steps: int) -> dict:
        key = {"vocab": world.vocab, "name": name, "rate": rate, "steps": steps}
        for row in rows:
            if key.items() <= row.items():
                return row
        rows.append(key | trained(world, log_u, name, rate, steps))
        replace_file(out, json.dumps(rows, indent=1).encode())
        print(rows[-1], flush=True)
        return rows[-1]

    best = {}
    for vocab in (SMALL, LARGE):
        world = World(vocab)
        items, _ = world.draw(100_000, Generator().manual_seed(5))
        log_u = log_unigram(items.flatten().bincount(minlength=vocab)).float()
        if not any(row["vocab"] == vocab and "steps" not in row for row in rows):
            rows += [{"vocab": vocab} | row for row in controls(world, log_u)]
        names = sorted(LOSSES, key="CE".__eq__)  # CE, which takes longest, at the end
        for name in names:
            if vocab == SMALL:
                tried = [do(world, log_u, name, rate, STEPS) for rate in RATES]
                best[name] = max(tried, key=lambda row: row["recall_validation"])["rate"]
            else:
                for steps in (FEW,) if name == "CE" else (FEW, STEPS, LONG):
                    do(world, log_u, name, best[name], steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    path = ROOT / "data/runs/two-cores/recommender.json"
    parser.add_argument("--out", type=Path, default=path)
    torch.set_num_threads(1)
    main(parser.parse_args().out)
