"""The language model of the paper: an embedding table, a one-layer GRU, and one of two heads.

A head trains with `loss(hidden, target)` and ranks with `scores(hidden)`, which gives (N, V). Left out: the Transformer
backbone and the paper's second stage, alignment.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from scta_lite.losses import cross_entropy, semantic_loss, uniform
from scta_lite.spec import Spec


class CEHead(nn.Module):
    """Logits W h over all V tokens, W: (V, d), without a bias; trained with full softmax cross-entropy."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.vocab, spec.hidden))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear does

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats; hidden: (N, d), target: (N,)."""
        return cross_entropy(hidden, self.weight, target)

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits (N, V); hidden: (N, d)."""
        return hidden @ self.weight.T


class SemanticHead(nn.Module):
    """Cosines over τ between z = W_sem h and the rows of a table E_sem: (V, D); trained with the contrastive loss."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.project = nn.Linear(spec.hidden, spec.semantic_dim, bias=False)  # W_sem: (D, d)
        self.table = nn.Embedding(spec.vocab, spec.semantic_dim)  # E_sem
        self.table.weight.data.mul_(spec.init_std)  # nn.Embedding draws from N(0, 1)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats over fresh negatives, K for each position; hidden: (N, d), target: (N,)."""
        shape = (len(target), self.spec.negatives)
        negatives = uniform(shape, self.spec.vocab, generator=generator).to(target.device)  # as spec.sampler says
        rows = self.table(torch.cat([target.unsqueeze(1), negatives], dim=1))  # (N, 1+K, D): one gather, then normalise
        hits = negatives == target.unsqueeze(1) if self.spec.mask_hits else None  # (N, K)
        return semantic_loss(
            self.project(hidden), rows[:, 0], rows[:, 1:], temperature=self.spec.temperature, hits=hits
        )

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (N, V), which a softmax turns into probabilities (negatives being uniform); hidden: (N, d)."""
        z = F.normalize(self.project(hidden), dim=-1)
        norms = torch.linalg.vector_norm(self.table.weight, dim=-1).clamp_min(
            1e-12
        )  # (V,): no normalised copy of E_sem
        return (z @ self.table.weight.T).div_(norms * self.spec.temperature)


HEADS = {"ce": CEHead, "semantic": SemanticHead}


class LanguageModel(nn.Module):
    """Embedding (V, d), one-layer GRU of width d, and the head that `spec.method` names."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.embed = nn.Embedding(spec.vocab, spec.hidden)
        self.backbone = nn.GRU(spec.hidden, spec.hidden, batch_first=True)
        self.head = HEADS[spec.method](spec)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, d) of ids (B, T)."""
        return self.backbone(self.embed(ids))[0]

    def loss(self, ids: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats of predicting ids[:, t+1] from ids[:, :t+1]; ids: (B, T)."""
        return self.head.loss(*self.positions(ids), generator)

    def positions(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (N, d) and their targets (N,), N = B (T - 1); ids: (B, T)."""
        return self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
