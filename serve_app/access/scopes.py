"""What a key must be for to ask for a path: pure. Whatever isn't named here needs `predict`."""

from typing import Final

from serve_app.access.keys import ADMIN, FEEDBACK, METRICS, PREDICT, Scope

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

_OWN: Final[dict[str, Scope]] = {"admin": ADMIN, "feedback": FEEDBACK, "metrics": METRICS}
"""Scopes of the paths that begin so."""


def needed_scope(path: str) -> Scope | None:
    """Return what a key must be for to ask for a path; None if no key is needed."""
    if path in OPEN:
        return None
    # Stripped, as a route's own pattern matches before a line's end, too.
    first = [part.strip() for part in path.split("/", 2)[1:2]]
    return _OWN.get(first[0], PREDICT) if first else PREDICT
