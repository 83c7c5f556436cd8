"""What stands in front of Serve: headers made safe, predictions answered at once."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import PROBLEM
from serve_app.http.answers import REQUEST_ID
from serve_app.http.front import Front, Replica, middlewares


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's headers, as an inner server would see them."""
    headers = [[name.decode("utf-8"), value.decode("utf-8")] for name, value in scope["headers"]]
    await JSONResponse(headers)(scope, receive, send)
    assert Request(scope).headers is not None


def ask(headers: list[tuple[bytes, bytes]]) -> Any:
    """Send headers through the middleware."""
    app: Any = echo
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return TestClient(app).get("/", headers=headers)


@pytest.mark.parametrize("value", [b"0", b"nan", b"1e-9", b"\xff", b"?1"])
@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"X-Request-Disconnect-Disabled",
        b"serve_multiplexed_model_id",
        b"Serve-Multiplexed-Model-Id",
        b"x-session-id",
    ],
)
def test_headers_for_serve_itself_are_dropped(name: bytes, value: bytes) -> None:
    """Whatever their values, nothing inside sees them; others stay."""
    answer = ask([(name, value), (b"x-kept", b"1")])
    assert answer.status_code == 200
    names = {pair[0].lower() for pair in answer.json()}
    assert "x-kept" in names
    assert name.decode().lower() not in names


@pytest.mark.parametrize("value", [b"\xff\xfe", b"", b"a" * 201, b"a\tb", "é".encode()])
def test_a_request_id_that_cannot_be_echoed_is_refused(value: bytes) -> None:
    """400 with a code, and a new id."""
    answer = ask([(b"x-request-id", value)])
    assert answer.status_code == 400
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["code"] == "malformed_header"
    made = UUID(answer.headers["x-request-id"])
    assert made.version == 4
    assert str(made) == answer.headers["x-request-id"]


@pytest.mark.parametrize("prefix", ["", "/m"])
@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v2/models/m/infer", {"error"}),
        ("/invocations", {"error_code", "message"}),
        ("/here", set()),
    ],
)
def test_such_a_refusal_has_what_the_clients_of_its_path_look_for(
    prefix: str, path: str, members: set[str]
) -> None:
    """As all errors there have it."""
    client = TestClient(Front(echo, Here()), root_path=prefix)
    document = client.post(prefix + path, headers=[(b"x-request-id", b"")]).json()
    assert {"error", "error_code", "message"} & document.keys() == members
    assert {document[name] for name in members - {"error_code"}} <= {document["detail"]}


def test_a_request_id_of_200_printable_characters_passes() -> None:
    """The client's own id is kept."""
    assert ["x-request-id", "a b" + "c" * 197] in ask(
        [(b"x-request-id", b"a b" + b"c" * 197)]
    ).json()


class Here(Replica):
    """A replica that answers for one path without Serve."""

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what says which id the request has."""
        return self._say_id if scope["path"] == "/here" else None

    async def _say_id(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(scope[REQUEST_ID])(scope, receive, send)


@pytest.fixture
def front() -> TestClient:
    """A client of `Front` with such a replica."""
    return TestClient(Front(echo, Here()))


def test_a_prediction_passes_serve_by_with_its_own_id(front: TestClient) -> None:
    """The client's, or a new one each time."""
    assert front.get("/here", headers={"x-request-id": "order 66"}).text == "order 66"
    made = {front.get("/here").text for _ in range(3)}
    assert [len(one) for one in made] == [36, 36, 36]


def test_what_is_no_prediction_goes_to_serve(front: TestClient) -> None:
    """As it came."""
    assert ["x-kept", "1"] in front.get("/there", headers={"x-kept": "1"}).json()


def test_an_id_that_cannot_be_echoed_is_refused_for_predictions_too(front: TestClient) -> None:
    """Before anything is read."""
    answer = front.get("/here", headers=[(b"x-request-id", b"\xff")])
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_header")


def test_one_of_several_ids_that_cannot_be_echoed_is_enough(front: TestClient) -> None:
    """Serve might take another one than we do."""
    ids = [(b"x-request-id", b"good"), (b"x-request-id", b"\xff")]
    assert front.get("/here", headers=ids).status_code == 400


def test_outside_of_a_replica_everything_goes_to_serve() -> None:
    """Serve's proxy has no application in it."""
    assert Replica().endpoint({"type": "http", "method": "POST", "path": "/stream"}) is None


async def tell_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's body."""
    await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)


def test_the_body_of_a_get_is_not_kept() -> None:
    """Serve would hold all that is sent, though no route of ours reads it."""
    client = TestClient(Front(tell_body, Here()))
    assert client.request("GET", "/health", content=b"a" * 10_000).content == b""
    assert client.request("POST", "/feedback", content=b"a" * 10_000).content == b"a" * 10_000


def test_what_comes_after_the_body_of_a_get_is_passed_on() -> None:
    """Whoever waits for the client to go away hears of it."""
    coming: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.disconnect"},
    ]
    seen: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0)

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    asyncio.run(Front(listen, Here())(scope, receive, send))
    assert seen == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
    ]
