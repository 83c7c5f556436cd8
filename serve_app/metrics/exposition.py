"""Prometheus' text of what was counted and of what is served: pure.

Each ingress has series of its own, as each process of a service has: none of them ever falls but
when a process ends, and queries sum them up. Names and labels follow
https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from serve_app.metrics.counts import BOUNDS_S, Report
from serve_app.routing import ANSWERS, CHAMPION, STATUS_UNKNOWN, Published

_OPENMETRICS: Final = "application/openmetrics-text"

_BUCKETS: Final = (*map(str, BOUNDS_S), "+Inf")

_MEDIA_TYPE: Final = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"

_OF_REQUESTS: Final = ("ingress", "route", "version", "role")
_OF_CALLS: Final = ("ingress", "version")
_OF_GATES: Final = ("ingress", "gate")


def is_openmetrics(accepted: str) -> bool:
    """Whether an `accept` header takes OpenMetrics: who takes it prefers it to Prometheus' own."""
    # `prometheus_client.choose_encoder` raises for versions that are no numbers.
    return any(one.split(";")[0].strip() == _OPENMETRICS for one in accepted.split(","))


def render(
    reports: Mapping[str, Report], published: Published, as_openmetrics: bool
) -> tuple[bytes, str]:
    """Return the text and its media type: OpenMetrics, or Prometheus' own format."""
    collected = _Collected(reports, published)
    if as_openmetrics:
        text: bytes = openmetrics.generate_latest(collected, version="1.0.0")  # type: ignore[no-untyped-call]
        return text, _MEDIA_TYPE
    return generate_latest(collected), CONTENT_TYPE_PLAIN_0_0_4


class _Collected(Collector):
    def __init__(self, reports: Mapping[str, Report], published: Published) -> None:
        self._reports = reports
        self._published = published

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        yield from _requests(self._reports)
        yield from _calls(self._reports)
        yield from _ingresses(self._reports)
        yield from _standing(self._published)


def _requests(reports: Mapping[str, Report]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "endeavour_requests",
        "Requests to the routes that predict, by status; 499 if the client hung up. Those that "
        "were refused for their API key have no version.",
        labels=(*_OF_REQUESTS, "status"),
    )
    durations = HistogramMetricFamily(
        "endeavour_request_duration_seconds",
        "From the end of a request's body to the end of its answer; of those answered with 200.",
        labels=_OF_REQUESTS,
    )
    records = CounterMetricFamily(
        "endeavour_records", "Records of requests answered with 200.", labels=_OF_REQUESTS
    )
    for ingress, report in reports.items():
        for status, count in report.counts.not_let_in.statuses.items():
            requests.add_metric((ingress, "", "", "", str(status)), count)
        for version, counts in report.counts.versions.items():
            for (route, role), found in counts.requests.items():
                labels = (ingress, route, version, role)
                for status, count in found.statuses.items():
                    requests.add_metric((*labels, str(status)), count)
                buckets = zip(_BUCKETS, accumulate(found.durations), strict=True)
                durations.add_metric(labels, list(buckets), found.seconds)
                records.add_metric(labels, found.records)
    yield from (requests, durations, records)


def _calls(reports: Mapping[str, Report]) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "endeavour_model_calls",
        "Calls of ingresses to workers that were answered, each for the requests that had come.",
        labels=_OF_CALLS,
    )
    records = CounterMetricFamily(
        "endeavour_model_records", "Records in these calls.", labels=_OF_CALLS
    )
    seconds = CounterMetricFamily(
        "endeavour_model_seconds", "Time that the model took for these calls.", labels=_OF_CALLS
    )
    for ingress, report in reports.items():
        for version, counts in report.counts.versions.items():
            calls.add_metric((ingress, version), counts.calls.calls)
            records.add_metric((ingress, version), counts.calls.records)
            seconds.add_metric((ingress, version), counts.calls.seconds)
    yield from (calls, records, seconds)


def _ingresses(reports: Mapping[str, Report]) -> Iterator[Metric]:
    requests = GaugeMetricFamily(
        "endeavour_requests_under_way",
        "Requests that wait for their prediction, by the gate that let them in.",
        labels=_OF_GATES,
    )
    content = GaugeMetricFamily(
        "endeavour_bytes_under_way",
        "Bytes of bodies and of large answers under way, by the gate that let them in.",
        labels=_OF_GATES,
    )
    processor = CounterMetricFamily(
        "endeavour_ingress_cpu_seconds",
        "Processor time that an ingress has used; it can use one processor.",
        labels=("ingress",),
    )
    for ingress, report in reports.items():
        for gate, under_way in report.under_way.items():
            requests.add_metric((ingress, gate), under_way.requests)
            content.add_metric((ingress, gate), under_way.content_bytes)
        processor.add_metric((ingress,), report.processor_s)
    yield from (requests, content, processor)


def _standing(published: Published) -> Iterator[Metric]:
    table, status = published.table, published.status
    model = InfoMetricFamily(
        "endeavour_model",
        "What is served.",
        labels=("name", "version", "role", "run_id", "digest"),
    )
    weight = GaugeMetricFamily(
        "endeavour_version_weight",
        "Share of the clients that a version answers.",
        labels=("version", "role"),
    )
    for one, role in table.routed:
        version = one.version
        share = 1.0 - table.weight if role == CHAMPION else table.weight
        weight.add_metric((version.version, role), share)
        about = (version.name, version.version, role, version.run_id or "", version.digest)
        model.add_metric(about, {})
    yield from (model, weight)

    def gauge(name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"endeavour_{name}", text, value=value)

    rollout = status["rollout"]
    yield gauge("ingresses", "Ingresses that follow the controller.", published.ingresses)
    yield gauge("workers", "Workers that hold all versions.", len(published.workers))
    yield gauge("rollout_under_way", "Whether a rollout is on.", rollout is not None)
    yield gauge(
        "rollout_paused",
        "Whether a person has paused it.",
        rollout is not None and rollout["paused_at"] is not None,
    )
    if status["mlflow"] != STATUS_UNKNOWN["mlflow"]:
        yield gauge(
            "mlflow_answers",
            "Whether MLflow did what it was last asked for; not there if it never is asked.",
            status["mlflow"] == ANSWERS,
        )
    yield gauge(
        "unrecorded_decisions", "Decisions that MLflow could not be told yet.", status["unrecorded"]
    )
    yield gauge(
        "refused_versions",
        "Versions that an alias names and that can't be served.",
        len(status["refused"]),
    )
    yield gauge(
        "champion_from_cache",
        "Whether the champion is what was served last, which MLflow has not confirmed.",
        table.is_from_cache,
    )
