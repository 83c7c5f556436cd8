"""Behind a real uvicorn: head and body arrive as they should, in one write where they are small."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serve_app.http.one_write import MAX_JOINED_BYTES, joined
from tests.unit.serve_app.http.servers import serving

BODIES = {"/small": b"42", "/large": b"x" * (MAX_JOINED_BYTES + 1), "/empty": b""}


class Writes:
    """A transport that counts what is written."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.count = 0

    def write(self, data: bytes) -> None:
        """Write, unless there's nothing to."""
        self.count += bool(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class App:
    """Answers with a body by path, and keeps how many writes each answer took."""

    def __init__(self) -> None:
        self.writes: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        cycle: Any = getattr(send, "__self__")  # noqa: B009
        while (await receive())["more_body"]:
            pass
        cycle.transport = writes = Writes(cycle.transport)
        body = BODIES.get(scope["path"], b"in parts")
        size = b"%d" % len(body)
        head = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", size)],
        }
        send = joined(send)
        await send(head)
        if scope["path"] == "/breaks":
            raise RuntimeError("between head and body")
        parts = [body[:1], body[1:]] if scope["path"] == "/parts" else [body]
        for at, part in enumerate(parts):
            more = at + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})
        assert cycle.transport is writes
        self.writes.append(writes.count)


async def ask(port: int, *requests: bytes) -> bytes:
    """Send requests over one connection, and return all that comes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.writelines(requests)
    answer = await reader.read()
    writer.close()
    return answer


def request(path: str, method: str = "POST", headers: str = "") -> bytes:
    """Return a request with a body of one byte."""
    return f"{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n{headers}\r\n1".encode()


def answers(*requests: bytes) -> tuple[bytes, list[int]]:
    """Return what a client sees, and the writes of each answer."""

    async def scenario() -> bytes:
        async with asyncio.timeout(20), serving(app) as port:
            return await ask(port, *requests)

    app = App()
    return asyncio.run(scenario()), app.writes


@pytest.mark.parametrize(
    ("path", "writes"), [("/small", 1), ("/large", 2), ("/empty", 1), ("/parts", 2)]
)
def test_an_answer_arrives_whole(path: str, writes: int) -> None:
    """In one write, if its body is small and at hand."""
    answer, counted = answers(request(path, headers="connection: close\r\n"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == BODIES.get(path, b"in parts")
    assert counted == [writes]


def test_a_connection_serves_one_answer_after_the_other() -> None:
    """Each in one write; uvicorn has its own transport back in between."""
    last = request("/small", headers="connection: close\r\n")
    answer, counted = answers(request("/small"), request("/empty"), last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.endswith(b"\r\n\r\n42")
    assert counted == [1, 1, 1]


def test_a_head_without_a_body_is_not_kept_back() -> None:
    """HEAD has none."""
    answer, counted = answers(request("/small", "HEAD", "connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert counted == [1]


def test_a_client_that_waits_to_be_asked_for_the_body_is() -> None:
    """`100 Continue` comes before, and alone."""
    answer, counted = answers(
        request("/small", headers="expect: 100-continue\r\nconnection: close\r\n")
    )
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert counted == [1]


def test_an_answer_that_breaks_off_ends_the_connection() -> None:
    """The client sees the head, and that the body is missing."""
    answer, _ = answers(request("/breaks"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_behind_another_server_nothing_changes() -> None:
    """Its `send` is used as it is."""

    async def send(message: Any) -> None: ...

    assert joined(send) is send
