"""The checks of `checks.py`, on a GPU where there is one, else on the CPU."""

import checks
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("part", checks.parts(), ids=lambda part: part.__name__)
def test_it_is_right_on_this_device(part):
    if part is checks.context and torch.cuda.is_initialized():
        pytest.skip("another test has made a context on the GPU")
    wrong = [(name, error) for name, error, most in part(DEVICE) if not error <= most]
    assert not wrong


@pytest.mark.parametrize(("made", "driver", "right"), [(True, True, False), (True, False, True), (False, True, True)])
def test_a_context_made_by_asking_for_memory_is_told(monkeypatch, made, driver, right):
    monkeypatch.setattr(checks.machine, "pynvml", object() if driver else None)
    monkeypatch.setattr(checks.machine, "free_memory", lambda on: 0)
    monkeypatch.setattr(torch._C, "_cuda_hasPrimaryContext", lambda index: made, raising=False)
    ((_, contexts, most),) = checks.context(torch.device("cuda"))
    assert (contexts <= most) is right


def test_a_check_that_is_wrong_or_cannot_be_made_is_not_right(monkeypatch):
    def wrong(device):
        yield "a loss", 1.0, 1e-10

    def broken(device):
        raise RuntimeError("CUDA error: device-side assert triggered")
        yield

    monkeypatch.setattr(checks, "parts", lambda: [wrong, broken])
    results = checks.checks(torch.device("cpu"))
    assert [check["right"] for check in results] == [False, False]
    assert results[1]["check"] == "broken: RuntimeError: CUDA error: device-side assert triggered"
