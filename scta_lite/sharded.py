"""One training on several ranks, each with a part of every batch and of every table: processes, GPUs, machines.

    torchrun --nproc-per-node 2 -m scta_lite.train --method semantic_prior --vocab 1M --optimizer rows --out runs/two

Of R ranks, rank r has the rows i of each table with i mod R = r, and their moments: ids are sorted by frequency, so
each has about as many frequent ones. A look-up sends its distinct ids to the ranks that have them and gets rows back;
the backward pass sends gradients the other way, and the rank that has a row adds them up and moves it, with a RowAdamW
of its own. All other parameters are on every rank, and their gradients are summed. A step sends nothing of size V, and
is that of one rank but for the order of sums. Left out: losses that score all V tokens, and what a rank could not
decide alone, such as quality during the training. On every rank are what negatives are drawn from, 12 bytes a token,
and with `evaluate` the text's counts and lengths, 24 more. The ranks see one folder for checkpoints.
"""

import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from scta_lite import checks
from scta_lite.files import remove, temporary
from scta_lite.heads import TABLES
from scta_lite.loop import Training
from scta_lite.model import LanguageModel
from scta_lite.runs import machine, weights
from scta_lite.runs.spec import SAMPLED, Spec
from scta_lite.tables import VocabTable

DRAWN = 1 << 16  # rows drawn at a time
ROWS = ("stored", "m", "v", "last")  # of a checkpoint's tensors, those with a row for each token


