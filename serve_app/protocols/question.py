"""What a request asks of the model, in whatever protocol it came."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from serve_app.errors import ECHOED, UnknownParameterError
from serve_app.models.predictions import Predictions
from serve_app.protocols import media
from serve_app.records.rows import Rows

MOST_PARAMETERS: Final = 64
"""In a query, those that nobody here reads included."""

Parameter = Literal["partial", "proba"]
"""The query parameters that protocols read."""

_READ: Final = frozenset(get_args(Parameter))
_MOST_CACHED_BYTES: Final = 256


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

    def is_set(self, name: Parameter) -> bool:
        """Whether a query parameter is `true`.

        Raises UnknownParameterError if it is neither, or if there are too many in the query.
        """
        if not self.query:
            return False
        read = _cached if len(self.query) <= _MOST_CACHED_BYTES else _parameters
        value = read(self.query).get(name, "false")
        if value not in ("true", "false"):
            raise UnknownParameterError(f"{name} must be true or false, got {value[:ECHOED]!r}")
        return value == "true"


class Places(NamedTuple):
    """Which records of a batch the rows are, where some are left out."""

    kept: npt.NDArray[np.intp]
    """Where each of the rows stood."""
    total: int
    """How many records there were."""


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
    places: Places | None = None
    """None if the rows are all records."""


Read = Callable[[Head, bytes], Question]
"""A protocol: (head, body) -> question. Raises ServeError."""


def _parameters(query: bytes) -> Mapping[str, str]:
    """Return those parameters that are read here, the last of each name."""
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_PARAMETERS
        )
    except ValueError as error:
        raise UnknownParameterError(
            f"the query has more than {MOST_PARAMETERS} parameters"
        ) from error
    return {name: value for name, value in pairs if name in _READ}


_cached: Final = lru_cache(maxsize=256)(_parameters)
