"""The HTTP contract as Starlette routes and nothing else: HTTP in, HTTP out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serve_app.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    MalformedBodyError,
    MethodNotAllowedError,
    NoSuchRouteError,
    ServeError,
    UnknownParameterError,
    UnpredictableRecordsError,
    UnsupportedMediaTypeError,
)
from serve_app.predictions import Predictions
from serve_app.records import (
    ECHOED,
    MAX_REPORTED_ERRORS,
    RecordReader,
    ResultWriter,
    Rows,
    labelled,
    plain,
    result_body,
)
from serve_app.served import ServedModel

logger = logging.getLogger(__name__)

JSON: Final = "application/json"
CHAMPION_ROLE: Final = "champion"

Predict = Callable[[Rows, bool], Awaitable[Predictions]]


@dataclass(frozen=True)
class Service:
    """What the routes need of the model behind them."""

    model: ServedModel
    predict: Predict
    """(rows, wants probabilities) -> one outcome a row."""
    check: Callable[[], Awaitable[None]]
    """Passes a real prediction through a worker; raises ServeError if that fails."""
    max_body_bytes: int
    max_batch_records: int
    body_timeout_s: float


def application(service: Service) -> Starlette:
    """Return the ASGI application that answers for `service`."""
    routes = _Routes(service)
    return Starlette(
        routes=[
            Route("/stream", routes.stream, methods=["POST"]),
            Route("/batch", routes.batch, methods=["POST"]),
            Route("/health", routes.health),
            Route("/health/live", routes.health),
            Route("/health/ready", routes.ready),
            Route("/model", routes.model),
        ],
        exception_handlers={
            ServeError: _problem,
            HTTPException: _http_problem,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = RecordReader(service.model.signature, service.max_batch_records)
        self._headers = {
            "x-model-version": service.model.version.version,
            "x-model-role": CHAMPION_ROLE,
        }
        self._model_body = orjson.dumps(_describe(service))

    async def stream(self, request: Request) -> Response:
        """Predict one record."""
        write, wants_probabilities = self._writer(request)
        rows = self._reader.read_one(await self._body(request))
        outcome = await self._service.predict(rows, wants_probabilities)
        _refuse_errors(outcome)
        return self._json(result_body(write(outcome.values)[0]))

    async def batch(self, request: Request) -> Response:
        """Predict many records, order kept."""
        write, wants_probabilities = self._writer(request)
        rows = self._reader.read_many(await self._body(request))
        outcome = await self._service.predict(rows, wants_probabilities)
        _refuse_errors(outcome)
        return self._json(result_body(write(outcome.values)))

    async def health(self, request: Request) -> Response:
        """Say that the process answers."""
        return PlainTextResponse("Ok")

    async def ready(self, request: Request) -> Response:
        """Say whether a real prediction passes through a worker."""
        await self._service.check()
        return PlainTextResponse("Ok")

    async def model(self, request: Request) -> Response:
        """Describe what is served."""
        return self._json(self._model_body)

    def _json(self, body: bytes) -> Response:
        return Response(body, media_type=JSON, headers=self._headers)

    def _writer(self, request: Request) -> tuple[ResultWriter, bool]:
        wanted = request.query_params.get("proba", "false")
        if wanted not in ("true", "false"):
            raise UnknownParameterError(f"proba must be true or false, got {wanted[:ECHOED]!r}")
        if wanted == "false":
            return plain, False
        if self._service.model.classes is None:
            raise UnknownParameterError("proba=true: this model gives no probabilities")
        return labelled(self._service.model.classes), True

    async def _body(self, request: Request) -> bytes:
        """Return the whole body, or stop reading as soon as it is over a limit."""
        _check_media_type(request)
        limit_s = self._service.body_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._read(request)
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"the body had not arrived within {limit_s:g} s: send it at once"
            ) from error

    async def _read(self, request: Request) -> bytes:
        limit = self._service.max_body_bytes
        declared = request.headers.get("content-length")
        if declared is not None and declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is larger than {limit} bytes: send fewer records",
    )


def _check_media_type(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != JSON:
        raise UnsupportedMediaTypeError(
            f"send the header 'content-type: {JSON}', got {media_type.strip()[:ECHOED] or 'none'!r}"
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise UnsupportedMediaTypeError(f"the charset must be utf-8, got {charset[:ECHOED]!r}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(f"the body must not be encoded, got {encoding[:ECHOED]!r}")


def _refuse_errors(outcome: Predictions) -> None:
    if not outcome.errors:
        return
    faults = [{"index": at, "reason": why} for at, why in sorted(outcome.errors.items())]
    detail = f"record {faults[0]['index']}: {faults[0]['reason']}"
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more of {len(outcome.values)} records)"
    raise UnpredictableRecordsError(detail, errors=faults[:MAX_REPORTED_ERRORS])


def _describe(service: Service) -> dict[str, Any]:
    model, version = service.model, service.model.version
    return {
        "name": version.name,
        "versions": [{"version": version.version, "role": CHAMPION_ROLE, "weight": 1.0}],
        "run_id": version.run_id,
        "digest": version.digest,
        "metrics": dict(version.metrics),
        "signature": [asdict(column) for column in model.signature.columns],
        "classes": model.classes,
    }


async def _problem(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, ServeError) else ServeError("unexpected error")
    return problem.response()


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _unexpected(request, error)
    problems: dict[int, ServeError] = {
        404: NoSuchRouteError(
            f"no route {request.url.path[:ECHOED]}: see /stream, /batch, /health, /model"
        ),
        405: MethodNotAllowedError(
            f"{request.method[:ECHOED]} is not taken at {request.url.path[:ECHOED]}",
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
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _problem(request, ServeError("an unexpected error; the log has the details"))
