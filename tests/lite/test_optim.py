import copy
import gc
import importlib
import math
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from reference import twins
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.adamw import adamw

from scta_lab.methods import samplers
from scta_lab.methods.model import LanguageModel
from scta_lab.run.loop import optimizers
from scta_lab.run.rows import restore, snapshot
from scta_lite import RowAdamW, VocabTable
from scta_lite.losses import log_uniform, uniform
from scta_lite.rows import ledger as ledgers
from scta_lite.rows import table as tables
from scta_lite.rows.naive import NaiveAdamW


def differ(rows, dim, steps, *, batch=64, **settings):
    """The largest relative difference of the losses, and that of the movements, after steps on Zipf's ids."""
    both = twins(rows, dim, **settings)
    start = both[1][0].weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    goal = torch.randn(rows, dim, generator=generator).double()
    worst = 0
    for _ in range(steps):
        ids = log_uniform((batch,), rows, generator=generator)
        losses = []
        for table, optimizer in both:
            loss = ((table(ids) - goal[ids]).square() * torch.arange(1, dim + 1)).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        worst = max(worst, abs(losses[0] / losses[1] - 1))
    weight, expected = both[0][0].weight, both[1][0].weight.detach()
    return worst, ((weight - expected).norm() / (expected - start).norm()).item()


@pytest.mark.parametrize("eps", [1e-8, 1e-30])
def test_the_naive_adamw_is_torchs_and_what_rows_are_held_to(eps):
    """Three tables move alike by the same ids; RowAdamW meets an ε of any size to first order alone."""
    (table, rows), (dense, whole) = twins(50, 3, eps=eps)
    weight = table.weight.clone()
    naive = NaiveAdamW(weight, lr=1e-2, betas=(0.9, 0.999), eps=eps, weight_decay=0.1)
    for step in range(200):
        ids = log_uniform((6,), 50, generator=torch.Generator().manual_seed(step))
        leaf = weight[ids].requires_grad_()
        for read, optimizer in ((table(ids), rows), (dense(ids), whole), (leaf, None)):
            (read.square() * torch.arange(1, 4)).sum().backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
        naive.step(ids, leaf.grad)
    torch.testing.assert_close(weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    tolerance = 1e-12 if eps == 1e-30 else 1e-6
    torch.testing.assert_close(table.weight, weight, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("eps", "of_loss", "of_rows"), [(1e-8, 1e-6, 1e-4), (1e-30, 1e-12, 1e-12)])
def test_a_thousand_steps_are_dense_adamws(eps, of_loss, of_rows):
    """Rows go untouched for one to 999 steps; exact but for ε, and to first order in that."""
    loss, moved = differ(2000, 8, 1000, eps=eps)
    assert loss < of_loss
    assert moved < of_rows


@pytest.mark.parametrize(
    "settings",
    [
        {"betas": (0.0, 0.999)},
        {"betas": (0.5, 0.9)},
        {"weight_decay": 0.0},
        {"weight_decay": 1.0, "lr": 0.05},
        {"betas": (0.9, 0.99999)},
    ],
)
def test_other_settings_are_dense_adamws_too(settings):
    assert max(differ(100, 3, 150, batch=4, eps=1e-30, **settings)) < 1e-9


def test_a_large_eps_is_met_to_first_order():
    """ε is comparable to √v here, and the formula that holds √(1-β2^s) constant would be off by 1e-2."""
    assert differ(200, 3, 300, batch=4, eps=1e-4)[1] < 1e-3


def test_look_ups_of_one_step_merge():
    (table, rows), (dense, whole) = twins(20, 3)
    for step in range(30):
        for of, optimizer in ((table, rows), (dense, whole)):
            ids = torch.randint(20, (3, 5), generator=torch.Generator().manual_seed(step))
            first, second = of(ids[0]), of(ids[1])
            (first * second).sum().backward()  # two look-ups in one backward pass
            of(ids[2]).square().sum().backward()  # and one in another
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-7, atol=1e-7)


def test_what_no_step_uses_changes_nothing():
    (table, rows), _ = twins(9, 2, weight_decay=0.0)
    table(torch.tensor([1, 2])).sum().backward()
    rows.zero_grad()
    before = table.weight.clone()
    rows.step()  # nothing was borrowed
    unused = table(torch.tensor([3]))
    rows.step()  # borrowed, but without a gradient
    assert torch.equal(table.weight, before)
    del unused
    loss = table(torch.tensor([4])).sum()
    rows.zero_grad()  # between the look-up and its backward pass, as torch's users do
    loss.backward()
    rows.step()
    moved = (table.weight != before).any(1)
    assert moved.tolist() == [False] * 4 + [True] + [False] * 4


def test_rows_read_before_a_step_cannot_be_trained_after_it():
    (table, rows), _ = twins(9, 2)
    first, second = table(torch.tensor([1])).sum(), table(torch.tensor([2])).sum()
    first.backward()
    rows.step()
    with pytest.raises(RuntimeError, match="rows read after step 0: expected their backward pass before step 1"):
        second.backward()


