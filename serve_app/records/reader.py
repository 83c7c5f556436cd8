"""Records to rows by the model's signature: strict, at once if they fit, else fault by fault.

A record is a number (one-feature models), a list of values in the signature's order, or an object
of named columns. Every function here is pure.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import lt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serve_app.errors import ECHOED, BodyTooLargeError, InvalidRecordsError
from serve_app.records import rows as row_blocks
from serve_app.records import strict_json
from serve_app.records.columns import NUMBERS, ColumnReader
from serve_app.records.faults import Fault, Judged, Selection
from serve_app.records.rows import Rows
from serve_app.records.signature import Signature
from serve_app.records.strict_json import kind

Values = Sequence[Any] | npt.NDArray[Any]
Columns = Mapping[str, Values]

MAX_TEXT_BYTES: Final = 16 * 2**20
"""As many as a body may have by default."""

_KEY: Final = "X"
_FEW: Final = 8
"""Values that are compared one by one: numpy's calls would take longer."""

_MAX_NAMES: Final = 10
_MAX_NAMES_LENGTH: Final = 200


class RecordReader:
    """Reads records for one model version."""

    def __init__(
        self, signature: Signature, max_records: int, max_text_bytes: int = MAX_TEXT_BYTES
    ) -> None:
        self.signature = signature
        self._names = signature.names
        self._known = frozenset(signature.names)
        self.max_records = max_records
        self._max_text_bytes = max_text_bytes
        self._is_matrix = signature.is_numeric
        self._columns = [ColumnReader(one, self._is_matrix) for one in signature.columns]
        self._bounds = np.array([column.bound for column in self._columns])
        self._bound_of_each = self._bounds.tolist()
        self._integers = [at for at, column in enumerate(self._columns) if column.is_integer]
        self._singles = row_blocks.singles(signature)
        self._is_plain = self._is_matrix and not self._singles
        self._strings = sum(column.type == "string" for column in signature.columns)
        self._names_text = _names_text(signature.names)
        self._shape_text = self._describe_shape()

    def read_one(self, body: bytes) -> Rows:
        """Return the one record in `{"X": record}`, as rows of one.

        Raises MalformedBodyError, InvalidRecordsError, BodyTooLargeError.
        """
        return self._read(body, [self._payload(body, 1)]).all()

    def read_many(self, body: bytes) -> Rows:
        """Return the records in `{"X": [record, ...]}`, order kept; all fit, or it raises.

        Raises MalformedBodyError, InvalidRecordsError, BodyTooLargeError.
        """
        return self._read(body, self._records(body)).all()

    def read_fitting(self, body: bytes) -> Selection:
        """Return those records in `{"X": [record, ...]}` that fit, and the faults of the others.

        Raises as `read_many` does, but for records that don't fit.
        """
        return self._read(body, self._records(body)).fitting()

    def rows_of(self, records: list[Any]) -> Rows:
        """Return records that have been parsed already, by `strict_json.loads_unique`.

        Raises InvalidRecordsError, BodyTooLargeError.
        """
        self.check_count(len(records))
        rows = self._at_once(records, None)
        return self._one_by_one(records).all() if rows is None else rows

    def rows_of_columns(self, columns: Columns) -> Rows:
        """Return columns of equal length, by name, as rows.

        Arrays must have the column's own kind of values: floats or integers for a number, integers
        for a whole number, booleans, or strings. Raises InvalidRecordsError, BodyTooLargeError.
        """
        return self._by_column(self._ordered_columns(columns)).all()

    def fitting_rows_of_columns(self, columns: Columns) -> Selection:
        """Return those records that fit, and the faults of the others.

        Raises as `rows_of_columns` does, but for records that don't fit.
        """
        return self._by_column(self._ordered_columns(columns)).fitting()

    def rows_of_matrix(self, matrix: npt.NDArray[Any]) -> Rows:
        """Return numbers, shape (records, columns), as rows, if every column holds numbers.

        All have one type, so whole numbers may come as floats. Raises InvalidRecordsError,
        BodyTooLargeError.
        """
        self.check_count(len(matrix))
        rows = matrix.astype(np.float64)
        whole = rows[:, self._integers]
        if (np.abs(rows) < self._bounds).all() and (whole == np.floor(whole)).all():
            if self._singles:
                row_blocks.round_singles(rows, self._singles)
            return rows
        columns = [column.tolist() for column in matrix.T]
        for at in self._integers:
            columns[at] = [_whole_if_it_is(value) for value in columns[at]]
        return self._by_fault(columns, range(len(matrix)), len(matrix), {}).all()

    def check_names(self, names: Collection[str]) -> None:
        """Raise InvalidRecordsError unless these are the names of the columns, in any order."""
        if fault := self._name_fault(names):
            raise InvalidRecordsError(f"column {fault['field']!r}: {fault['reason']}")

    def check_count(self, records: int) -> None:
        """Raise InvalidRecordsError if there are none, BodyTooLargeError if there are too many."""
        if not records:
            raise InvalidRecordsError("there is no record: send at least one")
        if records > self.max_records:
            raise BodyTooLargeError(
                f"{records} records in one batch; at most {self.max_records} are taken"
            )

    def check_text(self, text_bytes: int) -> None:
        """Raise BodyTooLargeError if the texts of all records are too long together.

        To be asked for bodies that name one text for many records: others hold no more of it than
        they have bytes.
        """
        if text_bytes > self._max_text_bytes:
            raise BodyTooLargeError(
                f"the records hold {text_bytes} bytes of text, at most {self._max_text_bytes} are "
                "taken: send fewer records at once"
            )

    def _payload(self, body: bytes, records: int) -> Any:
        """Return what X is, in a body of no more values than so many records have."""
        document = strict_json.loads(body, 2 + records * (1 + len(self._names)))
        if isinstance(document, dict) and len(document) == 1 and _KEY in document:
            return document[_KEY]
        strict_json.check_keys(body, document)
        if not isinstance(document, dict):
            raise InvalidRecordsError(f'the body must be {{"{_KEY}": ...}}, got {kind(document)}')
        if unknown := sorted(set(document) - {_KEY}):
            raise InvalidRecordsError(
                f'unknown field {unknown[0][:ECHOED]!r}: the body is {{"{_KEY}": ...}}'
            )
        raise InvalidRecordsError(f'the field "{_KEY}" is missing: send {{"{_KEY}": ...}}')

    def _records(self, body: bytes) -> list[Any]:
        records = self._payload(body, self.max_records)
        if not isinstance(records, list):
            strict_json.check_keys(body, {_KEY: records})
            raise InvalidRecordsError(f'"{_KEY}" must be a list of records, got {kind(records)}')
        self.check_count(len(records))
        return records

    def _read(self, body: bytes, records: list[Any]) -> Judged:
        rows = self._at_once(records, strict_json.quotes(body) - 2)
        if rows is not None:
            return Judged(rows)
        strict_json.check_keys(body, {_KEY: records})
        return self._one_by_one(records)

    def _at_once(self, records: list[Any], quotes: int | None) -> Rows | None:
        """Return the rows if all records have one shape and fit, else None; explains nothing.

        `quotes` are the quotation marks in their text: more than their keys and strings have mean
        that there are duplicate keys, whose last value is all that `records` hold. None if that has
        been looked at.
        """
        values = self._flat(records)
        if values is None:
            return None
        keys = len(values) if isinstance(records[0], dict) else 0
        if quotes is not None and quotes != 2 * (keys + self._strings * len(records)):
            return None
        if self._is_plain:
            return self._matrix(values)
        return self._rounded_matrix(values) if self._is_matrix else self._structured(values)

    def _flat(self, records: list[Any]) -> list[Any] | None:
        """Return the values of all records, one record after another, if they have one shape."""
        width = len(self._columns)
        shape = type(records[0])
        if shape not in (list, dict):
            return records if width == 1 else None
        if set(map(type, records)) != {shape} or set(map(len, records)) != {width}:
            return None
        if shape is list:
            return list(chain.from_iterable(records))
        try:
            return [record[name] for record in records for name in self._names]
        except KeyError:
            return None

    def _matrix(self, values: list[Any]) -> Rows | None:
        """Return plain values as a matrix, or None if one of them isn't a number that fits."""
        width = len(self._columns)
        kinds = set(map(type, values))
        if not kinds <= NUMBERS or not all(
            kinds == {int} or set(map(type, values[at::width])) == {int} for at in self._integers
        ):
            return None
        rows = np.array(values, dtype=np.float64).reshape(-1, width)
        # Strictly below the limit: 2**53 + 1 has become 2**53 by now.
        if len(values) == width <= _FEW:
            return rows if all(map(lt, map(abs, values), self._bound_of_each)) else None
        return rows if (np.abs(rows) < self._bounds).all() else None

    def _rounded_matrix(self, values: list[Any]) -> Rows | None:
        rows = self._matrix(values)
        if rows is not None:
            row_blocks.round_singles(rows, self._singles)
        return rows

    def _structured(self, values: list[Any]) -> Rows | None:
        width = len(self._columns)
        return self._columns_at_once([values[at::width] for at in range(width)])

    def _columns_at_once(self, ordered: Sequence[Values]) -> Rows | None:
        rows = row_blocks.empty(self.signature, len(ordered[0]))
        fits = all(
            column.fill(row_blocks.column(rows, at), ordered[at])
            for at, column in enumerate(self._columns)
        )
        return rows if fits else None

    def _ordered_columns(self, columns: Columns) -> list[Values]:
        """Return columns of equal length in the signature's order."""
        self.check_names(columns)
        lengths = sorted({len(values) for values in columns.values()})
        if len(lengths) != 1:
            raise InvalidRecordsError(
                f"the columns have different lengths: {', '.join(map(str, lengths))}"
            )
        self.check_count(lengths[0])
        return [columns[name] for name in self._names]

    def _by_column(self, ordered: Sequence[Values]) -> Judged:
        rows = self._columns_at_once(ordered)
        if rows is not None:
            return Judged(rows)
        lists = [one.tolist() if isinstance(one, np.ndarray) else list(one) for one in ordered]
        return self._by_fault(lists, range(len(lists[0])), len(lists[0]), {})

    def _one_by_one(self, records: list[Any]) -> Judged:
        """Look at each record's shape, then at the columns of those whose shape is right."""
        faults: dict[int, Fault] = {}
        where: list[int] = []
        values: list[Any] = []
        for index, record in enumerate(records):
            ordered = self._ordered(record)
            if isinstance(ordered, dict):
                faults[index] = {"index": index, **ordered}
            else:
                where.append(index)
                values += ordered
        width = len(self._columns)
        columns = [values[at::width] for at in range(width)]
        return self._by_fault(columns, where, len(records), faults)

    def _by_fault(
        self,
        columns: list[list[Any]],
        where: Sequence[int],
        total: int,
        faults: dict[int, Fault],
    ) -> Judged:
        """Read columns whose values stand at `where` among `total` records; others have `faults`.

        A record's fault is that of its first column that doesn't fit.
        """
        rows = row_blocks.empty(self.signature, total)
        places = np.array(where, dtype=np.intp)
        for at, (column, values) in enumerate(zip(self._columns, columns, strict=True)):
            found = np.empty(len(values), row_blocks.column(rows, at).dtype)
            if not column.fill(found, values):
                name = column.name[:ECHOED]
                for misfit, reason in column.misfits(values).items():
                    index = where[misfit]
                    if index not in faults:
                        faults[index] = {"index": index, "field": name, "reason": reason}
                    values[misfit] = column.neutral
                column.write(found, values)
            row_blocks.column(rows, at)[places] = found
        return Judged(rows, [faults[index] for index in sorted(faults)])

    def _ordered(self, record: Any) -> list[Any] | Fault:
        """Return a record's values in the signature's order, or its fault."""
        if isinstance(record, dict):
            if record.keys() != self._known:
                return self._name_fault(record) or {}
            return [record[name] for name in self._names]
        if isinstance(record, list):
            if len(record) == len(self._names):
                return record
            return {"reason": f"must be {self._shape_text}, got a list of {len(record)}"}
        if len(self._names) == 1:
            return [record]
        return {"reason": f"must be {self._shape_text}, got {kind(record)}"}

    def _name_fault(self, names: Collection[str]) -> Fault | None:
        for name in names:
            if name not in self._known:
                reason = f"unknown field; the model has {self._names_text}"
                return {"field": name[:ECHOED], "reason": reason}
        for name in self._names:
            if name not in names:
                return {"field": name[:ECHOED], "reason": "missing field"}
        return None

    def _describe_shape(self) -> str:
        count = len(self._columns)
        if count == 1:
            one = self._columns[0].wanted
            return f"{one}, a list of 1 value, or an object with the field {self._names_text}"
        return f"a list of {count} values or an object with the fields {self._names_text}"


def _names_text(names: Sequence[str]) -> str:
    """Return the first names: each faulty record of a batch may repeat them."""
    shown: list[str] = []
    for name in names[:_MAX_NAMES]:
        if shown and len(", ".join(shown)) + len(name) > _MAX_NAMES_LENGTH:
            break
        shown.append(name[:ECHOED])
    text, more = ", ".join(shown), len(names) - len(shown)
    return f"{text} and {more} more" if more else text


def _whole_if_it_is(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
