"""The image serves its model with no MLflow anywhere: the HTTP contract over real Serve."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import skops.io

from contract import names
from contract.model_types import TRUSTED_TYPES
from tests.ahead import ServedImage
from tests.e2e.container import Image
from tests.running import Running

Predict = Callable[..., list[float]]


@pytest.fixture(scope="module")
def service(served_image: ServedImage) -> Running:
    """What the image runs: MODEL_SERVED=local. The last test ends it."""
    return served_image.service


@pytest.fixture(scope="module")
def expected(image: Image) -> Predict:
    """What the image's model gives, read without serving."""
    file = image.serve.app / "model" / names.MODEL_FILE
    model = skops.io.load(file, trusted=list(TRUSTED_TYPES))

    def predict(*values: float) -> list[float]:
        result: list[float] = model.predict(np.array(values)[:, np.newaxis]).tolist()
        return result

    return predict


def test_stream_and_batch_answer_as_the_model_does(service: Running, expected: Predict) -> None:
    """One record and many, order kept, version named."""
    one = service.post("/stream", {"X": 0.2})
    assert one.status_code == 200
    np.testing.assert_allclose(one.json()["result"], expected(0.2)[0])
    assert 338 < one.json()["result"] < 343
    assert list(one.json()) == ["result"]
    assert one.headers["x-model-version"] == "1"  # as it was exported
    many = service.post("/batch", {"X": [0.2, 0.5, -0.1]})
    np.testing.assert_allclose(many.json()["result"], expected(0.2, 0.5, -0.1))


def test_a_batch_larger_than_a_call_comes_back_in_order(
    service: Running, expected: Predict
) -> None:
    """50,000 rows are spread over the workers and joined again."""
    values = np.linspace(-1, 1, 50_000)
    result = service.post("/batch", {"X": values.tolist()}).json()["result"]
    np.testing.assert_allclose(result, expected(*values))


def test_the_health_routes_answer(service: Running, image: Image) -> None:
    """`/health` as the original had it; ready after a real prediction; so the image is healthy."""
    assert service.get("/health").text == "Ok"
    assert service.get("/health/live").status_code == 200
    assert service.get("/health/ready").status_code == 200
    assert image.health_code(service.environ) == 0


def test_no_mlflow_server_runs(service: Running) -> None:
    """The directory is all that local mode needs."""
    with pytest.raises(requests.ConnectionError):
        requests.get(service.mlflow_uri, timeout=5)
    assert not [p for p in service.processes() if "mlflow" in " ".join(p.cmdline()).split()]


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
    service: Running, body: bytes, content_type: str, status: int
) -> None:
    """A problem document with a code; never a 500."""
    answer = requests.post(
        f"{service.url}/stream", data=body, headers={"content-type": content_type}, timeout=10
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    assert answer.json()["code"]
    assert service.post("/stream", {"X": 0.2}).status_code == 200


def ask_with(
    service: Running, header: str, value: bytes, path: str = "/stream"
) -> tuple[HTTPResponse, bytes]:
    """The answer to a prediction, or what else a path is for, with a header of any bytes."""
    connection = HTTPConnection("127.0.0.1", int(service.environ["PORT"]), timeout=10)
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
def test_headers_meant_for_serve_change_nothing(
    service: Running, expected: Predict, header: str, value: bytes
) -> None:
    """Clients choose no deadlines, and no bytes make a 500, whether Serve answers or we do."""
    answer, body = ask_with(service, header, value)
    assert answer.status == 200
    np.testing.assert_allclose(json.loads(body)["result"], expected(0.2)[0])
    for path in ("/model", "/health/ready", "/admin/rollout"):
        answer, body = ask_with(service, header, value, path)
        assert (answer.status, body) == (200, ask_with(service, "x-any", b"1", path)[1])


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a" * 201])
def test_a_request_id_that_cannot_be_echoed_is_refused(service: Running, value: bytes) -> None:
    """A problem document, not Serve's 500; a fit one comes back as it was."""
    answer, body = ask_with(service, "x-request-id", value)
    assert (answer.status, json.loads(body)["code"]) == (400, "malformed_header")
    assert answer.headers["content-type"] == "application/problem+json"
    answer, _ = ask_with(service, "x-request-id", b"order 66/a")
    assert (answer.status, answer.headers["x-request-id"]) == (200, "order 66/a")


def test_a_client_that_hangs_up_leaves_its_neighbours_their_answers(service: Running) -> None:
    """Sockets closed with a request under way cost nobody an answer."""
    port = int(service.environ["PORT"])
    body = json.dumps({"X": [0.1] * 5000}).encode()
    head = (
        b"POST /batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as rude:
            rude.sendall(head + body)
        assert service.post("/stream", {"X": 0.2}).status_code == 200


def test_the_dashboard_and_its_jobs_need_the_token(service: Running) -> None:
    """Without the token nobody runs code here."""
    for route in ("/api/jobs/", "/api/serve/applications/"):
        assert requests.get(f"{service.dashboard}{route}", timeout=10).status_code in (401, 403)


def test_without_keys_it_says_so_loudly(service: Running) -> None:
    """At the start, where nobody overlooks it."""
    assert "ANYBODY MAY ASK" in service.output()


def test_no_agent_of_ray_takes_a_job_without_the_token(service: Running) -> None:
    """They listen on the host's address; the dashboard's own port isn't the only way in."""
    agents = [one for one in service.processes() if one.cmdline()[:1] == ["ray::DashboardAgent"]]
    listening = [one for agent in agents for one in agent.net_connections("tcp4") if not one.raddr]
    statuses = set()
    for one in listening:
        host = "127.0.0.1" if one.laddr.ip == "0.0.0.0" else one.laddr.ip
        url = f"http://{host}:{one.laddr.port}/api/job_agent/jobs/"
        answer = requests.post(url, json={"entrypoint": "true"}, timeout=10)
        statuses.add(answer.status_code)
    assert 401 in statuses
    assert all(status >= 400 for status in statuses)


def test_what_haproxy_says_of_itself_is_for_this_machine_and_this_user(service: Running) -> None:
    """Statistics and metrics are on loopback; nobody else may open the admin socket."""
    haproxies = [one for one in service.processes() if one.name() == "haproxy"]
    listening = [one for haproxy in haproxies for one in haproxy.net_connections("tcp")]
    listening = [one for one in listening if one.status == psutil.CONN_LISTEN]
    beyond = {one.laddr.port for one in listening if one.laddr.ip != "127.0.0.1"}
    assert beyond == {int(service.environ["PORT"])}
    assert len({one.laddr.port for one in listening}) == 3
    scratch = Path(service.state["scratch"])
    sockets = list(scratch.rglob("admin.sock"))
    assert len(sockets) == 1
    assert [path for path in (scratch, *sockets) if path.stat().st_mode & 0o077] == []


def test_headers_that_drip_are_ended(service: Running) -> None:
    """Serve has no deadline for headers as a whole; launcher/haproxy.py gives HAProxy one."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(service.environ["PORT"])), 5) as link:
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


def test_sigterm_ends_the_image_which_has_written_to_var_only(
    service: Running, image: Image, served_image: ServedImage
) -> None:
    """Exit code 0, no process, no port; after all the tests above."""
    stopped = service.interrupt(signal.SIGTERM)
    assert (stopped.code, stopped.processes_left, stopped.ports_held) == (0, [], [])
    assert image.health_code(service.environ) == 1
    assert image.files() == served_image.files