def test_two_backward_passes_add_up():
    (table, rows), (dense, whole) = twins(9, 2)
    for of, optimizer in ((table, rows), (dense, whole)):
        loss = of(torch.tensor([1, 5])).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


def test_a_new_optimizer_takes_over():
    (table, rows), _ = twins(9, 2)
    table(torch.tensor([1])).sum().backward()
    rows.step()
    second = RowAdamW([table], lr=0.5)
    table(torch.tensor([2])).sum().backward()
    second.step()
    rows.flush()  # no longer its business
    before = second._ledgers[table].last[:9].tolist()
    assert before == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert second._ledgers[table].behind
    second.flush()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VocabTable(0, 4), "rows=0: expected an integer from 1 up"),
        (lambda: VocabTable(4, 2.5), "dim=2.5: expected an integer from 1 up"),
        (lambda: RowAdamW([nn.Embedding(3, 2)]), "expected VocabTables"),
        (lambda: RowAdamW([VocabTable(3, 2)], lr=-1.0), "lr=-1.0: expected a finite number from 0 up"),
        (lambda: RowAdamW([VocabTable(3, 2)], eps=float("nan")), "eps=nan: expected a finite number"),
        (lambda: RowAdamW([VocabTable(3, 2)], weight_decay=-0.1), "weight_decay=-0.1: expected a finite number"),
        (lambda: RowAdamW([VocabTable(3, 2)], betas=(0.95, 0.9)), r"betas=\(0.95, 0.9\): expected 0 ≤ β1 < 0.9997 β2"),
        (lambda: RowAdamW([VocabTable(3, 2)], betas=(0.9, 1.0)), "betas=.*β2 < 1"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def trained(spec, *, dtype=torch.float32, flipped=False):
    """The loss of each step, and the tables, of 200 steps; `flipped`: the same sums over examples in another order."""
    torch.manual_seed(0)
    made = LanguageModel(spec).to(dtype)
    both = optimizers(spec, made)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(200):
        ids = log_uniform((spec.batch, spec.seq_len), spec.vocab, generator=generator)
        loss = made.loss(ids.flip(0) if flipped else ids, torch.Generator().manual_seed(len(losses)))
        loss.backward()
        for each in both:
            each.step()
            each.zero_grad()
        losses.append(loss.item())
    tables_ = [made.embed.weight.detach(), made.head.table.weight.detach()]
    return torch.tensor(losses, dtype=torch.float64), torch.cat(tables_, dim=1).double()


def test_in_float32_rows_are_as_near_as_another_order_of_summation(monkeypatch, tiny):
    """Of the losses; the tables are nearer to the exact ones than dense's, which rounds every row at every step."""
    sizes = {"vocab": 2000, "batch": 8, "seq_len": 32, "hidden": 64, "semantic_dim": 32, "negatives": 16}
    spec = tiny(**sizes)
    dense, rows, exact = trained(spec), trained(tiny(**sizes, optimizer="rows")), trained(spec, dtype=torch.float64)

    def flipped(shape, vocab, *, generator=None):
        return uniform(shape, vocab, generator=generator).view(spec.batch, -1, shape[1]).flip(0).view(shape)

    monkeypatch.setattr(samplers, "uniform", flipped)
    order = trained(spec, flipped=True)
    assert 0 < (rows[0] - dense[0]).norm() <= 2 * (order[0] - dense[0]).norm()
    assert (rows[1] - exact[1]).norm() <= (dense[1] - exact[1]).norm()


def warm_then_cosine(optimizer):
    warm = lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, total_iters=100)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=900)  # to 0
    return lr_scheduler.SequentialLR(optimizer, [warm, cosine], [100])


SCHEDULES = {
    "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0),
    "warm-up, then cosine to 0": warm_then_cosine,
    "a drop": lambda optimizer: lr_scheduler.StepLR(optimizer, 300, 0.1),
    "0 for a while": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: float(not 200 <= step < 500)),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=20),
}


class Model(nn.Module):
    """Two tables, the first read twice, and a dense layer, as a loss on ids (n, 3)."""

    def __init__(self, make):
        super().__init__()
        self.users, self.items = make(400, 4), make(300, 4)
        self.mix = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, ids):
        a, b, item = self.users(ids[:, 0]), self.users(ids[:, 1]), self.items(ids[:, 2] % 300)
        return ((self.mix(a) * item).sum(1) - b.sum(1).tanh() - ids[:, 0] % 3).square().mean()