class ShardedTable(VocabTable):
    """The rows of this rank of a table (rows, dim), drawn as one rank would draw them; `weight` has those rows alone.

    `table(ids)` gives (…, dim) for the ids of this rank's part of the batch. All ranks must call it, and `backward`.
    """

    def __init__(self, rows: int, dim: int):
        rank, ranks = dist.get_rank(), dist.get_world_size()
        with torch.random.fork_rng(devices=[]):
            super().__init__(len(range(rank, rows, ranks)), dim)
        self.total = rows
        # The same numbers as all at once, without their memory; fewer than 16 torch would draw in another way
        starts = range(0, max(1, rows - DRAWN + 1), DRAWN)
        for start, stop in pairwise([*starts, rows]):
            mine = nn.init.normal_(torch.empty(stop - start, dim))[(rank - start) % ranks :: ranks]
            place = -(-(start - rank) // ranks)  # of the first of them
            self.stored[place : place + len(mine)] = mine

    def forward(self, ids: Tensor) -> Tensor:
        checks.dtype("ids", ids, (torch.int64, torch.int32))
        ranks = dist.get_world_size()
        once, places = ids.flatten().long().unique(return_inverse=True)
        if len(once) and not 0 <= once[0] <= once[-1] < self.total:
            raise IndexError(f"ids from {once[0]} to {once[-1]}: expected ids from 0 up and below {self.total}")
        owner, order = (once % ranks).sort(stable=True)
        wanted = owner.bincount(minlength=ranks)  # rows of each rank
        ours, theirs = wanted.tolist(), _exchanged(wanted, [1] * ranks, [1] * ranks).tolist()
        rows = super().forward(_exchanged(once[order], ours, theirs) // ranks)
        return _Sent.apply(rows, theirs, ours)[order.argsort()[places]].view(*ids.shape, self.dim)

    def gather_into(self, whole: Tensor | None) -> None:
        """Writes the rows of all ranks into the whole table (rows, dim), which rank 0 has; all ranks must call it."""
        ranks, weight = dist.get_world_size(), self.weight
        for start in range(0, -(-self.total // ranks), DRAWN):  # of each rank's rows; the last may be one short
            mine = weight.new_zeros(min(DRAWN, -(-self.total // ranks) - start), self.dim)
            mine[: len(weight[start : start + DRAWN])] = weight[start : start + DRAWN]
            parts = [torch.empty_like(mine) for _ in range(ranks)] if whole is not None else None
            dist.gather(mine, parts)
            if parts is not None:
                rows = torch.stack(parts, 1).flatten(0, 1)
                whole[start * ranks : start * ranks + len(rows)] = rows[: self.total - start * ranks]


class _Sent(torch.autograd.Function):
    """Rows (n, dim) to the ranks that asked for them, so many each; gradients come back."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sizes = received, sent
        return _exchanged(rows, sent, received)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _exchanged(grad, *ctx.sizes), None, None


def _exchanged(x: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """What the ranks send to this one of their x (n, …), of whose parts each rank gets one."""
    found = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(found, x.contiguous(), received, sent)
    return found


class ShardedTraining(Training):
    """A run under way on all ranks: each works on its part of a batch, and the first one's clock is everyone's."""

    rank, ranks = property(lambda self: dist.get_rank()), property(lambda self: dist.get_world_size())

    made: tuple[int, LanguageModel | None] | None = None  # the whole model, and after which step

    def save(self, path: Path) -> None:
        """Writes this rank's part into a folder of the step within `path`; OSError on all ranks if one could not."""
        folder, error = path / str(self.done), None
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # what another save left unfinished
        dist.barrier()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            super().save(folder / f"{self.rank}-of-{self.ranks}.safetensors")
        except OSError as failed:
            error = failed
        if self._any(error is not None):
            if self.rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            raise error or OSError(f"{path.name}: another rank could not write its part")
        if self.rank == 0:
            for old in path.iterdir():
                if old != folder:
                    remove(old)

    def resume(self, path: Path) -> None:
        """Goes on from the last step of which all parts are there, of as many ranks as there were; else begins anew."""
        if path.is_dir() and not _complete(path):
            warnings.warn(f"{path.name}: no step has all its parts; the run begins anew", stacklevel=2)
            return
        super().resume(path)
        dist.barrier()  # all have read it
        if self.rank == 0 and path.is_file():  # of one process: from now on a part of one
            kept, folder = temporary(path), path / str(self.done)
            path.rename(kept)
            folder.mkdir(parents=True)
            kept.rename(folder / "0-of-1.safetensors")
        dist.barrier()

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What this rank needs of the last checkpoint."""
        parts, V, mine = _complete(path) if path.is_dir() else [path], self.spec.vocab, {}
        for then, part in enumerate(parts):
            if len(parts) == self.ranks and then != self.rank:
                continue
            try:
                tensors, header = weights.read(part)
            except ValueError as error:
                raise OSError(f"{error}; expected {path.name} removed, to begin anew") from None
            ids = torch.arange(then, V, len(parts))
            here = ids % self.ranks == self.rank
            for name, x in tensors.items():
                of_rows = name.startswith("optimizer1") and name.rpartition(".")[2] in ROWS
                if of_rows and name not in mine:
                    mine[name] = x.new_empty(len(range(self.rank, V, self.ranks)), *x.shape[1:])
                if of_rows:
                    mine[name][ids[here] // self.ranks] = x[here]
                else:
                    mine[name] = x  # the same on every rank
        return mine, header

    def whole(self) -> LanguageModel | None:
        """The model that one rank would have, on rank 0, in the host's memory, which must hold it; None on the others.

        None too after a loss that is not finite, and, with a warning, where there is no memory for it.
        """
        if self.made is None or self.made[0] != self.done:
            self.made = self.done, self._gathered() if self.losses[: self.done].isfinite().all() else None
        return self.made[1]

    def _gathered(self) -> LanguageModel | None:
        one = None
        if self.rank == 0:
            try:
                with torch.random.fork_rng(devices=[]):
                    one = LanguageModel(self.spec, self.examples.counts)
            except (MemoryError, RuntimeError) as error:
                if not machine.is_out_of_memory(error):
                    raise
        if self._any(self.rank == 0 and one is None):
            warnings.warn("no memory for the whole model; its parts are in the last checkpoint, if any", stacklevel=2)
            return None
        mine = dict(self.model.named_modules())
        for name, module in mine.items():
            if isinstance(module, ShardedTable):
                module.gather_into(one.get_submodule(name).weight if one else None)
        if one:
            state = self.model.state_dict()
            for name, module in mine.items():
                if isinstance(module, ShardedTable):
                    del state[f"{name}.weight"]
            one.load_state_dict(state, strict=False)
        return one

    def _any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        count = torch.tensor(float(here), device=self.device)
        dist.all_reduce(count)
        return bool(count)

    def _agreed(self, finite: bool, seconds: float) -> tuple[bool, float]:
        told = torch.tensor([finite, seconds], dtype=torch.float64, device=self.device)
        dist.broadcast(told, 0)
        return bool(told[0]), told[1].item()

    def _work(self, examples: Tensor, mark: Callable[[str], None]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            loss = self.model.loss(examples.chunk(self.ranks)[self.rank], self.generator) / self.ranks
        mark("forward")
        loss.backward()
        dense = [p for p in self.model.parameters() if p.grad is not None]
        rows = [row for optimizer in self.optimizers[1:] for row in optimizer.touched()]
        squares = sum(row.grad.square().sum() for row in rows)
        summed = torch.cat([loss.detach()[None], squares[None], *(p.grad.flatten() for p in dense)])
        dist.all_reduce(summed)
        loss, squares, gradients = summed.split([1, 1, len(summed) - 2])
        for p, gradient in zip(dense, gradients.split([p.numel() for p in dense]), strict=True):
            p.grad.copy_(gradient.view_as(p))
        mark("backward")
        if self.spec.clip:
            norm = (squares + gradients.square().sum()).sqrt()[0]
            torch.nn.utils.clip_grads_with_norm_([*dense, *rows], self.spec.clip, norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mark("optimizer")
        return loss[0]


def _complete(path: Path) -> list[Path]:
    """The parts of the last step in the folder that has all of them, by rank; none if there is none."""
    found = {}
    for folder in path.iterdir():
        for last in folder.glob("*-of-*.safetensors"):
            ranks = int(last.stem.rpartition("-")[2])
            parts = [folder / f"{rank}-of-{ranks}.safetensors" for rank in range(ranks)]
            if all(part.is_file() for part in parts):
                found[int(folder.name)] = parts
    return found[max(found)] if found else []


def check(spec: Spec) -> None:
    """ValueError for a Spec that ranks cannot share."""
    expected = {"optimizer": ("rows",), "method": SAMPLED, "capture": (False,), "stage1": (None,),
                "eval_every": (None,), "eval_every_s": (None,)}  # fmt: skip
    for name, values in expected.items():
        if (value := getattr(spec, name)) not in values:
            raise ValueError(f"{name}={value!r}: expected {' or '.join(map(repr, values))} on several ranks")
    if spec.device.startswith("cuda:"):
        raise ValueError(
            f"device={spec.device!r}: expected 'cuda' on several ranks, each of which has a GPU of its own"
        )
    if spec.vocab < dist.get_world_size():
        raise ValueError(f"vocab={spec.vocab}: expected at least the {dist.get_world_size()} ranks, one row for each")
    if spec.batch % dist.get_world_size():
        raise ValueError(f"batch={spec.batch}: expected a multiple of the {dist.get_world_size()} ranks")


def build(spec: Spec, counts: Tensor | None = None) -> LanguageModel:
    """The Spec's model with this rank's rows, drawn as one rank would; the negatives are those of the whole batch."""
    kept, TABLES["rows"] = TABLES["rows"], ShardedTable
    try:
        model = LanguageModel(spec, counts)
    finally:
        TABLES["rows"] = kept
    model.head.draw.register_forward_pre_hook(_all_targets)
    model.head.draw.register_forward_hook(_own_negatives)
    return model


def _all_targets(draw: nn.Module, args: tuple) -> tuple:
    """The targets of all ranks (R N,) in place of this one's (N,)."""
    parts = [torch.empty_like(args[0]) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, args[0].contiguous())
    return torch.cat(parts), *args[1:]


def _own_negatives(draw: nn.Module, args: tuple, drawn: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Of the negatives that were drawn for all ranks, and of those left out, what belongs to this one's targets."""
    negatives, left_out = (x.chunk(dist.get_world_size())[dist.get_rank()] if x is not None and x.dim() == 2 else x
                           for x in drawn)  # fmt: skip
    return negatives, left_out
