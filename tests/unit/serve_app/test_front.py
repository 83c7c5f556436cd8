"""What Serve would read before the application is dropped or refused."""

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from serve_app.errors import PROBLEM
from serve_app.front import middlewares


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
    assert len(answer.headers["x-request-id"]) == 36


def test_a_request_id_of_200_printable_characters_passes() -> None:
    """The client's own id is kept."""
    assert ["x-request-id", "a b" + "c" * 197] in ask(
        [(b"x-request-id", b"a b" + b"c" * 197)]
    ).json()
