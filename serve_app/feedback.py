"""True values that come back, joined with the requests that they belong to.

An ingress keeps the rows of the requests that it has answered while a rollout is under way. When
a true value comes, whichever ingress got it, the one that has the rows asks both versions again,
and counts which of them is further off.
"""

import asyncio
import logging
from collections.abc import Sequence
from math import inf
from typing import Any, Final, NamedTuple

import numpy as np

from serve_app.calls.ask import Ask
from serve_app.calls.workers import Workers
from serve_app.control.labels import Label
from serve_app.errors import OverloadedError
from serve_app.models.predictions import UNANSWERED, Predictions, with_gaps
from serve_app.observer import QUICK_S, Observer
from serve_app.protocols.question import Places, Question
from serve_app.records.rows import Rows
from serve_app.rollouts.evidence import Evidence, Pairs

logger = logging.getLogger("ray.serve")

MOST_ROWS: Final = 50_000
"""Rows that wait in one ingress for their true values; the oldest requests go first."""

MOST_ROWS_A_REQUEST: Final = 1_000
"""A larger request doesn't wait: it would push out all others."""

MOST_BYTES: Final = 64 * 2**20
"""Of the bodies that these rows came in, in one ingress."""

MOST_BYTES_A_REQUEST: Final = 2**20

MOST_ROWS_A_CALL: Final = 1_000

PAUSE_S: Final = 1.0
"""After a call that failed none is made for so long: clients come first."""

MOST_TRIES: Final = 3
"""Calls while the workers are busy."""

Joined = tuple[Label, Rows]
"""The true values of a request, and its rows."""


class Records(NamedTuple):
    """The rows of a request, and which of its records they are."""

    rows: Rows
    places: Places | None = None

    @property
    def total(self) -> int:
        """How many records the request has."""
        return len(self.rows) if self.places is None else self.places.total

    def known(self, label: Label) -> Label | None:
        """Return a label's values for the rows; None if it has none, or not one for each record."""
        if len(label.values) != self.total:
            return None
        if self.places is None:
            return label
        values = tuple(label.values[at] for at in self.places.kept.tolist())
        return None if all(value is None for value in values) else label._replace(values=values)


class Answered:
    """The records of requests that were answered lately, by request id."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[Records, int]] = {}
        self._rows = 0
        self._bytes = 0

    def add(self, request_id: bytes, records: Records, size: int) -> None:
        """Keep records from a body of `size` bytes; of equal ids the last one counts."""
        rows = len(records.rows)
        if not rows or records.total > MOST_ROWS_A_REQUEST or size > MOST_BYTES_A_REQUEST:
            return
        self.pop(request_id)
        self._kept[request_id] = records, size
        self._rows += rows
        self._bytes += size
        while self._rows > MOST_ROWS or self._bytes > MOST_BYTES:
            self.pop(next(iter(self._kept)))

    def pop(self, request_id: bytes) -> Records | None:
        """Return a request's records and forget them; None if there are none."""
        if (kept := self._kept.pop(request_id, None)) is None:
            return None
        records, size = kept
        self._rows -= len(records.rows)
        self._bytes -= size
        return records

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._rows = self._bytes = 0


class Feedback:
    """What one ingress does with labels. Must be used on one event loop.

    A version has `deadline_s` seconds for each call.
    """

    def __init__(self, workers: Workers, observer: Observer, deadline_s: float) -> None:
        self._workers = workers
        self._observer = observer
        self._deadline_s = deadline_s
        self._answered = Answered()

    def remember(self, request_id: bytes, question: Question, size: int) -> None:
        """Keep the rows of a request that was answered, if they may be of use."""
        if self._observer.window is not None:
            self._answered.add(request_id, Records(question.rows, question.places), size)

    def forget(self) -> None:
        """Let go of all rows: the rollout is over."""
        self._answered.clear()

    async def join(self, labels: Sequence[Label]) -> None:
        """Compare both versions on those labels whose rows are here.

        Labels of another number of values than the request has records are passed over.
        """
        joined: list[Joined] = []
        count = 0
        for label in labels:
            records = self._answered.pop(label.request_id.encode())
            if records is None or (known := records.known(label)) is None:
                continue
            joined.append((known, records.rows))
            count += len(records.rows)
            if count >= MOST_ROWS_A_CALL:
                await self._compare(joined)
                joined, count = [], 0
        if joined:
            await self._compare(joined)

    async def _compare(self, joined: Sequence[Joined]) -> None:
        """Count which version is further off; what fails is halved until it stands alone.

        A challenger that fails on what the champion has answered soon is further off. Nothing is
        said of what no worker has time for.
        """
        window = self._observer.window
        if window is None:
            return
        first, second = self._observer.versions
        rows = np.concatenate([rows for _, rows in joined])
        sizes = tuple(len(rows) for _, rows in joined)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            champion = await self._answer(first, rows, sizes)
            is_soon = loop.time() - begun < QUICK_S
            challenger = None if champion is None else await self._answer(second, rows, sizes)
        except OverloadedError as error:
            logger.warning("true values of %d requests were not compared: %s", len(joined), error)
            return
        if challenger is None and len(joined) > 1:
            middle = len(joined) // 2
            await self._compare(joined[:middle])
            await self._compare(joined[middle:])
            return
        if champion is None or (challenger is None and not is_soon):
            return
        if challenger is None:
            challenger = with_gaps([UNANSWERED], sizes, champion.values.shape[1:])
        margin = self._observer.quality_margin(sizes, champion)
        if margin is None:
            return  # too little was seen to say what is far and what isn't
        total, start = 0.0, 0
        for label, own in joined:
            end = start + len(own)
            found = champion.part(start, end), challenger.part(start, end)
            total += worse(label.values, *found, self._observer.predicts_labels, margin)
            start = end
        self._observer.add(window, Evidence(quality=Pairs(len(joined), total)))

    async def _answer(self, version: str, rows: Rows, sizes: tuple[int, ...]) -> Predictions | None:
        """Return what a version predicts, None if it fails; raises OverloadedError."""
        tries = 0
        while True:
            tries += 1
            try:
                async with asyncio.timeout(self._deadline_s):
                    return await self._workers.predict(rows, sizes, Ask(version))
            except OverloadedError:
                if tries == MOST_TRIES:
                    raise
            except Exception as error:  # noqa: BLE001  # whatever it is: there is no answer
                logger.warning("version %s had no answer for true values: %s", version, error)
                await asyncio.sleep(PAUSE_S)
                return None
            await asyncio.sleep(PAUSE_S)


def worse(
    truth: Sequence[Any],
    champion: Predictions,
    challenger: Predictions,
    are_labels: bool,
    margin: float,
) -> float:
    """Return 1 where the challenger is further from the truth, 0 where it is nearer, 0.5 for a tie.

    Over the records of the request whose truth is known: their mean distance, where a difference of
    up to `margin` is a tie, or their number of wrong labels. A record without an answer is
    furthest.
    """
    known = [at for at, true in enumerate(truth) if true is not None]
    first, second = (_distance(truth, known, one, are_labels) for one in (champion, challenger))
    if first == second or abs(first - second) <= margin:
        return 0.5
    return float(second > first)


def _distance(
    truth: Sequence[Any], known: Sequence[int], found: Predictions, are_labels: bool
) -> float:
    if any(at in found.errors for at in known):
        return inf
    values = found.values.tolist()
    if are_labels:
        return float(sum(values[at] != truth[at] for at in known))
    return float(sum(abs(values[at] - truth[at]) for at in known)) / max(1, len(known))
