import json
import math
import re
import signal
import subprocess
import sys
import time
import zlib
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import CHAT

from scta_lab import Result, evaluate, load, text, train
from scta_lab.base import machine, weights
from scta_lab.base.files import ROOT
from scta_lab.base.spec import METHODS
from scta_lab.judge.evaluate import HeldOut
from scta_lab.methods.model import LanguageModel
from scta_lab.methods.samplers import log_unigram
from scta_lab.run import clock, hooks
from scta_lab.run.command import train_command
from scta_lab.run.loop import LabRun, failure, optimizers
from scta_lite.timing import StepTimer


@pytest.mark.parametrize("method", ["ce", "semantic"])
def test_a_seed_fixes_a_run(tiny, method):
    losses = [train(tiny(method, seed=seed)).loss_curve["loss"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("method", ["ce", "semantic"])
def test_training_learns(tiny, method):
    result = train(tiny(method, epochs=40, lr=1e-2))
    epochs = result.epoch_losses
    assert len(epochs) == 40
    assert epochs[-1]["last"] < 0.9 * epochs[0]["first"]
    assert result.final_loss == epochs[-1]["last"]


def test_a_whole_training_is_counted_not_extrapolated(tiny):
    spec = tiny(evaluate=True)
    result = train(spec)
    assert (spec.steps_total, result.steps_run, result.steps_measured) == (12, 12, 8)
    assert result.extrapolated is False
    assert result.tokens_per_s * result.seconds == pytest.approx(4 * 7 * 12)
    assert result.examples_per_s * result.seconds == pytest.approx(4 * 12)
    phases = result.data_ms + result.forward_ms + result.backward_ms + result.optimizer_ms
    assert 0.03 * result.step_ms < phases < 10 * result.step_ms  # medians of eight steps, on a machine that may be busy
    assert result.step_ms_q1 <= result.step_ms <= result.step_ms_q3
    assert result.peak_memory_of == "process RSS"
    assert result.peak_memory_bytes > 5e7
    assert result.energy_joules is None  # nothing measures it on a CPU
    names = {"nll", "perplexity", "nats_per_character", "bits_per_byte", "mrr", "hit@1", "hit@5", "hit@10", "positions"}
    assert set(result.full_vocab) == names
    assert [(e["epoch"], e["steps"], e["averaged"]) for e in result.epoch_losses] == [(1, 6, 3), (2, 6, 3)]


def test_fewer_steps_are_extrapolated_and_have_no_quality(tiny):
    with pytest.warns(UserWarning, match="steps=5: quality is measured after an epoch, 6; or set eval_every"):
        result = train(tiny(steps=5, evaluate=True))
    assert result.extrapolated is True
    assert result.seconds == pytest.approx(result.step_ms * 12 / 1e3)
    assert result.full_vocab is None  # less than an epoch


def test_too_little_memory_is_told_before_it_is_taken(tiny, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 1_000)
    with pytest.warns(UserWarning, match=r"needs about [\d.]+ GB of memory, 0.0 GB are free"):
        train(tiny(steps=2))


def test_a_budget_stops_a_run_after_one_and_three_steps(tiny):
    assert train(tiny(budget_s=1e-9)).steps_run == 4
    assert train(tiny(budget_s=1e9)).steps_run == 12


def test_held_out_text_that_is_too_short_costs_no_run(tiny, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(230) % 300)  # 7 ids are held out, fewer than an example
    result = train(tiny(corpus=str(tmp_path / "ids.npy"), evaluate=True))
    assert (result.status, result.steps_run, result.full_vocab) == ("ok", 12, None)


def test_too_few_examples_are_cycled_and_counted(tiny):
    spec = tiny(corpus=str(CHAT), vocab=400, examples=2000, batch=500, seq_len=16)
    result = train(spec)
    assert result.examples_available < 2000
    assert result.steps_run == 8
    assert result.corpus == "chat.json"


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_precision_is_applied_and_put_back(tiny, precision):
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    changed = train(tiny("ce", precision=precision, threads=1))
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before
    assert changed.host["threads"] == 1
    plain = train(tiny("ce", threads=1))
    assert changed.final_loss == pytest.approx(plain.final_loss, rel=1e-2)
    if precision == "bfloat16":
        assert changed.final_loss != plain.final_loss


def test_quality_at_marks_is_no_time_of_training(tiny, monkeypatch):
    def slow(model, ids, **settings):
        time.sleep(0.2)
        return {"nll": 1.0}

    monkeypatch.setattr(evaluate, "metrics", slow)
    began = time.perf_counter()
    result = train(tiny(evaluate=True, eval_every=5))
    assert [look["step"] for look in result.validation] == [5, 10, 12]
    assert result.seconds < time.perf_counter() - began - 3 * 0.2
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(result.validation))


def test_a_looks_memory_is_not_the_trainings(tiny, monkeypatch):
    peak = [0]

    def look(*args, **settings):
        peak[0] = 900
        return {"nll": 1.0}

    monkeypatch.setattr(evaluate, "metrics", look)
    monkeypatch.setattr(machine, "reset_peak_memory", lambda on: peak.__setitem__(0, 100))
    monkeypatch.setattr(machine, "peak_memory", lambda on: (peak[0], "process RSS"))
    assert train(tiny(evaluate=True, eval_every=5)).peak_memory_bytes == 100


def test_ce_can_begin_from_the_unigram(tiny):
    """The counts are those of the training text, and a run loads with them."""
    spec = tiny("ce", corpus=str(CHAT), vocab=400, steps=2, lr=1e-30, weight_decay=0.0, log_unigram=True)
    model = train(spec).model
    torch.nn.init.zeros_(model.head.weight)
    ids = text.examples(text.load(str(CHAT)).ids(400)[0], 8)[:24]
    counts = torch.from_numpy(ids.astype("int64")).flatten().bincount(minlength=400)
    expected = log_unigram(counts).float().expand(3, -1)
    torch.testing.assert_close(model.head.scores(torch.randn(3, 8)), expected)
    target = torch.arange(3)
    loss = model.head.loss(torch.randn(3, 8), target)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(expected, target).item(), rel=1e-6)


