"""The heads: what is made of hidden states. Each trains with `loss(hidden, target)`, and ranks with `scores(hidden)`.

`scores` gives (N, V), and `per_token` the parameters with a row for each token, which `table_lr` is for. But for the
adaptive softmax a score is a product of `query(hidden)` with a row of `vectors()`, plus `bias()` where there is one.
The paper's two are `ce` and `semantic`, and for its second stage `TokenHead`; the others are what to compare them with.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from scta_lab.base.spec import CHUNK, SAMPLED, Spec, adaptive_cutoffs
from scta_lab.methods.cosines import cosines
from scta_lab.methods.samplers import log_q, log_unigram, weighted
from scta_lite.losses import contrastive_loss, cross_entropy, uniform
from scta_lite.rows.table import VocabTable

TABLES = {"dense": nn.Embedding, "rows": VocabTable, "sparse": partial(nn.Embedding, sparse=True)}


class Head(nn.Module):
    """Scores `query(hidden)` · `vectors()` + `bias()`, which a softmax makes probabilities; trained with its NLL."""

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats; hidden: (N, d), target: (N,)."""
        return F.cross_entropy(self.scores(hidden), target)

    def scores(self, hidden: Tensor) -> Tensor:
        """(N, V); hidden: (N, d)."""
        return F.linear(self.query(hidden), self.vectors(), self.bias())

    def query(self, hidden: Tensor) -> Tensor:
        """(N, F), of hidden (N, d)."""
        return hidden

    def vectors(self) -> Tensor:
        """(V, F)."""
        return self.table.weight

    def bias(self) -> Tensor | None:
        """What is added to the scores, (V,): log u where they begin from it."""
        return getattr(self, "log_u", None)

    def per_token(self) -> list[nn.Parameter]:
        """The parameters with a row for each token, which `table_lr` is for."""
        return [self.table.weight]


class CEHead(Head):
    """Logits W h over all V tokens, W: (V, d), without a bias; trained with full softmax cross-entropy.

    With `spec.log_unigram` they begin from log u, of `counts`: a bias that is not trained.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.vocab, spec.hidden))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear does
        self.register_buffer("log_u", _log_u(spec, counts))  # (V,)

    def vectors(self) -> Tensor:
        return self.weight

    def per_token(self) -> list[nn.Parameter]:
        return [self.weight]


class ChunkedCEHead(CEHead):
    """The same, without ever holding (N, V) logits: torch's `linear_cross_entropy`, from 2.13 on, else our chunks."""

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        hidden = hidden.type_as(self.weight)  # as is the loss: in bfloat16 it would move in steps of 0.06
        if hasattr(F, "linear_cross_entropy"):
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
            return F.linear_cross_entropy(hidden, self.weight, target, linear_bias=self.log_u, options=options)
        weight = self.weight
        if self.log_u is not None:  # a column that meets a constant 1
            hidden, weight = F.pad(hidden, (0, 1), value=1.0), torch.cat([weight, self.log_u.unsqueeze(1)], dim=1)
        return cross_entropy(hidden, weight, target, chunk=CHUNK)


class AdaptiveHead(nn.Module):
    """torch's adaptive softmax (Grave et al. 2017): rarer tokens in clusters of narrower vectors.

    `counts`: (V,), how often each token comes in training; the clusters are the first 1% of the ids by it, the next 9%,
    the rest.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(spec.hidden, spec.vocab, adaptive_cutoffs(spec.vocab))
        order = torch.zeros(spec.vocab).long() if counts is None else counts
        self.register_buffer("rank", order.argsort(descending=True, stable=True).argsort())  # (V,): 0 the most frequent

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats; hidden: (N, d), target: (N,). Never autocast, which torch's clusters cannot take."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.softmax(hidden, self.rank[target]).loss

    def scores(self, hidden: Tensor) -> Tensor:
        """Log-probabilities (N, V); hidden: (N, d)."""
        return self.softmax.log_prob(hidden)[:, self.rank]

    def per_token(self) -> list[nn.Parameter]:
        """The rows of the head, those of its clusters with them, and of each cluster's second matrix."""
        return [self.softmax.head.weight, *(cluster[1].weight for cluster in self.softmax.tail)]


