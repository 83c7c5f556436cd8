"""A route that predicts: bodies are bounded, and every failure is a problem document."""

import asyncio
import gc
import json
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from starlette.types import Message

from serve_app.errors import PROBLEM, OverloadedError, ServeError
from serve_app.http.answers import REQUEST_ID
from serve_app.http.body import Limits
from serve_app.http.endpoint import Endpoint
from serve_app.http.gate import Gate
from serve_app.metrics.counts import GONE, Requests
from serve_app.models.predictions import UNANSWERED, Predictions
from serve_app.protocols.question import Answer, Head, Question
from serve_app.records.rows import Rows

JSON = (b"content-type", b"application/json")
LIMIT = 1000


@dataclass
class Asked:
    """What has come to pass."""

    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    chunks_read: int = 0
    chunks_read_before_the_answer: int = 0
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document."""
        assert self.headers[b"content-type"] == PROBLEM.encode()
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return document


async def double(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """Twice each row."""
    return Predictions(rows[:, 0] * 2)


def ask(
    chunks: Iterable[bytes] = (b"1 2",),
    headers: Sequence[tuple[bytes, bytes]] = (JSON,),
    predict: Any = double,
    asks: tuple[bool, ...] = (False,),
    takes_errors: bool = False,
    body_timeout_s: float = 5.0,
    body_stall_s: float = 5.0,
    scope: dict[str, Any] | None = None,
    hangs_up: bool = False,
    counted: Requests | None = None,
    members: Any = lambda error: None,
    gate: Gate | None = None,
    pause_s: float = 0.0,
) -> Asked:
    """Send a body of numbers to an endpoint that sums up what the model says of them."""
    asked = Asked()

    def write(found: Sequence[Predictions]) -> Answer:
        sums = [float(np.nansum(predictions.values)) for predictions in found]
        return Answer(json.dumps(sums).encode(), headers=((b"x-own", b"1"),))

    def read(head: Head, body: bytes) -> Question:
        asked.heads.append(head)
        asked.bodies.append(body)
        rows = np.array(body.split(), dtype=np.float64).reshape(-1, 1)
        return Question(rows, write, asks, takes_errors)

    async def receive() -> Message:
        for chunk in chunks_left:
            asked.chunks_read += 1
            await asyncio.sleep(pause_s)
            return {"type": "http.request", "body": chunk, "more_body": True}
        if hangs_up:
            return {"type": "http.disconnect"}
        if not is_endless:
            return {"type": "http.request"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            asked.chunks_read_before_the_answer = asked.chunks_read
            asked.status, asked.headers = message["status"], dict(message["headers"])
        else:
            asked.body += message["body"]
            asked.is_whole = not message.get("more_body", False)

    is_endless = min(body_timeout_s, body_stall_s) < 1
    chunks_left = iter(chunks)
    limits = Limits(LIMIT, body_timeout_s, body_stall_s)
    gate = gate or Gate(10, 2**30)
    endpoint = Endpoint(
        read,
        predict,
        limits,
        gate,
        [(b"x-version", b"7")],
        counted or Requests(),
        members=members,
    )
    request = {
        "type": "http",
        "method": "POST",
        "path": "/any",
        "query_string": b"a=b",
        "headers": list(headers),
        **(scope or {}),
    }
    asyncio.run(endpoint(request, receive, send))
    return asked


def test_an_answer_has_its_length_and_every_header() -> None:
    """The endpoint's own, the answer's, and the request id if there is one to be echoed."""
    asked = ask(scope={REQUEST_ID: b"r1"})
    assert (asked.status, asked.body) == (200, b"[6.0]")
    assert asked.headers == {
        b"content-type": b"application/json",
        b"content-length": b"5",
        b"x-own": b"1",
        b"x-version": b"7",
        b"x-request-id": b"r1",
    }
    assert b"x-request-id" not in ask().headers  # which is Serve's to set, if it isn't ours


def test_a_body_may_come_in_pieces() -> None:
    """They are joined."""
    assert ask([b"1", b"", b"0 ", b"5"]).bodies == [b"10 5"]


def test_what_the_protocol_sees_of_the_head() -> None:
    """Types, headers, query."""
    head = ask(headers=[JSON, (b"accept", b"*/*"), (b"x", b"1")]).heads[0]
    assert (head.media_type, head.accepted) == ("application/json", "application/json")
    assert (head.query, head.headers[b"x"]) == (b"a=b", b"1")


def test_headers_that_stand_twice_are_read_as_one_list() -> None:
    """So that the last one can't hide the others."""
    twice = [JSON, (b"accept", b"application/json"), (b"accept", b"text/html")]
    assert ask(headers=twice).status == 200
    hidden = [JSON, (b"content-encoding", b"gzip"), (b"content-encoding", b"identity")]
    assert ask(headers=hidden).status == 415
    assert ask(headers=[JSON, JSON]).status == 415


