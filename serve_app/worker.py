"""ModelWorker: the model in memory, predictions through `@serve.batch`, one outcome a row."""

import asyncio
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from ray import serve

from serve_app import registry, scaling
from serve_app.predictions import Predictions
from serve_app.records import Rows
from serve_app.served import ServedVersion
from serve_app.settings import Settings

MAX_CALLS_PER_BATCH = 8


@dataclass(frozen=True, slots=True)
class _Call:
    rows: Rows
    wants_probabilities: bool


class Recorder:
    """Counts what the autoscaling policy asks for. Times are in seconds on a monotonic clock."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._busy_s = 0.0
        self._queued_rows = 0
        self._most_queued_rows = 0

    def queue(self, rows: int) -> None:
        """Count rows that arrive."""
        self._queued_rows += rows
        self._most_queued_rows = max(self._most_queued_rows, self._queued_rows)

    def done(self, rows: int, busy_s: float) -> None:
        """Count rows that the model has answered."""
        self._queued_rows -= rows
        self._busy_s += busy_s

    def take(self, now: float) -> dict[str, float]:
        """Return the statistics since the last call, and start anew."""
        elapsed_s = max(now - self._since, 1e-9)
        taken = {
            scaling.BUSY_SHARE: min(self._busy_s / elapsed_s, 1.0),
            scaling.QUEUED_ROWS: float(self._most_queued_rows),
        }
        self._since, self._busy_s, self._most_queued_rows = now, 0.0, self._queued_rows
        return taken


class ModelWorker:
    """Loads one exact version and predicts rows with it."""

    def __init__(self, version: ServedVersion, settings: Settings) -> None:
        self._model = registry.load(version, settings)
        # One thread: the model computes off the event loop, which goes on answering Serve.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._recorder = Recorder(time.monotonic())
        self._model.predict(self._model.example)

    async def predict(self, rows: Rows, wants_probabilities: bool = False) -> Predictions:
        """Return one outcome for each of `rows`, shape (records, features), in order."""
        self._recorder.queue(len(rows))
        answer: Predictions = await self._batch(_Call(rows, wants_probabilities))
        return answer

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `scaling.worker_policy` decides by; called by Serve."""
        return self._recorder.take(time.monotonic())

    @serve.batch(max_batch_size=MAX_CALLS_PER_BATCH, batch_wait_timeout_s=0)
    async def _batch(self, calls: list[_Call]) -> list[Predictions]:
        """Predict the calls that wait, all of one kind at once."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._predict_all, calls)
        finally:
            rows = sum(len(call.rows) for call in calls)
            self._recorder.done(rows, time.monotonic() - started)

    def _predict_all(self, calls: list[_Call]) -> list[Predictions]:
        kinds: dict[bool, list[int]] = defaultdict(list)
        for at, call in enumerate(calls):
            kinds[call.wants_probabilities].append(at)
        answers: dict[int, Predictions] = {}
        for wants_probabilities, indexes in kinds.items():
            predict = self._model.probabilities if wants_probabilities else self._model.predict
            blocks = [calls[at].rows for at in indexes]
            outcome = predict(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
            start = 0
            for at, block in zip(indexes, blocks, strict=True):
                answers[at] = outcome.part(start, start + len(block))
                start += len(block)
        return [answers[at] for at in range(len(calls))]
