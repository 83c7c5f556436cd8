"""`/docs`: the OpenAPI document as a page, by Swagger UI, with nothing from any other host.

Swagger UI's files come from the wheel `flask-swagger-ui`, of whose code nothing is run. All
addresses are relative, so that the page works behind a route prefix.
"""

import asyncio
import gzip
import html
import importlib.util
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.errors import ECHOED, NoSuchRouteError

_JAVASCRIPT: Final = "text/javascript"
_CSS: Final = "text/css"
FILES: Final = {
    "swagger-ui.css": _CSS,
    "page.css": _CSS,
    "swagger-ui-bundle.js": _JAVASCRIPT,
    "page.js": _JAVASCRIPT,
}
"""What the page is made of, and its media types."""

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_UNSNIFFED: Final = {"x-content-type-options": "nosniff"}
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{swagger-ui.css}">
<link rel="stylesheet" href="{page.css}">
<script src="{swagger-ui-bundle.js}" defer></script>
<script src="{page.js}" defer></script>
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript; <a href="openapi.json">the document</a> does not.</noscript>
</body>
</html>
"""
_OWN: Final = {
    "page.css": b"""body { margin: 0; background: #fafafa; }
.swagger-ui .scheme-container { display: none; } /* there is one server: this one */
""",
    "page.js": b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
""",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page, plain and compressed."""

    plain: bytes
    compressed: bytes
    digest: str


class DocsPage:
    """The page and its files; they are read when they are first asked for."""

    def __init__(self, title: str) -> None:
        self._title = title

    async def page(self, request: Request) -> Response:
        """Answer the page."""
        files = await asyncio.to_thread(_files)
        text = _PAGE.replace("{title}", html.escape(self._title))
        for name, file in files.items():
            text = text.replace(f"{{{name}}}", f"docs/{name}?v={file.digest}")
        headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
        headers |= {"cache-control": "no-cache", **_UNSNIFFED}
        return Response(text, media_type="text/html", headers=headers)

    async def file(self, request: Request) -> Response:
        """Answer one of the page's files. Raises NoSuchRouteError if it has no such file."""
        name = request.path_params["name"]
        if name not in FILES:
            raise NoSuchRouteError(f"/docs has no file {name[:ECHOED]!r}")
        file = (await asyncio.to_thread(_files))[name]
        is_exact = request.query_params.get("v") == file.digest
        headers = {
            "cache-control": "public, max-age=31536000, immutable" if is_exact else "no-cache",
            "vary": "accept-encoding",
            **_UNSNIFFED,
        }
        if not _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(file.plain, media_type=FILES[name], headers=headers)
        headers["content-encoding"] = "gzip"
        return Response(file.compressed, media_type=FILES[name], headers=headers)


@cache
def _files() -> dict[str, File]:
    folder = _swagger_ui()
    return {name: _file(_OWN.get(name) or (folder / name).read_bytes()) for name in FILES}


def _file(plain: bytes) -> File:
    return File(plain, gzip.compress(plain, mtime=0), sha256(plain).hexdigest()[:16])


def _swagger_ui() -> Path:
    """Return the folder of Swagger UI's files, without importing the package around it."""
    found = importlib.util.find_spec("flask_swagger_ui")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("flask-swagger-ui is not installed: /docs has no page")
    return Path(found.submodule_search_locations[0]) / "dist"


def _takes_gzip(header: str) -> bool:
    """Whether an `accept-encoding` header names gzip, other than to refuse it."""
    for part in header.lower().split(","):
        name, _, quality = part.replace(" ", "").partition(";q=")
        if name == "gzip":
            return not quality or quality.strip("0.") != ""
    return False
