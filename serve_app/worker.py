"""ModelWorker: the model in memory, predictions through `@serve.batch`, one outcome a row."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import ray
from ray import serve

from serve_app import registry, scaling
from serve_app.channel import Address, Server
from serve_app.garbage import collect_rarely
from serve_app.pace import Pace
from serve_app.predictions import Predictions
from serve_app.rows import Rows
from serve_app.served import ServedVersion
from serve_app.settings import Settings

MAX_CALLS_PER_BATCH = 8
QUICK_S = 0.002
"""A model that answers within this may hold up the event loop: handing over takes as long."""
DEADLINES_PER_BATCH = 2.0
"""A batch that takes this many request deadlines hangs: nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one ingress asks for."""

    rows: Rows
    sizes: tuple[int, ...]
    wants_probabilities: bool


class Recorder:
    """Counts what the autoscaling policy asks for. Times are in seconds on a monotonic clock."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._busy_s = 0.0
        self._busy_since: float | None = None
        self._queued_rows = 0
        self._most_queued_rows = 0

    @contextlib.contextmanager
    def queued(self, rows: int) -> Iterator[None]:
        """Count rows as waiting while their call is under way, however it ends."""
        self._queued_rows += rows
        self._most_queued_rows = max(self._most_queued_rows, self._queued_rows)
        try:
            yield
        finally:
            self._queued_rows -= rows

    @property
    def is_busy(self) -> bool:
        """Whether the model has a batch."""
        return self._busy_since is not None

    def begin(self, now: float) -> None:
        """Note that the model starts on a batch."""
        self._busy_since = now

    def end(self, now: float) -> None:
        """Note that the model is done with its batch."""
        if self._busy_since is not None:
            self._busy_s += now - self._busy_since
        self._busy_since = None

    def batch_age_s(self, now: float) -> float:
        """Return how long the present batch has been with the model; 0 if there's none."""
        since = self._busy_since
        return 0.0 if since is None else now - since

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
        self._pace = Pace(QUICK_S)
        self._recorder = Recorder(time.monotonic())
        self._deadline_s = settings.limits.deadline_s
        self._server = Server(self.predict)
        self._address: Address | None = None
        collect_rarely()

    async def address(self) -> Address:
        """Return where ingresses reach this worker without Serve's own calls."""
        if self._address is None:
            host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            self._address = (host, await self._server.start(host), self._server.secret)
        return self._address

    def __del__(self) -> Any:
        """Return what answers the calls under way, if there are any; Serve awaits it at the end."""
        server: Server | None = getattr(self, "_server", None)
        return server.close(self._deadline_s) if server is not None and server.is_busy else None

    async def predict(
        self, rows: Rows, sizes: tuple[int, ...], wants_probabilities: bool = False
    ) -> Predictions:
        """Return one outcome for each of `rows`, shape (records, features), in order.

        `sizes` are the row counts of the requests in `rows`, which fail each by itself.
        """
        call = Call(rows, sizes, wants_probabilities)
        if self._pace.is_quick(len(rows)) and not self._recorder.is_busy:
            return self._predict_all([call], len(rows))[0]
        # Counted down here: a call that is cancelled while it waits never reaches `_batch`.
        with self._recorder.queued(len(rows)):
            answer: Predictions = await self._batch(call)
            return answer

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `scaling.worker_policy` decides by; called by Serve."""
        return self._recorder.take(time.monotonic())

    async def check_health(self) -> None:
        """Raise if the model hangs; called by Serve, which then replaces this worker."""
        age_s = self._recorder.batch_age_s(time.monotonic())
        if age_s > DEADLINES_PER_BATCH * self._deadline_s:
            raise RuntimeError(f"the model has been busy with one batch for {age_s:.0f} s")

    @serve.batch(max_batch_size=MAX_CALLS_PER_BATCH, batch_wait_timeout_s=0)
    async def _batch(self, calls: list[Call]) -> list[Predictions]:
        return await self._answers(calls)

    async def _answers(self, calls: list[Call]) -> list[Predictions]:
        """Predict the calls that wait, all of one kind at once."""
        rows = sum(len(call.rows) for call in calls)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._predict_all, calls, rows)

    def _predict_all(self, calls: list[Call], rows: int) -> list[Predictions]:
        begun = time.monotonic()
        self._recorder.begin(begun)
        try:
            kinds: dict[bool, list[int]] = defaultdict(list)
            for at, call in enumerate(calls):
                kinds[call.wants_probabilities].append(at)
            answers: dict[int, Predictions] = {}
            for wants_probabilities, indexes in kinds.items():
                kind = [calls[at] for at in indexes]
                answers.update(zip(indexes, self._outcomes(kind, wants_probabilities), strict=True))
            return [answers[at] for at in range(len(calls))]
        finally:
            ended = time.monotonic()
            self._recorder.end(ended)
            self._pace.note(rows, ended - begun)

    def _outcomes(self, calls: list[Call], wants_probabilities: bool) -> list[Predictions]:
        predict = self._model.probabilities if wants_probabilities else self._model.predict
        rows = calls[0].rows if len(calls) == 1 else np.concatenate([call.rows for call in calls])
        begun = time.monotonic()
        outcome = predict(rows, tuple(chain.from_iterable(call.sizes for call in calls)))
        outcome = Predictions(outcome.values, outcome.errors, time.monotonic() - begun)
        ends = accumulate((len(call.rows) for call in calls), initial=0)
        return [outcome.part(start, end) for start, end in pairwise(ends)]
