import math

import numpy as np
import pytest

from scta_lab.judge import uncertainty as spread


def a_run(nats, positions):
    return {"nats": list(nats), "positions": list(positions), "bytes": [2 * n for n in positions]}


def test_a_standard_error_by_hand():
    """Ratio 40/8 = 5; residuals 12 - 10, 28 - 30: √(2 · (4 + 4)) / 8 = 1/2."""
    assert spread.standard_error([a_run([12, 28], [2, 6])], "nll") == pytest.approx(0.5)
    assert spread.standard_error([a_run([12, 28], [2, 6])], "bits_per_byte") == pytest.approx(0.25 / math.log(2))
    assert math.isnan(spread.standard_error([a_run([12], [2])], "nll"))  # one document says nothing of others


def test_a_standard_error_is_the_spread_of_the_mean():
    rng, found, errors = np.random.default_rng(0), [], []
    for _ in range(400):
        positions = rng.integers(50, 400, 40)
        run = a_run(positions * rng.normal(5, 1, 40), positions)
        above, below = spread.sums([run], "nll")
        found.append(above.sum() / below.sum())
        errors.append(spread.standard_error([run], "nll"))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)


def simulated(rng, gap):
    """Two methods with three seeds each on 40 documents that differ much, the same for both."""
    positions, level = rng.integers(50, 400, 40), rng.normal(5, 1, 40)
    return [
        [a_run(positions * (level + rng.normal(mean, 0.02) + rng.normal(0, 0.1, 40)), positions) for _ in range(3)]
        for mean in (gap, 0)
    ]


def test_a_difference_is_paired_by_document():
    """0.1 is found, though documents spread by 1; with the documents of each side drawn apart it would not be."""
    ours, others = simulated(np.random.default_rng(0), 0.1)
    gap, low, high = spread.difference(ours, others, "nll")
    assert low < gap < high
    assert 0.0 < low < 0.1 < high < 0.2
    assert spread.standard_error(others, "nll") > high - low


def test_two_equal_methods_seldom_differ():
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(100):
        _, low, high = spread.difference(*simulated(rng, 0.0), "nll")
        wrong += not low <= 0 <= high
    assert wrong <= 15  # nominally 5


def test_students_t_is_that_of_the_tables():
    known = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for freedom, t in known.items():
        assert spread.student(freedom) == pytest.approx(t, abs=2e-3)


def test_two_seeds_spread_by_their_standard_error():
    """Of 4.0 and 4.2 that is 0.1, with one degree of freedom; documents do not differ here."""
    runs = [a_run([4.0 * n, 4.0 * n], [n, n]) for n in (10, 10.5)]
    runs[1]["positions"] = runs[0]["positions"]
    gap, low, high = spread.difference(runs, [a_run([30, 30], [10, 10])], "nll")
    half = 12.706 * 0.1
    assert (gap, low, high) == pytest.approx((1.1, 1.1 - half, 1.1 + half), abs=1e-3)
    alone = spread.difference(runs[:1], [a_run([30, 30], [10, 10])], "nll")
    assert alone == pytest.approx((1, 1, 1))  # documents alone


def test_an_interval_of_documents_by_hand():
    """Two of the same length, 1 and 3 nats apart: 2 ± 12.706 · 1; of one document there is none."""
    one, other = a_run([20, 40], [10, 10]), a_run([10, 10], [10, 10])
    gap, low, high = spread.difference([one], [other], "nll")
    assert (gap, low, high) == pytest.approx((2, 2 - 12.706, 2 + 12.706), abs=2e-3)
    _, *ends = spread.difference([a_run([20], [10])], [a_run([10], [10])], "nll")
    assert all(map(math.isnan, ends))


def test_one_long_document_counts_as_few():
    """Of 40 documents one is as long as the others together: about four of equal length."""
    positions = np.array([39 * 50] + [50] * 39)
    rng, hits = np.random.default_rng(2), 0
    for _ in range(300):
        nats = positions * rng.normal(0, 1, 40)
        _, low, high = spread.difference([a_run(nats, positions)], [a_run(0 * nats, positions)], "nll")
        hits += low <= 0 <= high
    assert hits >= 0.9 * 300


def test_bits_per_byte_of_two_vocabularies_are_paired_by_document():
    """The second has one document less, and longer tokens; in those that both have it needs a bit less a byte."""
    ln2 = math.log(2)
    small = {"document": [3, 4, 7], "positions": [4, 4, 6], "bytes": [8, 8, 12], "nats": [16 * ln2, 24 * ln2, 99.0]}
    large = {"document": [3, 4], "positions": [2, 2], "bytes": [8, 8], "nats": [8 * ln2, 16 * ln2]}
    assert spread.difference([large], [small], "bits_per_byte") == pytest.approx((-1, -1, -1))
    with pytest.raises(ValueError, match="expected one V and one text for nll"):
        spread.difference([large], [small], "nll")


def test_runs_that_cannot_be_compared():
    one, other = a_run([1, 2], [1, 2]), a_run([1, 2], [2, 2])
    with pytest.raises(ValueError, match="metric='mrr': expected one of nll"):
        spread.standard_error([one], "mrr")
    with pytest.raises(ValueError, match=r"runs=\[\]: expected at least one"):
        spread.standard_error([], "nll")
    with pytest.raises(ValueError, match="runs over different positions"):
        spread.standard_error([one, other], "nll")
    with pytest.raises(ValueError, match="others over different positions"):
        spread.difference([one], [other], "nll")
    here, there = one | {"document": [0, 1]}, one | {"document": [5, 9]}
    with pytest.raises(ValueError, match="others over different positions"):
        spread.difference([here], [there], "nll")
    with pytest.raises(ValueError, match="others over none of the documents of runs"):
        spread.difference([here], [there], "bits_per_byte")
