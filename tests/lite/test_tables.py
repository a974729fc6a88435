import copy
import gc
import pickle

import pytest
import torch
from reference import twins
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scta_lab import load, train
from scta_lab.base.spec import METHODS, SAMPLED
from scta_lab.methods.model import LanguageModel
from scta_lab.run.loop import optimizers
from scta_lite import RowAdamW, VocabTable
from scta_lite.rows import ledger as ledgers
from scta_lite.rows import table as tables


def test_the_way_of_a_gpu_gives_the_same(monkeypatch):
    expected = twins(50, 4)[0]
    padded = twins(50, 4)[0]
    for table, optimizer in (expected, padded):
        if table is padded[0]:
            monkeypatch.setattr(tables, "distinct", tables.distinct_unsorted)
            monkeypatch.setattr(ledgers, "distinct", tables.distinct_unsorted)
        for seed in range(20):
            ids = torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(seed))
            (table(ids).pow(3).sum() + table(ids[0]).sum()).backward()
            optimizer.step()
    torch.testing.assert_close(padded[0].weight, expected[0].weight, rtol=1e-12, atol=1e-12)


def test_no_ids_are_none_on_a_gpu(monkeypatch):
    monkeypatch.setattr(ledgers, "distinct", tables.distinct_unsorted)
    (table, rows), _ = twins(5, 2)
    (table(torch.tensor([1, 1, 2])).sum() + table(torch.empty(0).long()).sum()).backward()
    rows.step()
    assert table.weight.isfinite().all()
    assert table(torch.empty(0).long()).shape == (0, 2)


@pytest.mark.parametrize("distinct", [tables.distinct, tables.distinct_unsorted])
def test_places_lead_back_to_the_ids(distinct):
    seen = torch.full((10,), -7, dtype=torch.int32)  # what an earlier look-up left
    for ids in ([5, 3, 5, 9, 3, 0, 9, 5], [9, 9], [0], []):
        ids = torch.tensor(ids, dtype=torch.int64)
        once, places = distinct(ids, seen)
        assert torch.equal(once[places.long()], ids)
        assert len(places.unique()) == len(ids.unique())


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


