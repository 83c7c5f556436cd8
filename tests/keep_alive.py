"""HTTP/1.1 over connections that are kept: what an open loop can afford a thousand times a second.

A general client takes half a millisecond of a processor for each request on a small machine, which
it shares with the service, and sends in bursts what it is late with.
"""

from __future__ import annotations

import asyncio
import collections
import json
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httptools


@dataclass
class Answer:
    """An answer, with the names of its headers in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""

    def json(self) -> Any:
        """Return what the body says. Raises ValueError."""
        return json.loads(self.content)


class Connection(asyncio.Protocol):
    """A connection, with one request on it at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, within_s: float) -> Answer:
        """Send a request, and return the answer. Raises OSError, TimeoutError."""
        if self._transport is None:
            raise ConnectionResetError("the server has closed the connection")
        self._begin()
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(within_s):
                return await self._answered
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be there for requests."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Take some of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"no HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to who waits for an answer."""
        self._transport = None
        self._fail(ConnectionResetError("the server has closed the connection"))

    def _fail(self, error: OSError) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; called by the parser."""
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Note some of the body; called by the parser."""
        self._answer.content += body

    def on_message_complete(self) -> None:
        """Hand the answer to who waits for it; called by the parser."""
        self._answer.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(self._answer)


class Client:
    """Connections to one server, so many at most; a context manager."""

    def __init__(self, url: str, connections: int, within_s: float) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 80)
        self._within_s = within_s
        self._room = asyncio.Semaphore(connections)
        self._idle: collections.deque[Connection] = collections.deque()

    async def __aenter__(self) -> Self:
        """Connections are made when they are needed."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close those that are kept."""
        while self._idle:
            self._idle.pop().close()

    async def post(self, path: str, value: Any, headers: dict[str, str]) -> Answer:
        """Send a value as JSON, and return the answer.

        Waits for a connection if all are taken. Raises OSError if there is none or it is lost,
        TimeoutError if the answer is late. Nothing is sent twice.
        """
        body = json.dumps(value)
        lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        host, port = self._address
        request = (
            f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{lines}\r\n{body}"
        ).encode()
        async with self._room:
            connection = await self._connection()
            answer = await connection.ask(request, self._within_s)
            if connection.is_open:
                self._idle.append(connection)
            return answer

    async def _connection(self) -> Connection:
        while self._idle:
            if (kept := self._idle.pop()).is_open:
                return kept
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._within_s):
            _, connection = await loop.create_connection(Connection, *self._address)
        return connection
