"""`make run` from a clean copy, as someone does who has just cloned the project."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from launcher import housekeeping
from tests import running
from tests.conftest import is_needed
from tests.running import Running, Stopped

JOB_S = 240.0
"""For a training job, while others keep all processors busy."""

BODY_STALL_S = 4.0
"""`limits.body_stall_s` as shipped; half of it is longer than Serve by itself lets HAProxy live."""

AGAIN_START_S = 60.0
"""Within which a second `make run` answers, on a machine that has other things to do, too."""


@pytest.fixture(scope="module")
def second(
    first: Running, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Running]:
    """Another copy that serves another model; it may still be starting."""
    copy = running.copy_project(tmp_path_factory.mktemp("second") / "project")
    environ = running.environ(
        free_port, VENV=str(first.root / ".venv"), MODEL_NAME="diabetes-boosting"
    )
    command = ["make", "run", "CONFIG=train_config_boosting.yaml"]
    launched = running.launch(copy, environ, command)
    yield launched
    running.stop(launched)


@pytest.fixture(scope="module", autouse=True)
def _second_goes_ahead(request: pytest.FixtureRequest) -> None:
    """Let it start while the tests of the first one run."""
    if is_needed(request, "second"):
        request.getfixturevalue("second")


def mlflow(service: Running, route: str, **parameters: Any) -> Any:
    """Ask MLflow's REST API."""
    url = f"{service.mlflow_uri}/api/2.0/mlflow/{route}"
    answer = requests.get(url, params=parameters, timeout=10)
    assert answer.ok, answer.text
    return answer.json()


def champion(service: Running) -> dict[str, Any]:
    """The registry's champion."""
    found: dict[str, Any] = mlflow(
        service, "registered-models/alias", name="diabetes", alias="champion"
    )["model_version"]
    return found


def versions(service: Running) -> list[str]:
    """All versions of the default model."""
    found = mlflow(service, "model-versions/search", filter="name='diabetes'")
    return sorted(one["version"] for one in found.get("model_versions", []))


def artifact(service: Running, run_id: str, path: str) -> requests.Response:
    """A run's artifact, as MLflow's page fetches it."""
    return requests.get(
        f"{service.mlflow_uri}/get-artifact", params={"run_id": run_id, "path": path}, timeout=20
    )


def printed_answer(service: Running) -> float:
    """The result of the curl line that `make run` prints."""
    lines = service.output().splitlines()
    command = next(line for line in lines if line.strip().startswith("curl"))
    completed = subprocess.run(
        ["curl", "--silent", *shlex.split(command)[1:]], capture_output=True, check=True, timeout=20
    )
    return float(json.loads(completed.stdout)["result"])


@pytest.mark.timeout(700)
def test_the_curl_line_that_is_printed_gives_the_known_answer(first: Running) -> None:
    """The line at the end of `make run` works as it stands."""
    assert 338 < printed_answer(first) < 343


def test_answers_are_what_the_weights_in_the_run_say(first: Running) -> None:
    """Train, gate, register, promote, serve: the same numbers all the way."""
    run_id = champion(first)["run_id"]
    weights = artifact(first, run_id, "weights.json").json()["own_units"]
    slope, intercept = weights["slope"]["bmi"], weights["intercept"]
    values = [0.2, 0.5, -0.1]
    result = first.post("/batch", {"X": values}).json()["result"]
    assert result == pytest.approx([slope * value + intercept for value in values])
    assert first.post("/stream", {"X": 0.2}).headers["x-model-version"] == "1"
    served = first.get("/model").json()
    assert (served["run_id"], served["versions"][0]["version"]) == (run_id, "1")


def test_mlflow_shows_the_run_and_the_version(first: Running) -> None:
    """The page answers; the run has metrics, losses, data, plots and the decision."""
    assert "MLflow" in requests.get(first.mlflow_uri, timeout=10).text
    version = champion(first)
    run = mlflow(first, "runs/get", run_id=version["run_id"])["run"]
    metrics = {one["key"]: one["value"] for one in run["data"]["metrics"]}
    assert metrics["test_r2"] >= 0.47
    assert metrics["test_mse"] <= 2565
    history = mlflow(
        first, "metrics/get-history", run_id=version["run_id"], metric_key="train_loss"
    )
    assert len(history["metrics"]) >= 50
    assert len(run["inputs"]["dataset_inputs"]) == 2
    for path in ("data/train.csv", "data/test.csv", "gate_decision.json"):
        assert artifact(first, version["run_id"], path).ok, path
    listed = mlflow(first, "artifacts/list", run_id=version["run_id"], path="plots")
    assert len(listed["files"]) >= 4


