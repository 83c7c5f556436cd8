"""Records to rows by the model's signature: strict, at once if they fit, one by one if not.

A record is a number (one-feature models), a list of values in the signature's order, or an object
of named columns. Every function here is pure.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serve_app import rows as row_blocks
from serve_app import strict_json
from serve_app.errors import ECHOED, MAX_REPORTED_ERRORS, BodyTooLargeError, InvalidRecordsError
from serve_app.rows import Rows
from serve_app.signature import Column, Signature

Fault = dict[str, Any]
"""`index` of the record, `field` if one is at fault, and `reason`."""

Values = Sequence[Any] | npt.NDArray[Any]
Columns = Mapping[str, Values]
Ordered = Sequence[Values]

_KEY: Final = "X"
_MAX_NAMES: Final = 10
_NUMBERS: Final = frozenset({int, float})
_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "double": _NUMBERS,
    "float": _NUMBERS,
    "long": frozenset({int}),
    "integer": frozenset({int}),
    "boolean": frozenset({bool}),
    "string": frozenset({str}),
}
_WANTED: Final = {
    "double": "a number",
    "float": "a number",
    "long": "a whole number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "a string",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest absolute value of a column, and what is said of a larger one."""

    value: float | int
    reason: str


_INTEGER: Final = Limit(2**31 - 1, "does not fit into 32 bits")
_LONG: Final = Limit(2**63 - 1, "does not fit into 64 bits")
_EXACT: Final = Limit(2**53, "is larger than 2**53 and would be rounded")
_FLOAT: Final = Limit(float(np.finfo(np.float32).max), "does not fit into a 32-bit float")
_DOUBLE: Final = Limit(float(np.finfo(np.float64).max), "does not fit into a 64-bit float")


@dataclass(frozen=True, slots=True)
class Selection:
    """The records of a batch that fit, and why the others don't."""

    rows: Rows
    kept: npt.NDArray[np.intp]
    """Where each of `rows` stood in the batch."""
    faults: list[Fault]
    total: int