class LowRankCEHead(Head):
    """Scores s_i = z · e_i / τ of z = W_sem h with rows e_i of a table E_sem: (V, D); trained with the exact softmax.

    With `spec.scores` "cosine", as in the paper, z and e_i are unit vectors; with "dot" they are as they come. With
    `spec.log_unigram` the scores begin from log u, of `counts`: a bias that is not trained.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None, table: type[nn.Module] = nn.Embedding):
        super().__init__()
        self.spec = spec
        self.project = nn.Linear(spec.hidden, spec.semantic_dim, bias=False)  # W_sem: (D, d)
        self.table = table(spec.vocab, spec.semantic_dim)  # E_sem
        self.table.weight.data.mul_(spec.init_std)  # both kinds of table are drawn from N(0, 1)
        self.register_buffer("log_u", _log_u(spec, counts))  # (V,)

    @property
    def temperature(self) -> float:
        """τ."""
        return self.spec.temperature

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        z = self.query(hidden) / self.temperature  # not the V rows
        return F.cross_entropy(F.linear(z, self._directed(self.table.weight), self.bias()), target)

    def query(self, hidden: Tensor) -> Tensor:
        """z: (N, D)."""
        return self._directed(self.project(hidden))

    def vectors(self) -> Tensor:
        """e_i / τ: (V, D)."""
        return self._directed(self.table.weight) / self.temperature

    def _directed(self, vectors: Tensor) -> Tensor:
        """Unit vectors where scores are else as they are."""
        return F.normalize(vectors, dim=-1) if self.spec.scores == "cosine" else vectors


class Negatives(nn.Module):
    """Draws negatives from `spec.sampler`'s q, which `counts`, (V,), of the ids in training give."""

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.spec = spec
        of_q = log_q(spec.sampler, torch.zeros(spec.vocab) if counts is None else counts)
        self.register_buffer("log_q", of_q.float())  # (V,)
        self.register_buffer("cumulative", of_q.exp().cumsum(0))  # (V,)

    def forward(self, target: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """S ids (S,) for all targets (N,), or K for each (N, K); and where, (N, S or K), one is left out, if any is."""
        spec, left_out = self.spec, None
        shape = (spec.shared,) if spec.shared else (len(target), spec.negatives)
        if spec.sampler == "in_batch":  # the targets of other positions: at its own each would meet itself
            places = uniform(shape, len(target), generator=generator).to(target.device)
            negatives, left_out = target[places], places == torch.arange(len(target), device=target.device).unsqueeze(1)
        elif spec.sampler == "uniform":
            negatives = uniform(shape, spec.vocab, generator=generator).to(target.device)
        else:
            negatives = weighted(shape, self.cumulative, generator=generator)
        if spec.mask_hits or spec.method == "sampled_softmax" or spec.sampled_head:
            hits = negatives == target.unsqueeze(1)
            left_out = hits if left_out is None else hits | left_out
        return negatives, left_out

    def log_Sq(self, negatives: Tensor) -> Tensor:
        """ln(S q) of each negative, for the sampled softmax to subtract."""
        return self.log_q[negatives] + math.log(negatives.shape[-1])


class SampledHead(LowRankCEHead):
    """The same scores, trained on the target's and on those of a sample of negatives, drawn from q.

    Three losses: the paper's ("semantic"); the same, whose scores estimate log p/q, with log q added where all tokens
    are scored ("semantic_prior": negatives that hit the target are kept, as this estimate needs); and the sampled
    softmax, whose scores estimate log p: log(S q) is subtracted from the negatives', and hits are left out.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__(spec, counts, TABLES[spec.optimizer])
        self.draw = Negatives(spec, counts)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats over fresh negatives, S for all or K for each position; hidden: (N, d), target: (N,)."""
        N, z = len(target), self.project(hidden)
        negatives, left_out = self.draw(target, generator)
        if negatives.dim() == 1:
            rows = self._directed(self.table(torch.cat([target, negatives])))  # (N+S, D): one gather
            z = self._directed(z) / self.temperature
            positive, rivals = (z * rows[:N]).sum(1), z @ rows[N:].T  # (N,), (N, S)
        else:
            rows = self.table(torch.cat([target.unsqueeze(1), negatives], dim=1))  # (N, 1+K, D): one gather
            products = cosines(z, rows) if self.spec.scores == "cosine" else torch.einsum("nd,nkd->nk", z, rows)
            scores = products / self.temperature  # (N, 1+K)
            positive, rivals = scores[:, 0], scores[:, 1:]
        if self.log_u is not None:
            positive, rivals = positive + self.log_u[target], rivals + self.log_u[negatives]
        corrected = self.spec.method == "sampled_softmax"
        log_Sq = (torch.zeros_like(positive), self.draw.log_Sq(negatives)) if corrected else None
        return contrastive_loss(positive, rivals, log_q=log_Sq, hits=left_out)

    def bias(self) -> Tensor | None:
        """What is added to the scores (V,): log q of "semantic_prior", log u of `log_unigram`, or None."""
        return self.draw.log_q if self.spec.method == "semantic_prior" else self.log_u


class TokenHead(Head):
    """The paper's second stage: logits W_tok x over V tokens, trained with cross-entropy in chunks or on a sample.

    x is h, or for a "normalised" head z = W_sem h / |W_sem h|; with a constant 1 behind it where the first stage had a
    prior, which W_tok then holds in its last column. W_tok begins at random, as CE's does, until `begin` sets it.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.spec, normalised = spec, spec.token_head == "normalised"
        width = (spec.semantic_dim if normalised else spec.hidden) + (spec.method == "semantic_prior")
        self.project = nn.Linear(spec.hidden, spec.semantic_dim, bias=False) if normalised else None  # W_sem: (D, d)
        self.table = TABLES[spec.optimizer if spec.sampled_head else "dense"](spec.vocab, width)  # W_tok
        nn.init.kaiming_uniform_(self.table.weight.data, a=5**0.5)
        self.draw = Negatives(spec, counts) if spec.sampled_head else None

    @torch.no_grad()
    def begin(self, first: SampledHead, scale: float = 1.0) -> None:
        """Sets W_tok from the first stage: Ê/τ for a normalised head; for a plain one scale · Ê W_sem/τ; Ê unit rows.

        A normalised head gives the first stage's scores; a plain one its ranking too (without a prior), as z is
        W_sem h divided by a number for each position, in place of which all share `scale`.
        """
        parts = [first.vectors()]  # (V, D)
        if self.project is None:
            parts = [parts[0] @ first.project.weight * scale]  # (V, d)
        else:
            self.project.load_state_dict(first.project.state_dict())
        if self.spec.method == "semantic_prior":
            parts.append(first.bias().unsqueeze(1))
        self.table.weight.copy_(torch.cat(parts, dim=1))

    @torch.no_grad()
    def take_prior(self) -> Tensor | float:
        """The column of the prior (V,), which is set to 0; 0 where there is none."""
        if self.spec.method != "semantic_prior":
            return 0.0
        prior = self.table.weight[:, -1].clone()
        self.table.weight[:, -1] = 0
        return prior

    def query(self, hidden: Tensor) -> Tensor:
        """x: (N, F)."""
        x = hidden if self.project is None else F.normalize(self.project(hidden), dim=-1)
        return F.pad(x, (0, 1), value=1.0) if self.spec.method == "semantic_prior" else x

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        x = self.query(hidden)
        if self.draw is None:
            return cross_entropy(x, self.table.weight, target, chunk=CHUNK)
        negatives, left_out = self.draw(target, generator)
        rows = self.table(torch.cat([target, negatives]))  # (N+S, F)
        positive = (x * rows[: len(x)]).sum(1)
        log_Sq = (torch.zeros_like(positive), self.draw.log_Sq(negatives))
        return contrastive_loss(positive, x @ rows[len(x) :].T, log_q=log_Sq, hits=left_out)


class NoHead(nn.Module):
    """No head, for the time of the backbone alone: the loss is the mean square of the hidden states."""

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        return hidden.square().mean()

    def per_token(self) -> list[nn.Parameter]:
        return []


def _log_u(spec: Spec, counts: Tensor | None) -> Tensor | None:
    """log u, (V,), of the counts (V,), where the Spec asks for it; of none it is constant."""
    return log_unigram(torch.zeros(spec.vocab) if counts is None else counts).float() if spec.log_unigram else None


HEADS = {
    "ce": CEHead,
    "ce_chunked": ChunkedCEHead,
    "ce_lowrank": LowRankCEHead,
    "adaptive": AdaptiveHead,
    **dict.fromkeys(SAMPLED, SampledHead),
    "backbone": NoHead,
}
