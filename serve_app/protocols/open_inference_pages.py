"""What the Open Inference Protocol v2 asks by GET, and its answers for models that aren't here."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.errors import ECHOED, NoSuchRouteError
from serve_app.models.served import ServedVersion
from serve_app.protocols import media
from serve_app.protocols.open_inference import OpenInference

SERVER: Final = {"name": "endeavour", "version": "0.1.0", "extensions": ["binary_tensor_data"]}

Check = Callable[[], Awaitable[None]]
Page = Callable[[Request], Awaitable[Any]]
"""Gives what the answer's body says, or raises ServeError."""

ROOT: Final = "/v2"
"""What the paths of this protocol begin with."""

_MODEL: Final = f"{ROOT}/models/{{model}}"


def version_path(version: ServedVersion) -> str:
    """Return the path that names this version, with the names as they are."""
    return f"{ROOT}/models/{version.name}/versions/{version.version}"


def infer_paths(version: ServedVersion) -> tuple[str, str]:
    """Return the paths at which this version infers, with the names as they are."""
    return f"{ROOT}/models/{version.name}/infer", f"{version_path(version)}/infer"


class Pages:
    """Answers for one model version; `check` passes a prediction through a worker, or raises.

    `versions` gives those of the model that can be asked by their names.
    """

    def __init__(
        self,
        version: ServedVersion,
        protocol: OpenInference,
        check: Check,
        versions: Callable[[], list[str]],
    ) -> None:
        self._version = version
        self._metadata = protocol.metadata()
        self._check = check
        self._versions = versions

    def routes(self) -> list[Route]:
        """Return all routes but those that infer with this model: they are endpoints."""
        routes = [
            Route(ROOT, _answering(self.server)),
            Route(f"{ROOT}/health/live", _answering(self.live)),
            Route(f"{ROOT}/health/ready", _answering(self.ready)),
        ]
        for path in (_MODEL, f"{_MODEL}/versions/{{version}}"):
            routes += [
                Route(path, _answering(self.model)),
                Route(f"{path}/ready", _answering(self.model_ready)),
                Route(f"{path}/infer", _answering(self.infer_elsewhere), methods=["POST"]),
            ]
        return routes

    async def server(self, request: Request) -> Any:
        """Describe the service."""
        return SERVER

    async def live(self, request: Request) -> Any:
        """Say that the process answers."""
        return {"live": True}

    async def ready(self, request: Request) -> Any:
        """Say that a real prediction passes through a worker."""
        await self._check()
        return {"ready": True}

    async def model(self, request: Request) -> Any:
        """Describe the model."""
        self._find(request)
        return {**self._metadata, "versions": self._versions()}

    async def model_ready(self, request: Request) -> Any:
        """Say that a real prediction passes through a worker."""
        self._find(request)
        await self._check()
        return {"name": self._version.name, "ready": True}

    async def infer_elsewhere(self, request: Request) -> Any:
        """Refuse: this model's own paths are endpoints."""
        self._find(request)
        raise NoSuchRouteError(f"no route {request.scope['path'][:ECHOED]}")

    def _find(self, request: Request) -> None:
        """Raise NoSuchRouteError unless the path names this model, and this version if any."""
        served = self._version
        name = request.path_params["model"]
        version = request.path_params.get("version", served.version)
        if (name, version) != (served.name, served.version):
            asked = f"model {name[:ECHOED]!r}"
            if version != served.version:
                asked = f"version {version[:ECHOED]!r} of {asked}"
            raise NoSuchRouteError(
                f"no {asked}: version {served.version!r} of {served.name!r} is served here"
            )


def _answering(page: Page) -> Page:
    """Return `page` with JSON for its answer."""

    async def answer(request: Request) -> Response:
        return Response(orjson.dumps(await page(request)), media_type=media.JSON)

    return answer
