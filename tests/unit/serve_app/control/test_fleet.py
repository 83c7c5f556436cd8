"""Workers count for as long as they report."""

from serve_app.calls.connection import Address
from serve_app.control.fleet import LEASE_S, Fleet, Report

NOW = 1000.0


def address(worker: str) -> Address:
    """Where a worker is reached."""
    return (worker, 1, "secret")


def report(worker: str, *held: str, **failed: str) -> Report:
    """What a worker says; `failed` are reasons by version, with a letter before the number."""
    return Report(address(worker), frozenset(held), {name[1:]: why for name, why in failed.items()})


def fleet(**held: str) -> Fleet:
    """Workers by name with the versions that they hold, a digit each."""
    workers = Fleet()
    for worker, versions in held.items():
        workers.note(worker, report(worker, *versions), NOW)
    return workers


def test_a_version_is_held_when_every_worker_holds_it() -> None:
    """One that doesn't is enough to say no."""
    workers = fleet(a="12", b="1")
    assert workers.holds("1")
    assert not workers.holds("2")


def test_nobody_holds_nothing() -> None:
    """Without workers a version can't take traffic."""
    assert not Fleet().holds("1")


def test_a_silent_worker_holds_up_no_version() -> None:
    """Its lease of ten seconds is over, and it can't be reached any more."""
    workers = fleet(a="12", b="1")
    workers.note("a", report("a", "1", "2"), NOW + 5)
    assert not workers.expire(NOW + LEASE_S - 0.1)
    assert not workers.holds("2")
    assert workers.expire(NOW + LEASE_S)
    assert workers.holds("2")
    assert workers.addresses(["1"]) == (address("a"),)


def test_a_report_renews_the_lease_though_it_says_nothing_new() -> None:
    """The answer tells whether others need to know."""
    workers = Fleet()
    assert workers.note("a", report("a", "1"), NOW)
    assert not workers.note("a", report("a", "1"), NOW + 5)
    assert not workers.expire(NOW + 5 + LEASE_S - 0.1)
    assert workers.note("a", report("a", "1", "2"), NOW + 6)


def test_a_worker_that_comes_back_is_news() -> None:
    """Though it says what it said before it was silent."""
    workers = fleet(a="1")
    workers.expire(NOW + LEASE_S)
    assert workers.note("a", report("a", "1"), NOW + 20)
    assert workers.holds("1")


def test_the_reason_of_a_worker_that_could_not_load_is_told() -> None:
    """For as long as it says so."""
    workers = fleet(a="12")
    assert workers.failure("2") is None
    workers.note("b", report("b", "1", v2="a bit was flipped"), NOW)
    assert workers.failure("2") == "a bit was flipped"
    assert workers.failure("1") is None
    workers.note("b", report("b", "1", "2"), NOW)
    assert workers.failure("2") is None


def test_requests_go_to_workers_that_hold_all_versions() -> None:
    """Which of them is asked must not matter."""
    workers = fleet(a="123", b="13", c="1")
    assert workers.addresses(["1", "3"]) == (address("a"), address("b"))
    assert workers.addresses(["1", "2", "3"]) == (address("a"),)
    assert workers.addresses(["4"]) == ()
