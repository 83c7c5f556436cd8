"""`/metrics` of a running system, beside what was sent to it."""

from __future__ import annotations

import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.metrics.reports import PERIOD_S
from tests import running
from tests.integration.serving.conftest import Serve
from tests.running import Running

Samples = dict[str, list[tuple[dict[str, str], float]]]

SEEN_S = 4 * PERIOD_S


@pytest.fixture(scope="module")
def service(serve: Serve, houses_directory: Path) -> Running:
    """A model of two features."""
    return serve(houses_directory)


def samples(service: Running) -> Samples:
    """Ask for all of them, by name."""
    answer = service.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """Return the sum over all series with these labels."""
    return sum(value for own, value in found.get(name, []) if labels.items() <= own.items())


def requests_seen(service: Running) -> Counter[tuple[str, str]]:
    """Return how many requests were counted, by route and status."""
    seen: Counter[tuple[str, str]] = Counter()
    for labels, value in samples(service).get("endeavour_requests_total", []):
        seen[labels["route"], labels["status"]] += int(value)
    return +seen


def hang_up(service: Running) -> None:
    """Send half of a body, and go."""
    head = "POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(service.environ["PORT"])), timeout=10) as sock:
        sock.sendall(f'{head}content-length: 99\r\n\r\n{{"X":'.encode())
        time.sleep(0.5)


def test_every_request_is_counted_by_route_and_status(service: Running) -> None:
    """Exactly: what was sent is what the counters have grown by."""
    record = service.get("/model").json()["example"]
    before = samples(service)
    requests_before = requests_seen(service)
    bad = {"X": "no"}
    for _ in range(7):
        assert service.post("/stream", {"X": record}).status_code == 200
    for _ in range(3):
        assert service.post("/batch", {"X": [record] * 10}).status_code == 200
        assert service.post("/stream", bad).status_code == 422
    hang_up(service)
    sent = {
        ("/stream", "200"): 7,
        ("/batch", "200"): 3,
        ("/stream", "422"): 3,
        ("/stream", "499"): 1,
    }
    running.wait_for(lambda: requests_seen(service) - requests_before == sent, SEEN_S)
    found = samples(service)

    def grown(name: str, **labels: str) -> float:
        return total(found, name, **labels) - total(before, name, **labels)

    of = {"version": "local", "role": "champion"}
    assert grown("endeavour_records_total", route="/stream", **of) == 7
    assert grown("endeavour_records_total", route="/batch", **of) == 30
    assert grown("endeavour_request_duration_seconds_count", route="/batch", **of) == 3
    assert 0 < grown("endeavour_request_duration_seconds_sum", route="/batch", **of) < 30
    assert grown("endeavour_model_records_total", version="local") == 37
    assert grown("endeavour_model_seconds_total", version="local") > 0
    assert grown("endeavour_ingress_cpu_seconds_total") > 0
