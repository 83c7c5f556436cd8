"""A directory served with no MLflow anywhere: the HTTP contract over real Serve."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from tests import models, running
from tests.running import Running

SLOPE_AND_INTERCEPT = (938.2378612512636, 152.91886182616173)


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Running]:
    """A service that was told MODEL_SERVED=local."""
    folder = tmp_path_factory.mktemp("local")
    rows, target = load_diabetes(return_X_y=True)
    bmi = rows[:-20, 2:3]
    estimator = LinearRegression().fit(bmi, target[:-20])
    directory = models.write(folder / "model", estimator, bmi, ["bmi"])
    root = running.copy_project(folder / "project")
    environ = running.environ(free_port, MODEL_SERVED="local", MODEL_DIR=str(directory))
    with running.system(root, environ) as started:
        yield started


def expected(*values: float) -> list[float]:
    """What the model's weights give."""
    slope, intercept = SLOPE_AND_INTERCEPT
    return [slope * value + intercept for value in values]


def test_stream_and_batch_answer_as_the_weights_say(service: Running) -> None:
    """One record and many, order kept, version named."""
    one = service.post("/stream", {"X": 0.2})
    assert one.status_code == 200
    np.testing.assert_allclose(one.json()["result"], expected(0.2)[0])
    assert list(one.json()) == ["result"]
    assert one.headers["x-model-version"] == "local"
    many = service.post("/batch", {"X": [0.2, 0.5, -0.1]})
    np.testing.assert_allclose(many.json()["result"], expected(0.2, 0.5, -0.1))


def test_a_batch_larger_than_a_call_comes_back_in_order(service: Running) -> None:
    """50,000 rows are spread over the workers and joined again."""
    values = np.linspace(-1, 1, 50_000)
    result = service.post("/batch", {"X": values.tolist()}).json()["result"]
    np.testing.assert_allclose(result, expected(*values))


def test_the_health_routes_answer(service: Running) -> None:
    """`/health` as the original had it; ready after a real prediction."""
    assert service.get("/health").text == "Ok"
    assert service.get("/health/live").status_code == 200
    assert service.get("/health/ready").status_code == 200


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


def test_a_worker_killed_under_load_loses_no_request(service: Running) -> None:
    """With two workers, one SIGKILL leaves every request answered right; a new one comes."""
    until = time.monotonic() + 8
    statuses: list[int] = []
    wrong: list[float] = []

    def ask() -> None:
        session = requests.Session()
        while time.monotonic() < until:
            answer = session.post(f"{service.url}/stream", json={"X": 0.2}, timeout=30)
            statuses.append(answer.status_code)
            if answer.ok and abs(answer.json()["result"] - expected(0.2)[0]) > 1e-6:
                wrong.append(answer.json()["result"])

    before = {replica["replica_id"]: replica for replica in service.replicas("ModelWorker")}
    assert len(before) == 2
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    time.sleep(1.0)
    psutil.Process(next(iter(before.values()))["pid"]).send_signal(signal.SIGKILL)
    for asker in askers:
        asker.join(60)
    assert set(statuses) == {200}
    assert not wrong
    assert len(statuses) > 100

    def is_whole_again() -> bool:
        now = {replica["replica_id"] for replica in service.replicas("ModelWorker")}
        return len(now) == 2 and now != set(before)

    running.wait_for(is_whole_again, 60)


def test_the_dashboard_and_its_jobs_need_the_token(service: Running) -> None:
    """Without the token nobody runs code here."""
    for route in ("/api/jobs/", "/api/serve/applications/"):
        assert requests.get(f"{service.dashboard}{route}", timeout=10).status_code in (401, 403)


def test_the_model_directory_is_named_if_it_is_missing(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """The start fails within 30 s with one clear line, and leaves nothing."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MODEL_SERVED="local", MODEL_DIR=str(tmp_path / "none"))
    began = time.monotonic()
    with pytest.raises(
        RuntimeError, match=r"ended with 2(?s:.*)none holds no model: .*make export"
    ):
        running.start(root, environ)
    assert time.monotonic() - began < 30
    assert not (root / "var" / "run.json").exists()
