"""Calls are made again in proportion to all calls."""

from serve_app.calls.retries import RetryBudget


def test_a_reserve_then_a_share() -> None:
    """A fault that hits every call doesn't double what is asked."""
    budget = RetryBudget(share=0.1, reserve=5)
    assert sum(budget.take() for _ in range(100)) == 5
    retried = 0
    for _ in range(1000):
        budget.note()
        retried += budget.take()
    assert 90 <= retried <= 101


def test_the_reserve_has_an_end() -> None:
    """A long time without faults allows no storm."""
    budget = RetryBudget(share=0.1, reserve=5)
    for _ in range(100_000):
        budget.note()
    assert sum(budget.take() for _ in range(100)) == 5
