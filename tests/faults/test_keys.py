"""API keys on a running system, over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from serve_app.metrics.reports import LEASE_S, PERIOD_S
from tests import running, tls
from tests.faults.conftest import SLOPE, System
from tests.faults.injections import connected
from tests.running import ROOT
from tests.tls import ASK_S

SEEN_S = LEASE_S + 2 * PERIOD_S
"""Within which a gone ingress is shown no more, and what the others have counted is."""

FOLLOWED_S = 6.0
"""Within which each ingress goes by a changed file; 4 s, and the machine's own delays."""


def keys(system: System, *arguments: str) -> str:
    """Run `python -m serve_app keys ...` on the system's file."""
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "keys", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "ENDEAVOUR_API_KEYS_FILE": system.service.environ["ENDEAVOUR_API_KEYS_FILE"],
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


def status(system: System, sent: str, route: str = "/stream", body: object = None) -> int:
    """What a key gets, on a connection of its own."""
    body = {"X": 1.0} if body is None else body
    return system.service.post(route, body, headers={"x-api-key": sent}).status_code


def statuses(system: System, sent: str, times: int = 20) -> set[int]:
    """What it gets from whichever ingress answers."""
    return {status(system, sent) for _ in range(times)}


def counted(system: System, sent: str) -> requests.Response:
    """Ask for metrics, as Prometheus sends a key."""
    headers = {"authorization": f"Bearer {sent}"}
    return requests.get(f"{system.service.url}/metrics", headers=headers, timeout=10)


def test_keys_come_and_go_while_the_service_runs(system: System) -> None:
    """A rotation: both are taken for a while; nobody else notices anything."""
    with system.traffic() as under_way:
        old = keys(system, "create")
        began = time.monotonic()
        running.wait_for(lambda: statuses(system, old) == {200}, FOLLOWED_S)
        taken_s = time.monotonic() - began
        new = keys(system, "create", "--note", "the next one")
        running.wait_for(lambda: statuses(system, new) == {200}, FOLLOWED_S)
        assert statuses(system, old) == {200}
        keys(system, "revoke", old)
        began = time.monotonic()
        running.wait_for(lambda: statuses(system, old) == {401}, FOLLOWED_S)
        print(f"\na new key: {taken_s:.1f} s; revoked: {time.monotonic() - began:.1f} s")
        assert statuses(system, new) == {200}
        under_way.stop().check()


def test_a_key_is_for_its_scopes(system: System) -> None:
    """Predictions, true values, rollouts, metrics: each by itself."""
    predict, feedback = keys(system, "create"), keys(system, "create", "--scopes", "feedback")
    running.wait_for(lambda: statuses(system, predict) == {200}, FOLLOWED_S)
    running.wait_for(lambda: statuses(system, feedback) == {403}, FOLLOWED_S)
    label = {"request_id": "r1", "value": 1.0}
    command = {"action": "abort", "reason": "to see"}
    for route, body, expected in (
        ("/feedback", label, (403, 202)),
        ("/admin/rollout", command, (403, 403)),
    ):
        assert status(system, predict, route, body) == expected[0]
        assert status(system, feedback, route, body) == expected[1]
    assert status(system, system.service.key, "/admin/rollout", command) == 409
    assert counted(system, predict).status_code == 403
    assert system.service.get("/metrics").status_code == 200
    anybody = requests.get(f"{system.service.url}/model", timeout=10)
    assert (anybody.status_code, anybody.json()["code"]) == (401, "unauthenticated")
    assert requests.get(f"{system.service.url}/health/ready", timeout=10).status_code == 200
    key_id, secret = predict.split(".")
    browser = requests.get(f"{system.service.url}/model", auth=(key_id, secret), timeout=10)
    assert browser.status_code == 200
    document = requests.get(
        f"{system.service.url}/openapi.json",
        headers={"authorization": f"Bearer {predict}"},
        timeout=10,
    )
    assert "securitySchemes" in document.json()["components"]


