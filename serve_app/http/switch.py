"""Which version's routes answer a request: the switch between applications."""

import random
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http.answers import REQUEST_ID
from serve_app.http.guard import KEY_ID
from serve_app.http.routes import Application
from serve_app.rollouts.assignment import is_challenger

CLIENT_ID: Final = b"x-client-id"
"""The header by which a client stays with one version through a rollout."""

_ids = random.Random()


class Switch:
    """An ASGI application that passes each request to that of one version, from start to end.

    A client is known by `x-client-id`, else by its API key, else each request is a client of its
    own.
    """

    def __init__(self, champion: Application) -> None:
        self._champion = champion
        self._challenger: Application | None = None  # only if it takes traffic
        self._salt = b""
        self._weight = 0.0

    def turn(
        self, champion: Application, challenger: Application | None, salt: bytes, weight: float
    ) -> None:
        """Send a share `weight` of the clients to `challenger` from now on, all others to
        `champion`."""
        self._champion = champion
        self._challenger = challenger if weight > 0.0 else None
        self._salt, self._weight = salt, weight

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers a prediction request at once; None if it is none."""
        if self._challenger is None:
            return self._champion.endpoint(scope)
        chosen, other = self._champion, self._challenger
        if is_challenger(self._salt, _key(scope), self._weight):
            chosen, other = other, chosen
        # A path may name a version itself; both know the paths without one.
        return chosen.endpoint(scope) or other.endpoint(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what isn't a prediction, for the version it names or the champion."""
        answer: ASGIApp | None = None
        if scope["type"] == "http":
            answer = self.endpoint(scope) or self._named(scope)
        await (answer or self._champion)(scope, receive, send)

    def _named(self, scope: Scope) -> Application | None:
        challenger = self._challenger
        return challenger if challenger is not None and challenger.is_named(scope) else None


def _key(scope: Scope) -> bytes:
    """Return what a client is known by."""
    for name, value in scope["headers"]:
        if name == CLIENT_ID and value:
            return bytes(value)
    key_id = scope.get(KEY_ID)
    if isinstance(key_id, bytes):
        return key_id
    request_id = scope.get(REQUEST_ID)
    if isinstance(request_id, bytes):
        return request_id
    named = (bytes(value) for name, value in scope["headers"] if name == b"x-request-id")
    return next(named, None) or _ids.randbytes(8)  # without `front.Front`, nobody has made an id
