"""Arrow streams (`application/vnd.apache.arrow.stream`): rows in, predictions out.

pyarrow is imported with this module: Serve itself imports pandas, and with it pyarrow, in every
replica, so there is nothing to put off.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute, types

from serve_app.errors import ECHOED, InvalidRecordsError, MalformedArrowError
from serve_app.models.predictions import Predictions
from serve_app.protocols import arrow_messages, media
from serve_app.protocols.question import Answer
from serve_app.records.faults import Selection
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from serve_app.records.signature import Column

Columns = dict[str, npt.NDArray[Any]]

_ERRORS: Final = (pa.ArrowException, ValueError, LookupError, OSError, MemoryError, struct.error)
"""What pyarrow raises for bytes that aren't an Arrow stream, or not quite."""

ERROR: Final = "error"
"""The column with the reasons of records that have no result."""

_OPTIONS: Final = pa.ipc.IpcReadOptions(use_threads=False)


class ArrowReader:
    """Reads the columns of a stream by name, in any order, for one model version."""

    def __init__(self, records: RecordReader) -> None:
        self._records = records
        self._columns = {column.name: column for column in records.signature.columns}
        self._texts = [name for name, column in self._columns.items() if column.type == "string"]

    def read_many(self, body: bytes) -> Rows:
        """Return the records of a stream, order kept; all fit, or it raises.

        Raises MalformedArrowError, InvalidRecordsError, BodyTooLargeError.
        """
        return self._records.rows_of_columns(self._read(body))

    def read_fitting(self, body: bytes) -> Selection:
        """Return those records of a stream that fit, and the faults of the others.

        Raises as `read_many` does, but for records that don't fit.
        """
        return self._records.fitting_rows_of_columns(self._read(body))

    def _read(self, body: bytes) -> Columns:
        if not body:
            raise MalformedArrowError("the body is empty: send an Arrow stream")
        try:
            records = arrow_messages.count_records(body)
            stream = pa.ipc.open_stream(pa.py_buffer(body), options=_OPTIONS)
            self._check_schema(stream.schema)
            self._records.check_count(records)
            batches = [batch for batch in stream if len(batch)]
            for batch in batches:
                batch.validate(full=True)
            self._check_text(batches)
            return {
                name: _joined([_values(batch.column(at)) for batch in batches])
                for at, name in enumerate(stream.schema.names)
            }
        except _ERRORS as error:
            raise MalformedArrowError(
                f"the body is not an Arrow stream: {str(error)[:ECHOED]}"
            ) from error

    def _check_text(self, batches: Sequence[Any]) -> None:
        """Raise BodyTooLargeError for too much text, counted for each record that refers to it.

        Records share texts in dictionaries, but columns may lie in the same bytes, too.
        """
        self._records.check_text(
            sum(_text_bytes(batch.column(name)) for batch in batches for name in self._texts)
        )

    def _check_schema(self, schema: Any) -> None:
        names = schema.names
        self._records.check_names(names)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRecordsError(f"column {twice[:ECHOED]!r}: stands twice in the schema")
        for field in schema:
            column = self._columns[field.name]
            if not _takes(column, field.type):
                raise InvalidRecordsError(
                    f"column {column.name[:ECHOED]!r}: must be of Arrow type {_WANTED[column.type]}"
                    f", got {str(field.type)[:ECHOED]}"
                )


_WHOLE: Final = "int8 to int64 or uint8 to uint64"
_NUMBER: Final = f"float32, float64, {_WHOLE}"
_WANTED: Final = {
    "double": _NUMBER,
    "float": _NUMBER,
    "long": _WHOLE,
    "integer": _WHOLE,
    "boolean": "bool",
    "string": "string or large_string, plain or in a dictionary",
}


def _takes(column: Column, kind: Any) -> bool:
    if column.type == "boolean":
        return bool(types.is_boolean(kind))
    if column.type == "string":
        value = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(value) or types.is_large_string(value))
    if column.is_integer:
        return bool(types.is_integer(kind))
    return bool(types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind))