def test_any_ingress_says_what_all_have_counted(system: System) -> None:
    """Whoever answers; requests that were refused for their key are there, too."""

    def seen() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(counted(system, system.service.key).text):
            for sample in family.samples:
                if sample.name == "endeavour_requests_total" and sample.value:
                    one = found.setdefault(sample.labels["ingress"], set())
                    one.add(sample.labels["status"])
        return found

    def are_both_there() -> bool:
        both = [seen() for _ in range(4)]
        return all(
            len(one) == 2 and all({"200", "401"} <= own for own in one.values()) for one in both
        )

    for _ in range(20):
        assert status(system, system.service.key) == 200
        assert status(system, "edv_nobody.secret") == 401
    running.wait_for(are_both_there, SEEN_S)


def test_a_key_has_its_rate_over_all_ingresses(system: System) -> None:
    """Beyond it 429 says when to come back."""
    limited = keys(system, "create", "--rate", "20")
    running.wait_for(lambda: 401 not in statuses(system, limited, 5), FOLLOWED_S)
    time.sleep(2.0)
    began = time.monotonic()
    answers = []
    while time.monotonic() - began < 5.0:
        answers.append(system.service.post("/stream", {"X": 1.0}, headers={"x-api-key": limited}))
    through = sum(answer.status_code == 200 for answer in answers)
    refused = [answer for answer in answers if answer.status_code == 429]
    print(f"\n20 a second, in 5 s: {through} let through, {len(refused)} refused")
    assert {answer.status_code for answer in answers} == {200, 429}
    assert 50 <= through <= 20 * 5 + 20 + 5
    assert refused[0].json()["code"] == "rate_limited"
    assert int(refused[0].headers["retry-after"]) >= 1


def refused_at_once(system: System, sent: str, route: str) -> bytes:
    """Announce a large body, send none, and return what is said."""
    began = time.monotonic()
    with connected(system) as client:
        client.sendall(
            f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"x-api-key: {sent}\r\ncontent-length: 10000000\r\n\r\n".encode()
        )
        said = b""
        while b"}" not in said and (more := client.recv(65536)):  # the headers may come first
            said += more
    took_ms = 1000 * (time.monotonic() - began)
    print(f"\n10 MB for {route}: {said[:12].decode()} after {took_ms:.0f} ms")
    return said


def test_who_is_let_in_is_said_before_the_body_is_there(system: System) -> None:
    """However much is announced: to strangers, to keys for something else, and to those who ask
    too often. Of a secret that is wrong nothing is repeated."""
    predict, rare = keys(system, "create"), keys(system, "create", "--rate", "1")
    running.wait_for(lambda: statuses(system, predict) == {200}, FOLLOWED_S)
    running.wait_for(lambda: 401 not in statuses(system, rare), FOLLOWED_S)
    wrong = f"{predict.partition('.')[0]}.wrong"
    for sent, route, status_line, code in (
        (wrong, "/batch", b"HTTP/1.1 401 ", b'"unauthenticated"'),
        (predict, "/feedback", b"HTTP/1.1 403 ", b'"forbidden"'),
        (rare, "/batch", b"HTTP/1.1 429 ", b'"rate_limited"'),
    ):
        said = refused_at_once(system, sent, route)
        assert said.startswith(status_line)
        assert code in said
        assert sent.encode() not in said


def test_production_without_keys_does_not_start(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """It says the way out, before anything is started; elsewhere it warns."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, ENDEAVOUR_ENV="production")
    done = subprocess.run(
        [*running.LAUNCHER],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "no API keys are set" in done.stderr
    assert "keys create" in done.stderr


def test_over_tls_a_key_lets_in_and_nothing_else_does(
    system: System, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """With the shipped configuration in front, and the client's word on who it is not believed."""
    service = system.service.url.removeprefix("http://")
    with tls.in_front_of(service, tmp_path, free_port) as front:
        body, key = {"X": 1.5}, {"x-api-key": system.service.key}
        verified: dict[str, Any] = {"json": body, "verify": str(front.root), "timeout": ASK_S}
        answer = requests.post(f"{front.url}/stream", headers=key, **verified)
        assert (answer.status_code, answer.json()) == (200, {"result": SLOPE * 1.5})
        assert "max-age=" in answer.headers["strict-transport-security"]
        without = requests.post(f"{front.url}/stream", **verified)
        assert (without.status_code, without.json()["code"]) == (401, "unauthenticated")
        plain = requests.post(f"{front.plain_url}/stream", headers=key, json=body, timeout=ASK_S)
        assert (plain.status_code, plain.json()["code"]) == (403, "tls_required")
