"""The text, read as Prometheus' own library reads it."""

from dataclasses import replace

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serve_app.metrics.exposition import is_openmetrics, render
from serve_app.rollouts.rollout import State
from serve_app.routing import STATUS_UNKNOWN, Published, Table
from tests.unit.serve_app.metrics.reporting import report
from tests.unit.serve_app.test_description import model_of

Labels = frozenset[tuple[str, str]]

PUBLISHED = Published(Table(9, model_of("7")), (("host", 1, "a-secret"),), ingresses=2)


def values(published: Published, **answered: int) -> dict[tuple[str, Labels], float]:
    """Return all samples of a text by their name and labels."""
    reports = {ingress: report(count) for ingress, count in answered.items()}
    text, media_type = render(reports, published, as_openmetrics=False)
    assert media_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def labels(**given: str) -> Labels:
    """Return labels as `values` has them."""
    return frozenset(given.items())


def test_each_ingress_has_its_own_series() -> None:
    """Nothing is summed up: a sum would fall when one of them ends."""
    found = values(PUBLISHED, a=3, b=1)
    for ingress, count in (("a", 3.0), ("b", 1.0)):
        of = {"ingress": ingress, "route": "/stream", "version": "7", "role": "champion"}
        assert found["endeavour_requests_total", labels(**of, status="200")] == count
        assert found["endeavour_requests_total", labels(**of, status="422")] == 1.0
        assert found["endeavour_records_total", labels(**of)] == count
        duration = "endeavour_request_duration_seconds"
        assert found[f"{duration}_bucket", labels(**of, le="0.01")] == 0.0
        assert found[f"{duration}_bucket", labels(**of, le="0.025")] == count
        assert found[f"{duration}_bucket", labels(**of, le="+Inf")] == count
        assert found[f"{duration}_count", labels(**of)] == count
        assert found[f"{duration}_sum", labels(**of)] == pytest.approx(0.02 * count)
        calls = labels(ingress=ingress, version="7")
        assert found["endeavour_model_calls_total", calls] == count
        assert found["endeavour_model_seconds_total", calls] == pytest.approx(0.001 * count)
        nobody = labels(ingress=ingress, route="", version="", role="", status="401")
        assert found["endeavour_requests_total", nobody] == 1.0
        gate = labels(ingress=ingress, gate="single")
        assert found["endeavour_requests_under_way", gate] == 2.0
        assert found["endeavour_bytes_under_way", gate] == 300.0
        assert found["endeavour_ingress_cpu_seconds_total", labels(ingress=ingress)] == 1.5


def test_a_champion_alone_has_all_of_the_weight() -> None:
    """And nothing is said of an MLflow that is never asked."""
    found = values(PUBLISHED)
    assert found["endeavour_version_weight", labels(version="7", role="champion")] == 1.0
    about = labels(name="m", version="7", role="champion", run_id="run7", digest="ab")
    assert found["endeavour_model_info", about] == 1.0
    assert found["endeavour_ingresses", labels()] == 2.0
    assert found["endeavour_workers", labels()] == 1.0
    assert found["endeavour_rollout_under_way", labels()] == 0.0
    assert ("endeavour_mlflow_answers", labels()) not in found


def test_a_rollout_is_seen_with_what_is_wrong() -> None:
    """Weights, a pause, and everything that an alert may be for."""
    rollout = State(7, "7", "8", 1, 0.0, paused_at=5.0)
    table = Table(9, model_of("7"), model_of("8"), 0.25, is_from_cache=True, rollout=rollout)
    status = {
        **STATUS_UNKNOWN,
        "rollout": rollout.to_json(),
        "mlflow": "does not answer: no",
        "refused": {"9": "why"},
        "unrecorded": 3,
    }
    found = values(replace(PUBLISHED, table=table, status=status))
    assert found["endeavour_version_weight", labels(version="7", role="champion")] == 0.75
    assert found["endeavour_version_weight", labels(version="8", role="challenger")] == 0.25
    for name, value in (
        ("rollout_under_way", 1.0),
        ("rollout_paused", 1.0),
        ("mlflow_answers", 0.0),
        ("refused_versions", 1.0),
        ("unrecorded_decisions", 3.0),
        ("champion_from_cache", 1.0),
    ):
        assert found[f"endeavour_{name}", labels()] == value, name


def test_openmetrics_is_given_to_those_who_take_it() -> None:
    """As Prometheus does."""
    accepted = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    assert is_openmetrics(accepted)
    assert not any(
        map(is_openmetrics, ("", "*/*", "text/plain;version=abc", 'text/plain;version="1"'))
    )
    text, media_type = render({"a": report(1)}, PUBLISHED, as_openmetrics=True)
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    families = openmetrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    names = {one.name for one in families}
    assert {"endeavour_requests", "endeavour_model", "endeavour_workers"} <= names


def test_no_secret_is_told() -> None:
    """How workers are reached is nobody's business."""
    assert b"a-secret" not in render({}, PUBLISHED, as_openmetrics=False)[0]