def test_what_a_look_finds(tiny):
    result = train(tiny(corpus=str(CHAT), vocab=400, evaluate=True, steps=4, eval_every=2, weight_decay=0.0))
    assert [look["step"] for look in result.validation] == [2, 4]
    for metrics in (result.full_vocab, result.calibrated, *result.controls.values(), *result.validation):
        assert 0 < metrics["nats_per_character"] < metrics["nll"] < 20
        bits_per_character = metrics["nats_per_character"] / math.log(2)
        assert bits_per_character / 4 < metrics["bits_per_byte"] < bits_per_character * 1.000001  # one to four bytes
    assert result.calibrated["scale"] > 0
    assert result.calibrated["hit@10"] == result.full_vocab["hit@10"]  # a scale moves no rank


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
@pytest.mark.parametrize("method", ["ce", "ce_lowrank", "adaptive", "semantic_prior"])
def test_tables_can_have_a_learning_rate_of_their_own(tiny, method, optimizer):
    spec = tiny(method, optimizer=optimizer, weight_decay=0.0, hidden=16)
    start = train(replace(spec, steps=2)).model
    still = train(replace(spec, table_lr=1e-12)).model.state_dict()
    torch.manual_seed(spec.seed)
    fresh = LanguageModel(spec).state_dict()
    names = [name for name in still if not name.startswith("head.draw.")]
    moved = {name for name in names if not torch.allclose(still[name], fresh[name], atol=1e-6)}
    assert moved
    rows = {"embed.weight", "head.weight", "head.table.weight", "head.softmax.head.weight"}
    assert not moved & rows
    assert not any(name.startswith("head.softmax.tail") and name.endswith("1.weight") for name in moved)
    assert method != "adaptive" or "head.softmax.tail.0.0.weight" in moved  # a projection has no row for each token
    assert not torch.allclose(start.embed.weight, fresh["embed.weight"], atol=1e-6)


class Interrupted(Exception):
    pass


def interrupt(at):
    def progress(step, steps, loss):
        if step >= at:
            raise Interrupted

    return progress


