"""What clients and strangers may send to the service of `make run`, and what is closed to them."""

from __future__ import annotations

import json
import socket
import time
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from tests.running import Running


def test_a_batch_larger_than_a_call_comes_back_in_order(first: Running) -> None:
    """50,000 rows are spread over the workers and joined again; the model is a line."""
    values = np.linspace(-1, 1, 50_000)
    at_0, at_1 = first.post("/batch", {"X": [0.0, 1.0]}).json()["result"]
    result = first.post("/batch", {"X": values.tolist()}).json()["result"]
    np.testing.assert_allclose(result, at_0 + values * (at_1 - at_0))


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b'{"X": 0.2', "application/json", 400),
        (b'{"X": NaN}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"Y": 0.2}', "application/json", 422),
        (b'{"X": "0.2"}', "application/json", 422),
        (b'{"X": 1e308}', "application/json", 422),
        (b'{"X": 0.2}', "text/plain", 415),
        (b'{"X": 0.2}', "", 415),
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_next_request_served(
    first: Running, body: bytes, content_type: str, status: int
) -> None:
    """A problem document with a code; never a 500."""
    answer = requests.post(
        f"{first.url}/stream", data=body, headers={"content-type": content_type}, timeout=10
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    assert answer.json()["code"]
    assert first.post("/stream", {"X": 0.2}).status_code == 200


def ask_with(
    first: Running, header: str, value: bytes, path: str = "/stream"
) -> tuple[HTTPResponse, bytes]:
    """The answer to a prediction, or what else a path is for, with a header of any bytes."""
    connection = HTTPConnection("127.0.0.1", int(first.environ["PORT"]), timeout=10)
    headers = {"content-type": b"application/json", header: value}
    if path == "/stream":
        connection.request("POST", path, b'{"X": 0.2}', headers)
    else:
        connection.request("GET", path, None, headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-request-timeout-seconds", b"\xff"),
        ("x-request-timeout-seconds", b"1e-9"),
        ("x-request-timeout-seconds", b"nan"),
        ("x-request-disconnect-disabled", b"?1"),
        ("x-request-disconnect-disabled", b"\xff"),
        ("serve_multiplexed_model_id", b"\xff"),
        ("x-session-id", b"\xff"),
    ],
)
def test_headers_meant_for_serve_change_nothing(first: Running, header: str, value: bytes) -> None:
    """Clients choose no deadlines, and no bytes make a 500, whether Serve answers or we do."""
    for path in ("/stream", "/model", "/health/ready", "/admin/rollout"):
        answer, body = ask_with(first, header, value, path)
        assert (answer.status, body) == (200, ask_with(first, "x-any", b"1", path)[1])


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a" * 201])
def test_a_request_id_that_cannot_be_echoed_is_refused(first: Running, value: bytes) -> None:
    """A problem document, not Serve's 500; a fit one comes back as it was."""
    answer, body = ask_with(first, "x-request-id", value)
    assert (answer.status, json.loads(body)["code"]) == (400, "malformed_header")
    assert answer.headers["content-type"] == "application/problem+json"
    answer, _ = ask_with(first, "x-request-id", b"order 66/a")
    assert (answer.status, answer.headers["x-request-id"]) == (200, "order 66/a")


def test_a_client_that_hangs_up_leaves_its_neighbours_their_answers(first: Running) -> None:
    """Sockets closed with a request under way cost nobody an answer."""
    port = int(first.environ["PORT"])
    body = json.dumps({"X": [0.1] * 5000}).encode()
    head = (
        b"POST /batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as rude:
            rude.sendall(head + body)
        assert first.post("/stream", {"X": 0.2}).status_code == 200


def test_the_dashboard_and_its_jobs_need_the_token(first: Running) -> None:
    """Without the token nobody runs code here."""
    for route in ("/api/jobs/", "/api/serve/applications/"):
        assert requests.get(f"{first.dashboard}{route}", timeout=10).status_code in (401, 403)


def test_without_keys_it_says_so_loudly(first: Running) -> None:
    """At the start, where nobody overlooks it."""
    assert "ANYBODY MAY ASK" in first.output()


def test_no_agent_of_ray_takes_a_job_without_the_token(first: Running) -> None:
    """They listen on the host's address; the dashboard's own port isn't the only way in."""
    agents = [one for one in first.processes() if one.cmdline()[:1] == ["ray::DashboardAgent"]]
    listening = [one for agent in agents for one in agent.net_connections("tcp4") if not one.raddr]
    statuses = set()
    for one in listening:
        host = "127.0.0.1" if one.laddr.ip == "0.0.0.0" else one.laddr.ip
        url = f"http://{host}:{one.laddr.port}/api/job_agent/jobs/"
        answer = requests.post(url, json={"entrypoint": "true"}, timeout=10)
        statuses.add(answer.status_code)
    assert 401 in statuses
    assert all(status >= 400 for status in statuses)


def test_what_haproxy_says_of_itself_is_for_this_machine_and_this_user(first: Running) -> None:
    """Statistics and metrics are on loopback; nobody else may open the admin socket."""
    haproxies = [one for one in first.processes() if one.name() == "haproxy"]
    listening = [one for haproxy in haproxies for one in haproxy.net_connections("tcp")]
    listening = [one for one in listening if one.status == psutil.CONN_LISTEN]
    beyond = {one.laddr.port for one in listening if one.laddr.ip != "127.0.0.1"}
    assert beyond == {int(first.environ["PORT"])}
    assert len({one.laddr.port for one in listening}) == 3
    scratch = Path(first.state["scratch"])
    sockets = list(scratch.rglob("admin.sock"))
    assert len(sockets) == 1
    assert [path for path in (scratch, *sockets) if path.stat().st_mode & 0o077] == []


def test_headers_that_drip_are_ended(first: Running) -> None:
    """Serve has no deadline for headers as a whole; launcher/haproxy.py gives HAProxy one."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(first.environ["PORT"])), 5) as link:
        link.settimeout(0.5)
        link.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
        answer = b""
        while not answer and time.monotonic() - began < 20:
            try:
                answer = link.recv(100)
            except TimeoutError:
                link.sendall(b"a")
    assert b" 408 " in answer
    assert 4 < time.monotonic() - began < 8
