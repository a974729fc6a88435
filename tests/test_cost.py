from pathlib import Path

import pytest
import torch

from scta_lite import Spec, cost, machine
from scta_lite.model import LanguageModel


@pytest.mark.parametrize("method", ["ce", "semantic"])
def test_parameters_are_counted(tiny, method):
    model, spec = LanguageModel(tiny(method)), tiny(method)
    counted = cost.parameters(spec)
    assert sum(counted.values()) == sum(p.numel() for p in model.parameters())
    assert counted["head"] == sum(p.numel() for p in model.head.parameters())


def test_the_papers_memory():
    """PAPER's reading: at V = 1M, CE's weights, gradients and moments are 8.2 GB, SEMANTIC's 5.1 GB."""
    for method, expected in (("ce", 8.2e9), ("semantic", 5.1e9)):
        parameters = sum(cost.parameters(Spec(method=method, vocab=1_000_000)).values())
        assert 16 * parameters == pytest.approx(expected, rel=0.01)


def test_memory_is_predicted_near_what_a_process_takes(tmp_path):
    from scta_lite import sweep

    specs = [Spec(method=m, vocab=60_000, steps=2, corpus="zipf", device="cpu") for m in ("ce", "semantic")]
    for run in sweep(specs, tmp_path, progress=False).itertuples():
        assert run.status == "ok"
        assert 0.6 < run.needed_memory_bytes / run.peak_memory_bytes < 1.5


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