@pytest.mark.parametrize("length", [b"1001", b"9" * 18, b"9" * 5000])
def test_a_body_over_the_limit_is_refused_by_its_length(length: bytes) -> None:
    """None of it is read."""
    asked = ask(headers=[JSON, (b"content-length", length)])
    assert (asked.status, asked.problem["code"]) == (413, "too_large")
    assert asked.chunks_read_before_the_answer == 0
    assert asked.headers[b"connection"] == b"close"


def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    """The limit itself is taken; then no more is read."""
    assert ask([b"1" * 100] * 10).status == 200

    def endless() -> Iterable[bytes]:
        while True:
            yield b"1" * 100

    asked = ask(endless())
    assert (asked.status, asked.problem["code"]) == (413, "too_large")
    assert asked.headers[b"connection"] == b"close"
    assert asked.chunks_read_before_the_answer == 11
    assert not asked.bodies
    # As much again is discarded: an answer is lost if the connection is closed on unread bytes.
    assert (asked.chunks_read, asked.is_whole) == (21, True)


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    """408, and the connection is closed, as the rest of the body may still come."""
    asked = ask([b"1"], body_timeout_s=0.05)
    assert (asked.status, asked.problem["code"]) == (408, "request_timeout")
    assert asked.headers[b"connection"] == b"close"


def test_nobody_is_answered_who_has_hung_up() -> None:
    """And the model isn't asked."""
    asked = ask([b"1"], hangs_up=True)
    assert (asked.status, asked.bodies) == (0, [])


