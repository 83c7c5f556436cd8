"""A version is loaded and tried in a child process first, where it can take nobody along.

A model file may end its process (a segmentation fault) or never return. The child says what the
model is like in JSON; the parent reads the signature itself. Children are forked from a server that
has everything imported: to import it for each version would take two seconds of a processor, which
a node under load has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from serve_app.model_errors import UnservableModelError
from serve_app.models import model_files
from serve_app.models.served import ServedModel, ServedVersion

_END_S: Final = 10.0
"""How long a fork server may take to end by itself: it may still be importing."""

_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""What is forked while it has threads may deadlock; and one record needs no more than one."""


class Rehearsals:
    """Tries versions. One fork server is kept ready; whoever finds it busy starts another."""

    def __init__(self) -> None:
        self._idle: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the fork server, which takes its time, before a version needs it.

        Raises OSError.
        """
        if self._idle is None:
            await self._keep(await asyncio.to_thread(_start))

    async def close(self) -> None:
        """End the fork server that is kept ready."""
        idle, self._idle = self._idle, None
        if idle is not None:
            await asyncio.to_thread(_end, idle)

    async def rehearse(
        self,
        version: ServedVersion,
        directory: Path,
        extra_trusted_types: tuple[str, ...],
        timeout_s: float,
    ) -> ServedModel:
        """Return what a version's clients need to know of it, found out in a child process.

        Raises UnservableModelError if the child can't load it, fails on its example, ends by a
        signal or takes longer than `timeout_s`.
        """
        request = json.dumps([str(directory), extra_trusted_types, version.expected])
        try:
            line = await self._ask(request.encode() + b"\n", timeout_s)
        except TimeoutError as error:
            raise UnservableModelError(
                f"not loaded and tried within {timeout_s:g} s: it may never return"
            ) from error
        except OSError as error:
            raise UnservableModelError(f"no process could be started to try it: {error}") from error
        answer = _answer(line)
        signature, example = model_files.head(directory)
        return ServedModel(
            version,
            signature,
            example,
            classes=_tuple(answer["classes"]),
            labels=_tuple(answer["labels"]),
            result_type=answer["result_type"],
        )

    async def _ask(self, request: bytes, timeout_s: float) -> bytes:
        """Return a fork server's answer; if there is none in time, it ends, and its child too."""
        idle = self._take()
        server = await asyncio.to_thread(_start) if idle is None else idle
        talk = asyncio.ensure_future(asyncio.to_thread(_talk, server, request))
        line = b""
        try:
            done, _ = await asyncio.wait({talk}, timeout=timeout_s)
            if not done:
                raise TimeoutError
            line = talk.result()
        finally:
            if line:
                await self._keep(server)
            else:
                await asyncio.to_thread(_end, server)
                await asyncio.wait({talk})
        if not line:
            raise OSError(f"the fork server ended with {server.returncode}; its log says why")
        return line

    def _take(self) -> subprocess.Popen[bytes] | None:
        server, self._idle = self._idle, None
        if server is not None and server.poll() is not None:
            _end(server)
            return None
        return server

    async def _keep(self, server: subprocess.Popen[bytes]) -> None:
        """Keep a server for the next version, unless there's one."""
        if self._idle is None:
            self._idle = server
        else:
            await asyncio.to_thread(_end, server)


def _start() -> subprocess.Popen[bytes]:
    """Start a fork server.

    Not by asyncio: for a session of its own uvloop runs Python between fork and exec, where a
    process with threads, as Ray's are, may deadlock or crash.
    """
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.models.fork_server"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": paths},
        start_new_session=True,
    )


def _talk(server: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Return a server's answer to a request, a line; empty if it ends without one."""
    assert server.stdin is not None
    assert server.stdout is not None
    with contextlib.suppress(OSError):
        server.stdin.write(request)
        with open(server.stdout.fileno(), "rb", closefd=False) as answers:
            return answers.readline()
    return b""


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server and its child: it does so by itself once its input ends."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    try:
        server.wait(_END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    server.stdout.close()


def _answer(line: bytes) -> dict[str, Any]:
    """Return what a child has found out. Raises UnservableModelError if it has not."""
    end = json.loads(line)
    if end["code"] < 0:
        raise UnservableModelError(
            f"loading and trying it ended its process by {_signal_name(-end['code'])}"
        )
    if end["code"] > 0:
        raise UnservableModelError(
            f"loading and trying it ended its process with code {end['code']}: {end['said']}"
        )
    if not end["answer"]:
        raise UnservableModelError(
            "loading and trying it ended its process before it said what it is like"
        )
    answer: dict[str, Any] = json.loads(end["answer"])
    if "refused" in answer:
        raise UnservableModelError(answer["refused"])
    return answer


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
