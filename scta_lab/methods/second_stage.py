"""The paper's second stage: a token head that begins where the semantic head of the first ended."""

import torch
import torch.nn.functional as F
from scta_lite.losses import contrastive_loss, cross_entropy
from torch import Generator, Tensor, nn

from scta_lab.base.spec import CHUNK, Spec
from scta_lab.methods.heads import TABLES, Head, SampledHead, append_bias, append_one, products
from scta_lab.methods.samplers import Negatives


class TokenHead(Head):
    """Logits W_tok x over V tokens, trained with cross-entropy in chunks or on a sample.

    x is h, or for a "normalised" head z = W_sem h / |W_sem h|. Where the first stage had a prior, a
    constant 1 stands behind it, and W_tok holds the prior in its last column. W_tok begins at
    random, as CE's does, until `begin` sets it.
    """

    def __init__(self, spec: Spec, counts: Tensor):
        super().__init__(spec, counts)
        self.has_prior = spec.method == "semantic_prior"
        self.project, width = None, spec.hidden
        if spec.token_head == "normalised":
            width = spec.semantic_dim
            self.project = nn.Linear(spec.hidden, width, bias=False)  # W_sem: (D, d)
        if self.has_prior:
            width += 1
        kind = spec.optimizer if spec.sampled_head else "dense"
        self.table = TABLES[kind](spec.vocab, width)  # W_tok
        nn.init.kaiming_uniform_(self.table.weight.data, a=5**0.5)
        self.draw = Negatives(spec, counts) if spec.sampled_head else None

    @torch.no_grad()
    def begin(self, first: SampledHead, scale: float = 1.0) -> None:
        """Sets W_tok from the first stage, whose unit rows are Ê.

        To Ê/τ for a normalised head, which then gives the first stage's scores. For a plain one to
        scale · Ê W_sem/τ, which (without a prior) gives its ranking alone: z is W_sem h divided by
        a number for each position, and all positions share `scale` in place of these.
        """
        vectors = first.vectors()  # (V, D)
        if self.project is None:
            vectors = vectors @ first.project.weight * scale  # (V, d)
        else:
            self.project.load_state_dict(first.project.state_dict())
        if self.has_prior:
            vectors = append_bias(vectors, first.bias())
        self.table.weight.copy_(vectors)

    @torch.no_grad()
    def take_prior(self) -> Tensor | float:
        """The column of the prior (V,), which is set to 0; 0 where there is none."""
        if not self.has_prior:
            return 0.0
        prior = self.table.weight[:, -1].clone()
        self.table.weight[:, -1] = 0
        return prior

    def query(self, hidden: Tensor) -> Tensor:
        """x: (N, F)."""
        x = hidden
        if self.project is not None:
            x = F.normalize(self.project(hidden), dim=-1)
        return append_one(x) if self.has_prior else x

    def loss(self, hidden: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        x = self.query(hidden)
        if self.draw is None:
            return cross_entropy(x, self.table.weight, target, chunk=CHUNK)
        negatives, left_out = self.draw(target, generator)  # (S,) and (N, S)
        rows = self.table(torch.cat([target, negatives]))  # (N + S, F), by one gather
        positive, rivals = products(x, rows)  # (N,) and (N, S)
        corrected = rivals - self.draw.log_Sq(negatives)
        return contrastive_loss(positive, corrected, hits=left_out)
