"""A relay before a real MLflow server that can be told to refuse, to hang, or to answer wrong.

It knows who has asked for what.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Mood = Literal[
    "well", "refusing", "hanging", "failing", "limiting", "ailing", "halving", "stalling"
]
"""failing: 500 for everything; limiting: 429; ailing: 500 for all but its health; halving: answers
end in their middle; stalling: files stand still there."""

_STATUSES = {
    "failing": b"500 Internal Server Error",
    "limiting": b"429 Too Many Requests",
    "ailing": b"500 Internal Server Error",
}
_HEADERS = re.compile(
    rb"^(GET|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.MULTILINE | re.DOTALL
)
_BASIC = re.compile(rb"^authorization: basic (\S+)", re.MULTILINE | re.IGNORECASE)
_HEALTH = b"GET /health "
_FILE = b"/mlflow-artifacts/artifacts/"
HALF_BYTES = 1000
"""Of each connection's answers, when only half of them comes: more than MLflow's short ones."""

HANG_LIMIT_S = 120.0


class Asked(NamedTuple):
    """A request that was passed on."""

    method: str
    path: str
    user: str | None


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on, both ways."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self._mood: Mood = "well"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.changed = threading.Event()
        self.asked: list[Asked] = []

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def mood(self) -> Mood:
        """What it does with connections."""
        return self._mood

    def turn(self, mood: Mood) -> None:
        """Do something else from now on, also with the connections that are open."""
        self._mood = mood
        self.changed.set()
        self.changed = threading.Event()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def connected(self, client: socket.socket) -> Iterator[socket.socket]:
        """A connection to the server, both ended when the mood changes."""
        with socket.create_connection(self.target) as server:
            with self._lock:
                self._open |= {client, server}
            try:
                yield server
            finally:
                with self._lock:
                    self._open -= {client, server}


class _Handler(socketserver.BaseRequestHandler):
    server: Relay
    _wants_file = False

    def handle(self) -> None:
        client: socket.socket = self.request
        if self.server.mood == "refusing":
            return
        if self.server.mood == "hanging":
            self.server.changed.wait(HANG_LIMIT_S)
            return
        if status := _STATUSES.get(self.server.mood):
            with contextlib.suppress(OSError):
                asked = client.recv(65536)
                if self.server.mood == "ailing" and asked.startswith(_HEALTH):
                    status = b"200 OK"
                client.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n")
                client.sendall(b"Connection: close\r\n\r\n")
            return
        with contextlib.suppress(OSError), self.server.connected(client) as server:
            back = threading.Thread(target=self._answer, args=(server, client), daemon=True)
            back.start()
            self._ask(client, server)
            _end(client, server)
            back.join()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        """Pass questions on."""
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._wants_file |= _FILE in data
                self.server.asked += _asked(data)
                server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        """Pass answers on, or as much of them as the mood lets through."""
        mood, changed, left = self.server.mood, self.server.changed, HALF_BYTES
        with contextlib.suppress(OSError):
            while left > 0 and (data := server.recv(65536)):
                is_cut = mood == "halving" or (mood == "stalling" and self._wants_file)
                client.sendall(data[:left] if is_cut else data)
                left -= len(data) if is_cut else 0
        if mood == "stalling" and left <= 0:
            changed.wait(HANG_LIMIT_S)
        _end(server, client)


def _asked(data: bytes) -> Iterator[Asked]:
    """The requests whose headers are here; clients send those at once."""
    for method, path, headers in _HEADERS.findall(data):
        account = _BASIC.search(headers)
        user = base64.b64decode(account[1]).decode().partition(":")[0] if account else None
        yield Asked(method.decode(), path.decode().partition("?")[0], user)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(uri: str) -> Iterator[Relay]:
    """A relay to the server at `uri` that runs inside the `with` block."""
    parts = urlsplit(uri)
    assert parts.hostname is not None and parts.port is not None
    with Relay((parts.hostname, parts.port)) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
