"""Slow, obvious twins of the package's functions: loops and Python numbers, no vectorised step shared with them."""

import math
from collections import Counter

import torch
from torch import nn

from scta_lite import RowAdamW, VocabTable


def cross_entropy(hidden, weight, target) -> float:
    """Mean over positions of -log softmax(W h)[y]."""
    total = 0.0
    for h, y in zip(hidden.tolist(), target.tolist(), strict=True):
        logits = [sum(a * b for a, b in zip(h, w, strict=True)) for w in weight.tolist()]
        total += math.log(sum(math.exp(s) for s in logits)) - logits[y]
    return total / len(hidden)


def cosine(a, b) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms


def transformer(weights, x, heads) -> torch.Tensor:
    """Hidden states (T, d) of one text's inputs (T, d), by the backbone's named weights: a loop over blocks, heads,
    positions and what came before; a pair of numbers is a complex one, turned by e^(iθ)."""
    w = x.shape[1] // heads
    theta = torch.tensor([10_000 ** (-2 * i / w) for i in range(w // 2)], dtype=torch.float64)

    def turned(part, position):
        return torch.complex(part[: w // 2], part[w // 2 :]) * torch.exp(1j * position * theta)

    def norm(rows, scale):
        centred = rows - rows.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * scale

    for block in range(sum(name.endswith("qkv.weight") for name in weights)):
        W = {name.removeprefix(f"blocks.{block}.").removesuffix(".weight"): x for name, x in weights.items()}
        q, k, v = (norm(x, W["norm_attention"]) @ W["qkv"].T).chunk(3, dim=1)
        rows = []
        for t in range(len(x)):
            mixed = []
            for cut in (slice(h * w, (h + 1) * w) for h in range(heads)):
                scores = [(turned(q[t, cut], t) * turned(k[s, cut], s).conj()).sum().real for s in range(t + 1)]
                p = torch.stack(scores).div(math.sqrt(w)).softmax(0)
                mixed.append(sum(p[s] * v[s, cut] for s in range(t + 1)))
            rows.append(torch.cat(mixed))
        x = x + torch.stack(rows) @ W["out"].T
        up = norm(x, W["norm_mlp"]) @ W["up"].T
        x = x + (up * (1 + torch.erf(up / math.sqrt(2))) / 2) @ W["down"].T
    return norm(x, weights["norm.weight"])


def semantic_loss(query, positive, negatives, temperature=0.07, log_q=None, hits=None) -> float:
    """The paper's formula, position by position; `negatives` (N, K, D) or (S, D)."""
    total = 0.0
    for t, (q, p) in enumerate(zip(query.tolist(), positive.tolist(), strict=True)):
        rivals = negatives.tolist() if negatives.dim() == 2 else negatives[t].tolist()
        score = cosine(q, p) / temperature - (log_q[0][t].item() if log_q else 0.0)
        bottom = math.exp(score)
        for j, n in enumerate(rivals):
            if hits is not None and hits[t, j]:
                continue
            correction = 0.0 if log_q is None else (log_q[1][t, j] if log_q[1].dim() == 2 else log_q[1][j]).item()
            bottom += math.exp(cosine(q, n) / temperature - correction)
        total += -math.log(math.exp(score) / bottom)
    return total / len(query)


def kneser_ney(examples, vocab, order):
    """p(context, w) of an interpolated Kneser-Ney model, the context a tuple of tokens."""
    tables = {order: Counter(tuple(e[i : i + order]) for e in examples for i in range(len(e) - order + 1))}
    for n in range(order - 1, 0, -1):
        tables[n] = Counter(gram[1:] for gram in tables[n + 1])  # distinct ones: how many tokens stand before
    deltas = {}
    for n, table in tables.items():
        once, twice = (list(table.values()).count(k) for k in (1, 2))
        deltas[n] = once / (once + 2 * twice) if once and twice else 0.5

    def p(context, w):
        n = len(context) + 1
        shorter = p(context[1:], w) if context else 1 / vocab
        following = {gram[-1]: count for gram, count in tables[n].items() if gram[:-1] == context}
        if not following:
            return shorter
        total = sum(following.values())
        return max(following.get(w, 0) - deltas[n], 0) / total + deltas[n] * len(following) / total * shorter

    return p


def greedy(words: list[int | str], entries: dict[tuple[int, ...], int], spell) -> list[int]:
    """Ids of a text by greedy longest match over the entries, each a tuple of word ids; a word that has no id is
    given as a string, which `spell` turns into ids."""
    ids, i = [], 0
    while i < len(words):
        length = next((n for n in (4, 3, 2, 1) if len(words) >= i + n and tuple(words[i : i + n]) in entries), 0)
        ids += [entries[tuple(words[i : i + length])]] if length else spell(words[i])
        i += max(1, length)
    return ids


def spell(words: list[str]):
    """How a word is spelled: by the longest of the words that it begins with, then the rest; else by a byte."""

    def spelled(word: str) -> list[int]:
        if not word:
            return []
        best = max((piece for piece in words if word.startswith(piece)), key=len, default=None)
        if best is None:
            return [*word[0].encode(), *spelled(word[1:])]
        return [256 + words.index(best), *spelled(word[len(best) :])]

    return spelled


def metrics(scores: list[list[float]], targets: list[int]) -> dict:
    """NLL, MRR and hits from whole rows of scores; a tie counts against the target."""
    nll = 0.0
    ranks = []
    for row, y in zip(scores, targets, strict=True):
        nll += math.log(sum(math.exp(s) for s in row)) - row[y]
        ranks.append(sum(s >= row[y] for s in row))
    found = {"nll": nll / len(targets), "mrr": sum(1 / rank for rank in ranks) / len(ranks)}
    return found | {f"hit@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}


def twins(rows, dim, dtype=torch.float64, **settings):
    """A VocabTable and an nn.Embedding with equal rows, each with its AdamW."""
    torch.manual_seed(0)
    table, dense = VocabTable(rows, dim).to(dtype), nn.Embedding(rows, dim, dtype=dtype)
    dense.weight.data.copy_(table.weight)
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.1} | settings
    return (table, RowAdamW([table], **settings)), (dense, torch.optim.AdamW(dense.parameters(), **settings))


class SameScores(nn.Module):
    """A model that gives every position the same scores (V,)."""

    def __init__(self, scores):
        super().__init__()
        self.vocab, self.same, self.head = len(scores), scores, self

    def positions(self, ids):
        target = ids[:, 1:].flatten()
        return target.new_zeros(len(target), 1), target

    def scores(self, hidden):
        return self.same.expand(len(hidden), -1)