def race(schedule, *, clip=None, accumulate=1, steps=1000, eps=1e-30):
    """The largest relative difference of losses and of norms, and of the rows moved, of dense AdamW and RowAdamW."""
    models, groups = [], [{"lr": 1e-2, "weight_decay": 0.5}, {"lr": 3e-3, "weight_decay": 0.0}]
    for make in (lambda rows, dim: VocabTable(rows, dim).double(), lambda *size: nn.Embedding(*size).double()):
        torch.manual_seed(0)
        models.append(Model(make))
    models[1].load_state_dict(models[0].state_dict())
    start = [table.weight.detach().clone() for table in (models[1].users, models[1].items)]
    sets = []
    for model in models:
        own = type(model.users) is VocabTable
        tables = [model.users, model.items] if own else [model.users.weight, model.items.weight]
        large = [group | {"params": [table]} for group, table in zip(groups, tables, strict=True)]
        sets.append(
            [
                torch.optim.AdamW(model.mix.parameters(), lr=1e-2),
                (RowAdamW if own else torch.optim.AdamW)(large, eps=eps),
            ]
        )
    schedulers = [[schedule(optimizer) for optimizer in both] for both in sets]
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for _ in range(steps):
        parts = [log_uniform((16, 3), 400, generator=generator) for _ in range(accumulate)]
        told = []
        for model, both, rates in zip(models, sets, schedulers, strict=True):
            losses = [model(ids) for ids in parts]
            for loss in losses:
                (loss / accumulate).backward()
            rows = both[1].touched() if isinstance(both[1], RowAdamW) else []
            norm = nn.utils.clip_grad_norm_([*model.parameters(), *rows], clip) if clip else losses[0]
            for optimizer, rate in zip(both, rates, strict=True):
                optimizer.step()
                rate.step(losses[0].item()) if isinstance(rate, lr_scheduler.ReduceLROnPlateau) else rate.step()
                optimizer.zero_grad()
            told.append((losses[0].item(), norm.item()))
        worst = max(worst, *(abs(a / b - 1) for a, b in zip(*told, strict=True)))
    moved = 0.0
    for own, dense, first in zip(*([m.users, m.items] for m in models), start, strict=True):
        moved = max(moved, ((own.weight - dense.weight).norm() / (dense.weight - first).norm()).item())
    return worst, moved, len({group["lr"] for group in sets[0][1].param_groups})


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_clipping_and_groups_are_dense_adamws(name, clip):
    """A thousand steps, two look-ups of one table, two groups: one with a decay that the schedule changes, too."""
    loss, moved, _ = race(SCHEDULES[name], clip=clip)
    assert loss < 1e-12
    assert moved < 1e-12


def test_accumulated_gradients_are_dense_adamws():
    loss, moved, _ = race(warm_then_cosine, clip=0.05, accumulate=3, steps=300)
    assert loss < 1e-12
    assert moved < 1e-12


def test_on_the_way_of_a_gpu_too(monkeypatch):
    """Where a step reads every id given, equal ones at their first place: clipped, merged and accumulated."""
    for module in (ledgers, tables):
        monkeypatch.setattr(module, "distinct", tables.distinct_unsorted)
    loss, moved, _ = race(warm_then_cosine, clip=0.05, accumulate=3, steps=300)
    assert loss < 1e-12
    assert moved < 1e-12


def test_a_schedule_with_the_usual_eps():
    assert race(warm_then_cosine, steps=300, eps=1e-8)[1] < 1e-4


ONCE = {  # |g| far below ε: the error of a row that is read once, by β2 and step, over its move
    (0.999, 1): 0.1145,
    (0.999, 31): 0.01075,
    (0.999, 501): 1.26e-4,
    (0.99, 501): 2.28e-3,
    (0.98, 501): 0.01011,
    (0.95, 501): 0.0931,
}


@pytest.mark.parametrize(("beta2", "first", "bound"), [(*key, bound) for key, bound in ONCE.items()])
def test_eps_is_met_within_its_bound(beta2, first, bound):
    (table, rows), (dense, whole) = twins(2, 4, weight_decay=0.0, betas=(0.9, beta2))
    start = table.weight.clone()
    for step in range(first + 400):
        for of, optimizer in ((table, rows), (dense, whole)):
            scale = 1e-13 if step == first - 1 else 0.0
            (of(torch.tensor([int(step != first - 1)])).sum() * scale).backward()  # row 0 once, else row 1
            optimizer.step()
            optimizer.zero_grad()
    moved, expected = (weight[0] - start[0] for weight in (table.weight, dense.weight.detach()))
    error = ((moved - expected).norm() / expected.norm()).item()
    assert error == pytest.approx(bound, rel=5e-3)