@pytest.mark.parametrize("optimizer", ["dense", "rows", "sparse"])
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ce", {"schedule": "linear"}),
        ("ce", {}),
        ("semantic", {"evaluate": True, "eval_every": 3}),
        ("semantic", {"schedule": "cosine", "warmup": 3}),
        ("semantic_prior", {"table_lr": 1e-2}),
    ],
)
def test_an_interrupted_training_ends_as_one_that_was_not(tiny, tmp_path, monkeypatch, method, more, optimizer):
    """Bit by bit: interrupted in the first epoch, at its end, and in the last step but one."""
    monkeypatch.setattr(hooks, "SHOW_EVERY", 0)
    spec = tiny(method, optimizer=optimizer, lr=1e-2, **more)
    whole = train(spec)
    for at in (2, 6, 11):
        with pytest.raises(Interrupted):
            train(spec, progress=interrupt(at + 1), checkpoint=tmp_path, checkpoint_s=0)
        (left,) = tmp_path.glob("*.checkpoint.safetensors")
        again = train(spec, checkpoint=tmp_path, checkpoint_s=1e9)
        assert again.steps_run == 12
        assert again.loss_curve == whole.loss_curve
        for name, value in whole.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value), name
        assert [look["step"] for look in again.validation] == [look["step"] for look in whole.validation]
        assert again.full_vocab == whole.full_vocab
        again.save(tmp_path)
        assert not left.exists()


@pytest.mark.parametrize("other", [{"seed": 1}, {"corpus": str(CHAT)}], ids=str)
def test_a_checkpoint_of_another_spec_or_text_is_set_aside(tiny, tmp_path, other):
    """Under names that spare what was set aside before."""
    other = tiny(**other)
    whole = train(other)
    spoilt = f"{whole.run_id}.checkpoint.safetensors"
    for aside in (f"{spoilt}.set-aside", f"{spoilt}.set-aside1"):
        with pytest.raises(Interrupted):
            train(tiny(), progress=interrupt(12), checkpoint=tmp_path, checkpoint_s=0)
        (left,) = tmp_path.glob("semantic-*.checkpoint.safetensors")
        content = left.rename(tmp_path / spoilt).read_bytes()
        expected = f"^{spoilt}: of the run {tiny().run_id('zipf-2')}; expected {whole.run_id}; it is {aside} now"
        with pytest.warns(UserWarning, match=expected):
            again = train(other, checkpoint=tmp_path)
        assert again.loss_curve == whole.loss_curve
        assert (tmp_path / aside).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_of_another_kind_of_device_goes_on(tiny, tmp_path):
    """A GPU's generator has another state: the negatives go on from a new seed, and that is told."""
    with pytest.raises(Interrupted):
        train(tiny(), progress=interrupt(12), checkpoint=tmp_path, checkpoint_s=0)
    (left,) = tmp_path.glob("*.checkpoint.safetensors")
    tensors, header = weights.read(left)
    weights.write(left, tensors | {"generator": torch.zeros(16, dtype=torch.uint8)}, header)
    with pytest.warns(UserWarning, match="is of another kind of device: its negatives go on from a new seed"):
        result = train(tiny(), checkpoint=tmp_path)
    assert (result.status, result.steps_run) == ("ok", 12)


def test_a_checkpoint_of_an_earlier_version_is_set_aside(tiny, tmp_path):
    """It would go on with fresh moments, since these had other names."""
    spec = tiny("ce")
    with pytest.raises(Interrupted):
        train(spec, progress=interrupt(12), checkpoint=tmp_path, checkpoint_s=0)
    (left,) = tmp_path.glob("*.checkpoint.safetensors")
    tensors, header = weights.read(left)
    weights.write(left, tensors, header | {"format": "2"})
    with pytest.warns(UserWarning, match=f"^{left.name}: of an earlier version; it is {left.name}.set-aside now"):
        assert train(spec, checkpoint=tmp_path).loss_curve == train(spec).loss_curve


