"""`NaiveAdamW`: what a dense AdamW does to a table, step by step; what `RowAdamW` promises.

A step reads the rows of some ids. The loss has a gradient with respect to these rows alone, yet
every row of the table moves: its momentum m goes on, v fades, and weight decay shrinks it. So a
step costs V rows, however few it reads. `RowAdamW` gives the same table at the cost of the rows
read. A test holds both to torch's AdamW.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class NaiveAdamW:
    """AdamW over all rows of a table (V, dim), which `step` changes in place.

    >>> table = torch.zeros(3, 1)
    >>> optimizer = NaiveAdamW(table, lr=0.1)
    >>> optimizer.step(torch.tensor([1]), torch.ones(1, 1))  # row 1 was read
    >>> optimizer.step(torch.tensor([2]), torch.ones(1, 1))  # row 1 moves on
    >>> table.flatten()
    tensor([ 0.0000, -0.1669, -0.0744])
    """

    table: Tensor
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self):
        self.t = 0  # steps done
        self.m = torch.zeros_like(self.table)
        self.v = torch.zeros_like(self.table)

    def step(self, ids: Tensor, gradients: Tensor) -> None:
        """One step, which read the rows of ids (n,), with the loss's gradients (n, dim) of them."""
        beta1, beta2 = self.betas
        self.t += 1
        g = torch.zeros_like(self.table).index_add(0, ids, gradients)  # (V, dim), mostly 0
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat = self.m / (1 - beta1**self.t)
        v_hat = self.v / (1 - beta2**self.t)
        self.table *= 1 - self.lr * self.weight_decay
        self.table -= self.lr * m_hat / (v_hat.sqrt() + self.eps)
