"""Alerts and dashboard in deploy/: every query parses, and asks for what `/metrics` says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serve_app.metrics.exposition import render
from serve_app.routing import STATUS_UNKNOWN, Published, Table
from tests.unit.serve_app.metrics.reporting import report
from tests.unit.serve_app.test_description import model_of

DEPLOY = Path(__file__).parents[4] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "endeavour.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())

OF_PROMETHEUS = {"up": {"job", "instance"}}
GRAFANA = {"$__rate_interval": "1m", "$job": "endeavour"}


def alerts() -> list[tuple[str, str]]:
    """Return the queries of the alerts, by their names."""
    return [(rule["alert"], rule["expr"]) for group in RULES["groups"] for rule in group["rules"]]


def panels() -> list[tuple[str, str]]:
    """Return the queries of the dashboard, by the titles of their panels."""
    found = [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]
    notes = [(note["name"], note["expr"]) for note in DASHBOARD["annotations"]["list"]]
    return found + notes


def exposed() -> dict[str, set[str]]:
    """Return the labels of each series that `/metrics` has, with what Prometheus adds."""
    status = {**STATUS_UNKNOWN, "mlflow": "answers"}
    text = render(
        {"a": report(1)}, Published(Table(9, model_of("7")), status=status), as_openmetrics=False
    )[0]
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return labels | OF_PROMETHEUS


def selectors(query: Any) -> list[Any]:
    """Return what a parsed query selects, at any depth."""
    if isinstance(query, promql_parser.VectorSelector):
        return [query]
    if isinstance(query, promql_parser.MatrixSelector):
        return [query.vector_selector]
    parts: list[Any] = []
    for name in ("expr", "lhs", "rhs", "param"):
        part = getattr(query, name, None)
        parts += [] if part is None else [part]
    parts += list(getattr(query, "args", []))
    return [one for part in parts for one in selectors(part)]


@pytest.mark.parametrize(("name", "query"), alerts() + panels())
def test_a_query_asks_for_what_there_is(name: str, query: str) -> None:
    """Its metrics, and the labels that it selects and groups by."""
    for variable, value in GRAFANA.items():
        query = query.replace(variable, value)
    labels = exposed()
    found = selectors(promql_parser.parse(query))
    assert found, name
    grouped = {
        label.strip() for part in re.findall(r"by \(([^)]*)\)", query) for label in part.split(",")
    }
    for selector in found:
        assert selector.name in labels, selector.name
        wanted = {matcher.name for matcher in selector.matchers.matchers} | grouped
        assert wanted <= labels[selector.name], (name, wanted - labels[selector.name])


def test_what_an_alert_and_a_legend_show_is_there() -> None:
    """A label that a query has grouped away would be an empty place."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert all(label in target["expr"] or "by (" not in target["expr"] for label in shown)
    names = [name for name, _ in alerts()]
    assert len(set(names)) == len(names)
    assert all(
        rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket")
        for group in RULES["groups"]
        for rule in group["rules"]
    )


def test_the_job_of_the_alerts_is_the_one_that_is_scraped() -> None:
    """And the rules are read from where they are."""
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "endeavour"
    assert PROMETHEUS["rule_files"] == ["rules.yml"]


def test_panels_lie_beside_one_another() -> None:
    """None over another, all within Grafana's 24 columns, each with an id of its own."""
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & places
        places |= own
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
