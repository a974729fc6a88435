"""All that a RowAdamW keeps, as it stands, and back: a training goes on from it bit by bit.

Some rows are behind, and stay so: `state_dict` would bring them up to date, and round them once
more.
"""

import torch
from scta_lite.rows import RowAdamW
from scta_lite.rows.ledger import Ledger
from torch import Tensor


def ledgers(optimizer: RowAdamW) -> list[Ledger]:
    """Of each table, in order; with its tensors, if it was not used yet too."""
    for ledger in optimizer._ledgers.values():
        if not ledger.era:
            optimizer.begin(ledger)
    return list(optimizer._ledgers.values())


def snapshot(optimizer: RowAdamW) -> dict[str, Tensor]:
    """The tables and what the optimizer keeps of them, by name: the tensors themselves."""
    tensors = {}
    for i, ledger in enumerate(ledgers(optimizer)):
        tensors |= {f"{i}.{name}": x for name, x in ledger_tensors(ledger).items()}
    return tensors


@torch.no_grad()
def restore(optimizer: RowAdamW, tensors: dict[str, Tensor]) -> None:
    """Puts back what `snapshot` gave, into tables of the same sizes in the same order."""
    for i, ledger in enumerate(ledgers(optimizer)):
        optimizer.begin(ledger, steps=int(tensors[f"{i}.step"]))
        for name, mine in ledger_tensors(ledger).items():
            read = tensors[f"{i}.{name}"]
            # earlier versions kept one more row, for padding
            mine.copy_(read[: len(mine)] if mine.dim() else read)
        ledger.send(0)
        ledger.behind = ledger.steps > 0


def ledger_tensors(ledger: Ledger) -> dict[str, Tensor]:
    """What a ledger keeps and cannot make anew, by name."""
    m, v = ledger.moments  # (V, dim) each
    return {
        "stored": ledger.table.stored,  # (V, dim)
        "m": m,
        "v": v,
        "last": ledger.last,  # (V,)
        "step": ledger.step,
        "sums": torch.from_numpy(ledger.sums[:, : ledger.steps + 1]).T,  # (steps + 1, 3)
    }
