"""The process from which versions are tried: it imports everything once, and forks for each.

One request a line comes in on standard input, one answer a line goes out on standard output. When
its input ends, nobody wants to know any more: it ends, and takes the child that it has along.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final

from serve_app.model_errors import ModelError
from serve_app.models import model_files
from serve_app.models.served import ServedVersion, describe

MOST_SAID: Final = 500
"""Bytes that are kept of what a child has said, the last ones."""

_CHUNK: Final = 1 << 16
_FORK: Final = multiprocessing.get_context("fork")


def main() -> int:
    """Serve one request after another."""
    importlib.import_module("skops.io")  # and all of scikit-learn: two seconds of a processor
    for line in sys.stdin:
        answer = _attempt(line)
        if answer is None:
            break
        print(json.dumps(answer), flush=True)
    return 0


def _attempt(request: str) -> dict[str, Any] | None:
    """Return how a child ended and what it answered and said; None once nobody waits for it."""
    answered, answer = os.pipe()
    said, say = os.pipe()
    child = _FORK.Process(target=_rehearse, args=(request, answer, say))
    child.start()
    os.close(answer)
    os.close(say)
    heard = {answered: b"", said: b""}
    try:
        is_wanted = _listen(child, heard, said)
    finally:
        _end(child)
        os.close(answered)
        os.close(said)
    if not is_wanted:
        return None
    return {
        "code": child.exitcode,
        "answer": heard[answered].decode(errors="replace"),
        "said": heard[said].decode(errors="replace").strip(),
    }


def _listen(child: ForkProcess, heard: dict[int, bytes], said: int) -> bool:
    """Add to `heard` what a child writes until it ends; return False if our input ends before."""
    open_files = list(heard)
    while True:
        ready = connection.wait([*open_files, child.sentinel, sys.stdin.fileno()])
        if sys.stdin.fileno() in ready:
            return False
        for file in [one for one in open_files if one in ready]:
            chunk = os.read(file, _CHUNK)
            if chunk:
                heard[file] += chunk
            else:
                open_files.remove(file)
        heard[said] = heard[said][-MOST_SAID:]
        if ready == [child.sentinel]:
            return True


def _end(child: ForkProcess) -> None:
    """End a child, if it still runs, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid or 0, signal.SIGKILL)
    child.kill()
    child.join()


def _rehearse(request: str, answer: int, say: int) -> None:
    """Load and try what is asked for; answer what it is like, or why it can't be served."""
    os.setsid()
    os.dup2(say, sys.stdout.fileno())
    os.dup2(say, sys.stderr.fileno())
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


if __name__ == "__main__":
    sys.exit(main())