@pytest.mark.parametrize("with_checksum", [True, False])
def test_files_that_do_not_say_whose_they_are_are_read(tiny, tmp_path, with_checksum):
    """As earlier versions wrote them: by their name; and a checksum, if there is one, is of the tensors alone."""
    from safetensors.torch import save_file

    path = train(tiny("ce")).save(tmp_path).with_suffix(".safetensors")
    tensors, _ = weights.read(path)
    crc = 0
    for name, x in sorted(tensors.items()):
        crc = zlib.crc32(x.numpy().tobytes(), zlib.crc32(name.encode(), crc))
    save_file(tensors, path, {"crc32": f"{crc:08x}"} if with_checksum else None)
    for name, x in load(tmp_path).model.state_dict().items():
        assert torch.equal(x, tensors[name])
    path.write_bytes(HARM["one bit"](path.read_bytes()))
    with pytest.raises(ValueError, match="damaged") if with_checksum else nullcontext():
        load(tmp_path)


def test_equal_models_are_equal_files(tmp_path):
    """Of several entries in a header safetensors keeps no order."""
    files = set()
    for _ in range(8):
        weights.write(tmp_path / "run.safetensors", {"w": torch.arange(3.0)}, {"format": "3"})
        files.add((tmp_path / "run.safetensors").read_bytes())
    assert len(files) == 1


def test_no_bit_of_a_header_can_change(tiny, tmp_path):
    path = train(tiny("ce")).save(tmp_path).with_suffix(".safetensors")
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for n in range(0, 8 * (8 + length), 211):
        wrong = bytearray(whole)
        wrong[n // 8] ^= 1 << n % 8
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"^{path.name}: "):
            weights.read(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 6, 12])
def test_a_signal_ends_a_training_after_its_step(tiny, tmp_path, monkeypatch, number, at):
    """With a checkpoint, though none was due; in the last step too."""
    monkeypatch.setattr(hooks, "SHOW_EVERY", 0)
    whole = train(tiny(evaluate=True))

    def send(step, steps, loss):
        if step == at:
            signal.raise_signal(number)

    class Ended(Exception):
        pass

    def end(*_):
        raise Ended

    former = signal.signal(number, end)
    try:
        with pytest.raises(Ended):
            train(tiny(evaluate=True), progress=send, checkpoint=tmp_path)
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, former)
    (left,) = tmp_path.iterdir()
    assert json.loads(weights.read(left)[1]["state"])["done"] == at
    again = train(tiny(evaluate=True), checkpoint=tmp_path)
    for name in ("loss_curve", "full_vocab", "steps_run"):
        assert getattr(again, name) == getattr(whole, name)
    assert weights_of(again) == weights_of(whole)


def weights_of(result):
    return {name: x.tolist() for name, x in result.model.state_dict().items()}


def test_an_ignored_signal_stays_ignored(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "SHOW_EVERY", 0)
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = train(tiny(), progress=lambda *_: signal.raise_signal(signal.SIGINT), checkpoint=tmp_path)
    finally:
        signal.signal(signal.SIGINT, former)
    assert result.steps_run == 12


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
def test_what_was_trained_is_on_disk_before_it_is_judged(tiny, tmp_path, monkeypatch, optimizer):
    """Whatever ends the judging: the run's numbers can be read, and only the judging is done again."""
    spec = tiny("semantic_prior", optimizer=optimizer, evaluate=True)
    whole = train(spec)
    for judge in ("look", "report"):
        with monkeypatch.context() as patch:
            patch.setattr(evaluate.HeldOut, judge, lambda *_: interrupt(0)(1, 1, None))
            with pytest.raises(Interrupted):
                train(spec, checkpoint=tmp_path)
        stored = load(tmp_path)
        assert (stored.status, stored.final_loss, stored.steps_run) == ("killed", whole.final_loss, 12)
        worse = replace(stored, reason="ended by SIGKILL", final_loss=None)
        assert worse.save(tmp_path).suffix == ".attempt"
        with monkeypatch.context() as patch:
            patch.setattr(LabRun, "step", None)  # none is done again
            again = train(spec, checkpoint=tmp_path)
        assert (again.status, again.reason, again.full_vocab) == ("ok", None, whole.full_vocab)
        assert (again.step_ms, again.seconds, again.energy_joules) == (stored.step_ms, stored.seconds, None)
        assert weights_of(again) == weights_of(whole)
    again.save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


