"""Request bodies to float64 arrays by the model's signature, and results back to JSON.

A record is a number (one-feature models), a list of numbers in the signature's order, or an object
of named columns. Every function here is pure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from serve_app.errors import BodyTooLargeError, InvalidRecordsError, MalformedBodyError
from serve_app.signature import Column, Signature

Rows = npt.NDArray[np.float64]

MAX_REPORTED_ERRORS: Final = 20
ECHOED: Final = 100
"""Most characters of a client's own text that an error repeats."""

_KEY: Final = "X"
_MAX_NAMES: Final = 10
_NUMBERS: Final = frozenset({int, float})
_WIDTHS: Final = {
    "integer": (2.0**31 - 1, "does not fit into 32 bits"),
    "long": (2.0**53, "is larger than 2**53 and would be rounded"),
    "float": (float(np.finfo(np.float32).max), "does not fit into a 32-bit float"),
    "double": (float(np.finfo(np.float64).max), "does not fit into a 64-bit float"),
}
"""Largest absolute value of each column type, and what is said of a larger one."""

Fault = dict[str, Any]


class RecordReader:
    """Reads the bodies of `/stream` and `/batch` for one model version."""

    def __init__(self, signature: Signature, max_records: int) -> None:
        self._columns = signature.columns
        self._names = signature.names
        self._known = frozenset(signature.names)
        self._max_records = max_records
        self._limits = np.array([_WIDTHS[column.type][0] for column in signature.columns])
        self._integers = [at for at, column in enumerate(signature.columns) if column.is_integer]
        self._names_text = _names_text(signature.names)
        self._shape_text = _shape_text(signature.names, self._names_text)

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
        rows = self._rows_at_once(records)
        return rows if rows is not None else self._rows_one_by_one(records)

    def _rows_at_once(self, records: list[Any]) -> Rows | None:
        """Return the rows if all records have one shape and fit, else None; explains nothing."""
        if len(self._columns) == 1 and type(records[0]) in _NUMBERS:
            return self._fitting(records)
        kinds = set(map(type, records))
        if kinds not in ({list}, {dict}) or set(map(len, records)) != {len(self._columns)}:
            return None
        if kinds == {list}:
            return self._fitting(list(chain.from_iterable(records)))
        try:
            return self._fitting([record[name] for record in records for name in self._names])
        except KeyError:
            return None

    def _fitting(self, values: list[Any]) -> Rows | None:
        """Return plain values as rows, or None if one of them isn't a number that fits."""
        width = len(self._columns)
        kinds = set(map(type, values))
        if not kinds <= _NUMBERS or not all(
            kinds == {int} or set(map(type, values[at::width])) == {int} for at in self._integers
        ):
            return None
        try:
            rows = np.array(values, dtype=np.float64).reshape(-1, width)
        except OverflowError:
            return None
        # Strictly below the limit: 2**53 + 1 has become 2**53 by now.
        return rows if (np.abs(rows) < self._limits).all() else None

    def _rows_one_by_one(self, records: list[Any]) -> Rows:
        rows = np.empty((len(records), len(self._columns)), dtype=np.float64)
        faults: list[Fault] = []
        count = 0
        for index, record in enumerate(records):
            fault = self._fill(rows[index], record)
            if fault is not None:
                count += 1
                if count <= MAX_REPORTED_ERRORS:
                    faults.append({"index": index, **fault})
        if faults:
            raise _invalid(faults, count, len(records))
        return rows

    def _fill(self, row: Rows, record: Any) -> Fault | None:
        """Write one record into `row`; return the fault if it doesn't fit."""
        if isinstance(record, dict):
            return self._fill_named(row, record)
        if isinstance(record, list):
            return self._fill_positions(row, record)
        if len(self._columns) == 1:
            return _fill_values(row, self._columns, [record])
        return {"reason": f"must be {self._shape_text}, got {_kind(record)}"}

    def _fill_positions(self, row: Rows, values: list[Any]) -> Fault | None:
        if len(values) != len(self._columns):
            return {"reason": f"must be {self._shape_text}, got a list of {len(values)}"}
        return _fill_values(row, self._columns, values)

    def _fill_named(self, row: Rows, record: Mapping[str, Any]) -> Fault | None:
        for name in record:
            if name not in self._known:
                reason = f"unknown field; the model has {self._names_text}"
                return {"field": name[:ECHOED], "reason": reason}
        for name in self._names:
            if name not in record:
                return {"field": name, "reason": "missing field"}
        return _fill_values(row, self._columns, [record[name] for name in self._names])


def _names_text(names: Sequence[str]) -> str:
    text = ", ".join(name[:ECHOED] for name in names[:_MAX_NAMES])
    return text if len(names) <= _MAX_NAMES else f"{text} and {len(names) - _MAX_NAMES} more"


def _shape_text(names: Sequence[str], names_text: str) -> str:
    if len(names) == 1:
        return f"a number, a list of 1 number, or an object with the field {names_text}"
    return f"a list of {len(names)} numbers or an object with the fields {names_text}"


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
        raise InvalidRecordsError(
            f'unknown field {unknown[0][:ECHOED]!r}: the body is {{"{_KEY}": ...}}'
        )
    if _KEY not in document:
        raise InvalidRecordsError(f'the field "{_KEY}" is missing: send {{"{_KEY}": ...}}')
    return document[_KEY]


def _fill_values(row: Rows, columns: Sequence[Column], values: Sequence[Any]) -> Fault | None:
    for at, (column, value) in enumerate(zip(columns, values, strict=True)):
        if (reason := _misfit(column, value)) is not None:
            return {"field": column.name, "reason": reason}
        row[at] = value
    return None


def _misfit(column: Column, value: Any) -> str | None:
    if type(value) is not int and type(value) is not float:
        return f"must be a number, got {_kind(value)}"
    if column.is_integer and type(value) is not int:
        return f"must be a whole number, got {value!r}"
    limit, reason = _WIDTHS[column.type]
    # Python compares whole numbers and floats exactly; orjson gives no infinity but for 1e999.
    return None if math.isfinite(value) and -limit <= value <= limit else reason


def _invalid(faults: list[Fault], count: int, total: int) -> InvalidRecordsError:
    first = faults[0]
    where = f"record {first['index']}" + (f", field {first['field']!r}" if "field" in first else "")
    detail = f"{where}: {first['reason']}"
    if count > 1:
        detail += f" (and {count - 1} more of {total} records)"
    return InvalidRecordsError(detail, errors=faults)


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
