import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from scta_lab import Spec
from scta_lab.base import machine
from scta_lab.base.spec import METHODS
from scta_lab.judge import cost
from scta_lab.methods.model import LanguageModel
from scta_lab.run import processes
from scta_lab.run.loop import optimizers
from scta_lite import published_runs

NO_PARAMETERS = ("rank", "draw.log_q", "draw.cumulative")
BLOCKS = {"backbone": "transformer", "layers": 3, "mlp_ratio": 2}
SDPA = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
COUNTED = {
    SDPA: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@pytest.mark.parametrize("backbone", [{}, BLOCKS, {"input_dim": 8}], ids=["gru", "transformer", "narrow input"])
@pytest.mark.parametrize("optimizer", ["dense", "rows"])
@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_counted(tiny, method, optimizer, backbone):
    if method == "backbone" and optimizer == "rows":
        pytest.skip("the backbone alone has no table to train")
    check_parameters(tiny(method, optimizer=optimizer, hidden=16, **backbone))


def test_parameters_of_other_clusters_are_counted(tiny):
    check_parameters(tiny("adaptive", hidden=16, cutoffs=(10, 40, 200), div_value=1.5))


def check_parameters(spec):
    model = LanguageModel(spec)
    of_backbone = torch.nn.ModuleList([model.widen, model.backbone])
    for part, module in (("input", model.embed), ("backbone", of_backbone), ("head", model.head)):
        numbers = sum(value.numel() for name, value in module.state_dict().items() if name not in NO_PARAMETERS)
        assert cost.parameters(spec)[part] == numbers, part


def counted_flops(spec):
    """What torch counts in the forward and in the backward pass of a step."""
    model = LanguageModel(spec)
    trained_by = optimizers(spec, model)  # kept alive: rows are borrowed for it
    assert len(trained_by) == (2 if spec.optimizer == "rows" else 1)
    ids = torch.randint(spec.vocab, (spec.batch, spec.seq_len))
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        loss = model.loss(ids, torch.Generator())
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("backbone", [{}, BLOCKS, {"input_dim": 8}], ids=["gru", "transformer", "narrow input"])
@pytest.mark.parametrize("optimizer", ["dense", "rows"])
@pytest.mark.parametrize("method", ["ce", "semantic", "semantic_prior", "ce_lowrank", "backbone"])
def test_flops_are_those_that_torch_counts(tiny, method, optimizer, backbone):
    """Within 3%: the gradient of the cosines has an outer product in it, which torch does not count.

    Of the CPU's attention torch counts nothing by itself: its own formulas for a GPU's are given for it.
    """
    if method == "backbone" and optimizer == "rows":
        pytest.skip("the backbone alone has no table to train")
    spec = tiny(method, optimizer=optimizer, vocab=3000, hidden=64, semantic_dim=16, batch=8, seq_len=16, negatives=8)
    spec = replace(spec, **backbone, shared=40 if method == "semantic_prior" else spec.shared)
    forward, backward = counted_flops(spec)
    needed = cost.work(spec).flops
    assert forward == pytest.approx(needed["forward"], rel=0.03)
    assert backward == pytest.approx(needed["backward"], rel=0.03)


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
@pytest.mark.parametrize("method", ["ce", "semantic"])
def test_flops_of_the_papers_shape_are_within_2_percent(method, optimizer):
    """The paper's widths and lengths; a small V and two examples, so that it takes no time."""
    spec = Spec(method=method, optimizer=optimizer, vocab=2000, batch=2, device="cpu")
    forward, backward = counted_flops(spec)
    needed = cost.work(spec).flops
    assert forward == pytest.approx(needed["forward"], rel=0.02)
    assert backward == pytest.approx(needed["backward"], rel=0.02)


def test_an_exact_second_stage_computes_its_logits_twice(tiny):
    spec = replace(
        tiny("semantic", vocab=3000, hidden=64, semantic_dim=64), stage1="of no use here", token_head="plain"
    )
    model = LanguageModel(spec)
    with FlopCounterMode(display=False) as counter:
        model.loss(torch.randint(spec.vocab, (spec.batch, spec.seq_len)), torch.Generator()).backward()
    assert counter.get_total_flops() == pytest.approx(cost.work(spec).flops.sum(), rel=0.03)


def test_what_grows_with_v():
    """Per 1,000 more tokens: dense SEMANTIC moves 8 numbers a parameter, on rows nothing but what is drawn."""

    def slope(**settings):
        at = [cost.work(Spec(vocab=V, **settings)) for V in (5_000_000, 6_000_000)]
        return (at[1] - at[0]).sum() / 1e6

    dense, rows, ce = (
        slope(method=m, optimizer=o) for m, o in (("semantic", "dense"), ("semantic", "rows"), ("ce", "dense"))
    )
    assert dense["bytes"] == pytest.approx(4 * (7 + 1) * 320)
    assert rows["bytes"] == pytest.approx(0, abs=1)
    assert dense["flops"] == rows["flops"] == 0
    assert ce["flops"] == pytest.approx(6 * 1008 * 256)


def test_the_floor_is_the_longer_of_the_two():
    spec = Spec(method="ce", vocab=50_000)
    work = cost.work(spec)
    slow_memory, slow_products = ({"bytes_per_s": b, "flops_per_s": f} for b, f in ((1e3, 1e18), (1e18, 1e3)))
    assert cost.floor(spec, slow_memory)["optimizer"] == pytest.approx(work.bytes["optimizer"])
    assert cost.floor(spec, slow_products)["forward"] == pytest.approx(work.flops["forward"])


def test_ceilings_are_of_a_machine():
    found = machine.ceilings(torch.device("cpu"), repeats=1)
    assert 1e8 < found["bytes_per_s"] < 1e14
    assert 1e8 < found["flops_per_s"] < 1e16


def test_the_published_lines():
    """PAPER's reading, by pairs: 42.3 and 41.6, 204.6 and 211.8 us for 1,000 tokens on the A6000; 122 and 119, 505."""
    lines = cost.lines(published_runs()).set_index(["machine", "method"])
    for key, b in {("RTX A6000", "semantic"): 41.8, ("RTX A6000", "ce"): 208.6, ("RTX 4070 Laptop", "semantic"): 119.7,
                   ("RTX 4070 Laptop", "ce"): 505.4}.items():  # fmt: skip
        assert lines.b_us[key] == pytest.approx(b, rel=1e-3)
    assert lines.points.tolist() == [2, 3, 3, 3]
    assert lines.residual.max() < 0.035
    exact = pd.DataFrame({"vocab": [1, 2, 4], "step_ms": [5.0, 7.0, 11.0], "method": "ce"})
    fit = cost.lines(exact).iloc[0]
    assert (fit.a_ms, fit.b_us, fit.residual) == pytest.approx((3, 2e6, 0), abs=1e-6)


def test_a_captured_step_has_a_line_of_its_own():
    rows = [(V, capture, (1 + capture) * V / 1e3) for V in (1_000, 2_000) for capture in (False, True)]
    runs = pd.DataFrame(rows, columns=["vocab", "captured", "step_ms"]).assign(
        machine="x", method="ce", optimizer="rows"
    )
    assert cost.lines(runs).set_index("captured").b_us.round(6).to_dict() == {False: 1_000.0, True: 2_000.0}


def test_the_papers_memory():
    """PAPER's reading: at V = 1M, CE's weights, gradients and moments are 8.2 GB, SEMANTIC's 5.1 GB."""
    for method, expected in (("ce", 8.2e9), ("semantic", 5.1e9)):
        parameters = sum(cost.parameters(Spec(method=method, vocab=1_000_000)).values())
        assert 16 * parameters == pytest.approx(expected, rel=0.01)


def test_memory_is_predicted_near_what_a_process_takes(tmp_path):
    from scta_lab import sweep

    pairs = (("ce", "dense"), ("semantic", "rows"), ("ce_chunked", "rows"))
    settings = {"vocab": 40_000, "steps": 2, "examples": 64, "corpus": "zipf", "device": "cpu"}
    specs = [Spec(method=m, optimizer=o, **settings) for m, o in pairs]
    for run in sweep(specs, tmp_path, progress=False).itertuples():
        assert run.status == "ok"
        assert 0.6 < run.needed_memory_bytes / run.peak_memory_bytes < 1.5


LOOK = """
import sys, torch
from scta_lab import Spec
from scta_lab.base import machine
from scta_lab.judge import cost, evaluate
from scta_lab.methods.model import LanguageModel
method, optimizer, V = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = Spec(method=method, optimizer=optimizer, vocab=V, eval_examples=32, device="cpu")
held = [torch.randint(V, (32, spec.seq_len)) for _ in range(2)]
documents = torch.arange(32).unsqueeze(1).expand(32, spec.seq_len)
look = evaluate.HeldOut(*held, documents, torch.ones(V), None)
model = LanguageModel(spec)
evaluate.metrics(model, held[0][:1])  # what torch loads at first
machine.reset_peak_memory(torch.device("cpu"))
before = machine.resident_memory()
look.look(model)
look.report(model)
print((machine.peak_memory(torch.device("cpu"))[0] - before) / cost.look_bytes(spec))
"""


@pytest.mark.parametrize("vocab", [20_000, 50_000, 200_000])
@pytest.mark.parametrize(("method", "optimizer"), [("ce", "dense"), ("semantic_prior", "rows")])
def test_a_looks_memory_is_predicted(method, optimizer, vocab):
    """It stays what one chunk of scores needs, however many come; from run to run it differs by half."""
    environment = os.environ | {name: str(size) for name, size in processes.HEAP.items()}
    words = [sys.executable, "-c", LOOK, method, optimizer, str(vocab)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert 0.5 < float(done.stdout) < 1.6


def test_a_looks_memory_is_in_the_forecast():
    """Where it is more than a step's; its scores are as many at every V."""
    for V, is_more in ((20_000, True), (1_000_000, False)):
        spec = Spec(method="ce", vocab=V, device="cpu")
        more = cost.memory_bytes(replace(spec, evaluate=True)) - cost.memory_bytes(spec)
        assert (more > 0) == is_more


def test_a_transformers_memory_is_predicted_within_15_percent(tmp_path):
    from scta_lab import sweep

    settings = {"vocab": 2000, "steps": 2, "examples": 64, "corpus": "zipf", "device": "cpu"}
    shape = {"backbone": "transformer", "batch": 32, "hidden": 512, "layers": 3, "heads": 8}
    spec = Spec(method="semantic_prior", **settings, **shape)
    for run in sweep([spec], tmp_path, progress=False).itertuples():
        assert run.status == "ok"
        assert 0.85 < run.needed_memory_bytes / run.peak_memory_bytes < 1.15


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_groups_limit_counts(monkeypatch, version):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4000000 kB\n"}
    if version == 1:
        files |= {"/proc/self/cgroup": "4:memory:/a/b\n0::/\n", "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "3000",
                  "/sys/fs/cgroup/memory/a/memory.usage_in_bytes": "1500",
                  "/sys/fs/cgroup/memory/a/memory.stat": "cache 7\ntotal_inactive_file 500\n"}  # fmt: skip
    else:
        files |= {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": "max",
                  "/sys/fs/cgroup/a/b/memory.current": "5", "/sys/fs/cgroup/a/memory.max": "3000",
                  "/sys/fs/cgroup/a/memory.current": "1500",
                  "/sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 500\n"}  # fmt: skip

    def read(path, *_, **__):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert machine.free_memory(torch.device("cpu")) == 2000
    del files["/proc/self/cgroup"]
    assert machine.free_memory(torch.device("cpu")) == 4_000_000 << 10


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_peak_is_compared_with_what_it_counts(tiny, device):
    """A process has its libraries in it; what is allocated on a GPU has no context, for which there must be room."""
    context = cost.memory_bytes(tiny(), device) - cost.memory_bytes(tiny(), device, context=False)
    assert context == {"cpu": 0, "cuda": cost.CONTEXT}[device]
