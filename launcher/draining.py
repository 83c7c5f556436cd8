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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import psutil

QUIET_S: Final = 0.5
"""For so long no request must be seen: one may be on its way on a connection that is kept."""
_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.1
_SOCKET: Final = re.compile(r"^ *stats socket (\S+)", re.MULTILINE)
_OF_ITSELF: Final = ("stats", "prometheus")
"""What tells of HAProxy, and is asked by no client."""


def drain(running: Callable[[], Iterable[psutil.Process]], deadline_s: float) -> int:
    """Let those of `running` that are HAProxy end what they have, and take nothing more.

    Returns when no request is under way for QUIET_S; or, after `deadline_s` seconds, how many are.
    What does not answer is asked once more, and holds nothing up then.
    """
    until = time.monotonic() + deadline_s
    seen_at = time.monotonic()
    while True:
        began = time.monotonic()
        left = _look(running())
        if left:
            seen_at = time.monotonic()
        # Counted from when it began to look: an answer that is waited for in vain tells nothing.
        if time.monotonic() > until or began - seen_at > QUIET_S:
            return left
        time.sleep(_POLL_S)


def _look(running: Iterable[psutil.Process]) -> int:
    """Refuse connections wherever any are taken, and return how many requests are under way."""
    haproxies = 0
    sockets: set[Path] = set()
    for process in running:
        with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
            if process.name() == "haproxy":
                arguments = process.cmdline()  # none any more of one that has just ended
                config = Path(arguments[arguments.index("-f") + 1]).read_text()
                sockets |= {Path(file) for file in _SOCKET.findall(config)}
                haproxies += 1
    # One that another has replaced has no socket any more, and lives as long as it has requests.
    return sum(map(_refuse, sockets)) + max(0, haproxies - len(sockets))


def _refuse(file: Path) -> int:
    """Let the HAProxy of this admin socket refuse connections; return how many requests it has."""
    requests = 0
    for row in csv.DictReader(_command(file, "show stat").splitlines()):
        name, kind = row["# pxname"], row["svname"]
        if kind == "BACKEND":
            requests += int(row["scur"])
        elif kind == "FRONTEND" and row["status"] == "OPEN" and name not in _OF_ITSELF:
            # Disabled, it is not listened on any more; shut down, its answers say `close`.
            _command(file, f"disable frontend {name}")
            _command(file, f"shutdown frontend {name}")
    return requests


def _command(file: Path, command: str) -> str:
    """Return the answer to a command; nothing if there is none, or not all of it, in time."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(file))
            connection.sendall(f"{command}\n".encode())
            while part := connection.recv(65_536):
                answer += part
    except OSError:
        return ""
    return answer.decode(errors="replace")
