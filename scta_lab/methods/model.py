"""The language model: an embedding table, a backbone, which in the paper is a GRU, and a head."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from scta_lab.base.spec import Spec
from scta_lab.methods.backbone import BACKBONES, Cache
from scta_lab.methods.heads import HEADS, TABLES
from scta_lab.methods.second_stage import TokenHead

State = Tensor | list[Cache]  # of a GRU; of a Transformer


class Untrained(nn.Embedding):
    """A table whose rows get a gradient and keep their values: the input of the backbone alone."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight.detach()).requires_grad_()


class LanguageModel(nn.Module):
    """Embedding (V, d), the backbone that `spec.backbone` names, of width d, and a head.

    The head is that of `spec.method`, or a second stage's. With `spec.input_dim` the embedding is
    that narrow, and a matrix leads from it to d. With `spec.optimizer` "rows" the input table, and
    a sampling head's, are VocabTables. The input table of "backbone" is not trained. `counts`:
    (V,), how often each token comes in training, for the heads that use it; by default never.
    """

    def __init__(self, spec: Spec, counts: Tensor | None = None):
        super().__init__()
        self.vocab = spec.vocab
        if counts is None:
            counts = torch.zeros(spec.vocab)
        table = TABLES["dense" if spec.freeze else spec.optimizer]
        if spec.method == "backbone":
            table = Untrained
        self.embed = table(spec.vocab, spec.input_dim or spec.hidden)
        self.widen = nn.Identity()
        if spec.input_dim:
            self.widen = nn.Linear(spec.input_dim, spec.hidden, bias=False)
        self.backbone = BACKBONES[spec.backbone](spec)
        head = TokenHead if spec.token_head else HEADS[spec.method]
        self.head = head(spec, counts)
        if spec.freeze:
            self.requires_grad_(False)
            self.head.table.requires_grad_(True)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, d) of ids (B, T)."""
        return self.backbone(self.widen(self.embed(ids)))[0]

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def loss(self, ids: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean loss in nats of predicting ids[:, t + 1] from ids[:, : t + 1]; ids: (B, T)."""
        hidden, target = self.positions(ids)
        return self.head.loss(hidden, target, generator)

    def positions(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (N, d) and their targets (N,), N = B (T - 1); ids: (B, T)."""
        return self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()

    def advance(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The hidden state (B, d) after ids (B, T) are read from a state, and the next state."""
        hidden, state = self.backbone(self.widen(self.embed(ids)), state)
        return hidden[:, -1], state
