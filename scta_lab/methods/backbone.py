"""What reads the embeddings of a text: the paper's GRU, or a Transformer of the same width.

`backbone(x, state)` gives the hidden states (B, T, d) of the inputs x (B, T, d), each made of its
own input and of those before it. It also gives the state from which a later call goes on, to the
same hidden states as if all had been read at once.

The Transformer has the parts of PaLM's (Chowdhery et al. 2022): pre-norm, rotary positions
(RoFormer, Su et al. 2021), no biases, every matrix drawn from N(0, 1/n) with n the width of its
input, which goes with embeddings from N(0, 1). Its blocks are in series, and its MLP has a GELU, as
GPT-2's has. Left out: dropout, and a limit of the positions. A model trained on T tokens has seen
no greater distance, and its state grows by 2 d numbers a layer with each token.

Parameters: a GRU of width d has 6 d² + 6 d. L blocks with an MLP of m times that width have
(4 + 2 m) L d² + (2 L + 1) d. So layers=1, mlp_ratio=1 has as many as the GRU, within 3 d: 0.2% at
d = 256. L blocks of the usual mlp_ratio=4 have 2 L times as many.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scta_lab.base.spec import Spec

BASE = 10_000.0  # of the rotations' wavelengths, from 2π up to nearly 2π times this; RoFormer's
Cache = tuple[Tensor, Tensor]  # a block's keys and values (B, heads, S, w) of the S positions read
Rotation = tuple[Tensor, Tensor]  # cosines and sines (T, w/2) of the angles of T positions


class GRU(nn.GRU):
    """One layer of width d. Its state is the last hidden state, (1, B, d)."""

    def __init__(self, spec: Spec):
        super().__init__(spec.hidden, spec.hidden, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Never autocast, not even of inputs that were: on a GPU torch would run it in float16."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight_ih_l0.dtype), state)


class Transformer(nn.Module):
    """`spec.layers` blocks and a norm. Its state is a Cache a block: the key–value cache."""

    def __init__(self, spec: Spec):
        super().__init__()
        blocks = [Block(spec.hidden, spec.heads, spec.mlp_ratio) for _ in range(spec.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(spec.hidden, bias=False)

    def forward(self, x: Tensor, state: list[Cache] | None = None) -> tuple[Tensor, list[Cache]]:
        T, d = x.shape[1:]
        start = state[0][0].shape[2] if state else 0  # positions that the caches hold
        angle = angles(start, T, d // self.blocks[0].heads, x.device)  # (T, w/2)
        rotation = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        caches = []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, rotation, state[i] if state else None)
            caches.append(cache)
        return self.norm(x), caches


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    Its width is d; its heads have w = d / heads, its MLP m d.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.norm_mlp = nn.LayerNorm(width, bias=False)
        self.qkv = _linear(width, 3 * width)
        self.out = _linear(width, width)
        self.up = _linear(width, mlp_ratio * width)
        self.down = _linear(mlp_ratio * width, width)

    def forward(self, x: Tensor, rotation: Rotation, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Of x (B, T, d), whose positions come after those in the cache, and have the rotation."""
        mixed, cache = self.attention(self.norm_attention(x), rotation, cache)
        x = x + mixed
        inner = F.gelu(self.up(self.norm_mlp(x)))  # (B, T, m d)
        return x + self.down(inner), cache

    def attention(self, x: Tensor, rotation: Rotation, cache: Cache | None) -> tuple[Tensor, Cache]:
        """(B, T, d), of x (B, T, d): each position mixes the values of those up to itself."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, w)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, w)
        q, k = rotate(q, rotation), rotate(k, rotation)
        mask = None  # without a cache torch's own causal one
        if cache is not None:
            k = torch.cat([cache[0], k], dim=2)  # (B, heads, S, w)
            v = torch.cat([cache[1], v], dim=2)
            T, S = q.shape[2], k.shape[2]
            every = torch.ones(T, S, dtype=torch.bool, device=x.device)
            mask = every.tril(S - T)  # query i sees the first S - T + i + 1 keys
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=cache is None)
        joined = mixed.transpose(1, 2).flatten(2)  # (B, T, d)
        return self.out(joined), (k, v)


def angles(start: int, length: int, width: int, device: torch.device | None = None) -> Tensor:
    """θ (length, width/2) in float64: pair i of a head turns by BASE^(-2i / width) a position.

    >>> angles(1, 2, 4)
    tensor([[1.0000, 0.0100],
            [2.0000, 0.0200]], dtype=torch.float64)
    """
    even = torch.arange(0, width, 2, dtype=torch.float64, device=device)  # 2i
    position = torch.arange(start, start + length, dtype=torch.float64, device=device)
    return torch.outer(position, BASE ** (-even / width))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (B, heads, T, w), each pair (x_i, x_{i + w/2}) turned by its angle.

    The product of a query at position s with a key at t then depends on their positions by s - t
    alone.
    """
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    turned = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return turned.type_as(x)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    return linear


BACKBONES = {"gru": GRU, "transformer": Transformer}
