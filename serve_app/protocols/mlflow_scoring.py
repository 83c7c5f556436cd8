"""MLflow's scoring protocol, as `mlflow models serve` speaks it: `/invocations`.

Where MLflow would convert or leave out what doesn't fit the signature, this refuses; what both
answer is the same.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import metadata
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve_app.errors import (
    ECHOED,
    InvalidRecordsError,
    ServeError,
    UnknownParameterError,
    UnsupportedMediaTypeError,
)
from serve_app.models.predictions import Predictions
from serve_app.protocols import media, mlflow_csv
from serve_app.protocols.question import Answer, Head, Question
from serve_app.records import strict_json
from serve_app.records.faults import invalid
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from serve_app.records.strict_json import kind

PATH: Final = "/invocations"
"""Where this protocol predicts."""

_CODES: Final = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_PARAMS: Final = "params"
_SPLIT: Final = frozenset({"columns", "index", "data"})


async def ping(request: Request) -> Response:
    """Answer `GET /ping`: the process answers."""
    return Response(b"\n", media_type=media.JSON)


async def version(request: Request) -> Response:
    """Answer `GET /version`: that of MLflow, whose protocol this is."""
    return Response(_mlflow_version(), media_type=media.JSON)


@cache
def _mlflow_version() -> str:
    return metadata.version("mlflow")


def members(error: ServeError) -> Mapping[str, Any]:
    """Return what MLflow's clients look for in the body of an error."""
    return {"error_code": _CODES.get(error.status, "BAD_REQUEST"), "message": error.detail}


OPTIONS: Final[Mapping[str, Any]] = {"takes": (media.JSON, media.CSV), "members": members}
"""Of the endpoint that answers `/invocations`."""


class Scoring:
    """Reads and writes for one model version."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        width = len(reader.signature.columns)
        self._most_values = 8 + (reader.max_records + 1) * (2 + width)  # with names and an index
        self._formats: dict[str, Callable[[Any], Rows]] = {
            "dataframe_split": self._split,
            "dataframe_records": self._objects,
            "instances": self._rows_or_columns,
            "inputs": self._rows_or_columns,
        }

    def invocations(self, head: Head, body: bytes) -> Question:
        """Read records in any of MLflow's formats."""
        _check_parameters(head.headers.get(b"content-type", b""))
        if head.media_type == media.CSV:
            rows = self._reader.rows_of_columns(mlflow_csv.columns_of(body, self._reader))
        else:
            rows = self._json(strict_json.loads_unique(body, self._most_values))
        return Question(rows, _write)

    def _json(self, document: Any) -> Rows:
        wanted = f"send an object with one of {', '.join(self._formats)}"
        if not isinstance(document, dict):
            raise InvalidRecordsError(f"the body is {kind(document)}: {wanted}")
        if document.get(_PARAMS) not in (None, {}):
            raise UnknownParameterError("params: this model takes none; leave them out, or empty")
        names = [name for name in document if name != _PARAMS]
        if unknown := [name for name in names if name not in self._formats]:
            raise InvalidRecordsError(f"unknown field {unknown[0][:ECHOED]!r}: {wanted}")
        if len(names) != 1:
            raise InvalidRecordsError(f"the body has {len(names)} of the formats: {wanted}")
        return self._formats[names[0]](document[names[0]])

    def _split(self, split: Any) -> Rows:
        """`{"columns": [name, ...], "data": [[value, ...], ...]}`; an index changes nothing."""
        if not isinstance(split, dict):
            raise InvalidRecordsError(f"dataframe_split must be an object, got {kind(split)}")
        if unknown := sorted(set(split) - _SPLIT):
            raise InvalidRecordsError(
                f"dataframe_split has the unknown field {unknown[0][:ECHOED]!r}"
            )
        columns, data = _list(split, "columns"), _list(split, "data")
        index = split.get("index")
        if index is not None and not (isinstance(index, list) and len(index) == len(data)):
            raise InvalidRecordsError("dataframe_split: index must be a list as long as data")
        return self._reader.rows_of(_ordered(data, self._order(columns)))

    def _order(self, columns: list[Any]) -> list[int]:
        """Return where the signature's columns stand in `columns`."""
        for at, name in enumerate(columns):
            if not isinstance(name, str):
                raise InvalidRecordsError(
                    f"dataframe_split: column {at} must be a string, got {kind(name)}"
                )
        self._reader.check_names(columns)
        if len(columns) != len(self._reader.signature.names):
            raise InvalidRecordsError("dataframe_split: a column stands twice in columns")
        return [columns.index(name) for name in self._reader.signature.names]

    def _objects(self, records: Any) -> Rows:
        """`[{name: value, ...}, ...]`."""
        if not isinstance(records, list):
            raise InvalidRecordsError(f"dataframe_records must be a list, got {kind(records)}")
        faults = [
            {"index": index, "reason": f"must be an object, got {kind(record)}"}
            for index, record in enumerate(records)
            if not isinstance(record, dict)
        ]
        if faults:
            raise invalid(faults, len(records))
        return self._reader.rows_of(records)

    def _rows_or_columns(self, values: Any) -> Rows:
        """A list of records; or `{name: [value, ...], ...}`, or one object of plain values."""
        if isinstance(values, list):
            return self._reader.rows_of(values)
        if not isinstance(values, dict):
            raise InvalidRecordsError(
                f"instances and inputs must be a list or an object, got {kind(values)}"
            )
        if not any(isinstance(value, list) for value in values.values()):
            return self._reader.rows_of([values])
        for name, value in values.items():
            if not isinstance(value, list):
                raise InvalidRecordsError(
                    f"column {name[:ECHOED]!r}: must be a list, got {kind(value)}"
                )
        return self._reader.rows_of_columns(values)


def _list(split: Mapping[str, Any], name: str) -> list[Any]:
    value = split.get(name)
    if not isinstance(value, list):
        raise InvalidRecordsError(f"dataframe_split: {name} must be a list, got {kind(value)}")
    return value


@lru_cache(maxsize=256)
def _check_parameters(content_type: bytes) -> None:
    """Raise UnsupportedMediaTypeError for `format=...`, which meant other bodies until MLflow 2."""
    for parameter in content_type.decode("latin-1").split(";")[1:]:
        name = parameter.partition("=")[0].strip()
        if name.lower() not in ("", "charset"):
            raise UnsupportedMediaTypeError(
                f"the content type's parameter {name[:ECHOED]!r} is not taken: "
                "the format is told by the body's field"
            )


def _ordered(data: list[Any], order: list[int]) -> list[Any]:
    """Return the records with their values in another order; what isn't a record stays as it is."""
    if order == list(range(len(order))):
        return data
    return [
        [record[at] for at in order]
        if isinstance(record, list) and len(record) == len(order)
        else record
        for record in data
    ]


def _write(found: Sequence[Predictions]) -> Answer:
    # As MLflow does it: a float32 comes out with all of its digits.
    return Answer(orjson.dumps({"predictions": found[0].values.tolist()}))
