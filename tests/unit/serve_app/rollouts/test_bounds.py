"""Bounds that hold at every look at once."""

from __future__ import annotations

from collections.abc import Callable
from math import lgamma, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.rollouts.bounds import PRECISION, interval

NUMBERS = st.integers(1, 100_000)
SHARES = st.floats(0, 1)
ALPHAS = st.floats(1e-6, 0.5)


def log_mixture(total: float, n: int, p: float) -> float:
    """The logarithm of M_n(p), written down once more."""

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    prior = log_beta(0.5, 0.5)
    return (
        log_beta(total + 0.5, n - total + 0.5) - prior - total * log(p) - (n - total) * log(1 - p)
    )


@given(NUMBERS, SHARES, ALPHAS)
def test_the_interval_ends_where_the_mixture_reaches_one_by_alpha(
    n: int, share: float, alpha: float
) -> None:
    """Just outside of either end M is above 1/alpha, at least PRECISION inside it is below."""
    total, limit = n * share, log(1 / alpha)
    low, high = interval(total, n, alpha)
    assert 0 <= low <= share <= high <= 1
    for end, inward in ((low, 2 * PRECISION), (high, -2 * PRECISION)):
        if 0 < end < 1:
            assert log_mixture(total, n, end) >= limit - 1e-6
            if low + 4 * PRECISION < high and 0 < end + inward < 1:
                assert log_mixture(total, n, end + inward) < limit + 1e-6


@given(NUMBERS, SHARES, ALPHAS, ALPHAS)
def test_less_chance_of_error_makes_the_interval_wider(
    n: int, share: float, one: float, other: float
) -> None:
    """Intervals are nested in alpha."""
    narrow, wide = (interval(n * share, n, alpha) for alpha in (max(one, other), min(one, other)))
    assert wide[0] <= narrow[0] + PRECISION
    assert wide[1] >= narrow[1] - PRECISION


@given(NUMBERS, SHARES, ALPHAS)
def test_the_complement_has_the_mirrored_interval(n: int, share: float, alpha: float) -> None:
    """What is said of failures is said of successes."""
    low, high = interval(n * share, n, alpha)
    mirrored = interval(n - n * share, n, alpha)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=3 * PRECISION)


def test_no_values_say_nothing() -> None:
    """The interval is everything there is."""
    assert interval(0.0, 0, 0.05) == (0.0, 1.0)


def test_a_sum_beyond_its_number_by_rounding_is_taken_as_all() -> None:
    """Shares are added as floats."""
    assert interval(100 + 1e-9, 100, 0.05) == interval(100, 100, 0.05)
    assert interval(-1e-9, 100, 0.05) == interval(0, 100, 0.05)


def coins(p: float) -> Callable[[np.random.Generator, int], NDArray[np.float64]]:
    """Values 0 and 1."""
    return lambda random, n: (random.random(n) < p).astype(np.float64)


def parts(p: float) -> Callable[[np.random.Generator, int], NDArray[np.float64]]:
    """Values between, with the mean p."""
    return lambda random, n: random.beta(p, 1 - p, n)


def requests(p: float) -> Callable[[np.random.Generator, int], NDArray[np.float64]]:
    """Shares of the failed records of a request, whose chance is redrawn for each request."""
    return lambda random, n: random.binomial(20, random.beta(2 * p, 2 - 2 * p, n)) / 20


@pytest.mark.parametrize("values", [coins, parts, requests])
@pytest.mark.parametrize("p", [0.002, 0.05, 0.5])
def test_the_interval_holds_the_mean_at_all_looks_at_once(
    values: Callable[[float], Callable[[np.random.Generator, int], NDArray[np.float64]]], p: float
) -> None:
    """Of 300 sequences, looked at 60 times each, at most 20% ever miss at alpha 0.2.

    Three standard deviations are left to chance.
    """
    random, draw = np.random.default_rng(7), values(p)
    looks = np.unique(np.geomspace(1, 5_000, 60).astype(int))
    missed = 0
    for _ in range(300):
        sums = np.cumsum(draw(random, 5_000))
        intervals = (interval(float(sums[n - 1]), int(n), 0.2) for n in looks)
        missed += any(not low <= p <= high for low, high in intervals)
    assert missed / 300 <= 0.2 + 3 * (0.2 * 0.8 / 300) ** 0.5


def test_an_interval_for_one_look_would_miss_far_more_often() -> None:
    """The usual 80% interval, looked at as often, misses most of the time."""
    random = np.random.default_rng(7)
    looks = np.unique(np.geomspace(30, 5_000, 60).astype(int))
    means = (
        np.cumsum(coins(0.5)(random, 300 * 5_000).reshape(300, -1), axis=1)[:, looks - 1] / looks
    )
    half = 1.2816 * np.sqrt(0.25 / looks)
    assert np.mean(np.any(np.abs(means - 0.5) > half, axis=1)) > 0.5
