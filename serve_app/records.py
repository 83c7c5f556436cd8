"""Request bodies to float64 arrays by the model's signature, and results back to JSON.

A record is a number (one-feature models), a list of numbers in the signature's order, or an object
of named columns. Every function here is pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from serve_app.errors import BodyTooLargeError, InvalidRecordsError, MalformedBodyError
from serve_app.signature import Column, Signature

Rows = npt.NDArray[np.float64]

MAX_REPORTED_ERRORS: Final = 20
_KEY: Final = "X"
_INT_LIMIT: Final = 2**63


class RecordReader:
    """Reads the bodies of `/stream` and `/batch` for one model version."""

    def __init__(self, signature: Signature, max_records: int) -> None:
        self._columns = signature.columns
        self._position = {column.name: at for at, column in enumerate(signature.columns)}
        self._max_records = max_records
        self._reads_plain_floats = len(signature.columns) == 1 and not (
            signature.columns[0].is_integer
        )

    def read_one(self, body: bytes) -> Rows:
        """Return the one record in `body`, shape (1, features).

        Raises MalformedBodyError, InvalidRecordsError.
        """
        return self._rows([_payload(body)])

    def read_many(self, body: bytes) -> Rows:
        """Return the records in `body`, shape (records, features), order kept.

        Raises MalformedBodyError, InvalidRecordsError, BodyTooLargeError.
        """
        records = _payload(body)
        if not isinstance(records, list):
            raise InvalidRecordsError(f'"{_KEY}" must be a list of records, got {_kind(records)}')
        if not records:
            raise InvalidRecordsError(f'"{_KEY}" is empty: send at least one record')
        if len(records) > self._max_records:
            raise BodyTooLargeError(
                f"{len(records)} records in one batch; at most {self._max_records} are taken"
            )
        return self._rows(records)

    def _rows(self, records: list[Any]) -> Rows:
        if self._reads_plain_floats and set(map(type, records)) <= {float, int}:
            rows = _finite_column(records)
            if rows is not None:
                return rows
        rows = np.empty((len(records), len(self._columns)), dtype=np.float64)
        faults: list[dict[str, Any]] = []
        for index, record in enumerate(records):
            fault = self._fill(rows[index], record)
            if fault is not None:
                faults.append({"index": index, **fault})
        if faults:
            raise _invalid(faults, len(records))
        return rows

    def _fill(self, row: Rows, record: Any) -> dict[str, Any] | None:
        """Write one record into `row`; return the fault if it doesn't fit."""
        if isinstance(record, dict):
            return self._fill_named(row, record)
        if isinstance(record, list):
            return self._fill_positions(row, record)
        if len(self._columns) == 1:
            return _fill_values(row, self._columns, [record])
        return {"reason": f"must be {self._shape()}, got {_kind(record)}"}

    def _fill_positions(self, row: Rows, values: list[Any]) -> dict[str, Any] | None:
        if len(values) != len(self._columns):
            return {"reason": f"must be {self._shape()}, got a list of {len(values)}"}
        return _fill_values(row, self._columns, values)

    def _fill_named(self, row: Rows, record: Mapping[str, Any]) -> dict[str, Any] | None:
        for name in record:
            if name not in self._position:
                return {"field": name, "reason": f"unknown field; the model has {self._names()}"}
        for name in self._position:
            if name not in record:
                return {"field": name, "reason": "missing field"}
        return _fill_values(row, self._columns, [record[name] for name in self._position])

    def _shape(self) -> str:
        if len(self._columns) == 1:
            return f"a number, a list of 1 number, or an object with the field {self._names()}"
        return (
            f"a list of {len(self._columns)} numbers or an object with the fields {self._names()}"
        )

    def _names(self) -> str:
        return ", ".join(self._position)


def _payload(body: bytes) -> Any:
    if not body:
        raise MalformedBodyError(f'the body is empty: send {{"{_KEY}": ...}}')
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRecordsError(f'the body must be {{"{_KEY}": ...}}, got {_kind(document)}')
    if unknown := sorted(set(document) - {_KEY}):
        raise InvalidRecordsError(f'unknown field {unknown[0]!r}: the body is {{"{_KEY}": ...}}')
    if _KEY not in document:
        raise InvalidRecordsError(f'the field "{_KEY}" is missing: send {{"{_KEY}": ...}}')
    return document[_KEY]


def _finite_column(values: Sequence[float]) -> Rows | None:
    """Return plain numbers as a column, or None if one of them isn't a finite float64."""
    try:
        column = np.array(values, dtype=np.float64).reshape(-1, 1)
    except OverflowError:
        return None
    return column if np.isfinite(column).all() else None


def _fill_values(
    row: Rows, columns: Iterable[Column], values: Iterable[Any]
) -> dict[str, Any] | None:
    for at, (column, value) in enumerate(zip(columns, values, strict=True)):
        if (reason := _misfit(column, value)) is not None:
            return {"field": column.name, "reason": reason}
        row[at] = value
    return None


def _misfit(column: Column, value: Any) -> str | None:
    if type(value) is not int and type(value) is not float:
        return f"must be a number, got {_kind(value)}"
    if column.is_integer:
        if type(value) is not int:
            return f"must be a whole number, got {value!r}"
        return None if abs(value) < _INT_LIMIT else "does not fit into 64 bits"
    return None if np.isfinite(float(value)) else "does not fit into a 64-bit float"


def _invalid(faults: list[dict[str, Any]], total: int) -> InvalidRecordsError:
    first = faults[0]
    where = f"record {first['index']}" + (f", field {first['field']!r}" if "field" in first else "")
    detail = f"{where}: {first['reason']}"
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more of {total} records)"
    return InvalidRecordsError(detail, errors=faults[:MAX_REPORTED_ERRORS])


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds[type(value)]


ResultWriter = Callable[[npt.NDArray[Any]], list[Any]]


def labelled(classes: Sequence[str]) -> ResultWriter:
    """Return a writer of probabilities, shape (records, classes), as one object a record."""

    def write(probabilities: npt.NDArray[Any]) -> list[Any]:
        return [dict(zip(classes, row, strict=True)) for row in probabilities.tolist()]

    return write


def plain(values: npt.NDArray[Any]) -> list[Any]:
    """Return predictions, shape (records,), as JSON values."""
    result: list[Any] = values.tolist()
    return result


def result_body(result: Any) -> bytes:
    """Return the body of a 200 answer."""
    return orjson.dumps({"result": result})
