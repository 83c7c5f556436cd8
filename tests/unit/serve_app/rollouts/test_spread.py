"""The yardstick of a rollout: no single value of a client's makes it."""

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.rollouts.spread import MIN_VALUES, MOST_VALUES, Spread

MANY = 50_000


def spread_of(*parts: npt.NDArray[np.float64]) -> float | None:
    """The deviation of values that came in parts."""
    spread = Spread(seed=5)
    for part in parts:
        spread.add(part)
    return spread.deviation


@pytest.mark.parametrize("count", [200, MOST_VALUES, MANY])
@pytest.mark.parametrize("scale", [1e-9, 2.0, 1e150])
def test_it_is_the_standard_deviation_of_normal_values(count: int, scale: float) -> None:
    """Within four times its own error, however they came."""
    values = np.random.default_rng(3).normal(0.0, scale, count)
    parts = np.split(values, [1, 40, count // 2])
    kept = min(count, MOST_VALUES)
    assert spread_of(*parts) == pytest.approx(scale, rel=4 * 1.2 / np.sqrt(kept))


def test_values_that_came_late_are_drawn_as_well() -> None:
    """Half of them, when they are half of all."""
    low, high = np.zeros(MANY), np.full(MANY, 100.0)
    spread = Spread(seed=5)
    spread.add(low)
    spread.add(high)
    assert spread._kept.mean() == pytest.approx(50.0, abs=4 * 50 / np.sqrt(MOST_VALUES))


@pytest.mark.parametrize("absurd", [1e9, -1e9, 1e200, 1e308])
def test_a_few_absurd_values_change_little(absurd: float) -> None:
    """One in forty, here."""
    values = np.random.default_rng(3).normal(0.0, 2.0, 400)
    alone = spread_of(values)
    assert alone is not None
    assert spread_of(values, np.full(10, absurd)) == pytest.approx(alone, rel=0.3)


def test_of_values_nearly_all_alike_the_others_count() -> None:
    """Such as claims, of which most are nothing."""
    values = np.zeros(200)
    values[:4] = 7.0
    assert spread_of(values) == pytest.approx(float(values.std(ddof=1)))
    assert spread_of(np.full(200, 3.0)) == 0.0


def test_too_few_values_have_no_spread() -> None:
    """Nor have those that aren't finite, or so far apart that no number says it."""
    spread = Spread()
    spread.add(np.full(MIN_VALUES, np.nan))
    spread.add(np.arange(MIN_VALUES - 1))
    assert spread.deviation is None
    spread.add(np.ones(1))
    assert spread.deviation is not None
    assert spread_of(np.repeat([-1.7e308, 1.7e308], MIN_VALUES)) is None
