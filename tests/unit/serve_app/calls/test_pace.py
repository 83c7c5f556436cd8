"""Only a model that has been quick is taken to be."""

import pytest

from serve_app.calls.pace import Cost, Pace

QUICK_S = 0.002


def test_a_model_is_quick_once_it_has_been() -> None:
    """For batches of about that size, and no others."""
    pace = Pace(QUICK_S)
    assert not pace.is_quick(5)
    pace.note(5, QUICK_S / 2)
    assert pace.is_quick(6)
    assert not pace.is_quick(500)


def test_one_slow_batch_makes_no_slow_model() -> None:
    """Most of the last five have to be slow; and then quick, to be taken as that again."""
    pace = Pace(QUICK_S)
    for took_s in (0.1, 0.1, 0.1, 10, 10):
        pace.note(1, QUICK_S * took_s)
        assert pace.is_quick(1)
    pace.note(1, QUICK_S * 10)
    assert not pace.is_quick(1)
    for _ in range(3):
        pace.note(1, QUICK_S / 10)
    assert pace.is_quick(1)


def costs(*calls: tuple[int, float]) -> float:
    """What a row costs, after these sizes and times."""
    cost = Cost()
    for rows, took_s in calls:
        cost.note(rows, took_s)
    return cost.per_row_s


def test_a_rows_cost_is_what_one_more_takes() -> None:
    """Not the mean: what every batch takes doesn't count."""
    assert costs() == 0.0
    assert costs((1, 0.035), (10, 0.080), (100, 0.530)) == pytest.approx(0.005)
    assert costs((1, 0.030), (100, 0.031), (1000, 0.040)) == pytest.approx(1e-5, rel=0.01)
    assert costs((1, 0.030), (100, 0.020)) == 0.0


def test_batches_of_one_size_cost_what_they_take_at_most() -> None:
    """A cost that was taken to be higher is forgotten, though nothing else is seen any more."""
    assert costs(*[(50, 0.1)] * 10) == 0.0
    slow_then_quick = [(10, 1.0), (20, 2.0), *[(10, 0.001)] * 300]
    assert costs(*slow_then_quick) <= 0.00011