@pytest.mark.parametrize("status", ["skipped", "killed", "failed", "out_of_memory"])
def test_a_run_that_did_not_end_leaves_checkpoint_and_model(tiny, tmp_path, status):
    spec = tiny()
    train(spec).save(tmp_path).unlink()
    with pytest.raises(Interrupted):
        train(spec, progress=interrupt(12), checkpoint=tmp_path, checkpoint_s=0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2
    path = Result(spec=spec, status=status, fingerprint="zipf-2", corpus="zipf").save(tmp_path)
    path.unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_seconds_of_a_resumed_training_are_of_all_its_steps(tiny, tmp_path, monkeypatch):
    """Of those that the checkpoint holds and of those since; not of the time between."""
    seconds = {"now": 0.0}
    monkeypatch.setattr(clock, "perf_counter", lambda: seconds["now"])
    monkeypatch.setattr(hooks, "SHOW_EVERY", 0)

    def lasting(end):
        def progress(step, steps, loss):
            seconds["now"] += 1
            if step == end:
                raise Interrupted

        return progress

    with pytest.raises(Interrupted):
        train(tiny(), progress=lasting(8), checkpoint=tmp_path, checkpoint_s=3)  # saved after 3 and 6 steps
    seconds["now"] += 1e6
    again = train(tiny(), progress=lasting(None), checkpoint=tmp_path)
    assert (again.seconds, again.steps_run, again.extrapolated) == (12, 12, False)


HARM = {
    "truncated": lambda x: x[: len(x) // 2],
    "empty": lambda x: b"",
    "garbage": lambda x: b"\x80" * 99,
    "one bit": lambda x: x[:-1] + bytes([x[-1] ^ 1]),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(tiny, tmp_path, harm):
    spec = tiny("ce")
    with pytest.raises(Interrupted):
        train(spec, progress=interrupt(12), checkpoint=tmp_path, checkpoint_s=0)
    (left,) = tmp_path.glob("*.checkpoint.safetensors")
    wrong = HARM[harm](left.read_bytes())
    left.write_bytes(wrong)
    with pytest.warns(UserWarning, match=f"^{left.name}: .*; it is {left.name}.set-aside now, and the run begins anew"):
        again = train(spec, checkpoint=tmp_path)
    assert again.loss_curve == train(spec).loss_curve
    assert left.with_name(f"{left.name}.set-aside").read_bytes() == wrong


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_model_is_refused_by_name(tiny, tmp_path, harm):
    path = train(tiny("ce")).save(tmp_path).with_suffix(".safetensors")
    path.write_bytes(HARM[harm](path.read_bytes()))
    with pytest.raises(ValueError, match=f"^{path.name}: "):
        load(tmp_path)


def test_another_runs_model_is_refused_by_both_names(tiny, tmp_path):
    """Though its tensors have the same names and sizes."""
    ours, other = (train(tiny(seed=seed)).save(tmp_path) for seed in (0, 1))
    other.with_suffix(".safetensors").replace(ours.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match=f"^{ours.stem}.safetensors: of the run {other.stem}; expected {ours.stem}$"):
        load(tmp_path, ours.stem)
    assert load(tmp_path, other.stem).model is None


def full(*arguments):
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tiny, tmp_path, monkeypatch):
    expected = train(tiny()).loss_curve
    monkeypatch.setattr(weights, "_checksum", full)
    with pytest.warns(UserWarning, match="cannot be written .*No space left.*; the training goes on"):
        result = train(tiny(), checkpoint=tmp_path, checkpoint_s=0)
    assert result.loss_curve == expected
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_model_and_not_the_run(tiny, tmp_path, monkeypatch):
    result = train(tiny())
    monkeypatch.setattr(weights, "_checksum", full)
    with pytest.raises(OSError, match=r"\.safetensors: cannot be written"):
        result.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{result.run_id}.json"]
    assert load(tmp_path).final_loss == result.final_loss


def test_progress_is_told(tiny):
    states = []
    train(tiny(), progress=lambda *state: states.append(state))
    assert states[0] == (1, 12, None)
    assert states[-1][:2] == (12, 12)
    assert 0 < states[-1][2] < 20


@pytest.mark.parametrize("first", [{"scores": "dot"}, {"log_unigram": True}], ids=str)
def test_a_second_stage_has_the_scores_of_the_first(tiny, tmp_path, first):
    result = train(tiny("sampled_softmax", **first))
    result.save(tmp_path)
    (name,) = first
    second = tiny("sampled_softmax", stage1=str(tmp_path / f"{result.run_id}.safetensors"), token_head="normalised")
    with pytest.raises(ValueError, match=f"expected a first stage saved with its model, and with the same {name}"):
        train(second)


def test_a_run_is_not_given_an_earlier_ones_model(tiny, tmp_path):
    result = train(tiny())
    result.save(tmp_path)
    state = torch.get_rng_state()
    assert load(tmp_path).model is not None
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers go on
    result.model = None
    result.save(tmp_path)
    assert load(tmp_path).model is None
    assert (tmp_path / f"{result.run_id}.safetensors.set-aside").is_file()


@pytest.mark.parametrize("method", ["ce", "semantic"])
def test_saved_runs_load_with_their_model(tiny, tmp_path, method):
    result = train(tiny(method))
    result.save(tmp_path)
    again = load(tmp_path)
    assert again.to_dict() == json.loads(json.dumps(result.to_dict())) | {"betas": (0.9, 0.999)}
    for name, value in result.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    other = train(tiny(method, seed=9))
    other.model = None
    other.save(tmp_path)
    assert load(tmp_path, other.run_id).model is None
    with pytest.raises(FileNotFoundError, match=f"run_id=None: expected one of .*{other.run_id}"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="run_id='x': expected one of"):
        load(tmp_path, "x")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "GPUs are here"),
        ("tpu", 'expected "auto", "cpu", "cuda"'),
        ("cuda:x", 'expected "auto", "cpu", "cuda"'),
    ],
)
def test_devices_that_are_not_here(tiny, device, message):
    with pytest.raises(ValueError, match=f"^device='{device}': .*{message}"):
        train(tiny(device=device))


