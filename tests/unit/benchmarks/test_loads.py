"""Schedules of the open loop, answers on its connections, and what wrk prints."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import http_client, open_loop, wrk
from benchmarks.errors import ServerError


def test_constant_arrivals_are_evenly_spaced() -> None:
    np.testing.assert_allclose(open_loop.schedule(4, 1.0), [0.0, 0.25, 0.5, 0.75])


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    """Gaps with a mean of 1/rate, and a deviation as large as their mean."""
    times = open_loop.schedule(1000, 20.0, "poisson", seed=3)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert (np.diff(times) >= 0).all()
    assert times.min() >= 0
    assert times.max() <= 20
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first, again, other = (open_loop.schedule(100, 2.0, "poisson", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or (first != other).any()


def test_unknown_arrivals_are_refused() -> None:
    with pytest.raises(ValueError, match="constant or poisson"):
        open_loop.schedule(1, 1, "even")


@pytest.mark.parametrize("cut", [0, 5, 20, 60, 70])
def test_an_answer_is_taken_when_all_of_it_is_there(cut: int) -> None:
    whole = b'HTTP/1.1 200 OK\r\nx: 1\r\nContent-Length: 15\r\nserver: a\r\n\r\n{"result": 1.0}'
    assert http_client.parse(whole) == http_client.Answer(200, b'{"result": 1.0}')
    assert http_client.parse(whole[:cut]) is None


def test_an_answer_without_a_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="content-length"):
        http_client.parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_figures_of_wrk_are_read_and_its_errors_added_up() -> None:
    output = (
        "Running 2s test\n"
        'FIGURES {"requests": 3000, "duration_us": 2000000, "connect": 1, "read": 2, "write": 0, '
        '"status": 4, "timeout": 0, "p50_us": 500.0, "p90_us": 800.0, "p99_us": 1500.0, '
        '"max_us": 9000.0}\n'
    )
    load = wrk.parse(output)
    assert (load.per_s, load.requests, load.errors) == (1500.0, 3000, 7)
    assert (load.p50_ms, load.p99_ms, load.max_ms) == (0.5, 1.5, 9.0)


def test_a_wrk_that_gives_no_figures_is_an_error_with_its_words() -> None:
    with pytest.raises(ServerError, match="connection refused"):
        wrk.parse("", "unable to connect: connection refused")
