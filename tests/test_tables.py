import copy
import gc
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scta_lite import RowAdamW, VocabTable, heads, load, tables, train
from scta_lite.loop import optimizers
from scta_lite.losses import log_uniform, uniform
from scta_lite.model import LanguageModel
from scta_lite.runs.spec import METHODS, SAMPLED

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.1}


def twins(rows, dim, dtype=torch.float64, **settings):
    """A VocabTable and an nn.Embedding with equal rows, each with its AdamW."""
    torch.manual_seed(0)
    table, dense = VocabTable(rows, dim).to(dtype), nn.Embedding(rows, dim, dtype=dtype)
    dense.weight.data.copy_(table.weight)
    settings = SETTINGS | settings
    return (table, RowAdamW([table], **settings)), (dense, torch.optim.AdamW(dense.parameters(), **settings))


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


def test_the_way_of_a_gpu_gives_the_same(monkeypatch):
    expected = twins(50, 4)[0]
    padded = twins(50, 4)[0]
    for table, optimizer in (expected, padded):
        if table is padded[0]:
            monkeypatch.setattr(tables, "_distinct", tables._distinct_padded)
        for seed in range(20):
            ids = torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(seed))
            (table(ids).pow(3).sum() + table(ids[0]).sum()).backward()
            optimizer.step()
    torch.testing.assert_close(padded[0].weight, expected[0].weight, rtol=1e-12, atol=1e-12)


def test_padding_has_every_id_once():
    ids = torch.tensor([[5, 3, 5], [9, 3, 0]])
    distinct, places = tables._distinct_padded(ids, pad=10)
    assert distinct.tolist() == [0, 3, 5, 9, 10, 10]
    assert torch.equal(distinct[places], ids)


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


def test_whatever_reads_the_rows_finds_them_current():
    (table, rows), (dense, whole) = twins(30, 4, eps=1e-30)
    for step in range(12):
        ids = torch.randint(30, (4,), generator=torch.Generator().manual_seed(step))
        for of, optimizer in ((table, rows), (dense, whole)):
            of(ids).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        expected = dense.weight.detach()
        if step % 3 == 0:
            torch.testing.assert_close(table.weight, expected, rtol=1e-12, atol=1e-12)
        elif step % 3 == 1:
            with torch.no_grad():
                torch.testing.assert_close(table(torch.arange(30)), expected, rtol=1e-12, atol=1e-12)
        else:
            torch.testing.assert_close(table(torch.arange(30)).detach(), expected, rtol=1e-12, atol=1e-12)
            rows.zero_grad()


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


def test_rows_cannot_be_read_without_their_optimizer():
    table = VocabTable(9, 2)
    with pytest.raises(RuntimeError, match="expected a RowAdamW"):
        table(torch.tensor([1]))
    optimizer = RowAdamW([table])
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    del optimizer
    gc.collect()
    with pytest.raises(RuntimeError, match=r"expected optimizer\.flush"):
        table(torch.tensor([3]))
    with pytest.raises(RuntimeError, match=r"expected optimizer\.flush"):
        table.weight  # noqa: B018


def test_copies_are_current_and_of_their_own():
    (table, rows), _ = twins(9, 2)
    for ids in ([1, 2], [2, 3]):
        table(torch.tensor(ids)).square().sum().backward()
        rows.step()
    for copied in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert torch.equal(copied.weight, table.weight)
        with pytest.raises(RuntimeError, match="expected a RowAdamW"):
            copied(torch.tensor([1]))


def test_a_new_optimizer_takes_over():
    (table, rows), _ = twins(9, 2)
    table(torch.tensor([1])).sum().backward()
    rows.step()
    second = RowAdamW([table], lr=0.5)
    table(torch.tensor([2])).sum().backward()
    second.step()
    rows.flush()  # no longer its business
    before = second.state[table].last[:9].tolist()
    assert before == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert table.behind
    second.flush()


@pytest.mark.parametrize("ids", [[9], [-1], [3, 12]])
def test_ids_that_are_not_there(ids):
    (table, rows), _ = twins(9, 2)
    assert rows.state[table].steps == 0
    with pytest.raises(IndexError, match="expected ids from 0 up and below 9"):
        table(torch.tensor(ids))


def test_ids_of_32_bits_and_none():
    (table, rows), (dense, whole) = twins(9, 2)
    for of, optimizer in ((table, rows), (dense, whole)):
        (of(torch.tensor([1, 5], dtype=torch.int32)).square().sum() + of(torch.empty(0).long()).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)


