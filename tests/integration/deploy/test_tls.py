"""TLS in front of the service: deploy/tls/haproxy.cfg, with HAProxy itself and a real chain."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests import tls
from tests.running import wait_for
from tests.tls import ASK_S, CONNECTIONS_PER_CLIENT, Front

SLOW_S = 2.0
HEADERS_S = 10.0
"""The config's `timeout http-request`, and its `timeout client` for the handshake."""


class Echo(BaseHTTPRequestHandler):
    """Answers with the request's own headers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(SLOW_S)
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", self.headers.get("x-request-id", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Backend(ThreadingHTTPServer):
    """What stands for the service."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of health checks, which hang up early."""


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Front]:
    """HAProxy, as docs/security.md starts it, in front of a backend that echoes."""
    folder = tmp_path_factory.mktemp("tls")
    with ExitStack() as stack:
        echo = stack.enter_context(Backend(("127.0.0.1", 0), Echo))
        stack.callback(echo.shutdown)
        threading.Thread(target=echo.serve_forever, daemon=True).start()
        service = f"127.0.0.1:{echo.server_port}"
        yield stack.enter_context(tls.in_front_of(service, folder, free_port))


def seconds_until_closed(link: socket.socket, begun: bytes) -> float:
    """Send a byte a second after `begun`; return when the other side has had enough."""
    began = time.monotonic()
    link.settimeout(1.0)
    with suppress(ConnectionError, ssl.SSLError):
        link.sendall(begun)
        while time.monotonic() - began < 3 * HEADERS_S:
            try:
                if not link.recv(4096):
                    break
            except TimeoutError:
                link.sendall(b"a")
    return time.monotonic() - began


def is_closed_at_once(address: tuple[str, int]) -> bool:
    """Return whether the other side hangs up before it has been told anything.

    Over plain TCP: Python's TLS leaves a socket open that was closed before its handshake.
    """
    try:
        with socket.create_connection(address, ASK_S) as link:
            link.settimeout(0.5)
            return link.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:  # maybe before `connect` has returned
        return True


def test_what_is_under_way_is_answered_when_it_is_asked_to_end(
    front: Front, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """By SIGUSR1, as compose stops it in production; new connections are refused meanwhile."""
    backend = front.service
    with (
        tls.in_front_of(backend, tmp_path, free_port) as another,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(another.get, "/slow")
        time.sleep(SLOW_S / 2)
        another.process.send_signal(signal.SIGUSR1)
        time.sleep(SLOW_S / 8)
        with pytest.raises(requests.ConnectionError):
            another.get()
        assert slow.result().status_code == 200
        assert another.process.wait(ASK_S) == 0


def test_a_verified_request_passes_with_its_id(front: Front) -> None:
    """The chain holds from the root that the client knows, over the intermediate, to the leaf."""
    answer = front.get(x_request_id="one-of-mine")
    assert answer.status_code == 200
    assert answer.json()["x-request-id"] == "one-of-mine"
    assert answer.headers["x-request-id"] == "one-of-mine"
    assert "max-age=" in answer.headers["strict-transport-security"]


def test_the_service_is_told_who_asks_and_how_by_nobody_else(front: Front) -> None:
    """What a client says of itself in the headers of proxies is taken away."""
    lies = {"x_forwarded_for": "10.0.0.9", "x_forwarded_proto": "http", "forwarded": "for=10.0.0.9"}
    seen = front.get(**lies, x_forwarded_host="evil.example").json()
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert "forwarded" not in seen
    assert "x-forwarded-host" not in seen


def test_a_client_that_does_not_know_the_root_gets_nothing(front: Front) -> None:
    """An unknown authority ends the handshake."""
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        requests.get(front.url, timeout=ASK_S)


def test_another_host_name_is_not_the_services(front: Front) -> None:
    """The certificate speaks for localhost and 127.0.0.1 only."""
    assert front.handshake(front.trusting(), "localhost") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        front.handshake(front.trusting(), "service.example")


def test_tls_1_2_passes_and_1_1_is_refused(front: Front) -> None:
    """The server says so itself: this client would speak 1.1."""
    newest = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.1": ssl.TLSVersion.TLSv1_1}
    contexts = {name: front.trusting() for name in newest}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 1.1, by Python
        for name, context in contexts.items():
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = newest[name]
    assert front.handshake(contexts["TLSv1.2"], "localhost") == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        front.handshake(contexts["TLSv1.1"], "localhost")


def test_http_1_1_is_what_is_spoken(front: Front) -> None:
    """Of the protocols that a client offers."""
    context = front.trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", front.https_port), ASK_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        assert secured.selected_alpn_protocol() == "http/1.1"


def test_plain_http_shows_browsers_the_way(front: Front) -> None:
    """To the same path and query, over TLS."""
    answer = requests.get(f"{front.plain_url}/docs?x=1", allow_redirects=False, timeout=ASK_S)
    assert answer.status_code == 308
    assert answer.headers["location"] == f"{front.url}/docs?x=1"


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_plain_http_with_a_key_is_refused(front: Front, header: str) -> None:
    """Whoever sent a key in plain text should notice."""
    answer = requests.get(front.plain_url, headers={header: "secret"}, timeout=ASK_S)
    assert (answer.status_code, answer.json()["code"]) == (403, "tls_required")


def test_plain_http_with_records_is_refused(front: Front) -> None:
    """Nothing of it reaches the service."""
    answer = requests.post(f"{front.plain_url}/stream", json={"X": 0.2}, timeout=ASK_S)
    assert (answer.status_code, answer.json()["code"]) == (403, "tls_required")


@pytest.mark.parametrize(
    "headers", [{f"x-{number}": "1" for number in range(110)}, {"x-large": "x" * 16_000}]
)
def test_too_many_or_too_large_headers_are_refused(front: Front, headers: dict[str, str]) -> None:
    """Before the service sees them."""
    assert front.get(**headers).status_code == 400


def test_one_client_has_a_bounded_number_of_connections(front: Front) -> None:
    """The next one is closed at once, and those that are open go on."""
    address = ("127.0.0.1", front.https_port)
    trusting = front.trusting()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_PER_CLIENT):  # a handshake each: HAProxy's threads race
            plain = stack.enter_context(socket.create_connection(address, ASK_S))
            secured = trusting.wrap_socket(plain, server_hostname="localhost")
            stack.enter_context(secured)
        assert is_closed_at_once(address)
        secured.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert secured.recv(4096).startswith(b"HTTP/1.1 200")
    wait_for(lambda: not is_closed_at_once(address), 5)
    assert front.handshake(trusting, "localhost") == "TLSv1.3"


@pytest.mark.system
def test_dripped_headers_and_handshakes_are_ended(front: Front) -> None:
    """A byte a second doesn't keep a connection."""
    with socket.create_connection(("127.0.0.1", front.https_port), ASK_S) as plain:
        secured = front.trusting().wrap_socket(plain, server_hostname="localhost")
        handshaking = socket.create_connection(("127.0.0.1", front.https_port), ASK_S)
        with secured, handshaking, ThreadPoolExecutor(2) as pool:
            headers = pool.submit(seconds_until_closed, secured, b"GET / HTTP/1.1\r\nx-slow: ")
            # The beginning of a record of 512 bytes, with a client's greeting in it.
            record = pool.submit(seconds_until_closed, handshaking, b"\x16\x03\x01\x02\x00\x01")
            for took_s in (headers.result(), record.result()):
                assert HEADERS_S - 2 < took_s < HEADERS_S + 3