def test_a_step_of_no_gradient():
    """Gradients of None do not move a table, as for torch's AdamW; of 0 they would, and are refused."""
    (table, rows), (dense, whole) = twins(9, 2, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        optimizer.step()  # nothing was read yet
        of(torch.tensor([1, 2])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        before = of.weight.detach().clone()
        for _ in range(3):
            optimizer.step()
        assert torch.equal(of.weight.detach(), before)
        of(torch.tensor([1, 5])).square().sum().backward()
        optimizer.zero_grad()
        optimizer.step()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"^set_to_none=False: expected True"):
        rows.zero_grad(set_to_none=False)


def test_closures():
    (table, rows), (dense, whole) = twins(9, 2, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):

        def closure(of=of, optimizer=optimizer):
            optimizer.zero_grad()
            loss = of(torch.tensor([1, 5])).square().sum()
            loss.backward()
            return loss

        told = [optimizer.step(closure).item() for _ in range(3)]
    assert told[0] > told[2]
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


def test_hooks_are_called_as_those_of_any_optimizer():
    (table, rows), _ = twins(9, 2)
    seen = []
    handles = [
        rows.register_step_pre_hook(lambda *_: seen.append("before")),
        rows.register_step_post_hook(lambda *_: seen.append("after")),
        rows.register_state_dict_pre_hook(lambda *_: seen.append("saving")),
        rows.register_state_dict_post_hook(lambda *_: seen.append("saved")),
        rows.register_load_state_dict_pre_hook(lambda *_: seen.append("loading")),
        rows.register_load_state_dict_post_hook(lambda *_: seen.append("loaded")),
    ]
    table(torch.tensor([1])).sum().backward()
    rows.step()
    rows.load_state_dict(rows.state_dict())
    assert seen == ["before", "after", "saving", "saved", "loading", "loaded"]
    for handle in handles:
        handle.remove()
    rows.step()
    assert len(seen) == 6


def every_scheduler(optimizer):
    """One of each class in torch.optim.lr_scheduler, by name."""
    made = {
        "LambdaLR": lambda: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
        "MultiplicativeLR": lambda: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9),
        "StepLR": lambda: lr_scheduler.StepLR(optimizer, 3),
        "MultiStepLR": lambda: lr_scheduler.MultiStepLR(optimizer, [3, 6]),
        "ConstantLR": lambda: lr_scheduler.ConstantLR(optimizer, 0.3, 4),
        "LinearLR": lambda: lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 5),
        "ExponentialLR": lambda: lr_scheduler.ExponentialLR(optimizer, 0.9),
        "SequentialLR": lambda: lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.ConstantLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.9)], [4]
        ),
        "CosineAnnealingLR": lambda: lr_scheduler.CosineAnnealingLR(optimizer, 10),
        "CosineAnnealingWarmRestarts": lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4),
        "ChainedScheduler": lambda: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        ),
        "ReduceLROnPlateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=1),
        "CyclicLR": lambda: lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-1, 3, cycle_momentum=False),
        "OneCycleLR": lambda: lr_scheduler.OneCycleLR(optimizer, 1e-1, 12, cycle_momentum=False),
        "PolynomialLR": lambda: lr_scheduler.PolynomialLR(optimizer, 10, 2.0),
    }
    return made


NOT_ONE = {"LRScheduler", "lambda", "Optimizer", "SWALR"}  # the base; SWALR is torch.optim.swa_utils', tried below


def test_every_scheduler_of_torch_is_tried():
    known = {name for name in lr_scheduler.__all__ if name not in NOT_ONE}
    assert known == set(every_scheduler(None))


@pytest.mark.parametrize("name", [*every_scheduler(None), "SWALR"])
def test_every_scheduler_works(name):
    (table, rows), (dense, whole) = twins(30, 4, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        swa = torch.optim.swa_utils.SWALR
        scheduler = swa(optimizer, 1e-3) if name == "SWALR" else every_scheduler(optimizer)[name]()
        rates = set()
        for step in range(12):
            ids = torch.randint(30, (4,), generator=torch.Generator().manual_seed(step))
            loss = of(ids).square().sum()
            loss.backward()
            optimizer.step()
            scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
            optimizer.zero_grad()
            rates.add(optimizer.param_groups[0]["lr"])
        assert len(rates) > 1
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_schedulers_that_cycle_betas_are_told_so(name):
    (table, rows), _ = twins(9, 2)
    before = table.weight.clone()
    if name == "OneCycleLR":
        lr_scheduler.OneCycleLR(rows, 1e-1, 12)
    else:
        lr_scheduler.CyclicLR(rows, 1e-3, 1e-1).step()
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"^betas=\(0\..*\): expected \(0.9, 0.999\), .*cycle_momentum=False"):
        rows.step()
    assert torch.equal(table.weight, before)  # nothing moved
    assert len(rows.touched()) == 1  # and nothing is lost
    rows.param_groups[0]["betas"] = (0.9, 0.999)
    rows.step()
    assert not torch.equal(table.weight, before)


@pytest.mark.parametrize(("changed", "message"), [
    ({"lr": -1e-3}, "^lr=-0.001: expected a finite number from 0 up"),
    ({"lr": math.nan}, "^lr=nan: expected a finite number from 0 up"),
    ({"weight_decay": 1.0, "lr": 0.2}, r"^betas=\(0.9, 0.999\): expected 0 ≤ β1 < 0.9997 β2 \(1 - λ\).* = 0.2$"),
])  # fmt: skip
def test_bad_settings_of_a_step_move_nothing(changed, message):
    tables = [VocabTable(9, 2), VocabTable(9, 2)]
    rows = RowAdamW([{"params": [table]} for table in tables])
    before = [table.weight.clone() for table in tables]
    for table in tables:
        table(torch.tensor([1])).sum().backward()
    rows.param_groups[1].update(changed)
    with pytest.raises(ValueError, match=message):
        rows.step()
    assert all(torch.equal(table.weight, weight) for table, weight in zip(tables, before, strict=True))
    rows.zero_grad()
    tables[0](torch.tensor([1])).sum().backward()
    rows.step()  # of a group that does not move they are not asked
    assert not torch.equal(tables[0].weight, before[0])


