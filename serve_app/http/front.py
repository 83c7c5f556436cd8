"""What stands in front of Serve in each ingress replica: headers made safe, predictions at once.

`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` in `serve.env` names `middlewares`, so that `Front`
stands outside everything of Serve's in each ingress replica and proxy. A request for one of the
prediction routes goes straight to the application of this replica: what Serve does for each request
(tasks, contexts, log records, metrics) takes longer than all that we do. Every other request goes
Serve's way, and all of them do where no such variable is set.
"""

import random
import re
from typing import Any, Final, Protocol

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import MalformedHeaderError
from serve_app.http.answers import REQUEST_ID, TAKES_ABORT
from serve_app.http.one_write import joined
from serve_app.http.paths import members_for, path_of

# Serve decodes these as UTF-8 and fails if they aren't, and would let a client choose its own
# deadline, or none. They are for Serve's own features, none of which is used here.
_DROPPED: Final = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
    }
)
_BODILESS: Final = frozenset({"GET", "HEAD"})
_REQUEST_ID: Final = b"x-request-id"
_FIT_REQUEST_ID: Final = re.compile(rb"[\x20-\x7e]{1,200}")

# Ids must differ, not be secret: UUIDs (version 4) without `uuid4`'s system call and object.
_ids = random.Random()


def middlewares() -> list[Middleware]:
    """Return what Serve puts around each of its HTTP servers; called once a process, by Serve."""
    return [Middleware(Front)]


class HasEndpoints(Protocol):
    """An ingress that can answer without Serve."""

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers this request, if it is a prediction."""


class Front:
    """Drops headers meant for Serve, refuses request ids that can't be echoed, answers predictions.

    `replica` finds what this process serves; None where it is no ingress of ours.
    """

    def __init__(self, app: ASGIApp, replica: "Replica | None" = None) -> None:
        self._app = app
        self._replica = replica or Replica()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on to Serve."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_ids = [value for name, value in scope["headers"] if name == _REQUEST_ID]
        if not all(map(_FIT_REQUEST_ID.fullmatch, request_ids)):
            await _refuse(scope, receive, send)
            return
        if scope["type"] == "http":  # a client without another name is known by it
            scope[REQUEST_ID] = request_ids[0] if request_ids else _new_id().encode()
        endpoint = self._replica.endpoint(scope)
        if endpoint is not None:
            scope[TAKES_ABORT] = True
            await endpoint(scope, receive, joined(send))
            return
        kept = [pair for pair in scope["headers"] if _dashed(pair[0]) not in _DROPPED]
        if scope.get("method") in _BODILESS:
            receive = _without_body(receive)
        await self._app({**scope, "headers": kept}, receive, send)


class Replica:
    """The replica in this process, once Serve has made it."""

    def __init__(self) -> None:
        self._ingress: HasEndpoints | None = None

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers this request without Serve; None if that is Serve's to do."""
        if self._ingress is None:
            self._ingress = _ingress()
        return None if self._ingress is None else self._ingress.endpoint(scope)


def _ingress() -> HasEndpoints | None:
    try:
        served: Any = serve.get_replica_context().servable_object
    except RayServeException:  # a proxy
        return None
    return served if hasattr(served, "endpoint") else None


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    problem = MalformedHeaderError(
        "x-request-id must be 1 to 200 printable ASCII characters: send another, or none"
    )
    problem.headers["x-request-id"] = _new_id()
    await problem.response(members_for(path_of(scope), problem))(scope, receive, send)


def _without_body(receive: Receive) -> Receive:
    """Return what says that there is no body, and drops what comes of one.

    Serve would keep all of it in memory until the application asks for it, which none does.
    """
    has_begun = False

    async def receive_nothing() -> Message:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] == "http.request":
            pass
        return message

    return receive_nothing


def _new_id() -> str:
    digits = f"{_ids.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _dashed(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")