class RecordReader:
    """Reads records for one model version."""

    def __init__(self, signature: Signature, max_records: int) -> None:
        self.signature = signature
        self._columns = signature.columns
        self._names = signature.names
        self._known = frozenset(signature.names)
        self._max_records = max_records
        self._is_matrix = signature.is_numeric
        self._limits = [limit_of(column, self._is_matrix) for column in signature.columns]
        self._bounds = np.array([limit.value if limit else np.inf for limit in self._limits])
        self._integers = [at for at, column in enumerate(signature.columns) if column.is_integer]
        self._strings = sum(column.type == "string" for column in signature.columns)
        self._names_text = _names_text(signature.names)
        self._shape_text = _shape_text(signature, self._names_text)

    def read_one(self, body: bytes) -> Rows:
        """Return the one record in `{"X": record}`, as rows of one.

        Raises MalformedBodyError, InvalidRecordsError.
        """
        return self._checked(body, [_payload(body)])

    def read_many(self, body: bytes) -> Rows:
        """Return the records in `{"X": [record, ...]}`, order kept; all fit, or it raises.

        Raises MalformedBodyError, InvalidRecordsError, BodyTooLargeError.
        """
        return self._checked(body, self._records(body))

    def read_fitting(self, body: bytes) -> Selection:
        """Return those records in `{"X": [record, ...]}` that fit, and the faults of the others.

        Raises as `read_many` does, but for records that don't fit.
        """
        records = self._records(body)
        rows = self._at_once(records, strict_json.quotes(body) - 2)
        if rows is not None:
            return _whole(rows)
        strict_json.check_keys(body)
        return self._selected(records)

    def rows_of(self, records: list[Any]) -> Rows:
        """Return records that have been parsed already, by `strict_json.loads_unique`.

        Raises InvalidRecordsError, BodyTooLargeError.
        """
        self.check_count(len(records))
        rows = self._at_once(records, None)
        return self._all_or_none(records) if rows is None else rows

    def rows_of_columns(self, columns: Columns) -> Rows:
        """Return columns of equal length, by name, as rows.

        Arrays must have the column's own kind of values: floats or integers for a number, integers
        for a whole number, booleans, or strings. Raises InvalidRecordsError, BodyTooLargeError.
        """
        ordered = self._ordered(columns)
        rows = self._columns_at_once(ordered)
        return self._all_or_none(_transposed(ordered)) if rows is None else rows

    def fitting_rows_of_columns(self, columns: Columns) -> Selection:
        """Return those records that fit, and the faults of the others.

        Raises as `rows_of_columns` does, but for records that don't fit.
        """
        ordered = self._ordered(columns)
        rows = self._columns_at_once(ordered)
        return self._selected(_transposed(ordered)) if rows is None else _whole(rows)

    def check_names(self, names: Collection[str]) -> None:
        """Raise InvalidRecordsError unless these are the names of the columns, in any order."""
        if fault := self._name_fault(names):
            raise InvalidRecordsError(f"column {fault['field']!r}: {fault['reason']}")

    def rows_of_matrix(self, matrix: npt.NDArray[Any]) -> Rows:
        """Return numbers, shape (records, columns), as rows, if every column holds numbers.

        All have one type, so whole numbers may come as floats. Raises InvalidRecordsError,
        BodyTooLargeError.
        """
        self.check_count(len(matrix))
        rows = matrix.astype(np.float64)
        whole = rows[:, self._integers]
        if (np.abs(rows) < self._bounds).all() and (whole == np.floor(whole)).all():
            return rows
        records = matrix.tolist()
        for at in self._integers:
            for record in records:
                if type(record[at]) is float and record[at].is_integer():
                    record[at] = int(record[at])
        return self._all_or_none(records)

    def check_count(self, records: int) -> None:
        """Raise InvalidRecordsError if there are none, BodyTooLargeError if there are too many."""
        if not records:
            raise InvalidRecordsError("there is no record: send at least one")
        if records > self._max_records:
            raise BodyTooLargeError(
                f"{records} records in one batch; at most {self._max_records} are taken"
            )

    def _records(self, body: bytes) -> list[Any]:
        records = _payload(body)
        if not isinstance(records, list):
            strict_json.check_keys(body)
            raise InvalidRecordsError(f'"{_KEY}" must be a list of records, got {kind(records)}')
        self.check_count(len(records))
        return records

    def _checked(self, body: bytes, records: list[Any]) -> Rows:
        rows = self._at_once(records, strict_json.quotes(body) - 2)
        if rows is not None:
            return rows
        strict_json.check_keys(body)
        return self._all_or_none(records)

    def _at_once(self, records: list[Any], quotes: int | None) -> Rows | None:
        """Return the rows if all records have one shape and fit, else None; explains nothing.

        `quotes` are the quotation marks in their text: more than their keys and strings have mean
        that there may be duplicate keys, whose last value is all that `records` hold. None if
        that has been looked at.
        """
        width = len(self._columns)
        shape = type(records[0])
        if width == 1 and shape in _NUMBERS and self._is_matrix:
            return None if quotes else self._matrix(records)
        if set(map(type, records)) != {shape} or shape not in (list, dict):
            return None
        if set(map(len, records)) != {width}:
            return None
        keys = width if shape is dict else 0
        if quotes is not None and quotes != 2 * len(records) * (keys + self._strings):
            return None
        if shape is list:
            values = list(chain.from_iterable(records))
        else:
            try:
                values = [record[name] for record in records for name in self._names]
            except KeyError:
                return None
        return self._matrix(values) if self._is_matrix else self._structured(values)

    def _matrix(self, values: list[Any]) -> Rows | None:
        """Return plain values as a matrix, or None if one of them isn't a number that fits."""
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
        return rows if (np.abs(rows) < self._bounds).all() else None

    def _structured(self, values: list[Any]) -> Rows | None:
        width = len(self._columns)
        rows = row_blocks.empty(self.signature, len(values) // width)
        fits = all(self._fill_list(rows, at, values[at::width]) for at in range(width))
        return rows if fits else None

    def _fill_list(self, rows: Rows, at: int, values: list[Any]) -> bool:
        """Fill a column with plain values; False if one of them doesn't fit."""
        column, limit = self._columns[at], self._limits[at]
        if not set(map(type, values)) <= _KINDS[column.type]:
            return False
        try:
            row_blocks.column(rows, at)[:] = values
        except OverflowError:
            return False
        return limit is None or bool((np.abs(row_blocks.column(rows, at)) < limit.value).all())

    def _fill_array(self, rows: Rows, at: int, values: Sequence[Any] | npt.NDArray[Any]) -> bool:
        """Fill a column with an array of its own kind of values; False if one doesn't fit."""
        if not isinstance(values, np.ndarray) or values.dtype.kind == "O":
            return self._fill_list(rows, at, list(values))
        column, limit = self._columns[at], self._limits[at]
        if values.dtype.kind not in _ARRAY_KINDS[column.type]:
            return False
        # Compared before they are cast: unsigned or larger ones would come out as something else.
        if limit is not None and not (np.abs(values.astype(np.float64)) < limit.value).all():
            return False
        row_blocks.column(rows, at)[:] = values
        return True

    def _ordered(self, columns: Columns) -> Ordered:
        """Return columns of equal length in the signature's order."""
        self.check_names(columns)
        lengths = sorted({len(values) for values in columns.values()})
        if len(lengths) != 1:
            raise InvalidRecordsError(
                f"the columns have different lengths: {', '.join(map(str, lengths))}"
            )
        self.check_count(lengths[0])
        return [columns[name] for name in self._names]

    def _columns_at_once(self, ordered: Ordered) -> Rows | None:
        """Return the rows if all values fit, else None; explains nothing."""
        rows = row_blocks.empty(self.signature, len(ordered[0]))
        fits = all(self._fill_array(rows, at, values) for at, values in enumerate(ordered))
        return rows if fits else None

    def _selected(self, records: list[Any]) -> Selection:
        rows, faults = self._one_by_one(records)
        kept = np.setdiff1d(np.arange(len(rows)), [fault["index"] for fault in faults])
        return Selection(rows[kept], kept, faults, len(rows))

    def _all_or_none(self, records: list[Any]) -> Rows:
        rows, faults = self._one_by_one(records)
        if faults:
            raise invalid(faults, len(records))
        return rows

    def _one_by_one(self, records: list[Any]) -> tuple[Rows, list[Fault]]:
        """Return the rows, undefined where a record doesn't fit, and the faults."""
        rows = row_blocks.empty(self.signature, len(records))
        faults: list[Fault] = []
        for index, record in enumerate(records):
            fault = self._fill(rows, index, record)
            if fault is not None:
                faults.append({"index": index, **fault})
        return rows, faults

    def _fill(self, rows: Rows, index: int, record: Any) -> Fault | None:
        """Write one record into `rows`; return the fault if it doesn't fit."""
        if isinstance(record, dict):
            if fault := self._name_fault(record):
                return fault
            values = [record[name] for name in self._names]
        elif isinstance(record, list):
            if len(record) != len(self._columns):
                return {"reason": f"must be {self._shape_text}, got a list of {len(record)}"}
            values = record
        elif len(self._columns) == 1:
            values = [record]
        else:
            return {"reason": f"must be {self._shape_text}, got {kind(record)}"}
        for column, limit, value in zip(self._columns, self._limits, values, strict=True):
            if (reason := _misfit(column, limit, value)) is not None:
                return {"field": column.name[:ECHOED], "reason": reason}
        rows[index] = values if self._is_matrix else tuple(values)
        return None

    def _name_fault(self, record: Collection[str]) -> Fault | None:
        for name in record:
            if name not in self._known:
                reason = f"unknown field; the model has {self._names_text}"
                return {"field": name[:ECHOED], "reason": reason}
        for name in self._names:
            if name not in record:
                return {"field": name[:ECHOED], "reason": "missing field"}
        return None


_ARRAY_KINDS: Final = {
    "double": "fiu",
    "float": "fiu",
    "long": "iu",
    "integer": "iu",
    "boolean": "b",
    "string": "U",
}


def _whole(rows: Rows) -> Selection:
    return Selection(rows, np.arange(len(rows)), [], len(rows))


def _transposed(ordered: Ordered) -> list[Any]:
    lists = [one.tolist() if isinstance(one, np.ndarray) else one for one in ordered]
    return [list(record) for record in zip(*lists, strict=True)]


def limit_of(column: Column, is_matrix: bool) -> Limit | None:
    """Return what bounds a column's values; None if it holds no numbers.

    `is_matrix`: whether all columns are numbers, and so become float64.
    """
    if not column.is_numeric:
        return None
    if column.type == "long":
        return _EXACT if is_matrix else _LONG
    return {"integer": _INTEGER, "float": _FLOAT, "double": _DOUBLE}[column.type]


def _names_text(names: Sequence[str]) -> str:
    text = ", ".join(name[:ECHOED] for name in names[:_MAX_NAMES])
    return text if len(names) <= _MAX_NAMES else f"{text} and {len(names) - _MAX_NAMES} more"


def _shape_text(signature: Signature, names_text: str) -> str:
    count = len(signature.columns)
    if count == 1:
        one = _WANTED[signature.columns[0].type]
        return f"{one}, a list of 1 value, or an object with the field {names_text}"
    return f"a list of {count} values or an object with the fields {names_text}"


def _payload(body: bytes) -> Any:
    document = strict_json.loads(body)
    if isinstance(document, dict) and len(document) == 1 and _KEY in document:
        return document[_KEY]
    strict_json.check_keys(body)
    if not isinstance(document, dict):
        raise InvalidRecordsError(f'the body must be {{"{_KEY}": ...}}, got {kind(document)}')
    if unknown := sorted(set(document) - {_KEY}):
        raise InvalidRecordsError(
            f'unknown field {unknown[0][:ECHOED]!r}: the body is {{"{_KEY}": ...}}'
        )
    raise InvalidRecordsError(f'the field "{_KEY}" is missing: send {{"{_KEY}": ...}}')


def _misfit(column: Column, limit: Limit | None, value: Any) -> str | None:
    if type(value) not in _KINDS[column.type]:
        if limit is not None and type(value) is float and not abs(value) <= limit.value:
            return limit.reason
        got = repr(value) if type(value) is float else kind(value)
        return f"must be {_WANTED[column.type]}, got {got}"
    if limit is None:
        return None
    if type(value) is float and math.isnan(value):
        return f"must be {_WANTED[column.type]}, got NaN"
    # Python compares whole numbers and floats exactly.
    return None if -limit.value <= value <= limit.value else limit.reason


def invalid(faults: list[Fault], total: int) -> InvalidRecordsError:
    """Return the error that names the first faults of a batch of `total` records."""
    first = faults[0]
    where = f"record {first['index']}" + (f", field {first['field']!r}" if "field" in first else "")
    detail = f"{where}: {first['reason']}"
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more of {total} records)"
    return InvalidRecordsError(detail, errors=faults[:MAX_REPORTED_ERRORS])


def kind(value: Any) -> str:
    """Return what JSON calls a value of this type."""
    kinds: dict[type, str] = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)
