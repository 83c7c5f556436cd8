"""Request headers that Serve reads before the application does, made safe first.

`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` in `serve.env` names `middlewares`, so that `Guard`
stands outside everything of Serve's in each ingress replica and proxy.
"""

import re
from typing import Final
from uuid import uuid4

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import MalformedHeaderError

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
_REQUEST_ID: Final = b"x-request-id"
_FIT_REQUEST_ID: Final = re.compile(rb"[\x20-\x7e]{1,200}")


def middlewares() -> list[Middleware]:
    """Return what Serve puts around each of its HTTP servers; called once a process, by Serve."""
    return [Middleware(Guard)]


class Guard:
    """Drops headers meant for Serve; refuses an `x-request-id` that can't be logged and echoed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        kept = [pair for pair in scope["headers"] if _dashed(pair[0]) not in _DROPPED]
        if all(_FIT_REQUEST_ID.fullmatch(value) for name, value in kept if name == _REQUEST_ID):
            await self._app({**scope, "headers": kept}, receive, send)
            return
        problem = MalformedHeaderError(
            "x-request-id must be 1 to 200 printable ASCII characters: send another, or none"
        )
        problem.headers["x-request-id"] = str(uuid4())
        await problem.response()(scope, receive, send)


def _dashed(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")
