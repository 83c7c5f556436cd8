"""What a key must be for to ask for a path: pure. Whatever isn't named here needs `predict`."""

from typing import Final

from serve_app.access.keys import ADMIN, FEEDBACK, PREDICT, Scope

OPEN: Final = frozenset(
    {
        "/health",
        "/health/live",
        "/health/ready",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
"""Paths for which no key is asked: load balancers and kubelets have none."""


def needed_scope(path: str) -> Scope | None:
    """Return what a key must be for to ask for a path; None if no key is needed."""
    if path in OPEN:
        return None
    # Stripped, as a route's own pattern matches before a line's end, too.
    first = [part.strip() for part in path.split("/", 2)[1:2]]
    if first == ["admin"]:
        return ADMIN
    return FEEDBACK if first == ["feedback"] else PREDICT
