"""What a path says of a request, under any prefix."""

from typing import Any

import pytest

from serve_app.errors import NoSuchRouteError
from serve_app.http.paths import members_for, path_of

PROBLEM = NoSuchRouteError("no")
V2 = {"error": "no"}
MLFLOW = {"error_code": "ENDPOINT_NOT_FOUND", "message": "no"}


@pytest.mark.parametrize(
    ("path", "prefix", "found"),
    [
        ("/stream", None, "/stream"),
        ("/stream", "", "/stream"),
        ("/m/stream", "/m", "/stream"),
        ("/m/m/stream", "/m", "/m/stream"),
        ("/m/", "/m", "/"),
        ("/m", "/m", ""),
        ("/mstream", "/m", "/mstream"),
        ("/stream", "/m", "/stream"),
    ],
)
def test_a_prefix_is_taken_off_where_it_ends_with_a_part(
    path: str, prefix: str | None, found: str
) -> None:
    """As Starlette's router does it: what a key must be for is told by the route that answers."""
    scope: dict[str, Any] = {"type": "http", "path": path}
    if prefix is not None:
        scope["root_path"] = prefix
    assert path_of(scope) == found


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v2", V2),
        ("/v2/models/m/infer", V2),
        ("/v2x", None),
        ("/invocations", MLFLOW),
        ("/invocations/", MLFLOW),
        ("/invocationsx", None),
        ("/stream", None),
        ("/stream/v2", None),
        ("", None),
    ],
)
def test_an_error_has_what_the_clients_of_its_path_look_for(
    path: str, members: dict[str, str] | None
) -> None:
    """Other clients have nothing beside the problem document's own."""
    assert members_for(path, PROBLEM) == members
