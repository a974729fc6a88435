"""What a run needs, from its Spec alone: so far, memory, and whether it fits.

Left out so far: FLOPs, bytes moved, and the line t = a + bV.
"""

from scta_lite import machine
from scta_lite.spec import Spec

FLOAT = 4  # bytes; the tables, their gradients and AdamW's moments are float32 whatever the precision
PROCESS = {"cpu": 430_000_000, "cuda": 600_000_000}  # bytes that Python with torch, or a CUDA context, takes by itself


def parameters(spec: Spec) -> dict[str, int]:
    """Numbers trained, by part: the input table, the GRU, and the head."""
    d, D = spec.hidden, spec.semantic_dim
    head = spec.vocab * d if spec.method == "ce" else spec.vocab * D + D * d
    return {"input": spec.vocab * d, "backbone": 6 * d * d + 6 * d, "head": head}


def memory(spec: Spec) -> dict[str, int]:
    """Bytes of one training step at its peak, by what holds them.

    Weights and AdamW's two moments: 12 bytes a parameter. The rest peaks either in CE's backward pass, with three
    (N, V) arrays (log-probabilities, their gradient, that of the logits) and no table's gradient yet, or with every
    gradient there, 4 bytes a parameter. SEMANTIC holds (N, K+1, D) four times: rows, unit rows, the gradients of both.
    """
    counts = parameters(spec)
    whole = sum(counts.values())
    N, d = spec.positions, spec.hidden
    if spec.method == "ce":
        working = max(3 * N * spec.vocab, whole)
    else:
        working = 4 * N * (1 + spec.negatives) * spec.semantic_dim + whole
    working += 12 * N * d  # the GRU keeps gates and states for its backward pass
    return {"weights and moments": 3 * whole * FLOAT, "gradients and activations": working * FLOAT}


def memory_bytes(spec: Spec, device: str = "cpu") -> int:
    """Bytes that the run needs at its peak, the process's own included; `device`: "cpu" or "cuda"."""
    return sum(memory(spec).values()) + PROCESS[device]


def fits(spec: Spec) -> tuple[bool, int, int]:
    """Whether the run fits into the memory that is free on its device now; the bytes needed and the bytes free."""
    device = machine.device(spec.device)
    needed, free = memory_bytes(spec, device.type), machine.free_memory(device)
    return needed <= free, needed, free
