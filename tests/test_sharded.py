"""Two and three ranks do what one does: losses and rows in float64, memory, checkpoints of another number of ranks."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from scta_lite import RowAdamW, Spec, VocabTable, cost, load, sharded, text, train
from scta_lite.loop import Training, _batches
from scta_lite.model import LanguageModel

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
    pytest.mark.xdist_group("ranks"),  # in one process, so that the ranks are started once
]
V, STEPS = 1001, 10  # V rows do not divide by 2 or 3
SMALL = {"vocab": V, "optimizer": "rows", "corpus": "zipf", "hidden": 16, "semantic_dim": 16, "batch": 12, "seq_len": 9,
         "examples": 60, "epochs": 2, "clip": 0.5, "schedule": "cosine", "weight_decay": 0.3, "lr": 0.01}  # fmt: skip
SPECS = [
    Spec(method="semantic_prior", **SMALL),  # negatives that all positions share
    Spec(method="semantic", **SMALL),  # each position's own
    Spec(method="sampled_softmax", sampler="in_batch", input_dim=8, **SMALL),  # the targets of other ranks too
]


@contextmanager
def in_float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def group(rank, ranks, folder):
    """The ranks' process group, which finds itself through a file."""
    torch.set_num_threads(1)
    at = {"init_method": f"file://{folder}/group{ranks}", "rank": rank, "world_size": ranks}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **at)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def counted(sizes):
    """Adds up the numbers of ids and rows that go to other ranks, each by its bytes."""
    kept = sharded._exchanged

    def exchanged(x, sent, received):
        if x.dim() == 2 or len(sent) != len(x):  # not the numbers of ids that are to come
            sizes.append((sum(sent) - sent[dist.get_rank()]) * x[:1].nbytes)
        return kept(x, sent, received)

    sharded._exchanged = exchanged
    try:
        yield
    finally:
        sharded._exchanged = kept


def trained(spec, model_of=sharded.build, training_of=sharded.ShardedTraining, resumed=None, save_at=None):
    """A training of the Spec's steps, from a checkpoint, or up to a step after which one is saved."""
    examples = text.load(spec.corpus).examples(spec.vocab, spec.seq_len, spec.examples)
    torch.manual_seed(spec.seed)
    training = training_of(spec, model_of(spec, examples.counts), examples)
    if resumed:
        training.resume(resumed)
    batches = _batches(spec, examples, training.device, training.done)
    for _ in range(training.done, save_at[1] if save_at else STEPS):
        training._step(batches)
    if save_at:
        training.save(save_at[0])
    return training


def found(training):
    """Losses and the whole model's tensors; on the first rank alone."""
    model = training.whole()
    return model and {"losses": training.losses, **model.state_dict()}