def _text_bytes(array: Any) -> int:
    """Return how long the texts of a valid array are in UTF-8, none of them decoded."""
    if types.is_dictionary(array.type):
        lengths = compute.binary_length(array.dictionary).take(array.indices)
    else:
        lengths = compute.binary_length(array)
    return compute.sum(lengths).as_py() or 0


def _joined(chunks: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _values(array: Any) -> npt.NDArray[Any]:
    """Return a valid array's values, in place if they can; as objects if any is null."""
    if not array.null_count:
        return _present(array)
    values = np.full(len(array), None, dtype=object)
    values[array.is_valid().to_numpy(zero_copy_only=False)] = _present(array.drop_null())
    return values


def _present(array: Any) -> npt.NDArray[Any]:
    """Return the values of an array without nulls."""
    values: npt.NDArray[Any]
    if not types.is_dictionary(array.type):
        values = array.to_numpy(zero_copy_only=False)
        return values
    # Each value is decoded once: many records may name one long string.
    used, where = np.unique(array.indices.to_numpy(), return_inverse=True)
    values = array.dictionary.take(pa.array(used)).to_numpy(zero_copy_only=False)
    return values[where]


def write_all(classes: tuple[str, ...] | None, found: Sequence[Predictions]) -> Answer:
    """Return one column `result`, or one for each of `classes` with its probabilities."""
    return _answer(_columns(classes, found[0].values, None))


def write_some(
    result_type: str,
    classes: tuple[str, ...] | None,
    selection: Selection,
    found: Sequence[Predictions],
) -> Answer:
    """Put the results where their records stood, null where there is none.

    A last column `error` has the reason of each record that has none, null for the others. If none
    has a result, the columns are as they are for a model that predicts `result_type`.
    """
    reasons: list[str | None] = [None] * selection.total
    for fault in selection.faults:
        field = f"field {fault['field']!r}: " if "field" in fault else ""
        reasons[fault["index"]] = f"{field}{fault['reason']}"
    for row, reason in found[0].errors.items():
        reasons[int(selection.kept[row])] = reason
    values = found[0].values
    if len(found[0].errors) == len(values):
        values = _no_results(result_type, classes, len(values))
    placed = np.zeros((selection.total, *values.shape[1:]), dtype=values.dtype)
    placed[selection.kept] = values
    failed = np.array([reason is not None for reason in reasons])
    columns = _columns(classes, placed, failed)
    return _answer([*columns, (ERROR, pa.array(reasons, type=pa.string()))])


_DTYPES: Final = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}
"""How a kind of numpy's is written, if not as text."""


def _no_results(result_type: str, classes: tuple[str, ...] | None, rows: int) -> npt.NDArray[Any]:
    """Return values that mean nothing, of the type and shape that results have."""
    if classes is not None:
        return np.zeros((rows, len(classes)))
    return np.zeros(rows, _DTYPES.get(result_type, np.str_))


def _columns(
    classes: tuple[str, ...] | None, values: npt.NDArray[Any], failed: npt.NDArray[Any] | None
) -> list[tuple[str, Any]]:
    if classes is None:
        return [("result", _array(values, failed))]
    values = values.astype(np.float64, copy=False)
    return [(label, _array(values[:, at], failed)) for at, label in enumerate(classes)]


def _array(values: npt.NDArray[Any], failed: npt.NDArray[Any] | None) -> Any:
    """Return float64, int64, bool or string values, null where they have failed."""
    if values.dtype.kind not in _DTYPES:
        return pa.array(list(map(str, values.tolist())), type=pa.string(), mask=failed)
    return pa.array(values.astype(_DTYPES[values.dtype.kind], copy=False), mask=failed)


def _answer(columns: list[tuple[str, Any]]) -> Answer:
    batch = pa.record_batch([array for _, array in columns], names=[name for name, _ in columns])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return Answer(sink.getvalue().to_pybytes(), media.ARROW)