def test_rows_cannot_be_read_without_their_optimizer():
    table = VocabTable(9, 2)
    with pytest.raises(RuntimeError, match="expected a RowAdamW"):
        table(torch.tensor([1]))
    with torch.no_grad():
        assert table(torch.tensor([1])).shape == (1, 2)


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_that_goes_leaves_its_table_current(scheduled):
    """As in a function that makes one, trains and returns the model; a scheduler and its optimizer hold each other."""
    (table, rows), (dense, whole) = twins(9, 2, eps=1e-30)
    for of, optimizer in ((table, rows), (dense, whole)):
        for ids in ([1, 2], [2, 3], [4]):
            of(torch.tensor(ids)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    scheduler = torch.optim.lr_scheduler.StepLR(rows, 1) if scheduled else None
    (ledger,) = rows._ledgers.values()
    assert ledger.behind
    del rows, optimizer, scheduler
    gc.collect()
    assert not ledger.behind
    torch.testing.assert_close(table.weight, dense.weight.detach(), rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="expected a RowAdamW"):
        table(torch.tensor([3]))


def test_copies_are_current_and_of_their_own():
    (table, rows), _ = twins(9, 2)
    for ids in ([1, 2], [2, 3]):
        table(torch.tensor(ids)).square().sum().backward()
        rows.step()
    for copied in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert torch.equal(copied.weight, table.weight)
        with pytest.raises(RuntimeError, match="expected a RowAdamW"):
            copied(torch.tensor([1]))


@pytest.mark.parametrize("ids", [[9], [-1], [3, 12]])
def test_ids_that_are_not_there(ids):
    (table, rows), _ = twins(9, 2)
    assert rows._ledgers[table].steps == 0
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
    expected = optimizer._ledgers[table].last[:9].tolist()
    assert expected == [2] * 9
    del optimizer
    weight = table.weight.clone()
    with torch.no_grad():
        assert torch.equal(table(torch.arange(9)), weight)


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
        for rows, ledger in ((o, ledger) for o in both[1:] for ledger in o._ledgers.values()):
            rows.begin(ledger)
            known += [ledger.moments, ledger.last, ledger.seen, ledger.logs]
        ids = torch.randint(V, (2, 9))
        for _ in range(2):
            with Allocated(V, known) as watch:
                made.loss(ids, torch.Generator()).backward()
                for each in both:
                    each.step()
                    each.zero_grad()
        assert bool(watch.found) is expected, watch.found


class Launches(TorchDispatchMode):
    """The operations on tensors of the meta device that are work for a device: not views, and not empty memory.

    Meta tensors have sizes and no numbers: whatever waits for a number raises, and what runs has sizes that depend on
    no data.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        there = any(isinstance(x, torch.Tensor) and x.is_meta for x in tree_leaves((args, kwargs, out)))
        name = function.overloadpacket.__name__
        if there and not function.is_view and not name.startswith(("empty", "new_empty")):
            self.found.append(name)
        return out


LAUNCHES = {  # tables, look-ups of each: launches of a step on a GPU
    (1, 1): 25,  # there were 50 before there was this test
    (2, 1): 48,  # 100: AdamW moves all tables of a group at once
    (1, 2): 53,  # 106: merged
}


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(("sizes", "expected"), LAUNCHES.items())
def test_the_launches_of_a_step_on_a_gpu(sizes, expected, clipped):
    """Look-up, backward, step: what the host has to launch, which at small sizes is what a step takes."""
    with torch.device("meta"):
        made, ids = [VocabTable(50, 8) for _ in range(sizes[0])], torch.zeros(7, 3).long()
    rows = RowAdamW(made, lr=0.1)
    for _ in range(3):  # the first makes the moments
        with Launches() as watch:
            read = [table(ids) for table in made for _ in range(sizes[1])]
        gradients = [torch.ones_like(each) for each in read]
        with watch:
            torch.autograd.backward(read, gradients)
            if clipped:  # the clipping itself is not counted
                rows.touched()
            rows.step()
            rows.zero_grad()
    assert len(watch.found) == expected, watch.found


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_become_tables_and_come_back(dtype):
    embedding = torch.nn.Embedding(9, 3, dtype=dtype)
    table = VocabTable.from_embedding(embedding)
    assert table.weight.dtype == dtype
    assert torch.equal(table.weight, embedding.weight)
    assert table.weight.data_ptr() != embedding.weight.data_ptr()
    rows = RowAdamW([table], lr=0.1)
    for ids in ([1, 2], [3]):
        table(torch.tensor(ids)).sum().backward()
        rows.step()
    back = table.to_embedding()
    assert back.weight.requires_grad
    assert torch.equal(back.weight, table.weight)  # with the steps that a row has missed
    assert not torch.equal(back.weight, embedding.weight)


def trained_table():
    (table, rows), (dense, whole) = twins(30, 4, dtype=torch.float32)
    for of, optimizer in ((table, rows), (dense, whole)):
        for ids in ([1, 2], [2, 3], [4]):
            of(torch.tensor(ids)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return table, rows, dense


def test_a_model_is_cast_with_the_steps_that_its_rows_have_missed():
    table, rows, dense = trained_table()
    half = table.half().weight.clone()
    assert torch.equal(half, dense.half().weight)
    assert torch.equal(table.float().weight, half.float())
    rows.flush()
    assert table.weight.isfinite().all()


def test_the_weight_s_data_may_be_set():
    table, rows, _ = trained_table()
    table.weight.data = torch.ones(30, 4)
    assert torch.equal(table(torch.tensor([2])).detach(), torch.ones(1, 4))
    torch.nn.utils.vector_to_parameters(torch.zeros(120), [table.weight])
    rows.flush()
    assert not table.weight.any()


def test_an_export_of_rows_that_are_behind_is_refused():
    table, rows, dense = trained_table()
    ids = torch.arange(3)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match=r"expected flush\(\) before it"):
            torch.export.export(table, (ids,))
        rows.flush()
        program = torch.export.export(table, (ids,)).module()
        torch.testing.assert_close(program(ids), dense(ids))


def test_a_look_up_without_gradients_leaves_other_rows_as_they_are():
    table, rows, dense = trained_table()
    (ledger,) = rows._ledgers.values()
    before = ledger.last.clone()
    with torch.no_grad():
        torch.testing.assert_close(table(torch.tensor([[2, 29], [2, 4]])), dense(torch.tensor([[2, 29], [2, 4]])))
        with pytest.raises(IndexError, match="expected ids from 0 up and below 30"):
            table(torch.tensor([30]))
    assert torch.equal(ledger.last, before)


class Scaled(torch.nn.Embedding):
    def forward(self, ids):
        return 2 * super().forward(ids)


def hooked():
    embedding = torch.nn.Embedding(3, 2)
    embedding.register_forward_hook(lambda *_: None)
    return embedding


def frozen():
    return torch.nn.Embedding.from_pretrained(torch.zeros(3, 2))


def parametrised():
    return torch.nn.utils.parametrizations.weight_norm(torch.nn.Embedding(3, 2))


@pytest.mark.parametrize(
    "make", [hooked, frozen, parametrised, lambda: Scaled(3, 2), lambda: torch.nn.EmbeddingBag(3, 2)]
)
def test_an_embedding_that_does_more_is_refused(make):
    with pytest.raises(ValueError, match=r"expected an nn.Embedding itself, to be trained, without hooks"):
        VocabTable.from_embedding(make())


def test_a_strict_load_knows_every_key():
    model = torch.nn.ModuleDict({"table": VocabTable(3, 2)})
    state = model.state_dict() | {"table.scale": torch.ones(1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*table\.scale"):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).unexpected_keys == ["table.scale"]


def test_a_table_that_is_only_read_gets_no_moments():
    table = VocabTable(30, 4)
    rows = RowAdamW([table], lr=0.1)
    with torch.inference_mode():
        table(torch.tensor([3]))
    assert not rows.state
    table(torch.tensor([3])).sum().backward()
    rows.step()
    with torch.inference_mode():
        read = table(torch.arange(30))
    assert torch.equal(read, table.weight)
