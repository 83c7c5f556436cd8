"""A worker counts what waits, knows when its model hangs, and keeps requests apart."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LinearRegression

from serve_app import registry
from serve_app.scaling import BUSY_SHARE, QUEUED_ROWS
from serve_app.settings import Limits, Settings
from serve_app.worker import Call, ModelWorker, Recorder
from tests import models

ROWS = np.random.default_rng(0).normal(size=(10, 1))


class Held:
    """An estimator that answers once its gate is open; negative rows make it raise."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()

    def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Double each row."""
        self.started.set()
        self.gate.wait(10)
        if (rows < 0).any():
            raise ValueError("negative")
        values: npt.NDArray[Any] = rows[:, 0] * 2
        return values


class Worker(ModelWorker):
    """A worker that joins nothing: `@serve.batch` runs inside replicas only."""

    async def _batch(self, call: Any) -> Any:
        return (await self._answers([call]))[0]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory."""
    estimator = LinearRegression().fit(ROWS, ROWS[:, 0])
    return models.write(tmp_path_factory.mktemp("worker") / "model", estimator, ROWS, ["x"])


def worker_of(estimator: Held, directory: Path, deadline_s: float = 30.0) -> Worker:
    """A worker that has loaded a model, whose estimator is then replaced."""
    settings = Settings(
        model_served="local", model_dir=directory, limits=Limits(deadline_s=deadline_s)
    )
    worker = Worker(registry.resolve(settings), settings)
    worker._model = replace(worker._model, estimator=estimator)
    return worker


def test_the_recorder_counts_time_and_the_longest_queue() -> None:
    """Statistics are of the time since they were last taken."""
    recorder = Recorder(now=100.0)
    with recorder.queued(10), recorder.queued(30):
        recorder.begin(now=101.0)
        recorder.end(now=101.5)
    assert recorder.take(now=102.0) == {BUSY_SHARE: 0.25, QUEUED_ROWS: 40.0}
    assert recorder.take(now=103.0) == {BUSY_SHARE: 0.0, QUEUED_ROWS: 0.0}


def test_a_cancelled_call_is_counted_down(directory: Path) -> None:
    """Its rows wait no longer, though the model never saw them."""

    async def scenario() -> None:
        held = Held()
        worker = worker_of(held, directory)
        first = asyncio.create_task(worker.predict(np.ones((1, 1)), (1,)))
        await asyncio.to_thread(held.started.wait, 10)
        second = asyncio.create_task(worker.predict(np.ones((70, 1)), (70,)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (await worker.record_autoscaling_stats())[QUEUED_ROWS] == 71.0
        assert (await worker.record_autoscaling_stats())[QUEUED_ROWS] == 1.0
        held.gate.set()
        assert (await first).values.tolist() == [2.0]

    asyncio.run(scenario())


def test_a_model_that_hangs_makes_the_worker_unhealthy(directory: Path) -> None:
    """Serve replaces a worker whose batch is older than two deadlines."""

    async def scenario() -> None:
        held = Held()
        worker = worker_of(held, directory, deadline_s=1e-6)
        await worker.check_health()
        call = asyncio.create_task(worker.predict(np.ones((1, 1)), (1,)))
        await asyncio.to_thread(held.started.wait, 10)
        with pytest.raises(RuntimeError, match="busy with one batch"):
            await worker.check_health()
        held.gate.set()
        await call
        await worker.check_health()

    asyncio.run(scenario())


def test_an_answer_says_how_long_the_model_took(directory: Path) -> None:
    """With what it was joined to, and without waiting before."""
    held = Held()
    worker = worker_of(held, directory)
    calls = [Call(np.ones((rows, 1)), (rows,), wants_probabilities=False) for rows in (1, 2)]
    threading.Timer(0.05, held.gate.set).start()
    begun = time.monotonic()
    answers = asyncio.run(worker._answers(calls))
    took_s = time.monotonic() - begun
    assert all(0.04 < answer.model_s <= took_s for answer in answers)


def test_calls_that_are_joined_get_their_own_outcomes(directory: Path) -> None:
    """A bad record in one request of one call leaves all others their values."""
    held = Held()
    held.gate.set()
    worker = worker_of(held, directory)
    calls = [
        Call(np.array([[1.0], [2.0], [-1.0]]), (2, 1), wants_probabilities=False),
        Call(np.array([[3.0]]), (1,), wants_probabilities=False),
    ]
    one, two = asyncio.run(worker._answers(calls))
    assert one.errors == {2: "the model raised ValueError for this record"}
    assert one.values[:2].tolist() == [2.0, 4.0]
    assert (two.errors, two.values.tolist()) == ({}, [6.0])
