"""The yardstick of a rollout: no few values of a client's make it."""

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.rollouts.spread import MIN_VALUES, MOST_VALUES, TAIL, Spread

MANY = 50_000
OF_NORMAL = 0.955
"""Of the standard deviation of normal values that much is left without their tails."""


def spread_of(*parts: npt.NDArray[np.float64]) -> float | None:
    """The deviation of values that came in parts."""
    spread = Spread(seed=5)
    for part in parts:
        spread.add(part)
    return spread.deviation


@pytest.mark.parametrize("count", [200, MOST_VALUES, MANY])
@pytest.mark.parametrize("scale", [1e-9, 2.0, 1e150])
def test_it_is_the_standard_deviation_but_for_the_tails(count: int, scale: float) -> None:
    """Within four times its own error, however they came."""
    values = np.random.default_rng(3).normal(0.0, scale, count)
    parts = np.split(values, [1, 40, count // 2])
    kept = min(count, MOST_VALUES)
    assert spread_of(*parts) == pytest.approx(OF_NORMAL * scale, rel=4 / np.sqrt(2 * kept))


def test_values_that_came_late_are_drawn_as_well() -> None:
    """Half of them, when they are half of all."""
    low, high = np.zeros(MANY), np.full(MANY, 100.0)
    spread = Spread(seed=5)
    spread.add(low)
    spread.add(high)
    assert spread._kept.mean() == pytest.approx(50.0, abs=4 * 50 / np.sqrt(MOST_VALUES))


@pytest.mark.parametrize("absurd", [1e9, -1e9, 1e200, 1e308])
@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("count", [MIN_VALUES, MOST_VALUES])
def test_a_few_absurd_values_change_little(count: int, is_first: bool, absurd: float) -> None:
    """Whenever they come: one in fifty of them, on one side."""
    values = np.random.default_rng(3).normal(0.0, 2.0, count)
    odd = np.full(int(TAIL * count), absurd)
    alone = spread_of(values)
    assert alone is not None
    parts = [odd, values[len(odd) :]] if is_first else [values[len(odd) :], odd]
    assert spread_of(*parts) == pytest.approx(alone, rel=0.15)


@pytest.mark.parametrize("absurd", [7.0, 1e9, 1e200])
def test_of_values_nearly_all_alike_the_others_count(absurd: float) -> None:
    """Such as claims, of which most are nothing; an absurd one among them not more than others."""
    values = np.zeros(200)
    values[:3] = 7.0
    alike = spread_of(values)
    assert alike == pytest.approx(float(values.std(ddof=1)), rel=0.02)
    values[3] = absurd
    assert spread_of(values) == pytest.approx(alike, rel=0.2)
    assert spread_of(np.full(200, 3.0)) == 0.0


def test_rare_values_count_beside_those_that_lie_close_together() -> None:
    """As long as they are more than a tail."""
    values = np.random.default_rng(3).normal(0.002, 0.0005, MOST_VALUES)
    values[:40] = 0.9
    assert spread_of(values) == pytest.approx(float(values.std(ddof=1)), rel=0.02)


def test_too_few_values_have_no_spread() -> None:
    """Nor have those that aren't finite, or so far apart that no number says it."""
    spread = Spread()
    spread.add(np.full(MIN_VALUES, np.nan))
    spread.add(np.arange(MIN_VALUES - 1))
    assert spread.deviation is None
    spread.add(np.ones(1))
    assert spread.deviation is not None
    assert spread_of(np.repeat([-1.7e308, 1.7e308], MIN_VALUES)) is None
