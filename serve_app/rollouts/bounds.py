"""Bounds on a mean that hold at every look at once, so one may look as often as one likes.

For values X from 0 to 1, n of them with the sum x, and a supposed mean p, the beta-binomial
mixture (H. Robbins, Statistical methods related to the law of the iterated logarithm, Annals of
Mathematical Statistics 41, 1970) is

    M_n(p) = B(x + a, n - x + b) / (B(a, b) p^x (1 - p)^(n - x))

the likelihood ratio of every other mean q to p, averaged over q ~ Beta(a, b). If the mean is p, M
starts at 1 and never grows on average: exp(sX) <= 1 - X + X exp(s) by convexity, so the average
for values between 0 and 1 is at most that for a coin, and x need not be whole. By Ville's
inequality (J. Ville, Etude critique de la notion de collectif, 1939) M then reaches 1/alpha at any
time ever with a chance of at most alpha. All p with M_n(p) < 1/alpha form the interval (S. R.
Howard, A. Ramdas, J. McAuliffe, J. Sekhon, Time-uniform, nonparametric, nonasymptotic confidence
sequences, Annals of Statistics 49, 2021).

Guaranteed: if each value, given all before it, has the mean p, then with a chance of at least
1 - alpha the interval holds p after every n from 1 on, for any n, whenever one stops.
Not guaranteed: anything exact about a mean that drifts, or about values that depend on each other
(many requests of one client that fail for the same reason).
"""

from collections.abc import Callable
from math import lgamma, log
from typing import Final

A: Final = 0.5
"""a = b = 1/2, the Jeffreys prior: the interval is narrow for rare events and for even chances."""

PRECISION: Final = 1e-7
"""Bounds are that near to the exact ones, and never inside of them."""


def interval(total: float, n: int, alpha: float) -> tuple[float, float]:
    """Return the bounds (lower, upper) on the mean of `n` values from 0 to 1 that sum to `total`.

    Without values they are 0 and 1.
    """
    if n == 0:
        return 0.0, 1.0
    ones = min(max(total, 0.0), float(n))
    zeros = n - ones
    limit = log(1 / alpha) + _log_beta(A, A) - _log_beta(ones + A, zeros + A)

    def holds(p: float) -> bool:
        return -ones * log(p) - zeros * log(1 - p) < limit

    mean = ones / n
    return (
        _edge(mean, 0.0, holds) if ones else 0.0,
        _edge(mean, 1.0, holds) if zeros else 1.0,
    )


def _edge(inside: float, outside: float, holds: Callable[[float], bool]) -> float:
    """Halve the way from a mean that holds to one that doesn't; M is convex, so there's one edge.

    Neither end is ever asked for, and the outer side of the last step is returned.
    """
    while abs(outside - inside) > PRECISION:
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return outside


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