def test_the_functional_adamw_is_public_and_adamws_step():
    """RowAdamW calls it with rows of its own: if torch takes it away, or changes it, this is where it shows."""
    assert "adamw" in importlib.import_module("torch.optim.adamw").__all__
    w, g = torch.randn(5, 3), torch.randn(5, 3)
    twin = nn.Parameter(w.clone())
    whole = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.2, fused=True)
    m, v, step = torch.zeros(5, 3), torch.zeros(5, 3), torch.tensor(0.0)
    for _ in range(3):
        twin.grad = g
        whole.step()
        adamw([w], [g], [m], [v], [], [step], fused=True, amsgrad=False, maximize=False,
                                lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.2)  # fmt: skip
    assert torch.equal(w, twin.detach())
    assert step == 3


def a_few_steps(of, optimizer, steps=range(5)):
    for step in steps:
        ids = torch.randint(30, (4,), generator=torch.Generator().manual_seed(step))
        of(ids).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def through_torch(state, tmp_path):
    torch.save(state, tmp_path / "state.pt")
    return torch.load(tmp_path / "state.pt", weights_only=True)


def through_safetensors(state, tmp_path):
    from safetensors.torch import load_file, save_file

    flat = {f"{i}.{name}": x.contiguous() for i, of in state["state"].items() for name, x in of.items()}
    save_file(flat, tmp_path / "state.safetensors")
    read = {i: {} for i in state["state"]}
    for name, x in load_file(tmp_path / "state.safetensors").items():
        read[int(name.partition(".")[0])][name.partition(".")[2]] = x
    return {"state": read, "param_groups": state["param_groups"]}


