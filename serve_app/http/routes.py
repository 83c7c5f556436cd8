"""The HTTP contract: which path is answered by what."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.control.labels import Label, LabelState
from serve_app.description import describe
from serve_app.errors import (
    ECHOED,
    MalformedBodyError,
    MethodNotAllowedError,
    NoSuchRouteError,
    ServeError,
)
from serve_app.http.answers import Headers
from serve_app.http.body import Limits
from serve_app.http.endpoint import Endpoint, Predict, Remember
from serve_app.http.gate import Gate
from serve_app.http.paths import is_under, members_for, path_of
from serve_app.http.rollout_pages import RolloutPages
from serve_app.metrics.counts import VersionCounts
from serve_app.models.served import ServedModel
from serve_app.openapi import access_openapi
from serve_app.openapi import document as openapi
from serve_app.openapi.docs_page import DocsPage
from serve_app.protocols import media, mlflow_scoring, open_inference, open_inference_pages
from serve_app.protocols.original import BATCH_TYPES, Original
from serve_app.protocols.question import Read
from serve_app.records.reader import RecordReader
from serve_app.routing import CHAMPION, Published, Role

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What the routes need of the model behind them."""

    model: ServedModel
    role: Role
    predict: Predict
    check: Callable[[], Awaitable[None]]
    """Passes a real prediction through a worker; raises ServeError if that fails."""
    limits: Limits
    singles: Gate
    """Bounds the requests for one record."""
    batches: Gate
    """Bounds those that may have many, which don't keep the others out."""
    max_batch_records: int
    asks_for_keys: bool
    published: Callable[[], Published]
    """Says what the controller has said last."""
    command: Callable[[str, str], Awaitable[None]]
    """Takes an action on the rollout, and its reason; raises ServeError."""
    label: Callable[[Label], Awaitable[LabelState]]
    """Takes a true value; raises ServeError."""
    remember: Remember
    """Takes the rows of requests that were answered, for which true values may come."""
    counts: VersionCounts
    """Where requests are counted."""
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    """Gives what all ingresses have counted, and its media type, for an `accept` header; raises
    ServeError."""


