"""The language model of the paper: an embedding table, a one-layer GRU, and one of the heads.

A head trains with `loss(hidden, target)` and ranks with `scores(hidden)`, which gives (N, V). The paper's two are `ce`
and `semantic`; the others are what to compare them with. Left out: the Transformer backbone and the paper's second
stage, alignment.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from scta_lite.losses import contrastive_loss, cosines, cross_entropy, uniform
from scta_lite.spec import CHUNK, Spec, adaptive_cutoffs
from scta_lite.tables import VocabTable


class Untrained(nn.Embedding):
    """An embedding table whose rows get a gradient and keep their values: the input of the backbone alone."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight.detach()).requires_grad_()


TABLES = {"dense": nn.Embedding, "rows": VocabTable}


class CEHead(nn.Module):
    """Logits W h over all V tokens, W: (V, d), without a bias; trained with full softmax cross-entropy."""

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.vocab, spec.hidden))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear does

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats; hidden: (N, d), target: (N,)."""
        return cross_entropy(hidden, self.weight, target)

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits (N, V); hidden: (N, d)."""
        return hidden @ self.weight.T


class ChunkedCEHead(CEHead):
    """The same, without ever holding (N, V) logits: torch's `linear_cross_entropy`, from 2.13 on, else our chunks."""

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        if not hasattr(F, "linear_cross_entropy"):
            return cross_entropy(hidden, self.weight, target, chunk=CHUNK)
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
        return F.linear_cross_entropy(hidden, self.weight, target, options=options)


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
        """Mean loss in nats; hidden: (N, d), target: (N,)."""
        return self.softmax(hidden, self.rank[target]).loss

    def scores(self, hidden: Tensor) -> Tensor:
        """Log-probabilities (N, V); hidden: (N, d)."""
        return self.softmax.log_prob(hidden)[:, self.rank]


class LowRankCEHead(nn.Module):
    """Cosines over τ between z = W_sem h and the rows of a table E_sem: (V, D); trained with the exact softmax."""

    def __init__(self, spec: Spec, counts: Tensor | None = None, table: type[nn.Module] = nn.Embedding):
        super().__init__()
        self.spec = spec
        self.project = nn.Linear(spec.hidden, spec.semantic_dim, bias=False)  # W_sem: (D, d)
        self.table = table(spec.vocab, spec.semantic_dim)  # E_sem
        self.table.weight.data.mul_(spec.init_std)  # both kinds of table are drawn from N(0, 1)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats; hidden: (N, d), target: (N,)."""
        z = F.normalize(self.project(hidden), dim=-1) / self.spec.temperature
        return cross_entropy(z, F.normalize(self.table.weight, dim=-1), target)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (N, V), which a softmax turns into probabilities (negatives being uniform); hidden: (N, d)."""
        return cosines(self.project(hidden), self.table.weight).div_(self.spec.temperature)


class SemanticHead(LowRankCEHead):
    """The same scores, trained with the paper's contrastive loss, which reads 1 + K rows for each position."""

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__(spec, counts, TABLES[spec.optimizer])

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats over fresh negatives, K for each position; hidden: (N, d), target: (N,)."""
        shape = (len(target), self.spec.negatives)
        negatives = uniform(shape, self.spec.vocab, generator=generator).to(target.device)  # as spec.sampler says
        rows = self.table(torch.cat([target.unsqueeze(1), negatives], dim=1))  # (N, 1+K, D): one gather
        scores = cosines(self.project(hidden), rows) / self.spec.temperature  # (N, 1+K)
        hits = negatives == target.unsqueeze(1) if self.spec.mask_hits else None  # (N, K)
        return contrastive_loss(scores[:, 0], scores[:, 1:], hits=hits)


class NoHead(nn.Module):
    """No head, for the time of the backbone alone: the loss is the mean square of the hidden states."""

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        return hidden.square().mean()


HEADS = {
    "ce": CEHead,
    "semantic": SemanticHead,
    "ce_chunked": ChunkedCEHead,
    "ce_lowrank": LowRankCEHead,
    "adaptive": AdaptiveHead,
    "backbone": NoHead,
}


class LanguageModel(nn.Module):
    """Embedding (V, d), one-layer GRU of width d, and the head that `spec.method` names.

    With `spec.optimizer` "rows" the input table, and SEMANTIC's, are VocabTables. `counts`: (V,), how often each token
    comes in training, for the heads that use it. The input table of "backbone" is not trained.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.vocab = spec.vocab
        table = Untrained if spec.method == "backbone" else TABLES[spec.optimizer]
        self.embed = table(spec.vocab, spec.hidden)
        self.backbone = nn.GRU(spec.hidden, spec.hidden, batch_first=True)
        self.head = HEADS[spec.method](spec, counts)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, d) of ids (B, T)."""
        return self.backbone(self.embed(ids))[0]

    def loss(self, ids: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats of predicting ids[:, t+1] from ids[:, :t+1]; ids: (B, T)."""
        return self.head.loss(*self.positions(ids), generator)

    def positions(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (N, d) and their targets (N,), N = B (T - 1); ids: (B, T)."""
        return self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
