"""What an ingress counts, and for which versions."""

from collections import Counter

import numpy as np
import pytest

from serve_app.metrics.counts import BOUNDS_S, MOST_VERSIONS, SHOWN, Calls, Counts, Requests
from serve_app.metrics.reports import LEASE_S, Reports
from serve_app.models.predictions import Predictions
from tests.unit.serve_app.metrics.reporting import report


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.001, 0), (0.0011, 1), (30.0, 13), (31.0, 14)]
)
def test_a_duration_is_counted_where_its_bound_is(seconds: float, bucket: int) -> None:
    """The bound itself is within, as Prometheus has it."""
    requests = Requests()
    requests.answered(3, seconds)
    assert requests.durations == [int(at == bucket) for at in range(len(BOUNDS_S) + 1)]
    assert (requests.seconds, requests.records) == (seconds, 3)
    assert requests.statuses == Counter({**dict.fromkeys(SHOWN, 0), 200: 1})


def test_of_a_batch_with_other_calls_a_call_has_its_share_of_the_time() -> None:
    """Or the time would be counted once for each of them."""
    calls = Calls()
    calls.add(Predictions(np.zeros(1), {}, 0.4, 4))
    calls.add(Predictions(np.zeros(3), {}, 0.4, 4))
    calls.add(Predictions(np.zeros(4), {}, 0.5, 0))  # by several workers
    assert (calls.calls, calls.records) == (3, 8)
    assert calls.seconds == pytest.approx(0.9)


def test_a_version_that_takes_traffic_is_never_forgotten() -> None:
    """However many others come and go; of those the last are kept."""
    counts = Counts()
    first = counts.of("1")
    for number in range(2, 50):
        counts.keep(["1", str(number)])
    assert counts.of("1") is first
    assert len(counts.versions) == MOST_VERSIONS
    assert "49" in counts.versions
    assert "2" not in counts.versions


def test_a_copy_stays_as_it_is() -> None:
    """It is sent while more is counted."""
    counts = Counts()
    requests = counts.of("1").requests_of("/stream", "champion")
    requests.answered(1, 0.1)
    copied = counts.copy()
    requests.answered(1, 0.1)
    counts.of("1").calls.add(Predictions(np.zeros(1)))
    counts.not_let_in.refused(401)
    assert list(copied.versions["1"].requests) == [("/stream", "champion")]
    assert copied.versions["1"].requests["/stream", "champion"].statuses[200] == 1
    assert copied.versions["1"].calls == Calls()
    assert copied.not_let_in.statuses[401] == 0


def test_an_ingress_that_says_nothing_is_shown_no_more() -> None:
    """It has ended; its series end with it."""
    reports = Reports()
    reports.note("a", report(1), now=0.0)
    assert set(reports.note("b", report(1), now=LEASE_S - 1)) == {"a", "b"}
    assert reports.note("b", report(2), now=LEASE_S) == {"b": report(2)}
