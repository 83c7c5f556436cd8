"""API keys in the OpenAPI document, for a service that asks for them; pure."""

from typing import Final

from serve_app.access.scopes import needed_scope
from serve_app.errors import ForbiddenError, RateLimitedError, UnauthenticatedError
from serve_app.openapi.operations import Described, Errors, problems

REFUSALS: Final[Errors] = (UnauthenticatedError, ForbiddenError, RateLimitedError)

_SCHEMES: Final[Described] = {
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "`ID.SECRET`"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "`ID.SECRET`"},
    "basic": {"type": "http", "scheme": "basic", "description": "The id, and the secret."},
}


def secured(document: Described) -> Described:
    """Return the document of the same service behind keys."""
    paths = {
        path: {method: _operation(path, one) for method, one in operations.items()}
        for path, operations in document["paths"].items()
    }
    components = {**document["components"], "securitySchemes": _SCHEMES}
    security: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    return {**document, "paths": paths, "components": components, "security": security}


def _operation(path: str, operation: Described) -> Described:
    scope = needed_scope(path)
    if scope is None:
        return {**operation, "security": []}
    said = f"Needs a key with the scope `{scope}`."
    description = "\n\n".join(filter(None, (operation.get("description"), said)))
    responses = {**operation["responses"], **problems(REFUSALS)}
    return {**operation, "description": description, "responses": responses}
