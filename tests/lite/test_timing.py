import pytest
import torch

from scta_lite import timing
from scta_lite.timing import PHASES, StepTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: `clock[0]` in seconds."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    return now


def record(clock, steps):
    """A timer with steps whose phases take 0, 1, 2 and 3 times the given milliseconds."""
    timer = StepTimer(torch.device("cpu"))
    for ms in steps:
        timer.start()
        for i, phase in enumerate(PHASES):
            clock[0] += i * ms / 1e3
            timer.mark(phase)
        clock[0] += 100  # between two steps nothing counts
    return timer.summary()


def test_medians_and_quartiles_leave_the_warm_up_out(clock):
    summary = record(clock, [500, 900, 1, 2, 3, 4, 5])  # seven steps: the first two warm up
    assert summary["steps_measured"] == 5
    assert summary["step_ms"] == pytest.approx(6 * 3)
    assert (summary["step_ms_q1"], summary["step_ms_q3"]) == (pytest.approx(6 * 2), pytest.approx(6 * 4))
    assert [summary[f"{p}_ms"] for p in PHASES] == pytest.approx([0, 3, 6, 9])


@pytest.mark.parametrize(("steps", "measured"), [(2, 1), (4, 3), (12, 8), (30, 20), (2500, 2490)])
def test_warm_up_is_a_third_at_least_one_at_most_ten(clock, steps, measured):
    assert record(clock, [1] * steps)["steps_measured"] == measured


def test_phases_come_in_order():
    timer = StepTimer(torch.device("cpu"))
    timer.start()
    with pytest.raises(AssertionError, match="forward"):
        timer.mark("forward")
