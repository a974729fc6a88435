"""The heads: what is made of hidden states. `loss(hidden, target)` trains, `scores(hidden)` ranks.

A score is a product of `query(hidden)` with a row of `vectors()`, plus `bias()` where there is one;
the adaptive softmax alone has no such vectors. `per_token` gives the parameters with a row for each
token, which `table_lr` is for. The paper's two heads are `ce` and `semantic`; the others are what
to compare them with. The paper's second stage has a head of its own, in `second_stage`.
"""

from functools import partial

import torch
import torch.nn.functional as F
from scta_lite.losses import contrastive_loss, cross_entropy
from scta_lite.rows.table import VocabTable
from torch import Generator, Tensor, nn

from scta_lab.base.spec import CHUNK, SAMPLED, Spec
from scta_lab.methods.cosines import cosines
from scta_lab.methods.samplers import Negatives, frequency_rank, log_unigram

TABLES = {"dense": nn.Embedding, "rows": VocabTable, "sparse": partial(nn.Embedding, sparse=True)}
Scores = tuple[Tensor, Tensor]  # of the targets (N,), and of the negatives (N, S) or (N, K)


class Head(nn.Module):
    """Scores `query(hidden)` · `vectors()` + `bias()`, of which a softmax makes probabilities.

    `counts`: (V,), how often each token comes in training. With `spec.log_unigram` the scores begin
    from log u, of these counts: a bias that is not trained.
    """

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__()
        self.spec = spec
        log_u = log_unigram(counts).float() if spec.log_unigram else None
        self.register_buffer("log_u", log_u)  # (V,)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean NLL in nats; hidden: (N, d), target: (N,)."""
        return F.cross_entropy(self.scores(hidden), target)

    def scores(self, hidden: Tensor, vectors: Tensor | None = None) -> Tensor:
        """(N, V); hidden: (N, d). `vectors`: those of `vectors()`, where the caller holds them."""
        if vectors is None:
            vectors = self.vectors()
        return F.linear(self.query(hidden), vectors, self.bias())

    def query(self, hidden: Tensor) -> Tensor:
        """(N, F), of hidden (N, d)."""
        return hidden

    def vectors(self) -> Tensor:
        """(V, F)."""
        return self.table.weight

    def bias(self) -> Tensor | None:
        """What is added to the scores, (V,), if anything is."""
        return self.log_u

    def per_token(self) -> list[nn.Parameter]:
        """The parameters with a row for each token."""
        return [self.table.weight]


class CEHead(Head):
    """Logits W h over all V tokens, W: (V, d), without a bias; trained with the full softmax."""

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__(spec, counts)
        self.weight = nn.Parameter(torch.empty(spec.vocab, spec.hidden))  # W
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear does

    def vectors(self) -> Tensor:
        return self.weight

    def per_token(self) -> list[nn.Parameter]:
        return [self.weight]


class ChunkedCEHead(CEHead):
    """The same, without ever holding (N, V) logits.

    By torch's `linear_cross_entropy`, which torch has from 2.13 on, else by our own chunks.
    """

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        # So that the loss has the weight's type: in bfloat16 it would move in steps of 0.06.
        hidden, weight, log_u = hidden.type_as(self.weight), self.weight, self.log_u
        if hasattr(F, "linear_cross_entropy"):
            chunks = nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
            return F.linear_cross_entropy(hidden, weight, target, linear_bias=log_u, options=chunks)
        if log_u is not None:
            hidden, weight = append_one(hidden), append_bias(weight, log_u)
        return cross_entropy(hidden, weight, target, chunk=CHUNK)


class AdaptiveHead(nn.Module):
    """torch's adaptive softmax (Grave et al. 2017): rarer tokens in clusters of narrower vectors.

    `counts`: (V,), how often each token comes in training. By these `spec.clusters` are ranked.
    """

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__()
        shape = {"cutoffs": spec.clusters, "div_value": spec.div_value}
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(spec.hidden, spec.vocab, **shape)
        self.register_buffer("rank", frequency_rank(counts))  # (V,)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean NLL in nats; never autocast, which torch's clusters cannot take."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.softmax(hidden, self.rank[target]).loss

    def scores(self, hidden: Tensor) -> Tensor:
        """Log probabilities (N, V); hidden: (N, d)."""
        return self.softmax.log_prob(hidden)[:, self.rank]

    def per_token(self) -> list[nn.Parameter]:
        """The rows of the head, with its clusters', and of each cluster's second matrix."""
        return [self.softmax.head.weight, *(cluster[1].weight for cluster in self.softmax.tail)]


