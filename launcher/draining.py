"""Before the end: HAProxy takes no more connections, and answers the requests that it has.

When Serve is stopped, it kills HAProxy first, and with it every request under way. HAProxy's own
soft stop would not do: Serve starts another one at once. So it is told by its admin socket.
"""

from __future__ import annotations

import contextlib
import csv
import re
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.1
_SOCKET: Final = re.compile(r"^ *stats socket (\S+)", re.MULTILINE)


class Draining:
    """The HAProxies of a run, once they refuse new connections; what is open closes by itself."""

    def __init__(self, running: Iterable[psutil.Process]) -> None:
        """Let those among `running` processes refuse connections; one that can't is let be."""
        self._sockets = _admin_sockets(running)
        for file in self._sockets:
            for name in _frontends(file):
                # Disabled, it is not listened on any more; shut down, its answers say `close`.
                _command(file, f"disable frontend {name}")
                _command(file, f"shutdown frontend {name}")

    def requests(self) -> int:
        """Return how many requests are under way."""
        return sum(int(row["scur"]) for file in self._sockets for row in _rows(file, "BACKEND"))

    def wait(self, deadline_s: float) -> int:
        """Return when no request is under way, or how many are after `deadline_s` seconds."""
        until = time.monotonic() + deadline_s
        while (left := self.requests()) and time.monotonic() < until:
            time.sleep(_POLL_S)
        return left


def _admin_sockets(running: Iterable[psutil.Process]) -> set[Path]:
    """Return where those of the processes that are HAProxy take commands."""
    found: set[Path] = set()
    for process in running:
        with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
            if process.name() == "haproxy":
                arguments = process.cmdline()
                config = Path(arguments[arguments.index("-f") + 1]).read_text()
                found |= {Path(file) for file in _SOCKET.findall(config)}
    return found


def _frontends(file: Path) -> Iterator[str]:
    """Yield what clients connect to, and not what tells of HAProxy itself."""
    rows = _rows(file, "FRONTEND")
    return (row["# pxname"] for row in rows if row["# pxname"] not in ("stats", "prometheus"))


def _rows(file: Path, kind: str) -> list[dict[str, str]]:
    """Return the statistics of its frontends, or of its backends."""
    rows = csv.DictReader(_command(file, "show stat").splitlines())
    return [row for row in rows if row["svname"] == kind]


def _command(file: Path, command: str) -> str:
    """Return the answer to a command; nothing if there is none in time."""
    answer = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(str(file))
        connection.sendall(f"{command}\n".encode())
        while part := connection.recv(65_536):
            answer += part
    return answer.decode(errors="replace")
