"""A request is let in if its key is for what it asks, before its body is read."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.access import keys
from serve_app.access.key_file import VARIABLE, KeySource
from serve_app.access.rates import Rates
from serve_app.access.scopes import OPEN, needed_scope
from serve_app.http.answers import REQUEST_ID
from serve_app.http.guard import KEY_ID, Guard
from serve_app.metrics.counts import Requests

PREDICT, PREDICT_SENT = keys.create("predict")
FEEDBACK, FEEDBACK_SENT = keys.create("feedback")
ADMIN, ADMIN_SENT = keys.create("admin")
SLOW, SLOW_SENT = keys.create("predict", "1")
KEYS = {VARIABLE: ";".join(map(str, (PREDICT, FEEDBACK, ADMIN, SLOW)))}
SENT = {"predict": PREDICT_SENT, "feedback": FEEDBACK_SENT, "admin": ADMIN_SENT}


@dataclass
class Inside:
    """An application that notes who came, and answers 200."""

    came: list[Scope] = field(default_factory=list)

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Answer predictions without Serve."""
        return self if scope["path"] == "/stream" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the request."""
        self.came.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@dataclass
class Answered:
    """What a client gets."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    bytes_read: int = 0

    @property
    def document(self) -> dict[str, Any]:
        """The problem document."""
        content: dict[str, Any] = json.loads(self.body)
        return content


def scope_of(path: str, sent: str | None, *headers: tuple[bytes, bytes]) -> Scope:
    """A request with a key."""
    key = [] if sent is None else [(b"x-api-key", sent.encode())]
    return {"type": "http", "method": "POST", "path": path, "headers": [*key, *headers]}


async def asked(guard: Guard, scope: Scope) -> Answered:
    """Send a request with an endless body, at once if it is a prediction."""
    answered = Answered()

    async def receive() -> Message:
        answered.bytes_read += 1000
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.status, answered.headers = message["status"], dict(message["headers"])
        answered.body += message.get("body", b"")

    await (guard.endpoint(scope) or guard)(scope, receive, send)
    return answered


def ask(path: str, sent: str | None, *headers: tuple[bytes, bytes]) -> Answered:
    """Ask a service with keys."""
    guard = Guard(Inside(), KeySource(None, KEYS), Rates(), Requests())
    return asyncio.run(asked(guard, scope_of(path, sent, *headers)))


PATHS = [
    ("/stream", "predict"),
    ("/batch", "predict"),
    ("/model", "predict"),
    ("/docs", "predict"),
    ("/openapi.json", "predict"),
    ("/v2/models/m/infer", "predict"),
    ("/no/such/path", "predict"),
    ("/", "predict"),
    ("/health/", "predict"),
    ("//health", "predict"),
    ("/Health", "predict"),
    ("/health\n", "predict"),
    ("/feedback", "feedback"),
    ("/feedback\n", "feedback"),
    ("/admin\n/rollout", "admin"),
    ("/admin/rollout", "admin"),
    ("/admin", "admin"),
    ("/metrics", "metrics"),
    ("/metrics\n", "metrics"),
]


@pytest.mark.parametrize(("path", "needed"), PATHS)
def test_a_path_asks_for_its_scope(path: str, needed: str) -> None:
    """No other will do, and without a key nothing but health is answered."""
    assert needed_scope(path) == needed
    for scope, sent in SENT.items():
        answered = ask(path, sent)
        assert answered.status == (200 if scope == needed else 403)
    assert ask(path, None).status == 401
    assert ask(path, "edv_nobody.secret").status == 401


def test_who_is_refused_is_counted() -> None:
    """And who is let in is counted where it is answered."""
    counted = Requests()
    guard = Guard(Inside(), KeySource(None, KEYS), Rates(), counted)
    for sent in (None, SENT["feedback"], SENT["predict"]):
        asyncio.run(asked(guard, scope_of("/stream", sent)))
    assert +counted.statuses == {401: 1, 403: 1}


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_is_anybodys(path: str) -> None:
    """Load balancers have no keys."""
    assert ask(path, None).status == 200


def test_a_prefix_changes_nothing() -> None:
    """What an admin key is for is so under any route prefix."""
    guard = Guard(Inside(), KeySource(None, KEYS), Rates(), Requests())
    scope = {**scope_of("/models/admin/rollout", PREDICT_SENT), "root_path": "/models"}
    assert asyncio.run(asked(guard, scope)).status == 403


def test_what_only_looks_like_a_prefix_changes_nothing_either() -> None:
    """The router doesn't take it off, and answers for the whole path."""
    guard = Guard(Inside(), KeySource(None, KEYS), Rates(), Requests())
    scope = {**scope_of("/admin/rollout", PREDICT_SENT), "root_path": "/a"}
    assert asyncio.run(asked(guard, scope)).status == 403