class LowRankCEHead(Head):
    """Scores s_i = z · e_i / τ of z = W_sem h with rows e_i of a table E_sem: (V, D).

    With `spec.scores` "cosine", as in the paper, z and e_i are unit vectors; with "dot" they are as
    they come. Trained with the exact softmax.
    """

    def __init__(self, spec: Spec, counts: Tensor, table: type[nn.Module] = nn.Embedding):
        super().__init__(spec, counts)
        self.project = nn.Linear(spec.hidden, spec.semantic_dim, bias=False)  # W_sem: (D, d)
        self.table = table(spec.vocab, spec.semantic_dim)  # E_sem
        self.table.weight.data.mul_(spec.init_std)  # every kind of table is drawn from N(0, 1)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        z = self.query(hidden) / self.spec.temperature  # the N queries are divided, not the V rows
        e = self._directed(self.table.weight)
        return F.cross_entropy(F.linear(z, e, self.bias()), target)

    def query(self, hidden: Tensor) -> Tensor:
        """z: (N, D)."""
        return self._directed(self.project(hidden))

    def vectors(self) -> Tensor:
        """e_i / τ: (V, D)."""
        return self._directed(self.table.weight) / self.spec.temperature

    def _directed(self, vectors: Tensor) -> Tensor:
        """Made unit vectors for cosines; for dot products they stay as they are."""
        return F.normalize(vectors, dim=-1) if self.spec.scores == "cosine" else vectors


class SampledHead(LowRankCEHead):
    """The same scores, trained on the target's and on those of a sample of negatives, from q.

    There are three losses:

    - "semantic" is the paper's.
    - "semantic_prior" is the same, but its scores are read as estimates of log p/q: log q is added
      where all tokens are scored. This estimate needs the negatives that hit the target.
    - "sampled_softmax" has scores that estimate log p: log(S q) is subtracted from those of the
      negatives, and hits are left out.
    """

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__(spec, counts, TABLES[spec.optimizer])
        self.draw = Negatives(spec, counts)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats over fresh negatives, S for all or K for each position."""
        negatives, left_out = self.draw(target, generator)  # (S,) or (N, K)
        score = self._shared_scores if negatives.dim() == 1 else self._own_scores
        positive, rivals = score(hidden, target, negatives)  # (N,) and (N, S or K)
        if self.log_u is not None:
            positive = positive + self.log_u[target]
            rivals = rivals + self.log_u[negatives]
        if self.spec.method == "sampled_softmax":
            rivals = rivals - self.draw.log_Sq(negatives)
        return contrastive_loss(positive, rivals, hits=left_out)

    def bias(self) -> Tensor | None:
        """log q of "semantic_prior"; else log u, or None."""
        return self.draw.log_q if self.spec.method == "semantic_prior" else self.log_u

    def _shared_scores(self, hidden: Tensor, target: Tensor, negatives: Tensor) -> Scores:
        rows = self.table(torch.cat([target, negatives]))  # (N + S, D), by one gather
        z = self.query(hidden) / self.spec.temperature
        return products(z, self._directed(rows))

    def _own_scores(self, hidden: Tensor, target: Tensor, negatives: Tensor) -> Scores:
        candidates = torch.cat([target.unsqueeze(1), negatives], dim=1)  # (N, 1 + K)
        rows = self.table(candidates)  # (N, 1 + K, D), by one gather
        score = cosines if self.spec.scores == "cosine" else own_products
        scores = score(self.project(hidden), rows) / self.spec.temperature  # (N, 1 + K)
        return scores[:, 0], scores[:, 1:]


class NoHead(nn.Module):
    """None, for the time of the backbone alone: the loss is the mean square of hidden states."""

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__()

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        return hidden.square().mean()

    def per_token(self) -> list[nn.Parameter]:
        return []


def own_products(x: Tensor, rows: Tensor) -> Tensor:
    """Products of each x (N, F) with its own rows (N, K, F): (N, K)."""
    return torch.einsum("nd,nkd->nk", x, rows)


def products(x: Tensor, rows: Tensor) -> Scores:
    """Products of x (N, F) with rows (N + S, F).

    Of the first N rows each has its own x, (N,); the other S are shared by all, (N, S).
    """
    N = len(x)
    return (x * rows[:N]).sum(1), x @ rows[N:].T


def append_one(x: Tensor) -> Tensor:
    """x (N, F) and a constant 1, (N, F + 1), which meets the last column of `append_bias`."""
    return F.pad(x, (0, 1), value=1.0)


def append_bias(vectors: Tensor, bias: Tensor) -> Tensor:
    """Vectors (V, F) and the bias (V,) as their last column: (V, F + 1)."""
    return torch.cat([vectors, bias.unsqueeze(1)], dim=1)


HEADS = {
    "ce": CEHead,
    "ce_chunked": ChunkedCEHead,
    "ce_lowrank": LowRankCEHead,
    "adaptive": AdaptiveHead,
    **dict.fromkeys(SAMPLED, SampledHead),
    "backbone": NoHead,
}
