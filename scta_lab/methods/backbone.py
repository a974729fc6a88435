"""What reads the embeddings of a text: the paper's GRU, or a Transformer of the same width behind the same interface.

`backbone(x, state)` gives the hidden states (B, T, d) of the inputs x (B, T, d), each made of what came before it and
of its own input, and the state from which a later call goes on: the same hidden states as if all had been read at once.

The Transformer is PaLM's in its parts (Chowdhery et al. 2022): pre-norm, rotary positions (RoFormer, Su et al. 2021),
no biases, every matrix drawn from N(0, 1/n) with n the width of its input, which goes with embeddings from N(0, 1).
Its blocks are in series and its MLP a GELU's, as GPT-2's are. Left out: dropout, and a limit of the positions. A model
trained on T tokens has seen no greater distance, and its state grows by 2 d numbers a layer with each token.

Parameters: a GRU of width d has 6 d² + 6 d, L blocks with an MLP of m times that width (4 + 2 m) L d² + (2 L + 1) d.
So layers=1, mlp_ratio=1 has as many as the GRU, within 3 d: 0.2% at d = 256. L blocks of the usual mlp_ratio=4 have
2 L times as many.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scta_lab.base.spec import Spec

BASE = 10_000.0  # of the rotations' wavelengths, from 2π up to nearly 2π times this; RoFormer's
Cache = tuple[Tensor, Tensor]  # keys and values (B, heads, positions, w) of all that a block has read


class GRU(nn.GRU):
    """One layer of width d. Its state is the last hidden state, (1, B, d)."""

    def __init__(self, spec: Spec):
        super().__init__(spec.hidden, spec.hidden, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Never autocast: on a GPU torch would run it in float16."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x, state)


class Transformer(nn.Module):
    """`spec.layers` blocks, and a norm at the end. Its state is a Cache for each block: the key–value cache."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.blocks = nn.ModuleList(Block(spec.hidden, spec.heads, spec.mlp_ratio) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.hidden, bias=False)

    def forward(self, x: Tensor, state: list[Cache] | None = None) -> tuple[Tensor, list[Cache]]:
        read = state[0][0].shape[2] if state else 0
        angle = angles(read, x.shape[1], x.shape[2] // self.blocks[0].heads, x.device)
        turn = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        caches = []
        for block, cache in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x, cache = block(x, turn, cache)
            caches.append(cache)
        return self.norm(x), caches


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); width d, heads of width w = d / heads, MLP of width m d."""

    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.out = _linear(width, 3 * width), _linear(width, width)
        self.up, self.down = _linear(width, mlp_ratio * width), _linear(mlp_ratio * width, width)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], cache: Cache | None) -> tuple[Tensor, Cache]:
        """Of x (B, T, d), turned by the cosines and sines (T, w/2) of its positions, after what the cache holds."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, w)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, w)
        q, k = rotate(q, turn), rotate(k, turn)
        mask = None  # without a cache torch's own causal one
        if cache is not None:
            k, v = (torch.cat(pair, dim=2) for pair in zip(cache, (k, v), strict=True))
            T, S = q.shape[2], k.shape[2]
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)  # query i sees S - T + i + 1 keys
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=cache is None)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, d)
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)))), (k, v)


def angles(start: int, length: int, width: int, device: torch.device | None = None) -> Tensor:
    """θ (length, width/2) in float64: pair i of a head of this width turns by BASE^(-2i / width) a position.

    >>> angles(1, 2, 4)
    tensor([[1.0000, 0.0100],
            [2.0000, 0.0200]], dtype=torch.float64)
    """
    frequency = BASE ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
    return torch.outer(torch.arange(start, start + length, dtype=torch.float64, device=device), frequency)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, heads, T, w), each pair (x_i, x_{i + w/2}) turned by its angle, of which the cosine and sine are given.

    The product of a query at position s with a key at t then depends on their positions by s - t alone.
    """
    (cos, sin), (a, b) = turn, x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    return linear


BACKBONES = {"gru": GRU, "transformer": Transformer}