class Application(Starlette):
    """All routes; those of `endpoints` are also to be had without Starlette's own steps.

    Under `own_path` lies what is asked of this version by its name.
    """

    def __init__(self, routes: list[Route], endpoints: dict[str, Endpoint], own_path: str) -> None:
        super().__init__(
            routes=routes,
            exception_handlers={
                ServeError: _problem,
                HTTPException: _http_problem,
                ClientDisconnect: _gone,
                Exception: _unexpected,
            },
        )
        self.router.redirect_slashes = False  # it answers by the client's own host header
        self._endpoints = endpoints
        self._own_path = own_path

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers a prediction request with exactly this path, else None."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        return self._endpoints.get(path_of(scope))

    def is_named(self, scope: Scope) -> bool:
        """Whether an HTTP request's path names this version."""
        return is_under(path_of(scope), self._own_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: predictions at once, all else by Starlette's router."""
        endpoint = self.endpoint(scope)
        if endpoint is None:
            await super().__call__(scope, receive, send)
        else:
            await endpoint(scope, receive, send)


def application(service: Service) -> Application:
    """Return the ASGI application that answers for `service`."""
    model = service.model
    headers: Headers = [
        (b"x-model-version", model.version.version.encode()),
        (b"x-model-role", service.role.encode()),
    ]

    def endpoint(path: str, read: Read, gate: Gate = service.batches, **options: Any) -> Endpoint:
        return Endpoint(
            read,
            service.predict,
            service.limits,
            gate,
            headers,
            service.counts.requests_of(path, service.role),
            remember=service.remember,
            **options,
        )

    reader = RecordReader(model.signature, service.max_batch_records, service.limits.max_body_bytes)
    original = Original(reader, model.classes, model.result_type)
    scoring = mlflow_scoring.Scoring(reader)
    endpoints = {
        "/stream": endpoint("/stream", original.stream, service.singles),
        "/batch": endpoint("/batch", original.batch, takes=BATCH_TYPES, offers=BATCH_TYPES),
        mlflow_scoring.PATH: endpoint(
            mlflow_scoring.PATH, scoring.invocations, **mlflow_scoring.OPTIONS
        ),
    }
    v2 = open_inference.OpenInference(reader, model)
    v2_pages = open_inference_pages.Pages(
        model.version, v2, service.check, lambda: _versions(service.published())
    )
    v2_paths = open_inference_pages.infer_paths(model.version)
    v2_infer = endpoint(v2_paths[0], v2.infer, **open_inference.OPTIONS)
    v2_endpoints = dict.fromkeys(v2_paths, v2_infer)
    pages = _Pages(service, headers)
    rollout = RolloutPages(
        service.published, service.command, service.label, model.labels, service.limits
    )
    docs = DocsPage(f"{model.version.name} {model.version.version}")
    return Application(
        [
            *(Route(path, one, methods=["POST"]) for path, one in endpoints.items()),
            Route("/health", pages.health),
            Route("/health/live", pages.health),
            Route("/health/ready", pages.ready),
            Route("/model", pages.model),
            Route("/metrics", pages.metrics),
            Route("/ping", mlflow_scoring.ping),
            Route("/version", mlflow_scoring.version),
            Route("/openapi.json", pages.openapi),
            Route("/docs", docs.page),
            Route("/docs/{name}", docs.file),
            *rollout.routes(),
            *v2_pages.routes(),
        ],
        {**endpoints, **v2_endpoints},
        open_inference_pages.version_path(model.version),
    )


def _versions(published: Published) -> list[str]:
    """Return the versions that can be asked by their names: those that take traffic."""
    table = published.table
    return [
        model.version.version
        for model, role in table.routed
        if role == CHAMPION or table.weight > 0.0
    ]


class _Pages:
    """What is asked by GET."""

    def __init__(self, service: Service, headers: Headers) -> None:
        self._service = service
        self._headers = {name.decode(): value.decode() for name, value in headers}
        document = openapi.document(service.model, service.limits, service.max_batch_records)
        self._openapi_body = orjson.dumps(
            access_openapi.secured(document) if service.asks_for_keys else document
        )

    async def health(self, request: Request) -> Response:
        """Say that the process answers."""
        return PlainTextResponse("Ok")

    async def ready(self, request: Request) -> Response:
        """Say whether a real prediction passes through a worker."""
        await self._service.check()
        return PlainTextResponse("Ok")

    async def model(self, request: Request) -> Response:
        """Describe what is served."""
        body = orjson.dumps(describe(self._service.published()))
        return Response(body, media_type=media.JSON, headers=self._headers)

    async def metrics(self, request: Request) -> Response:
        """Give what was counted, as Prometheus reads it."""
        accepted = request.headers.get("accept", "")
        text, media_type = await self._service.metrics(accepted)
        return Response(text, media_type=media_type)

    async def openapi(self, request: Request) -> Response:
        """Give the OpenAPI document."""
        return Response(self._openapi_body, media_type=media.JSON, headers=self._headers)


async def _problem(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, ServeError) else ServeError("unexpected error")
    return problem.response(members_for(path_of(request.scope), problem))


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _unexpected(request, error)
    path = request.scope["path"]  # request.url reads the query, too, whose bytes may be odd
    problems: dict[int, ServeError] = {
        404: NoSuchRouteError(f"no route {path[:ECHOED]}: see /docs"),
        405: MethodNotAllowedError(
            f"{request.method[:ECHOED]} is not taken at {path[:ECHOED]}",
            headers=error.headers,
        ),
    }
    return await _problem(
        request, problems.get(error.status_code, MalformedBodyError(error.detail))
    )


async def _gone(request: Request, error: Exception) -> Response:
    """Answer nobody: the client hung up while its body was read."""
    return Response(status_code=400)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return await _problem(request, ServeError("an unexpected error; the log has the details"))
