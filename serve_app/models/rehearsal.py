"""A version is loaded and tried in a child process first, where it can take nobody along.

A model file may end its process (a segmentation fault) or never return. The child says what the
model is like in one line of JSON; the parent reads the signature itself.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from serve_app.model_errors import ModelError, UnservableModelError
from serve_app.models import model_files
from serve_app.models.served import ServedModel, ServedVersion, describe

_REFUSED: Final = 2
_MOST_SAID: Final = 500


async def rehearse(
    version: ServedVersion,
    directory: Path,
    extra_trusted_types: tuple[str, ...],
    timeout_s: float,
) -> ServedModel:
    """Return what a version's clients need to know of it, found out in a child process.

    Raises UnservableModelError if the child can't load it, fails on its example, ends by a signal
    or takes longer than `timeout_s`.
    """
    asked = json.dumps([str(directory), extra_trusted_types, version.expected])
    try:
        code, said, complaints = await _ask_child(asked.encode(), timeout_s)
    except TimeoutError as error:
        raise UnservableModelError(
            f"not loaded and tried within {timeout_s:g} s: it may never return"
        ) from error
    except OSError as error:
        raise UnservableModelError(f"no process could be started to try it: {error}") from error
    if code != 0:
        raise UnservableModelError(_reason(code, said, complaints))
    signature, example = model_files.head(directory)
    try:
        facts = json.loads(said.decode().splitlines()[-1])
        return ServedModel(
            version,
            signature,
            example,
            classes=_tuple(facts["classes"]),
            labels=_tuple(facts["labels"]),
            result_type=facts["result_type"],
        )
    except (ValueError, LookupError, TypeError) as error:
        raise UnservableModelError(
            "loading and trying it ended its process before it said what it is like"
        ) from error


async def _ask_child(asked: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
    """Return how a child ended, and what it has written; none of its own children outlives it.

    Not by asyncio: for a session of its own uvloop runs Python between fork and exec, where a
    process with threads, as Ray's are, may deadlock or crash.
    """
    child = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-m", "serve_app.models.rehearsal"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    talk = asyncio.ensure_future(asyncio.to_thread(child.communicate, asked))
    try:
        done, _ = await asyncio.wait({talk}, timeout=timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    said, complaints = await talk
    if not done:
        raise TimeoutError
    return child.returncode, said, complaints


def _reason(code: int, said: bytes, complaints: bytes) -> str:
    if code == _REFUSED and (reason := said.decode(errors="replace").strip()):
        return reason
    if code < 0:
        return f"loading and trying it ended its process by {_signal_name(-code)}"
    last = complaints.decode(errors="replace").strip()[-_MOST_SAID:]
    return f"loading and trying it ended its process with code {code}: {last}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def main() -> int:
    """Load and try what standard input names; say what it is like, or why it can't be served."""
    directory, extra, expected = json.load(sys.stdin)
    try:
        model = model_files.read(Path(directory), tuple(extra), expected)
        found = describe(ServedVersion("", "", None, "", ""), model)
    except ModelError as error:
        print(error)
        return _REFUSED
    facts = {"classes": found.classes, "labels": found.labels, "result_type": found.result_type}
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