def test_sequences_longer_than_the_text(tiny):
    with pytest.raises(ValueError, match="seq_len=10000000: expected at most"):
        train(tiny(corpus=str(CHAT), seq_len=10_000_000))


def test_command_line(tmp_path, capsys):
    words = "--method semantic --vocab 2k --corpus zipf --steps 4 --hidden 8 --device cpu --examples 64".split()
    command = [sys.executable, "-W", "error", "-m", "scta_lite.train", *words, "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    run = load(tmp_path)
    assert (run.status, run.steps_run, run.spec.vocab) == ("ok", 4, 2000)
    assert run.model.embed.num_embeddings == 2000
    with pytest.raises(SystemExit) as ended:
        train_command([*command[5:], "--temperature", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("temperature=0: expected a finite number above 0")


def test_energy_is_read_where_there_is_a_counter(monkeypatch):
    """The counter of nvidia-ml-py, in millijoules, for the GPU that torch means."""

    class Nvml:
        NVMLError = RuntimeError
        nvmlInit = staticmethod(lambda: None)
        nvmlDeviceGetHandleByUUID = staticmethod(lambda uuid: {"GPU-1234": 7}[uuid])
        nvmlDeviceGetTotalEnergyConsumption = staticmethod(lambda handle: {7: 5500}[handle])

    class Properties:
        uuid = "1234"

    monkeypatch.setattr(machine, "pynvml", Nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda on: Properties)
    assert machine.energy_joules(torch.device("cuda")) == 5.5
    assert machine.energy_joules(torch.device("cpu")) is None
    monkeypatch.setattr(machine, "pynvml", None)  # as if it were not installed
    assert machine.energy_joules(torch.device("cuda")) is None


def test_a_gpus_free_memory_is_the_drivers_word(monkeypatch):
    """torch would have to make a context on it, which the sweep's process would keep."""

    class Nvml:
        NVMLError = RuntimeError
        nvmlInit = staticmethod(lambda: None)
        nvmlDeviceGetHandleByUUID = staticmethod(lambda uuid: uuid)
        nvmlDeviceGetMemoryInfo = staticmethod(lambda handle: type("Info", (), {"free": 7 << 30}))

    monkeypatch.setattr(machine, "pynvml", Nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda on: type("Properties", (), {"uuid": "1234"}))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda on: (1 << 30, 8 << 30))
    assert machine.free_memory(torch.device("cuda")) == 7 << 30
    monkeypatch.setattr(machine, "pynvml", None)
    assert machine.free_memory(torch.device("cuda")) == 1 << 30


@pytest.mark.parametrize("readings", [[5.0, None], [None, 5.0], [5.0, 9.0]])
def test_a_reading_of_energy_that_fails_costs_no_run(tiny, monkeypatch, readings):
    counter = iter(readings)
    monkeypatch.setattr(clock, "energy_joules", lambda on: next(counter))
    assert train(tiny(steps=4)).energy_joules == (4.0 if None not in readings else None)


def test_the_energy_of_a_resumed_run_is_not_known(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "energy_joules", lambda on: 7.0)
    with pytest.raises(Interrupted):
        train(tiny(), progress=interrupt(12), checkpoint=tmp_path, checkpoint_s=0)
    assert train(tiny(), checkpoint=tmp_path).energy_joules is None
    assert train(tiny()).energy_joules == 0.0


def test_energy_is_of_all_steps_though_the_timer_was_changed(tiny, monkeypatch):
    """As a run on a GPU changes it from the step on that is captured."""
    step = LabRun.step

    def with_a_new_timer(run, batches):
        if run.done == 4:
            run.timer = StepTimer(run.device)
        step(run, batches)

    monkeypatch.setattr(clock, "energy_joules", lambda on: 7.0)
    monkeypatch.setattr(LabRun, "step", with_a_new_timer)
    assert train(tiny()).energy_joules == 0.0


def test_the_energy_of_looks_is_not_the_training_s(tiny, monkeypatch):
    joules = [0.0]

    def use(function, amount):
        def call(*args):
            joules[0] += amount
            return function(*args)

        return call

    monkeypatch.setattr(clock, "energy_joules", lambda on: joules[0])
    monkeypatch.setattr(LabRun, "set_rates", use(LabRun.set_rates, 1.0))
    monkeypatch.setattr(HeldOut, "look", use(HeldOut.look, 100.0))
    result = train(tiny(steps=12, eval_every=5, evaluate=True))
    assert len(result.validation) == 3
    assert result.energy_joules == 12.0


def test_the_precision_that_a_caller_set_is_there_again(tiny):
    """By torch's new names too, after which its old ones raise."""
    products = torch.backends.cuda.matmul, torch.backends.cudnn.rnn, torch.backends.mkldnn.matmul
    before = [product.fp32_precision for product in products]
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert train(tiny(steps=2)).status == "ok"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert [product.fp32_precision for product in products[1:]] == before[1:]
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 0.82, 0.64, 0.46, 0.28, 0.1]),
        ("cosine", [0.25, 0.5, 0.75, 1, 0.914058, 0.689058, 0.410942, 0.185942, 0.1]),
    ],
)
def test_rates_rise_and_fall(tiny, schedule, rates):
    spec = tiny(schedule=schedule, warmup=4, steps=9)
    assert [spec.rate(step) for step in range(1, 10)] == pytest.approx(rates, abs=1e-6)


