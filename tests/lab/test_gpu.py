"""`make gpu`, at tiny sizes on the CPU: what it would do on a GPU, but for the GPU."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CHAT

from scta_lab import load_runs, text
from scta_lab.base import machine
from scta_lab.base.files import ROOT
from scta_lab.run.result import Result

sys.path.insert(0, str(ROOT / "studies"))
sys.path.insert(0, str(ROOT / "tests" / "device"))
import checks
import gpu
import peers
import report
from campaign import BEGIN_S, Campaign, in_a_process


@pytest.fixture(autouse=True)
def _ceilings(monkeypatch):
    """Measuring a machine takes seconds; test_cost.py does it."""
    known = {"bytes_per_s": 1e10, "flops_per_s": 1e11}
    monkeypatch.setattr(machine, "ceilings", lambda device, repeats: known)


def run(monkeypatch, out, minutes):
    words = ["gpu.py", "--device", "cpu", "--tiny", "--minutes", str(minutes), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    gpu.main()


def test_everything_is_measured_once_and_reported(tmp_path, monkeypatch, capsys, here):
    monkeypatch.setattr(checks, "parts", lambda: [checks.context, checks.losses])  # tests/device makes them all
    run(monkeypatch, tmp_path, 10)
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "found" / "checks.json").read_text())["checks"]
    assert f"{len(results)} checks, 0 wrong" in said
    assert len(results) > 2
    for part in ("bench", "pace", "race", "padded", "large", "paper", "rounds"):
        assert set(load_runs(tmp_path / part).status) == {"ok"}
    assert set(load_runs(tmp_path / "bench").precision) == {"float32", "tf32"}
    assert load_runs(tmp_path / "rounds").seed.nunique() == 2
    judged = load_runs(tmp_path / "race")
    assert len(judged) == 5
    assert judged.full_vocab.notna().all()
    assert load_runs(tmp_path / "padded").init_std.eq(0.2).all()
    table = (tmp_path / "found" / "table.txt").read_text()
    assert "RTX A6000 (published)" in table
    assert "semantic_prior" in table
    assert (tmp_path / "found" / "fig_time.png").is_file()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-*.json")}
    run(monkeypatch, tmp_path, 0)  # what is there takes no time, and so is not left out
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-*.json")}
    assert "rounds: 24 of 24 runs are there" in capsys.readouterr().out
    assert "left out" not in (tmp_path / "found" / "table.txt").read_text()


def test_what_no_longer_fits_is_left_out_and_named(tmp_path, monkeypatch, here):
    monkeypatch.setattr(gpu, "checks", lambda device: [])
    run(monkeypatch, tmp_path, 0)
    assert "bench 1/8: ce dense, float32, V = 300: left out" in (tmp_path / "found" / "table.txt").read_text()
    assert not list(tmp_path.rglob("*-300-*.json"))


def test_a_run_takes_about_twice_its_floor_until_one_has_told(tmp_path):
    campaign = Campaign(tmp_path, 10, torch.device("cpu"), "installed", tiny=False)
    campaign.ceilings = {"flops_per_s": 4.7e13, "bytes_per_s": 3.7e12}  # an H200's
    assert campaign.seconds(campaign.spec("ce", 1_000_000)) == pytest.approx(200, rel=0.2)  # and not hours
    campaign.step_ms[1_000_000, "ce", "dense", "float32", False] = 40
    assert campaign.seconds(campaign.spec("ce", 1_000_000)) == pytest.approx(BEGIN_S + 100)


@pytest.mark.parametrize(("commit", "again"), [("0123456789ab", 0), ("0123456789ab+", 1), (None, 1)])
def test_checks_are_made_anew_where_the_code_may_be_another(tmp_path, monkeypatch, commit, again):
    made = []
    monkeypatch.setattr(gpu, "checks", lambda device: made.append(device) or [])
    monkeypatch.setattr(gpu.machine, "host", lambda device: {"commit": commit})
    campaign = Campaign(tmp_path, 10, torch.device("cpu"), "installed", tiny=True)
    for _ in range(2):
        gpu.examined(campaign)
    assert len(made) == 1 + again


def test_what_was_measured_is_reported_whatever_is_missing(tmp_path):
    """Runs without numbers, as where none fits; and a text of before in the same folder, whose runs are others."""
    campaign = Campaign(tmp_path, 10, torch.device("cpu"), "installed", tiny=True)
    skipped = {"status": "skipped", "reason": "needs 20 GB", "fingerprint": "0", "corpus": "zipf", "machine": "small"}
    runs = [Result(spec=campaign.spec("ce", V), **skipped).to_dict() for V in campaign.vocabs]
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "ce-300-00000000.json").write_text("of another text")
    for part in ("paper", "bench", "race"):
        campaign.runs = {part: runs}
        report.report(campaign)
        table = (tmp_path / "found" / "table.txt").read_text()
        assert part == "bench" or "skipped" in table


def test_nothing_is_measured_where_something_is_wrong(tmp_path, monkeypatch, capsys):
    def wrong(device):
        yield "a loss", 1.0, 1e-10

    def broken(device):
        raise RuntimeError("CUDA error: device-side assert triggered")
        yield

    monkeypatch.setattr(checks, "losses", wrong)
    monkeypatch.setattr(checks, "optimizer", broken)
    monkeypatch.setattr(checks, "parts", lambda: [wrong, broken])
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tmp_path, 10)
    assert ended.value.code == 1
    assert ", 2 wrong" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["found"]


def test_what_the_runs_do_not_need_is_told_and_stops_nothing(tmp_path, monkeypatch, capsys):
    def wrong(device):
        yield "states", 1.0, 1e-6

    monkeypatch.setattr(checks, "precision", wrong)
    monkeypatch.setattr(checks, "parts", lambda: [wrong])
    run(monkeypatch, tmp_path, 0)
    assert "1 wrong: [{'check': 'states'" in capsys.readouterr().out
    assert (tmp_path / "found" / "table.txt").is_file()


def test_a_gpu_is_asked_by_processes_that_end():
    """Each of them another one, so that none keeps the memory that it took."""
    asked = [in_a_process(torch.device("cuda"), os.getpid) for _ in range(2)]
    assert len({*asked, os.getpid()}) == 3
    assert in_a_process(torch.device("cpu"), os.getpid) == os.getpid()


@pytest.mark.parametrize("total", [8188 << 20, 24 << 30])
def test_a_gpu_of_8_gb_is_given_all_that_it_has(monkeypatch, total):
    shares = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda on: SimpleNamespace(total_memory=total))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, on: shares.append(share))
    assert peers.capped(torch.device("cuda"), []) == []
    assert shares == [min(1, (8 << 30) / total)]


def test_what_cannot_be_compared_costs_no_run(tmp_path, monkeypatch):
    campaign = Campaign(tmp_path, 10, torch.device("cpu"), "installed", tiny=True)
    monkeypatch.setattr(gpu, "whole_steps", lambda *of: 1 / 0)
    gpu.beside(campaign)
    assert campaign.left_out == ["kernels.csv: left out, ZeroDivisionError: division by zero"]


def test_peers_are_given_what_they_take(tiny, monkeypatch):
    """Cut Cross-Entropy asserts hidden states of 16 bits in its backward pass; what fails is told beside the others."""

    asked = []

    def cut(h, w, y, filter_eps="auto"):
        asked.append(filter_eps)  # None: it leaves out no small gradients
        assert h.dtype == w.dtype == torch.bfloat16
        return torch.nn.functional.cross_entropy(h.float() @ w.float().T, y)

    def liger(h, w, y):
        raise RuntimeError("no GPU")

    monkeypatch.setitem(sys.modules, "cut_cross_entropy", SimpleNamespace(linear_cross_entropy=cut))
    functional = SimpleNamespace(liger_fused_linear_cross_entropy=liger)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    monkeypatch.setattr(peers, "STEPS", {peers.FILTERED: 5})
    spec = tiny("ce", optimizer="rows", steps=3, device="cpu")
    table = peers.whole_steps([spec]).set_index("loss")
    assert table.reason.dropna().to_dict() == {"Liger": "RuntimeError: no GPU"}
    assert table.step_ms.drop("Liger").notna().all()
    assert asked == [None] * 3 + ["auto"] * 5


def test_every_kernel_is_the_same_loss():
    hidden, weight = torch.randn(40, 16), torch.randn(300, 16)
    target = torch.arange(40)
    for name, kernel in peers.kernels().items():
        exact = torch.nn.functional.cross_entropy(hidden @ weight.T, target)
        torch.testing.assert_close(kernel(hidden, weight, target), exact, rtol=2e-2, atol=0, msg=name)


def test_a_gpu_that_is_not_there_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "device='cuda': 0 GPUs are here" in capsys.readouterr().err


def test_ids_made_here_are_read_where_there_is_no_text(tmp_path, monkeypatch):
    chat = text.load(str(CHAT), progress=False)
    monkeypatch.setattr(gpu.text, "load", lambda: chat)
    monkeypatch.setattr(gpu, "PAPER", SimpleNamespace(vocabs=(400,), seq_len=16))
    gpu.save_ids(tmp_path)
    monkeypatch.undo()
    (path,) = tmp_path.iterdir()
    assert path.name == "ids-400.npy"
    train, held = text.load(str(path)).ids(400)
    expected = chat.ids(400)
    np.testing.assert_array_equal(train[:1000], expected[0][:1000])
    assert len(held) == pytest.approx(0.03 * np.load(path).size, abs=2)
