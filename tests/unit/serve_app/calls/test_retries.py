"""Requests are asked for again in proportion to all requests."""

import pytest

from serve_app.calls.retries import RetryBudget


@pytest.mark.parametrize("requests", [1, 5])
def test_a_reserve_then_a_share(requests: int) -> None:
    """A fault that hits every call doesn't double what is asked, however many share a call."""
    budget = RetryBudget(share=0.1, reserve=5 * requests)
    assert sum(budget.take(requests) for _ in range(100)) == 5
    retried = 0
    for _ in range(1000):
        budget.note(requests)
        retried += budget.take(requests)
    assert 90 <= retried <= 101


def test_the_reserve_has_an_end() -> None:
    """A long time without faults allows no storm."""
    budget = RetryBudget(share=0.1, reserve=5)
    for _ in range(100_000):
        budget.note(1)
    assert sum(budget.take(1) for _ in range(100)) == 5
