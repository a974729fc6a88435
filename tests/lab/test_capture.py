"""A step as a CUDA graph, without a GPU: a stand-in writes down the operations of a step, and does them again.

What a graph cannot hold shows: an operation that reads a number, a host's number that should have changed, memory that
moved. The stand-in gives each operation what it was given at first, and puts what it makes where that was.
"""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tag
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from scta_lab import train
from scta_lab.base.spec import METHODS
from scta_lab.judge.evaluate import HeldOut
from scta_lab.run import hooks
from scta_lab.run.capture import CapturedRows, CapturedRun, kind_of_run
from scta_lab.run.hooks import Checkpoint, Looks
from scta_lab.run.loop import LabRun
from scta_lab.run.result import Result
from scta_lab.run.result import read as read_run
from scta_lab.text import load
from scta_lite import VocabTable
from scta_lite.rows import ledger as ledgers
from scta_lite.rows import table as tables
from scta_lite.train import fit

GPU = torch.device("cuda")


class Graph(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`: what is done inside is undone at the end, as a capture does nothing."""

    def __init__(self):
        super().__init__()
        self.operations, self.before, self.generators = [], {}, []

    def register_generator_state(self, generator):
        self.generators.append((generator, generator.get_state()))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, depends = function.overloadpacket.__name__, {Tag.data_dependent_output, Tag.dynamic_output_shape}
        masks = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
        assert not depends & set(function.tags) or (name == "index" and not masks), f"{name} depends on data"
        if function._schema.is_mutable:
            for x in tree_leaves((args, kwargs)):
                if isinstance(x, torch.Tensor):
                    memory = x.untyped_storage()
                    self.before.setdefault(memory.data_ptr(), (memory, memory.clone()))
        given = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))  # with the shapes that they have now
        out = function(*args, **kwargs)
        if not function.is_view and Tag.inplace_view not in function.tags:
            self.operations.append((function, *given, tree_map_only(torch.Tensor, torch.Tensor.detach, out)))
        return out

    def reset(self):
        """A graph's memory; here there is none."""

    def undo(self):
        for memory, before in self.before.values():
            memory.copy_(before)
        for generator, state in self.generators:
            generator.set_state(state)

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, out in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    """Look-ups of fixed sizes, as on a GPU, and the stand-in for its graphs."""

    @contextmanager
    def graph(stand_in, stream=None):
        assert stream in (None, ("a stream", torch.device("cpu")))  # of the run's device, which is not the current one
        with stand_in:
            yield
        stand_in.undo()

    streams = []
    for module in (ledgers, tables):
        monkeypatch.setattr(module, "distinct", tables.distinct_unsorted)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ("a stream", device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return streams


def trained(spec, capture, steps=None):
    """The training, after all steps or so many."""
    examples = load(spec.corpus).examples(spec.vocab, spec.seq_len, spec.examples)
    vars(spec)["capture"] = capture  # that there is no GPU here is what `train` says
    held = HeldOut.split(examples, 4) if spec.eval_every else None
    run = LabRun(spec, examples) if capture is False else CapturedRun(spec, examples)
    if steps is None:
        fit(run, [Looks(held)])
        return run, run.measured()
    batches = run.batches()
    for _ in range(steps):
        run.step(batches)
    return run, None


def captured_and_not(tiny, method, **settings):
    """Losses of the training as it is and as a graph, which are alike, and so are the weights."""
    plain, other = (trained(tiny(method, **settings), capture) for capture in (False, True))
    assert other[0].graph.operations
    torch.testing.assert_close(other[0].losses, plain[0].losses, rtol=1e-4, atol=1e-4)
    for name, wanted in plain[0].model.state_dict().items():
        torch.testing.assert_close(other[0].model.state_dict()[name], wanted, rtol=1e-3, atol=1e-4, msg=name)
    return plain, other


@pytest.mark.parametrize("kind", ["dense", "rows"])
@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("adaptive", "backbone")])
def test_a_captured_step_trains_what_a_step_does(tiny, graphs, method, kind):
    """With a rate that changes, and clipping."""
    settings = {"optimizer": kind, "clip": 0.05, "steps": 40, "schedule": "cosine", "warmup": 8, "epochs": 10}
    _, (_, found) = captured_and_not(tiny, method, **settings)
    assert found["steps_run"] == 40
    assert found["step_ms"] > 0
    assert "forward_ms" not in found


@pytest.mark.parametrize("settings", [
    {"method": "semantic", "optimizer": "rows", "steps": 300, "epochs": 60},  # the ledger needs more memory
    {"method": "semantic", "optimizer": "rows", "eval_every": 5, "evaluate": True},  # all rows are brought up to date
    {"method": "backbone"},
    {"method": "semantic", "backbone": "transformer", "heads": 2},
    {"method": "semantic_prior", "optimizer": "rows", "precision": "bfloat16"},
])  # fmt: skip
def test_what_a_captured_training_meets(tiny, graphs, settings):
    captured_and_not(tiny, **settings)


def test_a_gpu_is_needed(tiny):
    with pytest.raises(ValueError, match="capture=True: expected False with device='cpu'"):
        train(tiny(capture=True, device="cpu"))


@pytest.mark.parametrize("settings", [{"method": "adaptive", "hidden": 16}, {"optimizer": "sparse"}])
def test_what_depends_on_data_is_not_captured(tiny, settings):
    """Asked for it is refused; by default a GPU does its steps one by one, and says so."""
    with pytest.raises(ValueError, match=r"capture=True: expected None or False: .* depends on the data"):
        tiny(capture=True, **settings)
    with pytest.warns(UserWarning, match=r"the steps are not captured: .* depends on the data"):
        assert kind_of_run(tiny(**settings, steps=21, epochs=9), GPU) is LabRun


@pytest.mark.parametrize(("settings", "device", "kind"), [
    ({"steps": 21}, GPU, CapturedRun),
    ({"steps": 20}, GPU, LabRun),
    ({"steps": 20, "capture": True}, GPU, CapturedRun),
    ({"steps": 21, "capture": False}, GPU, LabRun),
    ({"steps": 21}, torch.device("cpu"), LabRun),
])  # fmt: skip
def test_a_gpu_captures_by_default(tiny, settings, device, kind, recwarn):
    """Except a few steps."""
    assert kind_of_run(tiny(**settings, epochs=9), device) is kind
    assert not recwarn


@pytest.mark.parametrize("kind", ["dense", "rows"])
@pytest.mark.parametrize("at", ["begin", "work", "end"])
def test_where_a_capture_fails_the_steps_go_on(tiny, graphs, monkeypatch, kind, at):
    """Whatever was begun is undone: the losses are those of a training that captures nothing."""
    inner = torch.cuda.graph

    @contextmanager
    def fails(stand_in, stream):
        if at == "begin":
            raise RuntimeError("operation not permitted when stream is capturing")
        with inner(stand_in, stream):
            if at == "work":
                monkeypatch.setattr(LabRun, "gradients", once_broken(LabRun.gradients))
            yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    spec = tiny("semantic", optimizer=kind, steps=30, epochs=9)
    plain, _ = trained(spec, capture=False)
    with pytest.warns(UserWarning, match=r"the steps are not captured: .*not permitted"):
        run, found = trained(spec, capture=None)
    assert found["captured"] is False
    assert run.graph is None
    assert graphs == ["the stream before"]
    assert found["forward_ms"] > 0
    torch.testing.assert_close(run.losses, plain.losses, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="not permitted"):
        trained(spec, capture=True)


def once_broken(gradients):
    """After the gradients are there it fails, once."""
    calls = []

    def broken(run, ids):
        loss = gradients(run, ids)
        calls.append(loss)
        if len(calls) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return loss

    return broken


def test_no_rate_is_read_between_replays(tiny, graphs, monkeypatch):
    """A rate on the device is one: to read it would wait for all that is queued."""
    examples = load("zipf").examples(40, 8, 96)
    run = CapturedRun(tiny(optimizer="rows", schedule="cosine", epochs=4), examples)
    batches = run.batches()
    for _ in range(6):
        run.step(batches)
    assert run.is_captured
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 1 / 0)
    for _ in range(3):
        run.step(batches)


@pytest.mark.parametrize(("captured", "steps", "forgets"), [(False, 1, True), (False, 2, False), (True, 1, False)])
def test_the_memory_of_a_capture_is_not_forgotten(monkeypatch, captured, steps, forgets):
    """It is taken before the first replay, from which on the timer counts anew."""
    forgotten = []
    monkeypatch.setattr(hooks.machine, "reset_peak_memory", forgotten.append)
    run = SimpleNamespace(timer=SimpleNamespace(steps=[[]] * steps), is_captured=captured, device=GPU)
    hooks.forget_first_peak(run)
    assert bool(forgotten) is forgets


def test_a_file_says_whether_its_steps_were_captured(tiny, tmp_path):
    """A run has one name, captured or not, unless capture was asked for; earlier files say what they asked for."""
    auto, eager, asked = (tiny(capture=capture) for capture in (None, False, True))
    assert auto.run_id("t") == eager.run_id("t") != asked.run_id("t")
    path = Result(spec=asked, status="ok", fingerprint="t", corpus="zipf", captured=True).save(tmp_path)
    assert read_run(path)["captured"] is True
    earlier = Result(spec=eager, status="ok", fingerprint="t", corpus="zipf").save(tmp_path)
    for file, was_captured in ((path, True), (earlier, False)):
        run = json.loads(file.read_bytes())
        del run["captured"]
        file.write_text(json.dumps(run | {"capture": was_captured}))
        assert read_run(file)["captured"] is was_captured
    del run["capture"]  # as before there was any
    earlier.write_text(json.dumps(run))
    assert read_run(earlier)["captured"] is False


def rows_captured(steps):
    """A table's step as a graph that was captured for so many steps, after one that was done as it came."""
    table, graph, ids = VocabTable(9, 2), Graph(), torch.tensor([1, 2, 1])
    optimizer = CapturedRows([table], lr=0.1)

    def step():
        table(ids).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with optimizer.capturing(steps), torch.cuda.graph(graph):
        step()
    return optimizer, graph


def test_a_graph_is_done_no_more_often_than_it_was_captured_for(graphs):
    optimizer, graph = rows_captured(steps=3)
    for _ in range(2):
        optimizer.replay(graph.replay)
    with pytest.raises(RuntimeError, match="steps=3: as many were done"):
        optimizer.replay(graph.replay)


def test_a_graph_of_other_moments_is_not_done(graphs):
    optimizer, graph = rows_captured(steps=9)
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="expected a new capture"):
        optimizer.replay(graph.replay)


@pytest.mark.parametrize("name", ["eps", "weight_decay"])
def test_a_graph_is_done_with_no_other_settings_than_its_own(graphs, name):
    """They stand in the graph; a rate may change, for it is sent."""
    optimizer, graph = rows_captured(steps=9)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.replay(graph.replay)
    optimizer.param_groups[0][name] = 0.5
    with pytest.raises(RuntimeError, match=r"expected \[1e-08, 0.01\], with which the step was captured"):
        optimizer.replay(graph.replay)


def test_gradients_that_wait_are_told_at_a_replay(graphs):
    optimizer, graph = rows_captured(steps=9)
    (ledger,) = optimizer._ledgers.values()
    ledger.table(torch.tensor([3])).sum().backward()
    with pytest.raises(RuntimeError, match="gradients that no step has used"):
        optimizer.replay(graph.replay)
    optimizer.zero_grad()
    optimizer.replay(graph.replay)


def test_a_replay_needs_a_capture():
    with pytest.raises(RuntimeError, match="expected `capturing` before"):
        CapturedRows([VocabTable(9, 2)]).replay(lambda: None)


def test_an_optimizer_holds_one_graph(graphs):
    optimizer, _ = rows_captured(steps=9)
    with pytest.raises(RuntimeError, match="a second capture"), optimizer.capturing(9):
        pass


def test_a_table_is_not_read_whole_in_a_captured_step(graphs):
    """The host knows whether rows are behind, and a graph would not ask again."""
    for read in (lambda table: table.weight, lambda table: torch.no_grad()(table)(torch.tensor([1]))):
        optimizer = CapturedRows([table := VocabTable(9, 2)], lr=0.1)
        with pytest.raises(RuntimeError, match="a table is read whole"), optimizer.capturing(9):
            read(table)


def test_what_a_graph_reads_stays_where_it_is():
    """However many look-ups of other sizes come in between."""
    before = tables._order(4, torch.device("cpu")).data_ptr()
    for bits in range(13):
        assert tables._order(bits, torch.device("cpu")).tolist()[-1] == (1 << bits) - 1
    assert tables._order(4, torch.device("cpu")).data_ptr() == before


@pytest.mark.parametrize("kind", ["dense", "rows"])
def test_a_captured_training_goes_on_from_a_checkpoint(tiny, graphs, tmp_path, kind):
    spec = tiny(optimizer=kind, epochs=4)
    whole, _ = trained(spec, capture=True)
    first, again = (trained(spec, capture=True, steps=steps) for steps in (15, 0))
    Checkpoint(tmp_path / "state").save(first[0])
    Checkpoint(tmp_path / "state").restore(again[0])
    fit(again[0])
    torch.testing.assert_close(again[0].losses, whole.losses, rtol=1e-5, atol=1e-6)