def test_a_weight_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match=r"weight of shape \(1, 2\): expected \(9, 2\)"):
        VocabTable(9, 2).load_state_dict({"weight": torch.zeros(1, 2)})


def test_a_flushed_table_outlives_its_optimizer():
    table = VocabTable(9, 2)
    for _ in range(2):  # a second optimizer may take over
        optimizer = RowAdamW([table], lr=0.1)
        for ids in ([1, 2], [2, 3]):
            table(torch.tensor(ids)).sum().backward()
            optimizer.step()
    optimizer.flush()
    expected = optimizer.state[table].last[:9].tolist()
    assert expected == [2] * 9
    del optimizer
    weight = table.weight.clone()
    with torch.no_grad():
        assert torch.equal(table(torch.arange(9)), weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VocabTable(0, 4), "rows=0: expected an integer from 1 up"),
        (lambda: VocabTable(4, 2.5), "dim=2.5: expected an integer from 1 up"),
        (lambda: RowAdamW([nn.Embedding(3, 2)]), "expected VocabTables"),
        (lambda: RowAdamW([VocabTable(3, 2)], lr=-1.0), "lr=-1.0: expected a finite number from 0 up"),
        (lambda: RowAdamW([VocabTable(3, 2)], eps=float("nan")), "eps=nan: expected a finite number"),
        (lambda: RowAdamW([VocabTable(3, 2)], weight_decay=-0.1), "weight_decay=-0.1: expected a finite number"),
        (lambda: RowAdamW([VocabTable(3, 2)], betas=(0.95, 0.9)), r"betas=\(0.95, 0.9\): expected 0 ≤ β1 < β2"),
        (lambda: RowAdamW([VocabTable(3, 2)], betas=(0.9, 1.0)), "betas=.*β2 ≤ 0.99999"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Allocated(TorchDispatchMode):
    """The operations that make a tensor of at least `size` numbers in memory that was not there before."""

    def __init__(self, size, known):
        super().__init__()
        self.size, self.known, self.found = size, {x.untyped_storage().data_ptr() for x in known}, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        large = isinstance(out, torch.Tensor) and out.numel() >= self.size
        if large and out.untyped_storage().data_ptr() not in self.known:
            self.found.append(str(function))
        return out


def test_no_operation_of_a_step_is_over_v(tiny):
    V = 7919
    cases = [(method, optimizer, {"shared": 0}) for method in SAMPLED for optimizer in ("rows", "dense")]
    for method, optimizer, others in [*cases, ("semantic_prior", "rows", {"sampler": "in_batch", "shared": 5})]:
        spec, expected = tiny(method, vocab=V, optimizer=optimizer, **others), optimizer == "dense"
        made = LanguageModel(spec)
        both = optimizers(spec, made)
        known = list(made.state_dict().values())
        for state in (s for o in both[1:] for s in o.state.values()):
            known += [state.m, state.v, state.last, *(T for _, T in state.tails)]
        ids = torch.randint(V, (2, 9))
        for _ in range(2):
            with Allocated(V, known) as watch:
                made.loss(ids, torch.Generator()).backward()
                for each in both:
                    each.step()
                    each.zero_grad()
        assert bool(watch.found) is expected, watch.found


@pytest.mark.parametrize("method", [method for method in METHODS if method != "backbone"])
def test_the_tables_that_borrow_rows(tiny, method):
    made = LanguageModel(tiny(method, optimizer="rows", hidden=16))
    tables_ = [name for name, module in made.named_modules() if isinstance(module, VocabTable)]
    assert tables_ == (["embed", "head.table"] if method in SAMPLED else ["embed"])


def test_a_model_on_rows_is_saved_whole_and_read_back(tiny, tmp_path):
    result = train(tiny(optimizer="rows"))
    result.save(tmp_path)
    again = load(tmp_path)
    assert set(again.model.state_dict()) == set(LanguageModel(tiny()).state_dict())  # the same names as dense
    for name, value in result.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    with pytest.raises(RuntimeError, match=r"head\.table\.weight"):
        again.model.load_state_dict({k: v for k, v in again.model.state_dict().items() if k != "head.table.weight"})


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

    monkeypatch.setattr(heads, "uniform", flipped)
    order = trained(spec, flipped=True)
    assert 0 < (rows[0] - dense[0]).norm() <= 2 * (order[0] - dense[0]).norm()
    assert (rows[1] - exact[1]).norm() <= (dense[1] - exact[1]).norm()