def losses(spec):
    return torch.tensor(train(spec).loss_curve["loss"])


@pytest.mark.parametrize("method", [method for method in METHODS if method != "backbone"])
def test_a_schedule_and_a_clip_serve_every_method(tiny, method):
    """The same with dense and with rows, whose gradient's norm is over its look-ups merged."""
    spec = tiny(method, vocab=60, lr=3e-2, epochs=3, hidden=16, eps=1e-3)  # an ε that lets the gradient's size count
    scheduled = replace(spec, schedule="cosine", warmup=5)
    unclipped = losses(scheduled)
    clipped = losses(replace(scheduled, clip=0.01))
    assert not torch.allclose(losses(spec), unclipped, rtol=1e-3)
    assert not torch.allclose(clipped, unclipped, rtol=1e-3)
    assert torch.equal(losses(replace(scheduled, clip=1e9)), unclipped)
    on_rows = losses(replace(scheduled, clip=0.01, optimizer="rows"))
    torch.testing.assert_close(on_rows, clipped, rtol=2e-3, atol=2e-3)


def test_sparse_is_torchs_sparse_adam(tiny):
    spec = tiny(optimizer="sparse", lr=1e-2, epochs=10)
    model = LanguageModel(spec)
    dense, sparse = optimizers(spec, model)
    assert isinstance(sparse, torch.optim.SparseAdam)
    assert {id(p) for p in sparse.param_groups[0]["params"]} == {id(model.embed.weight), id(model.head.table.weight)}
    assert len([p for group in dense.param_groups for p in group["params"]]) + 2 == len(list(model.parameters()))
    curve = losses(spec)
    assert curve[-6:].mean() < 0.9 * curve[:6].mean()
    assert not torch.allclose(curve, losses(replace(spec, optimizer="dense")), rtol=1e-3)  # another algorithm