def moved_row(rank):
    """A table of which all ranks read row 1 alone, so that two of them have nothing to give or to move."""
    torch.manual_seed(0)
    table = sharded.ShardedTable(5, 16)
    optimizer = RowAdamW([table], lr=0.1)
    for _ in range(2):
        table(torch.ones(2, dtype=torch.int64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = torch.empty(5, 16) if rank == 0 else None
    table.gather_into(whole)
    return whole


def work(rank, ranks, folder):
    """What a rank of the tests does; the first writes down what was found."""
    with in_float64(), group(rank, ranks, folder):
        of = {}
        for i, spec in enumerate(SPECS):
            sizes = []
            with counted(sizes):
                training = trained(spec)
            of[i] = found(training)
            cost.FLOAT = 8  # bytes of a float64
            of["sent", i] = sum(sizes) / STEPS / cost.sent_bytes(spec, ranks)["rows"]
            tables = [m for m in training.model.modules() if isinstance(m, sharded.ShardedTable)]
            assert [len(table.stored) for table in tables] == [len(range(rank, V, ranks))] * 2
            assert (
                sum(len(x) for x in training.optimizers[1].snapshot().values() if x.dim() == 2) < 6.1 * V / ranks + 40
            )
        if ranks == 2:
            trained(SPECS[1], save_at=(folder / "two", 4))
            training = trained(SPECS[0])
            training.clock.set(1e3 * rank)  # another clock than the first rank's: they would not save at the same step
            training.done = 0
            training.run(checkpoint=folder / "apart", every_s=0.01)
        else:
            of["resumed"] = found(trained(SPECS[1], resumed=folder / "two"))
            of["one row"] = moved_row(rank)
            with pytest.raises(IndexError, match=f"ids from 3 to {V}: expected ids from 0 up and below {V}"):
                tables[0](torch.tensor([3, V]))
    if rank == 0:
        torch.save(of, folder / f"found{ranks}.pt")


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """What two ranks found, and three that went on from their checkpoint too."""
    folder = tmp_path_factory.mktemp("ranks")
    for ranks in (2, 3):
        mp.start_processes(work, (ranks, folder), nprocs=ranks, start_method="spawn")
    return {ranks: torch.load(folder / f"found{ranks}.pt") for ranks in (2, 3)} | {"folder": folder}


@pytest.fixture(scope="module")
def of_one():
    with in_float64():
        return [found(trained(spec, LanguageModel, Training)) for spec in SPECS]


def close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-9, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("i", range(len(SPECS)), ids=[spec.method for spec in SPECS])
def test_as_one(of_ranks, of_one, ranks, i):
    assert of_one[i]["losses"].diff().abs().min() > 1e-6  # each step's differs by more than what is compared
    close(of_ranks[ranks][i], of_one[i])


@pytest.mark.parametrize("ranks", [2, 3])
def test_sent_bytes(of_ranks, ranks):
    """What is sent is at most what the formula says; less as ids repeat, here among 1,001 tokens by Zipf's law."""
    for i, spec in enumerate(SPECS):
        least = 0.05 if spec.sampler == "in_batch" else 0.4  # there negatives are targets, that were sent already
        assert least < of_ranks[ranks]["sent", i] < 1.0, spec.method


def test_ranks_without_a_row_to_give(of_ranks):
    with in_float64():
        torch.manual_seed(0)
        table = VocabTable(5, 16)
        optimizer = RowAdamW([table], lr=0.1)
        for _ in range(2):
            table(torch.ones(6, dtype=torch.int64)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(of_ranks[3]["one row"], table.weight, rtol=0, atol=1e-12)


def test_resumed_on_three_and_on_one(of_ranks, of_one, tmp_path):
    close(of_ranks[3]["resumed"], of_one[1])
    with in_float64(), group(0, 1, tmp_path):
        close(found(trained(SPECS[1], resumed=of_ranks["folder"] / "two")), of_one[1])


def test_one_rank_begins_and_two_would_go_on(of_one, tmp_path):
    with in_float64():
        trained(SPECS[1], LanguageModel, Training, save_at=(tmp_path / "one", 4))
        with group(0, 1, tmp_path):
            training = trained(SPECS[1], resumed=tmp_path / "one")
            close(found(training), of_one[1])
            assert [p.name for p in (tmp_path / "one").glob("*/*")] == ["0-of-1.safetensors"]
            (tmp_path / "one" / str(STEPS)).mkdir()
            (tmp_path / "one" / str(STEPS) / "0-of-2.safetensors").write_bytes(b"another save's")
            training.save(tmp_path / "one")
            assert [p.name for p in (tmp_path / "one").glob("*/*")] == ["0-of-1.safetensors"]
            close(found(trained(SPECS[1], resumed=tmp_path / "one")), of_one[1])


def test_damage_is_told_and_what_is_not_whole_begins_anew(of_one, tmp_path):
    with in_float64(), group(0, 1, tmp_path):
        (tmp_path / "kept" / "5").mkdir(parents=True)
        (tmp_path / "kept" / "5" / "1-of-2.safetensors").write_bytes(b"")
        with pytest.warns(UserWarning, match="kept: no step has all its parts; the run begins anew"):
            close(found(trained(SPECS[1], resumed=tmp_path / "kept")), of_one[1])
        (tmp_path / "kept" / "5" / "0-of-2.safetensors").write_bytes(b"")
        with pytest.raises(OSError, match="expected kept removed, to begin anew"):
            trained(SPECS[1], resumed=tmp_path / "kept")


def test_a_model_too_large_for_the_first_rank_stays_in_its_checkpoint(tmp_path, monkeypatch):
    def model(*of):
        if sharded.TABLES["rows"] is VocabTable:
            raise MemoryError
        return LanguageModel(*of)

    folder = tmp_path / "run"
    monkeypatch.setattr(sharded, "LanguageModel", model)
    with (
        group(0, 1, tmp_path),
        pytest.warns(UserWarning, match="no memory for the whole model; its parts are in the last checkpoint"),
    ):
        result = train(replace(SPECS[0], steps=STEPS), checkpoint=folder, checkpoint_s=0)
    assert (result.status, result.model) == ("ok", None)
    result.save(folder)
    assert [p.name for p in folder.glob("*/*/*")] == ["0-of-1.safetensors"]


def test_bad_input(of_ranks, tmp_path):
    with pytest.raises(OSError, match="of several ranks; expected torchrun"), in_float64():
        trained(SPECS[1], LanguageModel, Training, resumed=of_ranks["folder"] / "two")
    with group(0, 1, tmp_path):
        with pytest.raises(ValueError, match="optimizer='dense': expected 'rows' on several ranks"):
            train(Spec(method="semantic", vocab=V, corpus="zipf"))
        with pytest.raises(ValueError, match=r"method='ce': expected 'semantic' or .* on several ranks"):
            train(Spec(method="ce", vocab=V, corpus="zipf", optimizer="rows"))
        with pytest.raises(ValueError, match="device='cuda:1': expected 'cuda' on several ranks"):
            sharded.check(Spec(method="semantic", vocab=V, corpus="zipf", optimizer="rows", device="cuda:1"))


def test_every_rank_has_a_row(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="vocab=2: expected at least the 3 ranks"):
        sharded.check(Spec(method="semantic", vocab=2, negatives=1, corpus="zipf", optimizer="rows", batch=3))


def torchrun(out, options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "scta_lite.train",
               "--method", "semantic_prior", "--vocab", "1001", "--optimizer", "rows", "--out", out,
               *"--corpus zipf --hidden 16 --batch 12 --examples 60 --epochs 1".split(), *options.split()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_torchrun(tmp_path):
    """The command of the module's text, with quality at the end: one run's file, with the whole model."""
    done = torchrun(tmp_path, "--evaluate --checkpoint-s 0")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.json")
    assert [p.suffix for p in sorted(tmp_path.iterdir())] == [".json", ".safetensors"]
    assert str(path) in done.stdout
    run, result = json.loads(path.read_text()), load(tmp_path)
    assert run["host"]["ranks"] == 2
    assert run["full_vocab"]["positions"] > 0
    assert result.model.embed.weight.shape == (1001, 16)
    alone = train(result.spec)
    assert run["full_vocab"]["nll"] == pytest.approx(alone.full_vocab["nll"], abs=1e-4)


def test_a_run_that_fails_is_told(tmp_path):
    done = torchrun(tmp_path, "--temperature 1e-40")
    assert done.returncode == 1
    (path,) = tmp_path.glob("*")
    assert json.loads(path.read_text())["status"] == "failed"
    assert "failed: the loss is" in done.stderr
