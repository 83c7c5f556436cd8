"""Where the time goes inside the processes: each stage of a request alone, in one process.

`python -m benchmarks.stages` prints medians in microseconds: of the stage over and over, and of the
stage after a pause, as in a process that is woken for each request. What lies between the processes
(HAProxy, sockets, waiting for a processor) is not in here; `make bench` measures the whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import orjson
import uvloop
from rich.console import Console
from rich.table import Table
from starlette.types import Message, Receive, Scope, Send

from benchmarks import model as benchmark_model
from serve_app.calls import wire
from serve_app.calls.ask import Ask
from serve_app.calls.coalescer import Coalescer
from serve_app.calls.lines import Line
from serve_app.calls.server import Server
from serve_app.http.body import Limits
from serve_app.http.endpoint import Endpoint
from serve_app.http.gate import Gate
from serve_app.metrics.counts import Requests
from serve_app.models import model_files
from serve_app.models.model import Model
from serve_app.models.predictions import Predictions
from serve_app.protocols.original import Original
from serve_app.protocols.question import Head
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows

ROUNDS: Final = 5
SECONDS_A_ROUND: Final = 0.05
PAUSE_S: Final = 0.0007
PAUSES: Final = 400
HEAD: Final = Head("application/json", "application/json", {}, b"", {})
ASK: Final = Ask("1")

Step = Callable[[], Awaitable[Any]]


async def median_us(step: Step) -> float:
    """Return the median over rounds of the time that `step` takes, in microseconds."""
    await step()
    rounds = []
    for _ in range(ROUNDS):
        count, begun = 0, time.perf_counter()
        while (took_s := time.perf_counter() - begun) < SECONDS_A_ROUND:
            await step()
            count += 1
        rounds.append(took_s / count * 1e6)
    return statistics.median(rounds)


async def paused_us(step: Step) -> float:
    """Return the median time of `step` in microseconds when the process sleeps before each one."""
    took_s = []
    for _ in range(PAUSES):
        time.sleep(PAUSE_S)  # the event loop has nothing else to do
        begun = time.perf_counter()
        await step()
        took_s.append(time.perf_counter() - begun)
    return statistics.median(took_s) * 1e6


def now(function: Callable[..., Any], *arguments: Any) -> Step:
    """Return a step that calls a plain function."""

    async def step() -> None:
        function(*arguments)

    return step


class Stages:
    """The stages of one request of `rows` records."""

    def __init__(self, model: Model, rows: int) -> None:
        values = np.random.default_rng(0).normal(0, 0.05, (rows, 1))
        self.rows: Rows = values
        self.sizes = (rows,)
        self.body = orjson.dumps({"X": values[0, 0].item() if rows == 1 else values[:, 0].tolist()})
        self.predictions = model.predict(values)
        self.model = model
        reader = RecordReader(model.signature, 100_000)
        kind = self.predictions.values.dtype.kind
        self.protocol = Original(reader, model.classes, kind)
        self.read = self.protocol.stream if rows == 1 else self.protocol.batch

    async def instant(self, rows: Rows, *_: Any) -> Predictions:
        """Answer without a model."""
        return self.predictions

    def coalescer(self) -> Coalescer:
        """A coalescer over `instant`."""
        return Coalescer(
            self.instant,
            max_rows_per_call=4096,
            max_calls_under_way=lambda: 2,
            max_queued_rows=200_000,
            deadline_s=30.0,
        )

    def asked(self) -> Step:
        """The whole of an endpoint, as uvicorn calls it."""
        limits, gate = Limits(2**24, 10.0), Gate(256, 2**28)
        endpoint = Endpoint(self.read, self.instant, limits, gate, [], Requests())
        headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"accept", b"*/*")]
        scope: Scope = {"type": "http", "path": "/", "query_string": b"", "headers": headers}

        async def receive() -> Message:
            return {"type": "http.request", "body": self.body, "more_body": False}

        async def send(message: Message) -> None:
            pass

        call: Callable[[Scope, Receive, Send], Awaitable[None]] = endpoint
        return partial(call, scope, receive, send)

    def framed(self) -> None:
        """Write a call and its answer as frames, and read both."""
        for array in (self.rows, self.predictions.values):
            data = b"".join(wire.frame({"id": 1, "sizes": self.sizes, "ask": [*ASK]}, array))
            for head, payload in wire.Frames().feed(data):
                wire.array_of(head, payload)

    async def steps(self, line: Line) -> list[tuple[str, Step]]:
        """Return what is measured, by name."""
        question = self.read(HEAD, self.body)
        return [
            ("read the body: JSON to rows", now(self.read, HEAD, self.body)),
            ("write the answer: values to JSON", now(question.write, [self.predictions])),
            ("endpoint, all of it, with an instant model", self.asked()),
            ("coalescer, with an instant call", partial(self.coalescer().predict, self.rows)),
            ("frames of call and answer, written and read", now(self.framed)),
            ("line, there and back, both ends here", partial(line.call, self.rows, (1,), ASK)),
            ("model, with its checks", now(self.model.predict, self.rows, self.sizes)),
            ("the estimator alone", now(self.model.estimator.predict, self.rows)),
        ]


async def measured(model: Model, rows: int) -> list[tuple[str, float, float]]:
    """Return each stage with its median times in microseconds: over and over, and paused."""
    stages = Stages(model, rows)
    server = Server(lambda *_: stages.predictions)
    line = await Line.open("127.0.0.1", await server.start("127.0.0.1"), server.secret)
    try:
        steps = await stages.steps(line)
        return [(name, await median_us(step), await paused_us(step)) for name, step in steps]
    finally:
        line.close()
        await server.close(1.0)


def tables() -> Iterator[Table]:
    """Measure, and give a table for one record and one for a thousand."""
    with TemporaryDirectory() as folder:
        written = benchmark_model.write(benchmark_model.LINEAR, Path(folder) / "model")
        model = model_files.read(written.directory)
        for rows in (1, 1000):
            table = Table(
                "stage", "µs", "µs after a pause", title=f"{rows} record{'s' if rows > 1 else ''}"
            )
            for name, *times_us in uvloop.run(measured(model, rows)):
                table.add_row(name, *(f"{took_us:,.1f}" for took_us in times_us))
            yield table


if __name__ == "__main__":
    for table in tables():
        Console().print(table)
