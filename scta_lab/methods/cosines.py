"""The cosines of `scta_lite.losses`, with their gradient by hand: half as long as autograd's, of the same numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from scta_lite import checks
from scta_lite.losses import LEAST_LENGTH
from scta_lite.losses import cosines as plain_cosines


def cosines(query: Tensor, vectors: Tensor, name: str = "vectors") -> Tensor:
    """Cosine of each query (N, D) with its own vectors (N, K, D), or with all vectors (S, D): (N, K) or (N, S)."""
    if vectors.dim() != 3:
        return plain_cosines(query, vectors, name)
    checks.shape(name, vectors, "N K D", N=query.shape[0], D=query.shape[1])
    return OwnCosines.apply(F.normalize(query, dim=-1), vectors)[0]


class OwnCosines(torch.autograd.Function):
    """cos_nk = z_n · v_nk / |v_nk|, unit z: (N, D), v: (N, K, D); ∂cos/∂z = v/|v|, ∂cos/∂v = (z - cos v/|v|) / |v|.

    The gradient by hand takes two passes over (N, K, D), half as long as autograd's. The lengths are an output too, so
    that a second derivative finds where they come from: ∂|v|/∂v = v/|v|.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(v, dim=-1).clamp_min(LEAST_LENGTH)  # (N, K)
        return torch.einsum("nd,nkd->nk", z, v) / norm, norm

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, of_norm: Tensor) -> tuple[Tensor, Tensor]:
        z, v, cos, norm = ctx.saved_tensors
        g = grad / norm  # (N, K)
        of_z = torch.einsum("nk,nkd->nd", g, v)
        along = (g * cos - of_norm) / norm  # (N, K)
        of_v = (g.unsqueeze(2) * z.unsqueeze(1)).addcmul_(v, along.unsqueeze(2), value=-1)  # (N, K, D)
        return of_z, of_v
