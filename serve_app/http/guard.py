"""Who is let in: API keys, checked before anything of a request but its headers is read."""

from functools import partial
from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.access.key_file import KeySource
from serve_app.access.keys import ApiKey, carries_key
from serve_app.access.keys import Scope as KeyScope
from serve_app.access.rates import Rates
from serve_app.access.scopes import needed_scope
from serve_app.errors import ECHOED, ForbiddenError, ServeError, UnauthenticatedError
from serve_app.http import answers
from serve_app.http.paths import members_for, path_of
from serve_app.metrics.counts import Requests

KEY_ID: Final = "endeavour.key_id"
"""Where in the ASGI scope the id of the request's key is left."""


class Guarded(Protocol):
    """An ASGI application that can answer predictions without Serve."""

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers this request at once; None if it is no prediction."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""


class Guard:
    """An ASGI application that lets requests through to another, if their key is for that.

    A service without keys lets everybody through.
    """

    def __init__(self, app: Guarded, source: KeySource, rates: Rates, refused: Requests) -> None:
        self._app = app
        self._refused = refused
        self._source = source
        self._rates = rates

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers a prediction request at once, or refuses it; None if it is none."""
        if not self._source.is_on:
            return self._app.endpoint(scope)
        key = self._identify(scope)
        answer = self._app.endpoint(scope)
        return None if answer is None else partial(self._admit, answer, key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if not self._source.is_on or scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._admit(self._app, self._identify(scope), scope, receive, send)

    def _identify(self, scope: Scope) -> ApiKey | None:
        key = self._source.keyring.find(scope["headers"])
        if key is not None:
            scope[KEY_ID] = key.id.encode()
        return key

    async def _admit(
        self, answer: ASGIApp, key: ApiKey | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            needed = needed_scope(path_of(scope))
            if needed is not None:
                await self._rates.take(_checked(key, needed, scope))
        except ServeError as problem:
            self._refused.refused(problem.status)
            await _refuse(problem, scope, receive, send)
            return
        await answer(scope, receive, send)


def _checked(key: ApiKey | None, needed: KeyScope, scope: Scope) -> ApiKey:
    """Return the key if it is for what is asked. Raises UnauthenticatedError, ForbiddenError."""
    if key is None:
        raise UnauthenticatedError(
            "the API key is not known: it may have been revoked"
            if carries_key(scope["headers"])
            else "send an API key, as `authorization: Bearer ID.SECRET` or `x-api-key: ID.SECRET`"
        )
    if needed not in key.scopes:
        raise ForbiddenError(
            f"{scope['path'][:ECHOED]} asks for the scope {needed}, which key {key.id} doesn't have"
        )
    return key


async def _refuse(problem: ServeError, scope: Scope, receive: Receive, send: Send) -> None:
    answers.leave_unread(problem, scope["headers"])
    await answers.refuse(problem, scope, receive, send, members_for(path_of(scope), problem))
