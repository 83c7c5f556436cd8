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
from serve_app.models.predictions import Predictions
from serve_app.observer import Observer
from serve_app.protocols.question import Places, Question
from serve_app.records.rows import Rows
from serve_app.rollouts.evidence import Pairs

logger = logging.getLogger("ray.serve")

MOST_ROWS: Final = 50_000
"""Rows that wait in one ingress for their true values; the oldest requests go first."""

MOST_ROWS_A_REQUEST: Final = 1_000
"""A larger request doesn't wait: it would push out all others."""

MOST_BYTES: Final = 64 * 2**20
"""Of the bodies that these rows came in, in one ingress."""

MOST_BYTES_A_REQUEST: Final = 2**20

MOST_ROWS_A_CALL: Final = 1_000

TIMEOUT_S: Final = 10.0
"""Longest that both versions may take for a call."""

PAUSE_S: Final = 1.0
"""After a call that failed none is made for so long: clients come first."""

MOST_FAILURES: Final = 30
"""Calls that may fail for one page of labels; to find a single one takes ten."""

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
    """What one ingress does with labels. Must be used on one event loop."""

    def __init__(self, workers: Workers, observer: Observer) -> None:
        self._workers = workers
        self._observer = observer
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

        Labels of another number of values than the request has records are passed over. What a
        version has no answer for is halved until it stands alone, and then says nothing of either:
        it counts among the errors. After `MOST_FAILURES` the rest of these labels is let go.
        """
        window = self._observer.window
        groups = self._groups(labels)[::-1]
        failures = 0
        while groups and (now := self._observer.window) is not None and window is not None:
            if now[0] != window[0]:
                return  # these were answered by others
            joined = groups.pop()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._compare(now, joined)
                continue
            except Exception as error:  # noqa: BLE001  # whatever it is: there is no answer
                failures += 1
                if failures == MOST_FAILURES:
                    left = len(joined) + sum(map(len, groups))
                    logger.warning("true values of %d requests are let go: %s", left, error)
                    return
                logger.debug("true values could not be compared: %s", error)
            await asyncio.sleep(PAUSE_S)
            if len(joined) > 1:
                middle = len(joined) // 2
                groups += [joined[middle:], joined[:middle]]

    def _groups(self, labels: Sequence[Label]) -> list[list[Joined]]:
        """Return the labels whose rows are here, in parts of about `MOST_ROWS_A_CALL` rows."""
        groups: list[list[Joined]] = []
        room = 0
        for label in labels:
            records = self._answered.pop(label.request_id.encode())
            if records is None or (known := records.known(label)) is None:
                continue
            if room <= 0:
                groups.append([])
                room = MOST_ROWS_A_CALL
            groups[-1].append((known, records.rows))
            room -= len(records.rows)
        return groups

    async def _compare(self, window: tuple[int, int], joined: Sequence[Joined]) -> None:
        """Count which version is further off. Raises as `Workers.predict`."""
        rows = np.concatenate([rows for _, rows in joined])
        sizes = tuple(len(rows) for _, rows in joined)
        versions = self._observer.versions
        champion, challenger = [
            await self._workers.predict(rows, sizes, Ask(version)) for version in versions
        ]
        margin = self._observer.quality_margin(sizes, champion)
        if margin is None:
            return  # too little was seen to say what is far and what isn't
        total, start = 0.0, 0
        for label, own in joined:
            end = start + len(own)
            found = champion.part(start, end), challenger.part(start, end)
            total += worse(label.values, *found, self._observer.predicts_labels, margin)
            start = end
        self._observer.add_quality(window, Pairs(len(joined), total))


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
