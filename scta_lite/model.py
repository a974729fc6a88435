"""The language model of the paper: an embedding table, a GRU of one layer, and one of two heads."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from scta_lite.losses import contrastive_loss, cosines, cross_entropy, uniform
from scta_lite.rows import VocabTable
from scta_lite.spec import Spec

TABLES = {"dense": nn.Embedding, "rows": VocabTable}  # by optimizer; both are drawn from N(0, 1)


class LanguageModel(nn.Module):
    """An embedding (V, d), a GRU of width d, and the head of `spec.method`.

    A head has `loss(hidden, target, generator)`, a mean in nats, and `scores(hidden)`, (N, V).
    """

    def __init__(self, spec: Spec):
        super().__init__()
        self.vocab = spec.vocab
        self.embed = TABLES[spec.optimizer](spec.vocab, spec.hidden)
        self.backbone = nn.GRU(spec.hidden, spec.hidden, batch_first=True)
        self.head = HEADS[spec.method](spec)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, d) of ids (B, T)."""
        x = self.embed(ids)  # (B, T, d)
        with torch.autocast(x.device.type, enabled=False):  # on a GPU torch would run it in float16
            hidden, _ = self.backbone(x)
        return hidden

    def loss(self, ids: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats of predicting ids[:, t + 1] from ids[:, : t + 1]; ids: (B, T)."""
        hidden = self(ids[:, :-1]).flatten(0, 1)  # (N, d), N = B (T - 1)
        target = ids[:, 1:].flatten()  # (N,)
        return self.head.loss(hidden, target, generator)


class CEHead(nn.Module):
    """Logits W h over all V tokens, W: (V, d), without a bias; trained with the full softmax."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.vocab, spec.hidden))  # W
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear does

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean over N, in nats; hidden: (N, d), target: (N,)."""
        return cross_entropy(hidden, self.weight, target)

    def scores(self, hidden: Tensor) -> Tensor:
        """(N, V), of hidden (N, d)."""
        return hidden @ self.weight.T


class SemanticHead(nn.Module):
    """Scores cos(z, e_i) / τ of z = W_sem h with rows e_i of E_sem (V, D), against K negatives."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.project = nn.Linear(spec.hidden, spec.semantic_dim, bias=False)  # W_sem
        self.table = TABLES[spec.optimizer](spec.vocab, spec.semantic_dim)  # E_sem
        self.table.weight.data.mul_(spec.init_std)

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean over N, in nats; hidden: (N, d), target: (N,)."""
        shape = (len(target), self.spec.negatives)
        negatives = uniform(
            shape, self.spec.vocab, generator=generator
        )  # (N, K); may hit the target
        candidates = torch.cat([target.unsqueeze(1), negatives], dim=1)  # (N, 1 + K)
        vectors = self.table(candidates)  # (N, 1 + K, D), by one look-up
        # `losses.semantic_loss`, with the target and its negatives in one product
        s = cosines(self.project(hidden), vectors) / self.spec.temperature  # (N, 1 + K)
        return contrastive_loss(s[:, 0], s[:, 1:])

    def scores(self, hidden: Tensor) -> Tensor:
        """(N, V), of hidden (N, d)."""
        z = F.normalize(self.project(hidden), dim=-1)  # (N, D)
        e = F.normalize(self.table.weight, dim=-1)  # (V, D)
        return z @ e.T / self.spec.temperature


HEADS = {"ce": CEHead, "semantic": SemanticHead}
