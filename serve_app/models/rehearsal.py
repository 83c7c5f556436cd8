"""A version is loaded and tried in a child process first, where it can take nobody along.

A model file may end its process (a segmentation fault) or never return. The child says what the
model is like in JSON; the parent reads the signature itself. Children are forked from a server that
has everything imported: to import it for each version would take two seconds of a processor, which
a node under load has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from serve_app.model_errors import NotNowError, UnservableModelError
from serve_app.models import model_files
from serve_app.models.served import ServedModel, ServedVersion

logger = logging.getLogger("ray.serve")

END_S: Final = 10.0
"""How long a fork server may take to end by itself: it may still be importing."""

MAX_ANSWER_BYTES: Final = 2**24
"""Of all labels of a classifier, for the most part."""

_ATTEMPTS: Final = 2
"""A fork server that ends by itself, as memory ran out, says nothing about the version."""

_LOOK_AGAIN_S: Final = 0.02
_STANDARD_ERROR: Final = 2

_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""What is forked while it has threads may deadlock; and one record needs no more than one."""


class Rehearsals:
    """Tries versions. One fork server is kept ready; whoever finds it busy starts another.

    Must be used on one event loop.
    """

    def __init__(self) -> None:
        self._idle: _ForkServer | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the fork server, which takes its time, before a version needs it."""
        if self._idle is None:
            try:
                self._idle = _ForkServer()
            except OSError as error:  # there may be room again when a version comes
                logger.warning("no process to try versions in could be started: %s", error)

    async def close(self) -> None:
        """End what was started."""
        idle, self._idle = self._idle, None
        if idle is not None:
            self._dismiss(idle)
        if self._ending:
            await asyncio.wait(self._ending)

    async def rehearse(
        self,
        version: ServedVersion,
        directory: Path,
        extra_trusted_types: tuple[str, ...],
        timeout_s: float,
    ) -> ServedModel:
        """Return what a version's clients need to know of it, found out in a child process.

        Raises UnservableModelError if the child can't load it, fails on its example, ends by a
        signal or takes longer than `timeout_s`, NotNowError if there can be none.
        """
        request = json.dumps([str(directory), extra_trusted_types, version.expected])
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._ask(request.encode() + b"\n")
        except TimeoutError as error:
            raise UnservableModelError(
                f"not loaded and tried within {timeout_s:g} s: it may never return"
            ) from error
        except OSError as error:
            raise NotNowError(f"no process could be started to try it: {error}") from error
        signature, example = model_files.head(directory)
        try:
            answer = _answer(json.loads(line))
            return ServedModel(
                version,
                signature,
                example,
                classes=_tuple(answer["classes"]),
                labels=_tuple(answer["labels"]),
                result_type=answer["result_type"],
            )
        except (ValueError, LookupError, TypeError) as error:
            raise UnservableModelError(
                "loading and trying it ended its process before it said what it is like"
            ) from error

    async def _ask(self, request: bytes) -> bytes:
        """Return a fork server's answer. Raises OSError if none can be started, or stays."""
        for _ in range(_ATTEMPTS):
            server = self._take() or _ForkServer()
            line = b""
            try:
                line = await server.ask(request)
            finally:
                self._give_back(server, is_of_use=bool(line))
            if line:
                return line
        raise OSError("the fork server has ended; the log says why")

    def _take(self) -> _ForkServer | None:
        server, self._idle = self._idle, None
        if server is not None and server.has_ended:
            self._dismiss(server)
            return None
        return server

    def _give_back(self, server: _ForkServer, is_of_use: bool) -> None:
        """Keep a server for the next version; or another one, if it has not answered."""
        if is_of_use and self._idle is None:
            self._idle = server
        else:
            self._dismiss(server)
            self.start()

    def _dismiss(self, server: _ForkServer) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(server.end(), context=contextvars.Context())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _ForkServer:
    """A process that runs `fork_server`, and its pipes. Raises OSError if it can't be started."""

    def __init__(self) -> None:
        answers, answers_to = os.pipe()
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._reader: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        # Not by asyncio: for a session of its own uvloop runs Python between fork and exec, where
        # a process with threads, as Ray's are, may deadlock or crash.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve_app.models.fork_server", str(answers_to)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=_STANDARD_ERROR,
                pass_fds=[answers_to],
                env={
                    **os.environ,
                    **_ONE_THREAD,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                start_new_session=True,
            )
        except OSError:
            self._answers.close()
            raise
        finally:
            os.close(answers_to)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    async def ask(self, request: bytes) -> bytes:
        """Return the answer to a request, a line; empty if the process ends without a whole one."""
        if self._reader is None:
            reader = self._reader = asyncio.StreamReader(limit=MAX_ANSWER_BYTES)
            self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), self._answers
            )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(request)
            with contextlib.suppress(ValueError):  # a longer line than anybody sends
                line = await self._reader.readline()
                return line if line.endswith(b"\n") else b""
        return b""

    async def end(self) -> None:
        """End the process and its child: it does so by itself once its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._reader is None:  # never asked: it has no child, and may be importing for seconds
            self._process.kill()
        try:
            async with asyncio.timeout(END_S):
                while not self.has_ended:
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            logger.warning("the fork server %d does not end: killed", self._process.pid)
        finally:
            if not self.has_ended:
                self._process.kill()
                self._process.wait()
            (self._transport or self._answers).close()


def _answer(end: Any) -> dict[str, Any]:
    """Return what a child has found out. Raises UnservableModelError if it can't be served.

    Raises ValueError, LookupError or TypeError if it hasn't found out anything.
    """
    code = end["code"]
    if code < 0:
        name = _signal_name(-code)
        raise UnservableModelError(f"loading and trying it ended its process by {name}")
    if code > 0:
        raise UnservableModelError(
            f"loading and trying it ended its process with code {code}: {end['said']}"
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