def test_every_request_is_counted_once() -> None:
    """Answered with its records and its time, refused with its status, or gone."""
    counted = Requests()
    ask([b"1 2 3"], counted=counted)
    ask([b"1"], headers=[], counted=counted)
    ask([b"1"], hangs_up=True, counted=counted)
    assert +counted.statuses == {200: 1, 415: 1, GONE: 1}
    assert (sum(counted.durations), counted.records) == (1, 3)
    assert 0.0 < counted.seconds < 5.0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 415),
        ([(b"content-type", b"text/plain")], 415),
        ([JSON, (b"content-encoding", b"gzip")], 415),
        ([JSON, (b"accept", b"text/html")], 406),
    ],
)
def test_headers_are_judged_before_the_body_is_read(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    """A body that nobody can use isn't waited for."""
    asked = ask(headers=headers)
    assert (asked.status, asked.chunks_read) == (status, 0)
    assert asked.problem["code"]


def test_no_worker_is_asked_about_no_rows() -> None:
    """The protocol writes what there is to say."""

    async def unasked(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        raise AssertionError

    assert ask([b""], predict=unasked, asks=(False, True)).body == b"[0.0, 0.0]"


def test_a_protocol_may_ask_for_labels_and_probabilities() -> None:
    """In its own order."""

    async def predict(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        return Predictions(rows[:, 0] * (10 if wants_probabilities else 1))

    assert ask(predict=predict, asks=(True, False)).body == b"[30.0, 3.0]"


async def failing(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """No answer for any record above 1."""
    errors = dict.fromkeys(np.flatnonzero(rows[:, 0] > 1).tolist(), "too much")
    return Predictions(np.where(rows[:, 0] > 1, np.nan, rows[:, 0]), errors)


def test_records_without_an_answer_are_named() -> None:
    """The first 20, unless the protocol deals with them."""
    asked = ask([b"1 2 3"], predict=failing)
    assert (asked.status, asked.problem["code"]) == (422, "unpredictable_records")
    assert asked.problem["errors"] == [
        {"index": 1, "reason": "too much"},
        {"index": 2, "reason": "too much"},
    ]
    assert "1 more of 3 records" in asked.problem["detail"]
    assert len(ask([b"2 " * 50], predict=failing).problem["errors"]) == 20
    assert ask([b"1 2 3"], predict=failing, takes_errors=True).body == b"[1.0]"


@pytest.mark.parametrize(
    ("other", "status", "code"),
    [(UNANSWERED, 504, "deadline_exceeded"), ("raised", 422, "unpredictable_records")],
)
def test_records_that_the_model_hangs_on_are_too_late_and_not_wrong(
    other: str, status: int, code: str
) -> None:
    """Unless there's another fault beside them."""

    async def hanging(rows: Rows, wants: bool, within_s: float | None = None) -> Predictions:
        return Predictions(np.zeros(len(rows)), {0: UNANSWERED, 1: other})

    asked = ask(predict=hanging)
    assert (asked.status, asked.problem["code"]) == (status, code)


def test_errors_keep_their_own_headers_and_the_request_id() -> None:
    """503 says when to come back."""

    async def full(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        raise OverloadedError("full")

    asked = ask(predict=full, scope={REQUEST_ID: b"r1"})
    assert (asked.status, asked.problem["code"]) == (503, "overloaded")
    assert (asked.headers[b"retry-after"], asked.headers[b"x-request-id"]) == (b"1", b"r1")


def test_a_protocol_may_add_to_the_body_of_errors() -> None:
    """What its clients look for."""
    asked = ask(headers=[], members=lambda error: {"error": error.detail})
    assert asked.problem["error"] == asked.problem["detail"]


def test_an_unexpected_error_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The log has it; the client gets a code."""

    async def broken(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        raise RuntimeError("secret")

    asked = ask(predict=broken)
    assert (asked.status, asked.problem["code"]) == (500, "internal_error")
    assert b"secret" not in asked.body
    assert "secret" in caplog.text


def test_a_gate_that_is_full_refuses_before_the_body_is_read() -> None:
    """At once; who is done makes room, however it ended."""
    gate = Gate(1, 2**30)
    for _ in range(3):
        assert ask(gate=gate).status == 200
        assert ask([b"x"], gate=gate).status == 500
    gate.enter()
    asked = ask(headers=(JSON, (b"content-length", b"3")), gate=gate)
    assert (asked.status, asked.problem["code"]) == (503, "overloaded")
    assert asked.headers[b"retry-after"] == b"1"
    assert asked.chunks_read == 0


@pytest.mark.parametrize(
    "refused",
    [
        {"gate": Gate(0, 2**30)},
        {"predict": failing},
        {"chunks": [b"x"]},
        {"body_timeout_s": 0.05},
        {"headers": []},
    ],
)
def test_a_refusal_leaves_nothing_to_the_garbage_collector(refused: dict[str, Any]) -> None:
    """Thousands come in a second when a service is overloaded, and a collection stops all of it."""
    problems: list[weakref.ref[ServeError]] = []
    gc.disable()
    try:
        asked = ask(members=lambda error: problems.append(weakref.ref(error)), **refused)
        left = [problem() for problem in problems]
    finally:
        gc.enable()
    assert asked.status >= 400
    assert left == [None]


def test_a_client_may_wait_for_less_than_the_service_would() -> None:
    """What is left of its time is passed on with the question."""
    waits: list[float | None] = []

    async def predict(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        waits.append(within_s)
        return Predictions(rows[:, 0])

    ask(predict=predict)
    assert ask(predict=predict, headers=(JSON, (b"x-request-timeout-ms", b"250"))).status == 200
    assert waits[0] is None
    assert waits[1] is not None
    assert 0.1 < waits[1] <= 0.25


def test_what_is_too_late_is_not_run() -> None:
    """Its body has taken all of the client's time."""
    asked = ask(
        [b"1 "] * 3, headers=(JSON, (b"x-request-timeout-ms", b"30")), pause_s=0.02, predict=None
    )
    assert (asked.status, asked.problem["code"]) == (504, "deadline_exceeded")
    assert "nothing was run" in asked.problem["detail"]


@pytest.mark.parametrize("sent", [b"0", b"-1", b"1.5", b"nan", b"inf", b"", b"9" * 10, b"\xff"])
def test_a_time_that_is_none_is_refused(sent: bytes) -> None:
    """A client can't switch the service's deadline off."""
    asked = ask(headers=(JSON, (b"x-request-timeout-ms", sent)))
    assert (asked.status, asked.problem["code"]) == (400, "malformed_header")
    assert "x-request-timeout-ms" in asked.problem["detail"]


def test_a_body_that_pauses_is_not_waited_for() -> None:
    """One that comes slowly, but comes, is."""
    paused = ask([b"1"], body_stall_s=0.05)
    assert (paused.status, paused.problem["code"]) == (408, "request_timeout")
    assert "nothing of the body has come for 0.05 s" in paused.problem["detail"]
    assert ask([b"1 "] * 10, body_stall_s=1.0, pause_s=0.02).status == 200


def test_what_is_announced_takes_nobodys_place() -> None:
    """A body that is too large is that at any time; one in chunks counts as it comes."""
    gate = Gate(10, 100)
    with gate.body() as other:
        other.grow(90)
        large = ask(headers=(JSON, (b"content-length", b"%d" % (LIMIT + 1))), gate=gate)
        assert large.status == 413
        chunked = (JSON, (b"transfer-encoding", b"chunked"))
        assert ask([b"1 "], headers=chunked, gate=gate).status == 200
        full = ask([b"1 " * 20], headers=chunked, gate=gate)
    assert (full.status, full.problem["code"]) == (503, "overloaded")
    assert full.headers[b"connection"] == b"close"
