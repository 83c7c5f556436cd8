"""The long form of a killed worker: again and again, under load, with every answer checked."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from sklearn.linear_model import LinearRegression

from tests import models, running

KILLS = 10
ROWS = np.random.default_rng(0).normal(size=(50, 1))


@pytest.mark.system
@pytest.mark.timeout(600)
def test_ten_workers_killed_under_load_lose_no_request(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Streams and batches go on, each answered once and right."""
    estimator = LinearRegression().fit(ROWS, 3 * ROWS[:, 0])
    directory = models.write(tmp_path / "model", estimator, ROWS, ["x"])
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MODEL_SERVED="local", MODEL_DIR=str(directory))
    stop = threading.Event()
    answers: list[tuple[int, bool]] = []

    def ask(route: str, x: object, expected: object) -> None:
        session = requests.Session()
        while not stop.is_set():
            answer = session.post(f"{service.url}{route}", json={"X": x}, timeout=30)
            is_right = answer.ok and answer.json()["result"] == pytest.approx(expected)
            answers.append((answer.status_code, bool(is_right)))

    with running.system(root, environ) as service:
        batch = ROWS[:, 0].tolist()
        expected = (3 * ROWS[:, 0]).tolist()
        askers = [threading.Thread(target=ask, args=("/stream", 1.5, 4.5)) for _ in range(3)]
        askers += [threading.Thread(target=ask, args=("/batch", batch, expected))]
        for asker in askers:
            asker.start()
        try:
            for _ in range(KILLS):
                workers = service.replicas("ModelWorker")
                psutil.Process(workers[0]["pid"]).send_signal(signal.SIGKILL)
                killed = workers[0]["replica_id"]

                def is_replaced(killed: str = killed) -> bool:
                    now = [one["replica_id"] for one in service.replicas("ModelWorker")]
                    return len(now) == 2 and killed not in now

                running.wait_for(is_replaced, 60)
                time.sleep(1.0)
        finally:
            stop.set()
            for asker in askers:
                asker.join(60)
    assert len(answers) > 1000
    assert set(answers) == {(200, True)}
