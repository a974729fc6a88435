"""A step as a CUDA graph, without a GPU: a stand-in writes down the operations of a step, and does them again.

What a graph cannot hold shows: an operation that reads a number, a host's number that should have changed, memory that
moved. The stand-in gives each operation what it was given at first, and puts what it makes where that was.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from scta_lite import optim, tables
from scta_lite.loop import Training
from scta_lite.model import LanguageModel
from scta_lite.runs.spec import METHODS
from scta_lite.text import load


class Graph(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`: what is done inside is undone at the end, as a capture does nothing."""

    def __init__(self):
        super().__init__()
        self.operations, self.before, self.generators = [], {}, []

    def register_generator_state(self, generator):
        self.generators.append((generator, generator.get_state()))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function.overloadpacket.__name__ not in ("_local_scalar_dense", "is_nonzero"), "it reads a number"
        if function._schema.is_mutable:
            for x in tree_leaves((args, kwargs)):
                if isinstance(x, torch.Tensor):
                    memory = x.untyped_storage()
                    self.before.setdefault(memory.data_ptr(), (memory, memory.clone()))
        given = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))  # with the shapes that they have now
        out = function(*args, **kwargs)
        if not function.is_view and torch.Tag.inplace_view not in function.tags:
            self.operations.append((function, *given, tree_map_only(torch.Tensor, torch.Tensor.detach, out)))
        return out

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
    def graph(stand_in):
        with stand_in:
            yield
        stand_in.undo()

    for module in (optim, tables):
        monkeypatch.setattr(module, "distinct", tables.distinct_unsorted)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)


def trained(spec, capture):
    examples = load(spec.corpus).examples(spec.vocab, spec.seq_len, spec.examples)
    torch.manual_seed(0)
    vars(spec)["capture"] = capture  # that there is no GPU here is what `train` says
    training = Training(spec, LanguageModel(spec, examples.counts), examples)
    found = training.run()
    return training, found


@pytest.mark.parametrize("kind", ["dense", "rows"])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "adaptive"])
def test_a_captured_step_trains_what_a_step_does(tiny, graphs, method, kind):
    """With a schedule, clipping, and more steps than the ledger makes memory for at first."""
    if method == "backbone" and kind == "rows":
        pytest.skip("the backbone alone has no rows")
    settings = {"optimizer": kind, "clip": 0.5, "steps": 300, "schedule": "cosine", "warmup": 8, "epochs": 60}
    plain, captured = (trained(tiny(method, **settings), capture) for capture in (False, True))
    assert captured[0].graph.operations
    torch.testing.assert_close(captured[0].losses, plain[0].losses, rtol=1e-4, atol=1e-4)
    for name, wanted in plain[0].model.state_dict().items():
        torch.testing.assert_close(captured[0].model.state_dict()[name], wanted, rtol=1e-3, atol=1e-4, msg=name)
    assert captured[1]["forward_ms"] is None
    assert captured[1]["step_ms"] > 0
    assert captured[1]["steps_run"] == 300