def test_a_loss_that_is_no_longer_finite_fails_the_run(tiny, monkeypatch):
    spec = tiny("ce", epochs=5, lr=1e8)
    result = train(spec)
    assert result.status == "failed"
    reason = r"the loss is (?:nan|inf) at step (\d+) of 30; it was ([\d.e+]+) before"
    step, loss_before = re.fullmatch(reason, result.reason).groups()
    assert 2 <= int(step) <= 30
    assert float(loss_before) > 1
    assert result.step_ms > 0  # what was measured stays
    assert (result.seconds, result.tokens_per_s, result.final_loss) == (None, None, None)
    monkeypatch.setattr(hooks, "SHOW_EVERY", 0)
    assert train(spec).steps_run <= int(step) + 2  # a look a step sees it at the next one


def test_failure_is_told_with_what_was_before():
    assert failure([3.0, 2.0], 9) == {}
    assert failure([3.0, math.inf, math.nan], 9)["reason"] == "the loss is inf at step 2 of 9; it was 3 before"
    assert failure([math.nan], 9)["reason"] == "the loss is nan at step 1 of 9"


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, memory):
    assert machine.is_out_of_memory(error) is memory


def test_no_memory_for_quality_costs_no_run(tiny, monkeypatch):
    def none_left(held, model):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    expected = train(tiny(evaluate=True, eval_every=5))
    monkeypatch.setattr(evaluate.HeldOut, "report", none_left)
    result = train(tiny(evaluate=True, eval_every=5))
    assert (result.status, result.full_vocab, result.loss_curve) == ("ok", None, expected.loss_curve)
    assert result.reason.startswith("no memory was left to measure quality on the test half")
    monkeypatch.setattr(evaluate.HeldOut, "look", none_left)
    with pytest.warns(UserWarning, match="no memory was left to measure quality after step 5"):
        result = train(tiny(evaluate=True, eval_every=5))
    assert (result.status, result.validation, result.loss_curve) == ("ok", [], expected.loss_curve)


EXTREMES = (
    {"temperature": 1e-8},
    {"temperature": 1e8},
    {"negatives": 1},
    {"vocab": 20, "negatives": 1},
    {"seq_len": 2},
    {"examples": 1, "batch": 1, "epochs": 4},
    {"semantic_dim": 2},
    {"lr": 1e-30},
    {"clip": 1e-30},
    {"init_std": 1e-30},
    {"init_std": 1e30},
    {"lr": 1e30, "weight_decay": 0.0},
)


@pytest.mark.parametrize("method", ["ce", "ce_chunked", "ce_lowrank", "adaptive", "semantic", "semantic_prior"])
@pytest.mark.parametrize("changes", EXTREMES, ids=str)
def test_extreme_settings_give_numbers_or_say_why_not(tiny, method, changes):
    """What is drawn too large, or moved too far, overflows float32: that run is failed, and says at which step."""
    result = train(tiny(method, **{"hidden": 16, "optimizer": "rows", "evaluate": True, "eval_examples": 8} | changes))
    if max(changes.values()) == 1e30 and result.status == "failed":
        assert re.match(r"the loss is (nan|inf) at step \d+", result.reason)
        return
    assert result.status == "ok"
    assert math.isfinite(result.final_loss)
    assert result.full_vocab is None or math.isfinite(result.full_vocab["nll"])


def test_a_narrow_input_may_be_in_bfloat16(tiny):
    """The GRU, which is never autocast, takes inputs that are."""
    result = train(tiny(input_dim=4, precision="bfloat16"))
    assert result.status == "ok"
    assert math.isfinite(result.final_loss)