def test_dashboard_and_mlflow_are_on_loopback(first: Running) -> None:
    """Nobody reaches them from elsewhere."""
    for name in ("RAY_DASHBOARD_PORT", "MLFLOW_PORT"):
        port = int(first.environ[name])
        found = [one for process in first.processes() for one in process.net_connections("tcp")]
        hosts = {one.laddr.ip for one in found if one.laddr.port == port and not one.raddr}
        assert hosts == {"127.0.0.1"}, name


def test_serves_controller_gives_way_to_the_request_path(first: Running) -> None:
    """What no request waits for is behind what answers: HAProxy, ingresses and workers."""
    until = time.monotonic() + 15

    def niceness(title: str) -> set[int]:
        return {one.nice() for one in first.processes() if one.name().startswith(title)}

    while niceness("ray::ServeController") != {housekeeping.NICENESS}:
        assert time.monotonic() < until
        time.sleep(0.2)
    for title in ("haproxy", "ray::ServeReplica", "raylet"):
        assert niceness(title) == {os.nice(0)}, title


@pytest.mark.system
def test_training_again_with_nothing_changed_registers_nothing(first: Running) -> None:
    """`make train` names the version that exists."""
    completed = subprocess.run(
        ["make", "--silent", "train"],
        cwd=first.root,
        env=dict(first.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_S,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "version 1" in completed.stdout
    assert versions(first) == ["1"]


@pytest.mark.system
def test_a_refused_model_changes_nothing_and_the_job_says_3(first: Running) -> None:
    """The gate's exit code comes through Ray's job; alias and versions stay."""
    config = yaml.safe_load((first.root / "train_config.yaml").read_text())
    config["gate"] = {**config.get("gate", {}), "minimum": {"r2": 0.99}}
    config["cross_validation"] = {"folds": 0}
    (first.root / "hard.yaml").write_text(yaml.safe_dump(config))
    completed = subprocess.run(
        [first.root / ".venv/bin/python", "-m", "launcher", "train", "--config", "hard.yaml"],
        cwd=first.root,
        env=dict(first.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_S,
    )
    assert completed.returncode == 3, completed.stdout + completed.stderr
    assert "0.99" in completed.stdout
    assert versions(first) == ["1"]
    assert champion(first)["version"] == "1"


@pytest.mark.system
def test_an_interrupted_training_command_stops_its_job(first: Running) -> None:
    """SIGTERM ends the command as a shell expects, and nobody's job goes on."""
    with subprocess.Popen(
        [first.root / ".venv/bin/python", "-m", "launcher", "train"],
        cwd=first.root,
        env=dict(first.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as command:
        assert command.stdout is not None
        job = command.stdout.readline().split()[1]
        command.send_signal(signal.SIGTERM)
        assert command.wait(30) == 128 + signal.SIGTERM

    def has_ended() -> bool:
        answer = requests.get(
            f"{first.dashboard}/api/jobs/{job}",
            headers={"Authorization": f"Bearer {first.token}"},
            timeout=10,
        )
        return bool(answer.json()["status"] == "STOPPED")

    running.wait_for(has_ended, 30)


@pytest.mark.system
@pytest.mark.timeout(900)
def test_make_run_installs_what_it_needs_and_the_next_one_keeps_everything(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Nothing but Python and make are there: no .venv, and none of the tools of `make test`."""
    root, environ = running.copy_project(tmp_path / "project"), running.environ(free_port)
    with running.system(root, environ, ["make", "run"], running.FIRST_START_S) as service:
        assert 338 < printed_answer(service) < 343
        assert not (root / ".venv" / "bin" / "pytest").exists()
        before = champion(service)
        assert_nothing_is_left(service.interrupt(signal.SIGINT))
    began = time.monotonic()
    with running.system(root, environ, ["make", "run"]) as again:
        took_s = time.monotonic() - began
        print(f"\nstarted again: {took_s:.0f} s")
        assert champion(again) == before
        assert 338 < again.post("/stream", {"X": 0.2}).json()["result"] < 343
        processes = again.processes()
        subprocess.run(["make", "stop"], cwd=root, env=environ, check=True, timeout=60)
        assert not [one for one in processes if running.is_alive(one)]
    assert took_s < AGAIN_START_S


@pytest.mark.system
@pytest.mark.timeout(400)
def test_two_copies_run_side_by_side_and_a_killed_one_is_cleaned_up(
    first: Running, second: Running
) -> None:
    """A second copy serves another model; killed outright, `make stop` ends it; the first never
    notices.
    """
    running.await_start(second)
    assert "GradientBoostingRegressor, 100 stages, loss " in second.output()
    model = second.get("/model").json()
    assert model["name"] == "diabetes-boosting"
    assert len(model["signature"]) == 10
    assert printed_answer(second) > 0
    processes = second.processes()
    ports = running.listening_ports(processes)
    processes[0].kill()
    second.process.wait(10)
    subprocess.run(["make", "stop"], cwd=second.root, env=second.environ, check=True, timeout=60)
    assert not [one for one in processes if running.is_alive(one)]
    assert running.still_held(ports) == []
    assert first.post("/stream", {"X": 0.2}).status_code == 200
    assert first.get("/health/ready").status_code == 200


def test_starting_twice_in_one_copy_is_refused(first: Running) -> None:
    """One line says that it runs already; the running one is left alone."""
    completed = subprocess.run(
        ["make", "--silent", "run"],
        cwd=first.root,
        env=dict(first.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode != 0
    assert "already running" in completed.stderr
    assert first.get("/health/ready").status_code == 200


def test_the_model_is_exported_and_ctrl_c_leaves_nothing(first: Running) -> None:
    """SIGINT ends all processes within 30 s, and a request that is under way is answered."""
    exported = subprocess.run(
        ["make", "--silent", "export"],
        cwd=first.root,
        env=dict(first.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_S,
    )
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert (first.root / "var/model/model.skops").is_file()
    body = json.dumps({"X": [0.2] * 100}).encode()
    with half_asked(first, body) as connection, ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(first.interrupt, signal.SIGINT)
        running.wait_for(lambda: "drained ..." in first.output(), BODY_STALL_S / 2)
        time.sleep(BODY_STALL_S / 2)
        assert not stopping.done()
        connection.sendall(body[len(body) // 2 :])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        assert len(json.load(answer)["result"]) == 100
        assert_nothing_is_left(stopping.result())


@contextmanager
def half_asked(service: Running, body: bytes) -> Iterator[socket.socket]:
    """Have a request to `/batch` under way inside the `with` block, with half of its body sent."""
    where = urlsplit(service.url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        head = (
            f"POST /batch HTTP/1.1\r\nhost: {where.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body[: len(body) // 2])
        yield connection


def assert_nothing_is_left(stopped: Stopped) -> None:
    """No process, no port, in time."""
    assert stopped.processes_left == []
    assert stopped.ports_held == []
    assert stopped.took_s < running.STOP_TIMEOUT_S


@pytest.mark.system
@pytest.mark.timeout(200)
def test_a_closed_terminal_ends_everything(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """The terminal goes away in the middle of the start; nothing stays behind."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port)
    master, terminal = os.openpty()
    # Under `nohup` these tests would hand down to it that hang-ups are ignored.
    default_hang_up = ["env", "--default-signal=HUP"]
    process = subprocess.Popen(
        ["setsid", "--ctty", *default_hang_up, sys.executable, "-m", "launcher", "run"],
        cwd=root,
        env=environ,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    service = Running(root, process, tmp_path / "no.log", environ)
    try:
        running.wait_for(service.has_started, 60)
        started = service.processes()
        os.close(master)
        process.wait(60)
        assert not [one for one in started if running.is_alive(one)]
        assert not (root / "var" / "run.json").exists()
    finally:
        running.stop(service)
