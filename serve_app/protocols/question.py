"""What a request asks of the model, in whatever protocol it came."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from serve_app.errors import ECHOED, UnknownParameterError
from serve_app.models.predictions import Predictions
from serve_app.protocols import media
from serve_app.records.rows import Rows


class Answer(NamedTuple):
    """The body of a 200 answer, and headers beyond those that every answer has."""

    body: bytes
    media_type: str = media.JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Head(NamedTuple):
    """What a protocol reads of a request's head."""

    media_type: str
    """Of the body; one of those that the protocol takes."""
    accepted: str
    """The media type that the client likes best of those that the protocol offers."""
    headers: Mapping[bytes, bytes]
    """Names in lower case; values of a header that stands twice are joined by commas."""
    query: bytes
    path: Mapping[str, Any]
    """The parameters in the path, by name."""

    def is_set(self, name: str) -> bool:
        """Whether a query parameter is `true`. Raises UnknownParameterError if it is neither."""
        if not self.query:
            return False
        value = _parameters(self.query).get(name, "false")
        if value not in ("true", "false"):
            raise UnknownParameterError(f"{name} must be true or false, got {value[:ECHOED]!r}")
        return value == "true"


class Question(NamedTuple):
    """Rows for the model, and how its predictions become an answer."""

    rows: Rows
    """May be empty: then no worker is asked."""
    write: Callable[[Sequence[Predictions]], Answer]
    """One `Predictions` for each of `asks`, as long as `rows`."""
    asks: tuple[bool, ...] = (False,)
    """False: for labels or numbers; True: for the classes' probabilities."""
    takes_errors: bool = False
    """Whether `write` deals with records that the model gives no answer for."""


Read = Callable[[Head, bytes], Question]
"""A protocol: (head, body) -> question. Raises ServeError."""


@lru_cache(maxsize=256)
def _parameters(query: bytes) -> Mapping[str, str]:
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