@pytest.mark.parametrize("prefix", ["", "/models"])
@pytest.mark.parametrize(
    ("whose", "status", "code"),
    [
        ("nobody", 401, "UNAUTHENTICATED"),
        ("feedback", 403, "PERMISSION_DENIED"),
        ("slow", 429, "REQUEST_LIMIT_EXCEEDED"),
    ],
)
def test_a_refusal_has_what_the_clients_of_its_path_look_for(
    prefix: str, whose: str, status: int, code: str
) -> None:
    """As all errors there have it, under any prefix."""

    async def run(path: str) -> Answered:
        guard = Guard(Inside(), KeySource(None, KEYS), Rates(), Requests())
        sent = {**SENT, "slow": SLOW_SENT}.get(whose)
        scope = {**scope_of(prefix + path, sent), "root_path": prefix}
        await asked(guard, dict(scope))  # which uses up a slow key
        return await asked(guard, scope)

    for path, members in (
        ("/v2/models/m/infer", {"error"}),
        ("/invocations", {"error_code", "message"}),
        ("/stream", set()),
    ):
        answered = asyncio.run(run(path))
        assert answered.status == status
        document = answered.document
        assert {"error", "error_code", "message"} & document.keys() == members
        assert {document[name] for name in members - {"error_code"}} <= {document["detail"]}
        assert document.get("error_code", code) == code


def test_a_refusal_is_a_problem_that_says_the_way_out() -> None:
    """Each with its code, and never with what was sent."""
    nobody, wrong = ask("/stream", None), ask("/stream", f"{PREDICT.id}.wrong")
    assert nobody.document["code"] == wrong.document["code"] == "unauthenticated"
    assert "send an API key" in nobody.document["detail"]
    assert "not known" in wrong.document["detail"]
    assert b"Basic" in nobody.headers[b"www-authenticate"]
    forbidden = ask("/admin/rollout", PREDICT_SENT)
    assert forbidden.document["code"] == "forbidden"
    assert f"the scope admin, which key {PREDICT.id}" in forbidden.document["detail"]
    assert PREDICT_SENT.split(".")[1].encode() not in forbidden.body
    assert ask("/v2/models/m/infer", None).document["error"]


def test_a_refused_body_is_not_waited_for() -> None:
    """A small one leaves the connection open; of a large one some is discarded before the end."""
    small = ask("/stream", None, (b"content-length", b"100"))
    assert (small.bytes_read, small.headers.get(b"connection")) == (0, None)
    for header in ((b"content-length", b"9999999"), (b"transfer-encoding", b"chunked")):
        large = ask("/stream", None, header)
        assert large.headers[b"connection"] == b"close"
        assert large.bytes_read <= 17 * 2**20


def test_a_key_has_its_rate() -> None:
    """Beyond it the answer is 429 with a time; the request id is kept."""

    async def run() -> list[Answered]:
        guard = Guard(Inside(), KeySource(None, KEYS), Rates(), Requests())
        scope = {**scope_of("/stream", SLOW_SENT), REQUEST_ID: b"r1"}
        return [await asked(guard, dict(scope)) for _ in range(2)]

    first, second = asyncio.run(run())
    assert (first.status, second.status) == (200, 429)
    assert second.document["code"] == "rate_limited"
    assert second.headers[b"retry-after"] == b"1"
    assert second.headers[b"x-request-id"] == b"r1"


def test_a_request_is_counted_once() -> None:
    """Whether it is answered at once, or goes Serve's way."""

    async def run(path: str) -> list[int]:
        twice = keys.create("predict", "2")
        guard = Guard(Inside(), KeySource(None, {VARIABLE: str(twice[0])}), Rates(), Requests())
        return [(await asked(guard, scope_of(path, twice[1]))).status for _ in range(3)]

    for path in ("/stream", "/model"):
        assert asyncio.run(run(path)) == [200, 200, 429]


def test_who_came_is_known_behind_it() -> None:
    """By the key's id."""
    inside = Inside()
    guard = Guard(inside, KeySource(None, KEYS), Rates(), Requests())
    asyncio.run(asked(guard, scope_of("/stream", PREDICT_SENT)))
    assert inside.came[0][KEY_ID] == PREDICT.id.encode()


def test_without_keys_all_are_let_in() -> None:
    """As it is on one's own machine."""
    guard = Guard(Inside(), KeySource(None, {}), Rates(), Requests())
    assert asyncio.run(asked(guard, scope_of("/admin/rollout", None))).status == 200
    assert asyncio.run(asked(guard, scope_of("/stream", "any.thing"))).status == 200