@pytest.mark.parametrize("way", [through_torch, through_safetensors])
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
@pytest.mark.parametrize(("saved", "read"), [*product((0, 1), repeat=2)])
def test_a_saved_training_goes_on(tmp_path, way, order, saved, read):
    """From rows to rows, and to and from torch's AdamW over a dense table, whose state has the same names."""
    both = twins(30, 4, eps=1e-30)
    for of, optimizer in both:
        lr_scheduler.ExponentialLR(optimizer, 0.9)
        a_few_steps(of, optimizer)
    of, optimizer = both[saved]
    state, weights = way(optimizer.state_dict(), tmp_path), copy.deepcopy(of.state_dict())
    fresh, its = twins(30, 4, eps=1e-30, lr=0.5)[read]
    a_few_steps(fresh, its, range(50, 53))  # what it did before is gone
    if order == "model first":
        fresh.load_state_dict(weights)
        its.load_state_dict(state)
    else:
        its.load_state_dict(state)
        fresh.load_state_dict(weights)
    a_few_steps(fresh, its, range(5, 40))
    a_few_steps(*both[1], range(5, 40))
    torch.testing.assert_close(fresh.weight.detach(), both[1][0].weight.detach(), rtol=1e-12, atol=1e-12)
    assert its.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_state_is_read_from_a_file(tmp_path):
    (table, rows), (dense, whole) = twins(30, 4, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        a_few_steps(of, optimizer)
    torch.save({"model": table.state_dict(), "optimizer": rows.state_dict()}, tmp_path / "state.pt")
    fresh = VocabTable(30, 4).double()
    again = RowAdamW([fresh])
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    fresh(torch.tensor([3, 4])).square().sum().backward()
    again.step()
    dense(torch.tensor([3, 4])).square().sum().backward()
    whole.step()
    torch.testing.assert_close(fresh.weight.detach(), dense.weight.detach(), rtol=1e-12, atol=1e-12)


def test_a_state_that_was_read_is_not_shared():
    (table, rows), _ = twins(30, 4)
    a_few_steps(table, rows)
    state = rows.state_dict()
    kept = copy.deepcopy(state)
    rows.load_state_dict(state)
    a_few_steps(table, rows, range(5, 9))
    torch.testing.assert_close(state["state"], kept["state"])


def test_a_snapshot_goes_on_bit_by_bit():
    (table, rows), _ = twins(30, 4, dtype=torch.float32)
    a_few_steps(table, rows)
    kept = {name: x.clone() for name, x in snapshot(rows).items()}
    a_few_steps(table, rows, range(5, 9))
    (other, its), _ = twins(30, 4, dtype=torch.float32)
    restore(its, kept)
    a_few_steps(other, its, range(5, 9))
    assert torch.equal(other.weight, table.weight)


def test_a_snapshot_of_an_earlier_version_goes_on_too():
    """Which had one more row in each table, for padding."""
    (table, rows), _ = twins(30, 4)
    a_few_steps(table, rows)
    kept = {name: x.clone() for name, x in snapshot(rows).items()}
    for name in ("0.stored", "0.m", "0.v", "0.last"):
        kept[name] = torch.cat([kept[name], kept[name][:1]])
    (other, its), _ = twins(30, 4)
    restore(its, kept)
    assert torch.equal(other.weight, table.weight)


def test_a_state_of_other_sizes_is_refused():
    (table, rows), _ = twins(30, 4)
    a_few_steps(table, rows)
    _, other = twins(30, 5)[0]
    with pytest.raises(ValueError, match=r"^exp_avg of shape \(30, 4\): expected \(30, 5\)"):
        other.load_state_dict(rows.state_dict())


@pytest.mark.parametrize("setting", ["amsgrad", "maximize"])
def test_a_state_of_another_algorithm_is_refused(setting):
    (table, rows), (dense, _) = twins(30, 4)
    whole = torch.optim.AdamW(dense.parameters(), **{setting: True})
    a_few_steps(dense, whole)
    with pytest.raises(ValueError, match=f"^{setting}=True: expected the state of an AdamW without it"):
        rows.load_state_dict(whole.state_dict())
    a_few_steps(table, rows)


def test_a_snapshot_of_which_one_table_was_not_read():
    tables = [VocabTable(9, 2) for _ in range(2)]
    rows = RowAdamW(tables, lr=0.1)
    a_few_ids = torch.tensor([1, 2])
    tables[1](a_few_ids).sum().backward()
    rows.step()
    others = [VocabTable(9, 2) for _ in range(2)]
    its = RowAdamW(others, lr=0.1)
    restore(its, {name: x.clone() for name, x in snapshot(rows).items()})
    for other, table in zip(others, tables, strict=True):
        assert torch.equal(other.weight, table.weight)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_is_refused_and_its_state_is_the_way(copied):
    (table, rows), _ = twins(30, 4)
    a_few_steps(table, rows)
    with pytest.raises(TypeError, match="expected its state_dict"):
        copied((table, rows))
    other = copied(table)
    its = RowAdamW([other], lr=1e-2, weight_decay=0.1)
    its.load_state_dict(rows.state_dict())
    for of, optimizer in ((table, rows), (other, its)):
        a_few_steps(of, optimizer, range(5, 9))
    torch.testing.assert_close(other.weight, table.weight, rtol=1e-12, atol=1e-12)


def test_groups_can_be_added():
    tables = [VocabTable(9, 2) for _ in range(2)]
    rows = RowAdamW([tables[0]], lr=0.1)
    rows.add_param_group({"params": tables[1], "lr": 0.0, "weight_decay": 0.0})
    before = [table.weight.clone() for table in tables]
    for table in tables:
        table(torch.tensor([1])).sum().backward()
    rows.step()
    assert [torch.equal(table.weight, weight) for table, weight in zip(tables, before, strict=True)] == [False, True]
    assert "lr: 0.1" in repr(rows)
    for again in (tables[0], [tables[0], tables[0]]):
        with pytest.raises(ValueError, match=r"more than one parameter group|each once"):
            rows.add_param_group({"params": again})


def test_look_ups_after_touched_are_merged_too():
    (table, rows), (dense, whole) = twins(9, 2, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        losses = [of(torch.tensor(ids)).square().sum() for ids in ([1, 2], [2, 3], [1, 4])]
        for loss in losses[:2]:
            loss.backward(retain_graph=True)
        if of is table:
            (touched,) = rows.touched()
            assert touched.shape == (3, 2)
            assert rows.touched()[0] is touched
        losses[1].backward()  # through rows that were merged already
        losses[2].backward()
        optimizer.step()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    assert rows.touched() == []


def test_what_was_borrowed_is_freed_at_once():
    """Without the garbage collector: a cycle would hold the rows of several steps, and a step took twice as long."""
    (table, rows), _ = twins(9, 2)
    gc.disable()
    try:
        for used in (True, False):
            read = table(torch.tensor([1, 2]))
            (leaf,) = [edge[0].variable for edge in read.grad_fn.next_functions[0][0].next_functions if edge[0]]
            leaf = weakref.ref(leaf)
            if used:
                read.sum().backward()
                assert leaf() is not None
                rows.step()
            del read
            assert leaf() is None
    finally:
        gc.enable()


def test_a_moved_table_keeps_its_optimizer():
    table = VocabTable(9, 2)
    rows = RowAdamW([table], lr=0.1)
    table.double()  # before the first step, as for any optimizer
    before = table.weight.clone()
    table(torch.tensor([1])).sum().backward()
    rows.step()
    assert table.weight.dtype == torch.float64
    assert (table.weight[1] < before[1]).all()


class TestAsTorchsOwnSuiteAsks:
    """What PyTorch's tests of its optimizers ask of each, where it applies to tables; the names are of its own file.

    Not applicable: complex, sparse and non-contiguous parameters, foreach, fused, capturable, differentiable and
    maximize, which RowAdamW does not have; parameters on several devices; and gradients set by hand on a parameter.
    """

    def test_state_dict_deterministic(self):
        (table, rows), _ = twins(30, 4)
        a_few_steps(table, rows)
        (other, its), _ = twins(30, 4)
        with torch.no_grad():
            other.weight.copy_(table.weight)
        state = copy.deepcopy(rows.state_dict())
        its.load_state_dict(state)
        for step in range(5, 25):
            for of, optimizer in ((table, rows), (other, its)):
                a_few_steps(of, optimizer, [step])
            torch.testing.assert_close(other.weight, table.weight, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(its.state_dict(), rows.state_dict(), rtol=1e-12, atol=1e-12)

    def test_load_nontensor_step(self):
        (table, rows), _ = twins(30, 4)
        a_few_steps(table, rows)
        state = copy.deepcopy(rows.state_dict())
        for of in state["state"].values():
            of["step"] = of["step"].item()
        rows.load_state_dict(state)
        a_few_steps(table, rows, [5])
        assert rows.state_dict()["state"][0]["step"] == 6

    def test_can_load_older_state_dict(self):
        (table, rows), _ = twins(30, 4)
        a_few_steps(table, rows)
        state = copy.deepcopy(rows.state_dict())
        for group in state["param_groups"]:
            group["of_a_later_version"] = 1
        rows.load_state_dict(state)
        assert rows.param_groups[0]["params"][0] is rows._ledgers[table].stand

    def test_step_is_noop_when_params_have_no_grad(self):
        (table, rows), _ = twins(30, 4)
        before = table.weight.clone()
        rows.step()
        assert torch.equal(table.weight, before)
        assert rows.state_dict()["state"] == {}

    def test_step_all_hooks(self):
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        (table, rows), _ = twins(30, 4)
        seen = []
        handles = [
            register_optimizer_step_pre_hook(lambda *_: seen.append("all before")),
            register_optimizer_step_post_hook(lambda *_: seen.append("all after")),
            rows.register_step_pre_hook(lambda *_: seen.append("before")),
            rows.register_step_post_hook(lambda *_: seen.append("after")),
        ]
        try:
            a_few_steps(table, rows, [0])
        finally:
            for handle in handles:
                handle.remove()
        assert seen == ["all before", "before", "after", "all after"]

    @pytest.mark.parametrize("name", ["lr", "weight_decay"])
    def test_param_groups(self, name):
        """A group with settings of its own moves by them, and the other by the optimizer's."""
        tables = [VocabTable(9, 2).double() for _ in range(2)]
        dense = [nn.Embedding.from_pretrained(table.weight.clone(), freeze=False) for table in tables]
        made = []
        for of, params, make in ((tables, tables, RowAdamW), (dense, [d.weight for d in dense], torch.optim.AdamW)):
            made.append(
                optimizer := make([{"params": [params[0]]}, {"params": [params[1]], name: 0.3}], lr=1e-2, eps=1e-30)
            )
            for step in range(8):
                loss = sum(each(torch.tensor([step, 3])).square().sum() for each in of)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        for table, embedding in zip(tables, dense, strict=True):
            torch.testing.assert_close(table.weight, embedding.weight.detach(), rtol=1e-12, atol=1e-12)

    def test_tensor_lr(self):
        (table, rows), (dense, whole) = twins(9, 2, eps=1e-30)
        for of, optimizer in ((table, rows), (dense, whole)):
            optimizer.param_groups[0]["lr"] = torch.tensor(0.01, dtype=torch.float64)
            scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
            for ids in ([1, 2], [2, 3], [1, 4]):
                of(torch.tensor(ids)).square().sum().backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)

    def test_non_empty_state(self):
        (table, rows), _ = twins(9, 2)
        a_few = [1, 2]
        table(torch.tensor(a_few)).sum().backward()
        rows.step()
        assert set(rows.state[rows._ledgers[table].stand]) == {"step", "exp_avg", "exp_avg_sq"}

    def test_optimizer_can_be_printed(self):
        assert "RowAdamW" in repr(twins(9, 2)[0][1])


def hostile_pairs():
    return twins(9, 2, eps=1e-30)


def test_gradients_that_wait_survive_a_load_and_a_new_optimizer():
    """A load between backward and step: as for torch, the gradient stays. Between look-up and backward: an error."""
    (table, rows), (dense, whole) = hostile_pairs()
    for of, optimizer in ((table, rows), (dense, whole)):
        a_few = [[1, 2], [2, 3]]
        for ids in a_few:
            of(torch.tensor(ids)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        state = copy.deepcopy(optimizer.state_dict())
        of(torch.tensor([3, 4])).square().sum().backward()
        optimizer.load_state_dict(state)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    for of in (table, dense):
        of(torch.tensor([3, 5])).square().sum().backward()
    second = RowAdamW([table], lr=0.3, eps=1e-30)
    its = torch.optim.AdamW(dense.parameters(), lr=0.3, eps=1e-30)
    for optimizer in (second, its):
        optimizer.step()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    for change in (lambda: second.load_state_dict(second.state_dict()), lambda: RowAdamW([table])):
        read = table(torch.tensor([1])).sum()
        kept = change()
        with pytest.raises(RuntimeError, match="rows read before load_state_dict, restore, or a new RowAdamW"):
            read.backward()
        del kept


def test_a_snapshot_before_the_first_step_is_one_too():
    table = VocabTable(9, 2)
    rows = RowAdamW([table], lr=0.1)
    kept, before = {name: x.clone() for name, x in snapshot(rows).items()}, table.weight.clone()
    a_few_ids = torch.tensor([1, 2])
    for _ in range(3):
        table(a_few_ids).sum().backward()
        rows.step()
    restore(rows, kept)
    assert torch.equal(table.weight, before)


def test_many_backward_passes_before_a_step_take_the_memory_of_a_few():
    (table, rows), (dense, whole) = hostile_pairs()
    for of, optimizer in ((table, rows), (dense, whole)):
        for step in range(40):
            ids = torch.randint(9, (4,), generator=torch.Generator().manual_seed(step))
            of(ids).square().sum().backward()
        optimizer.step()
    assert len(rows._ledgers) == 1
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    for step in range(20):
        table(torch.tensor([step % 9])).sum().backward()
        assert len(rows._ledgers[table].used) <= 8


@pytest.mark.parametrize("setting", ["amsgrad", "maximize"])
def test_a_group_of_another_algorithm_is_refused(setting):
    with pytest.raises(ValueError, match=f"^{setting}=True: expected False"):
        RowAdamW([{"params": [VocabTable(9, 2)], setting: True}])


def test_betas_too_near_each_other_are_refused():
    with pytest.raises(ValueError, match=r"^betas=\(0.99.*: expected 0 ≤ β1 < 0.9997 β2"):
        RowAdamW([VocabTable(9, 2)], betas=(0.999 - 1e-9, 0.999), weight_decay=0.0)


# Among other people's code: what would be wrong in silence is right, or refused.


def test_threads_that_only_read_do_not_make_steps_up_twice():
    (table, rows), (dense, whole) = twins(60_000, 4, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        a_few_steps(of, optimizer)
    expected = dense.weight.detach()
    for _ in range(3):
        for of, optimizer in ((table, rows), (dense, whole)):
            a_few_steps(of, optimizer, [7])
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda _: table.state_dict()["weight"].clone(), range(4)))
        for weight in read:
            torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_a_table_is_read_while_another_thread_trains():
    (table, rows), (dense, whole) = twins(20_000, 4, eps=1e-30)
    done = threading.Event()

    def read():
        while not done.is_set():
            table.weight.sum()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for of, optimizer in ((table, rows), (dense, whole)):
            a_few_steps(of, optimizer, range(30))
        done.set()
        reading.result()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


def test_what_walks_the_groups_is_told():
    (table, rows), _ = twins(30, 4)
    table(torch.tensor([1])).sum().backward()
    walked = [p for group in rows.param_groups for p in group["params"]]
    for walk in (lambda: nn.utils.clip_grad_norm_(walked, 1.0), lambda: nn.utils.clip_grad_value_(walked, 1.0),
                 lambda: [p.data.clone() for p in walked], lambda: [p.detach() for p in walked],
                 lambda: sum(p.grad is not None for p in walked)):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"in param_groups: expected table.weight, or optimizer.touched\(\)"):
            walk()
    assert "Stand" in repr(rows.param_groups)


def test_the_state_is_current_and_may_be_changed_in_place():
    (table, rows), (dense, whole) = twins(30, 4, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        a_few_steps(of, optimizer)
        (state,) = optimizer.state.values()
        state["exp_avg"].mul_(0.5)
        a_few_steps(of, optimizer, range(5, 9))
    (own,), (expected,) = rows.state.values(), whole.state.values()
    torch.testing.assert_close(own["exp_avg"], expected["exp_avg"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reset", [
    lambda rows: rows.state.clear(),
    lambda rows: setattr(rows, "state", {}),
    lambda rows: next(iter(rows.state.values())).update(exp_avg=torch.zeros(30, 4)),
])  # fmt: skip
def test_a_state_that_was_replaced_is_refused(reset):
    (table, rows), _ = twins(30, 4)
    a_few_steps(table, rows)
    reset(rows)
    for use in (lambda: a_few_steps(table, rows), rows.state_dict):
        with pytest.raises(RuntimeError, match=r"optimizer.state was replaced: expected load_state_dict"):
            use()


def test_a_new_state_comes_after_the_steps_that_rows_have_missed():
    (table, rows), (dense, whole) = twins(30, 4, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        a_few_steps(of, optimizer)
    rows.__setstate__({"state": {}})
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    assert not any(value.any() for state in rows.state.values() for value in state.values())


@pytest.mark.parametrize("at", ["give_back", "stamp"])
def test_ctrl_c_in_a_flush_makes_no_step_up_twice(monkeypatch, at):
    (table, rows), (dense, whole) = twins(30, 4, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        a_few_steps(of, optimizer)
    (ledger,) = rows._ledgers.values()
    original, calls = getattr(ledger, at), []

    def interrupted(given):
        calls.append(1)
        if at == "give_back":
            original(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        original(given)

    monkeypatch.setattr(ledger, at, interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows.flush()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 0.5)}, {"amsgrad": True}])
def test_a_refused_optimizer_takes_no_table(wrong):
    (table, rows), _ = twins(30, 4)
    a_few_steps(table, rows)
    for groups in ([{"params": [table]}, {"params": [VocabTable(3, 2)], **wrong}], [{"params": [table]}] * 2):
        with pytest.raises(ValueError, match="expected"):
            RowAdamW(groups)
    assert table.owner() is rows
    a_few_steps(table, rows)


def test_several_ranks_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match=r"^ranks: expected one"):
        RowAdamW([VocabTable(3, 2)])
