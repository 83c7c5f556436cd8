"""An ingress's end: a line to each worker, for many calls at once."""

import asyncio
import contextvars
import itertools
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from serve_app.calls import wire
from serve_app.calls.ask import Ask, BusyError
from serve_app.calls.connection import Address, Connection
from serve_app.calls.wire import FrameTooLargeError, Head
from serve_app.errors import BodyTooLargeError
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows

MOST_UNANSWERED: Final = 8
"""Pings, one a second; a worker that says nothing for longer has stopped, or hangs. Counted, as
an ingress that was itself stopped for a while knows nothing of its workers."""

STUCK_S: Final = 3.0


class LineLostError(Exception):
    """The connection ended before the answer came; the call may have been answered or not."""


class CallFailedError(Exception):
    """The worker answered that it could not answer."""


class Line(Connection):
    """An ingress's end: calls to one worker, many at once."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Predictions]] = {}
        self._is_welcome = asyncio.Event()
        self._unanswered = 0
        self.pending_rows = 0
        self.is_stuck = False
        """Whether the model has been busy with one batch for so long that others come first."""
        self.is_open = False
        self._is_retired = False

    @classmethod
    async def open(cls, host: str, port: int, secret: str) -> "Line":
        """Connect, and wait for the worker's word: a system takes connections to a process that
        has stopped, too. Raises OSError, and LineLostError if the worker hangs up."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(secret), host, port)
        try:
            await line._is_welcome.wait()
        except BaseException:
            line.close()
            raise
        if not line.is_open:
            raise LineLostError("the worker has hung up")
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._send({"secret": self._secret})

    def data_received(self, data: bytes) -> None:
        self._unanswered = 0
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everyone who waits; called by asyncio."""
        self.is_open = False
        self._is_welcome.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LineLostError("the connection to the worker was lost"))

    def look_after(self) -> None:
        """Ask whether the worker is still there; give up one that has been silent for too long."""
        if self._unanswered >= MOST_UNANSWERED:
            self._transport.abort()
        else:
            self._unanswered += 1
            self._send({"ping": True})

    async def call(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Return one outcome for each of `rows`; a cancelled call is cancelled at the worker.

        Raises LineLostError, CallFailedError, BusyError, BodyTooLargeError.
        """
        if not self.is_open:
            raise LineLostError("the connection to the worker was lost")
        number = next(self._numbers)
        answer: asyncio.Future[Predictions] = self._loop.create_future()
        self._answers[number] = answer
        self.pending_rows += len(rows)
        try:
            self._send({"id": number, "sizes": sizes, "ask": [*ask]}, rows)
            return await answer
        except FrameTooLargeError as error:
            raise BodyTooLargeError(
                "the records are too large to be sent to a model worker: send fewer at once"
            ) from error
        except asyncio.CancelledError:
            self._send({"cancel": number})
            raise
        finally:
            del self._answers[number]
            self.pending_rows -= len(rows)
            self._close_if_retired()

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended, or does so."""
        return bool(self._transport.is_closing())

    def retire(self) -> None:
        """Take no more calls, and close once those under way are answered."""
        self.is_open = False
        self._is_retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._is_retired and not self._answers:
            self.close()

    def _received(self, head: Head, payload: bytearray) -> None:
        if "welcome" in head:
            self.is_open = not self._is_retired
            self._is_welcome.set()
            return
        if "busy_s" in head:
            self.is_stuck = head["busy_s"] > STUCK_S
            return
        answer = self._answers.get(head.get("id", -1))
        if answer is None or answer.done():
            return
        if "failed" in head:
            failure = BusyError if head.get("is_busy") else CallFailedError
            answer.set_exception(failure(head["failed"]))
            return
        errors = {int(at): why for at, why in head["errors"].items()}
        values = wire.array_of(head, payload)
        answer.set_result(Predictions(values, errors, head["model_s"], head["model_rows"]))


class Lines:
    """One open line to each worker that is known."""

    def __init__(self) -> None:
        self._lines: dict[Address, Line] = {}
        self._retired: set[Line] = set()
        self._opening: dict[Address, asyncio.Task[None]] = {}
        self._wanted: frozenset[Address] = frozenset()

    @property
    def count(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    @property
    def are_expected(self) -> bool:
        """Whether workers are known to which lines are opened as they come."""
        return bool(self._wanted)

    def pick(self) -> Line | None:
        """Return the open line with the fewest rows under way; None if there's none.

        One whose model is stuck comes last.
        """
        lines = [line for line in self._lines.values() if line.is_open]
        return min(lines, key=_load, default=None)

    async def follow(self, addresses: Collection[Address], timeout_s: float) -> None:
        """Open lines to workers that are new or lost, and close those to workers that are gone."""
        self._wanted = frozenset(addresses)
        for address in self._lines.keys() - self._wanted:
            line = self._lines.pop(address)
            line.retire()
            self._retired.add(line)  # a worker that has stopped would never answer
        self.look_after(timeout_s)
        if self._opening:
            await asyncio.wait(self._opening.values())

    def look_after(self, timeout_s: float) -> None:
        """See that the workers are there, and open what was lost; to be called every second."""
        for address, line in list(self._lines.items()):
            if line.is_open:
                line.look_after()
            else:
                del self._lines[address]
        self._retired = {line for line in self._retired if not line.is_closed}
        for line in self._retired:
            line.look_after()
        loop = asyncio.get_running_loop()
        for address in self._wanted - self._lines.keys() - self._opening.keys():
            # An empty context: it outlives the request that may be the first.
            self._opening[address] = loop.create_task(
                self._open(address, timeout_s), context=contextvars.Context()
            )

    async def _open(self, address: Address, timeout_s: float) -> None:
        try:
            with suppress(OSError, TimeoutError, LineLostError):
                line = await asyncio.wait_for(Line.open(*address), timeout_s)
                if address in self._wanted:
                    self._lines[address] = line
                else:
                    line.close()
        finally:
            del self._opening[address]


def _load(line: Line) -> tuple[bool, int]:
    return line.is_stuck, line.pending_rows
