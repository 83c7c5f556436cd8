"""The process from which versions are tried: it imports everything once, and forks for each.

One request a line comes in on standard input, one answer a line goes out on the file descriptor
that is its argument. When its input ends, nobody wants to know any more: it ends, and takes the
child that it has along.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final, TextIO

from serve_app.model_errors import ModelError
from serve_app.models import model_files
from serve_app.models.served import ServedVersion, describe

MOST_SAID: Final = 500
"""Bytes that are kept of what a child has said, the last ones."""

_CHUNK: Final = 1 << 16
_MOST_LEFT: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1
_FORK: Final = multiprocessing.get_context("fork")


def main(answers_to: int) -> None:
    """Serve one request after another."""
    importlib.import_module("skops.io")  # and all of scikit-learn: two seconds of a processor
    with os.fdopen(answers_to, "w") as answers:
        for line in sys.stdin:
            answer = _attempt(line, answers)
            if answer is None:
                break
            print(json.dumps(answer), file=answers, flush=True)


def _attempt(request: str, answers: TextIO) -> dict[str, Any] | None:
    """Return how a child ended and what it answered and said; None once nobody waits for it."""
    answered, answer = os.pipe()
    said, say = os.pipe()
    arguments = (request, answer, say, answers.fileno(), os.getpid())
    child = _FORK.Process(target=_rehearse, args=arguments)
    child.start()
    os.close(answer)
    os.close(say)
    heard = {answered: b"", said: b""}
    try:
        is_wanted = _listen(child, heard)
    finally:
        _end(child)
        for file in heard:
            _drain(file, heard)
            os.close(file)
    if not is_wanted:
        return None
    return {
        "code": child.exitcode,
        "answer": heard[answered].decode(errors="replace"),
        "said": heard[said][-MOST_SAID:].decode(errors="replace").strip(),
    }


def _listen(child: ForkProcess, heard: dict[int, bytes]) -> bool:
    """Add to `heard` what a child writes until it ends; return False if our input ends before."""
    answered, said = heard
    open_files = [answered, said]
    with _death_of(child) as death:
        while True:
            ready = connection.wait([*open_files, death, sys.stdin.fileno()])
            if sys.stdin.fileno() in ready:
                return False
            if death in ready:
                return True
            for file in [one for one in open_files if one in ready]:
                chunk = os.read(file, _CHUNK)
                heard[file] += chunk
                if not chunk:
                    open_files.remove(file)
            heard[said] = heard[said][-MOST_SAID:]


@contextmanager
def _death_of(child: ForkProcess) -> Iterator[int]:
    """Give a file descriptor that is ready once a child has ended."""
    if sys.platform != "linux":
        yield child.sentinel  # a pipe, which a child of its own may hold open
        return
    file = os.pidfd_open(child.pid or 0)
    try:
        yield file
    finally:
        os.close(file)


def _drain(file: int, heard: dict[int, bytes]) -> None:
    """Add what is left in a pipe, whoever may still hold its other end."""
    os.set_blocking(file, False)
    left = _MOST_LEFT
    with contextlib.suppress(BlockingIOError):
        while left > 0 and (chunk := os.read(file, _CHUNK)):
            heard[file] += chunk
            left -= len(chunk)


def _end(child: ForkProcess) -> None:
    """End a child, if it still runs, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid or 0, signal.SIGKILL)
    child.kill()
    child.join()


def _rehearse(request: str, answer: int, say: int, answers: int, server: int) -> None:
    """Load and try what is asked for; answer what it is like, or why it can't be served."""
    _die_with(server)
    os.setsid()
    os.close(answers)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(say, 1)
    os.dup2(say, 2)
    directory, extra, expected = json.loads(request)
    try:
        model = model_files.read(Path(directory), tuple(extra), expected)
        found = describe(ServedVersion("", "", None, "", ""), model)
    except ModelError as error:
        result: dict[str, Any] = {"refused": str(error)}
    else:
        result = {
            "classes": found.classes,
            "labels": found.labels,
            "result_type": found.result_type,
        }
    with os.fdopen(answer, "w") as file:
        json.dump(result, file)


def _die_with(server: int) -> None:
    """Let this process be killed when the fork server is, which then can't see to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
