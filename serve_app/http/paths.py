"""What a request's path says of it, whatever prefix the service is under."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Scope

from serve_app.errors import ServeError
from serve_app.protocols import mlflow_scoring, open_inference, open_inference_pages

_MEMBERS: Final = {
    open_inference_pages.ROOT: open_inference.members,
    mlflow_scoring.PATH: mlflow_scoring.members,
}
"""What makes the members of an error that a protocol's clients look for, by its root."""


def path_of(scope: Scope) -> str:
    """Return a request's path within the application, exactly as Starlette's router takes it."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if not prefix:
        return path
    rest = path.removeprefix(prefix)
    return rest if rest[:1] in ("", "/") else path


def is_under(path: str, root: str) -> bool:
    """Whether a path is `root` or lies under it."""
    return path == root or path.startswith(f"{root}/")


def members_for(path: str, problem: ServeError) -> Mapping[str, Any] | None:
    """Return the members that clients of a path, without prefix, look for in an error's body."""
    for root, members in _MEMBERS.items():
        if is_under(path, root):
            return members(problem)
    return None
