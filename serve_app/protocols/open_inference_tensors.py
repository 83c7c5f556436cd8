"""Tensors of the Open Inference Protocol v2: datatypes, and values in JSON and as bytes.

Values are flat, in row-major order. Bytes are little-endian; elements of BYTES are text in UTF-8,
each behind its length as 4 bytes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serve_app.errors import ECHOED, InvalidRecordsError, MalformedTensorsError
from serve_app.records.columns import largest_for
from serve_app.records.faults import Fault, invalid
from serve_app.records.strict_json import kind

Values = npt.NDArray[Any] | list[str]
"""Strings of a BYTES tensor are a list, all else an array of the datatype's own dtype."""

BYTES: Final = "BYTES"
DTYPES: Final = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype("O"),
}
_WRITTEN: Final = {"f": "FP64", "i": "INT64", "u": "UINT64", "b": "BOOL"}
_TYPES: Final[dict[str, frozenset[type]]] = {
    "f": frozenset({int, float}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "b": frozenset({bool}),
    "O": frozenset({str}),
}
_WANTED: Final = {
    "f": "a number",
    "i": "a whole number",
    "u": "a whole number",
    "b": "true or false",
    "O": "a string",
}
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Form:
    """What is said of a tensor beside its values."""

    name: str
    datatype: str
    """A key of DTYPES."""
    shape: tuple[int, ...]
    """At least one dimension; the first counts the records."""

    @property
    def size(self) -> int:
        """How many values there are."""
        return prod(self.shape)

    @property
    def shape_text(self) -> str:
        """The shape as errors show it, cut as all that clients have written."""
        return str(list(self.shape[:ECHOED]))[:ECHOED]

    def malformed(self, reason: str) -> MalformedTensorsError:
        """Return the error of a tensor that isn't what its form says."""
        return MalformedTensorsError(f"tensor {self.name[:ECHOED]!r}: {reason}")


def from_json(form: Form, data: Any) -> Values:
    """Return values that are a flat list, or nested lists of the tensor's shape.

    Raises MalformedTensorsError if there are more or fewer than the shape says, and
    InvalidRecordsError, with the records' indexes, for those that the datatype doesn't hold.
    """
    values = _flat(form, data)
    dtype = DTYPES[form.datatype]
    if set(map(type, values)) <= _TYPES[dtype.kind]:
        if form.datatype == BYTES:
            return values
        try:
            with np.errstate(over="ignore"):
                array = np.array(values, dtype)
        except OverflowError:
            pass
        else:
            if dtype.kind != "f" or np.isfinite(array).all():
                return array
    raise _misfits(form, enumerate(values), _misfit_of(form.datatype))


def from_bytes(form: Form, content: memoryview) -> Values:
    """Return values that are bytes.

    Raises MalformedTensorsError if they aren't as many as the shape says, or no UTF-8, and
    InvalidRecordsError, with the records' indexes, for numbers that aren't finite.
    """
    if form.datatype == BYTES:
        return _strings(form, content)
    dtype = DTYPES[form.datatype]
    if len(content) != form.size * dtype.itemsize:
        raise form.malformed(
            f"{form.size} values of {form.datatype} are {form.size * dtype.itemsize} bytes, "
            f"got {len(content)}"
        )
    if form.datatype == "BOOL" and np.frombuffer(content, "u1").max(initial=0) > 1:
        raise form.malformed("a BOOL is a byte of 0 or 1")
    array = np.frombuffer(content, dtype).copy()  # aligned, which a part of a body needn't be
    if dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        found = [(at, float(array[at])) for at in np.flatnonzero(~finite).tolist()]
        raise _misfits(form, found, lambda value: f"must be a finite number, got {value}")
    return array


def datatype_of(dtype_kind: str) -> str:
    """Return the datatype in which predictions of a numpy kind are written; BYTES for labels."""
    return _WRITTEN.get(dtype_kind, BYTES)


def to_json(values: npt.NDArray[Any]) -> Any:
    """Return predictions of any shape as what orjson writes as a flat list, for `datatype_of`."""
    datatype = datatype_of(values.dtype.kind)
    if datatype == BYTES:
        return list(map(str, values.ravel().tolist()))
    return values.astype(DTYPES[datatype], copy=False).ravel()


def to_bytes(values: npt.NDArray[Any]) -> bytes:
    """Return predictions of any shape as bytes, for `datatype_of`."""
    datatype = datatype_of(values.dtype.kind)
    if datatype == BYTES:
        texts = [str(value).encode() for value in values.ravel().tolist()]
        lengths = (len(text).to_bytes(_LENGTH_BYTES, "little") for text in texts)
        return b"".join(chain.from_iterable(zip(lengths, texts, strict=True)))
    return values.astype(DTYPES[datatype], copy=False).tobytes()


def _flat(form: Form, data: Any) -> list[Any]:
    if type(data) is not list:
        raise form.malformed(f"data must be a list, got {kind(data)}")
    values = data
    if data and type(data[0]) is list:
        for size in form.shape[1:]:
            if not all(type(row) is list and len(row) == size for row in values):
                raise form.malformed(f"nested data must have the shape {form.shape_text}")
            values = list(chain.from_iterable(values))
    if len(values) != form.size or (values is not data and len(data) != form.shape[0]):
        raise form.malformed(
            f"the shape {form.shape_text} holds {form.size} values, got {len(values)}"
        )
    return values


def _strings(form: Form, content: memoryview) -> list[str]:
    strings: list[str] = []
    at = 0
    for _ in range(form.size):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "little")
        if start > len(content) or at > len(content):
            raise form.malformed(
                f"the bytes end in the middle of value {len(strings)} of {form.size}"
            )
        try:
            strings.append(str(content[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise form.malformed(f"value {len(strings)} is not text in UTF-8") from error
    if at != len(content):
        raise form.malformed(f"{len(content) - at} bytes follow its {form.size} values")
    return strings


def _misfit_of(datatype: str) -> Callable[[Any], str | None]:
    """Return what says why a value isn't one of `datatype`; None if it is."""
    dtype_kind = DTYPES[datatype].kind
    low, high = _bounds(DTYPES[datatype])

    def reason(value: Any) -> str | None:
        if type(value) not in _TYPES[dtype_kind]:
            got = repr(value) if type(value) is float else kind(value)
            return f"must be {_WANTED[dtype_kind]}, got {got}"
        fits = type(value) is str or low <= value <= high
        return None if fits else f"does not fit into {datatype}"

    return reason


def _bounds(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max) if dtype == np.float64 else largest_for(dtype)
        return -largest, largest
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return 0, 1


def _misfits(
    form: Form, values: Iterable[tuple[int, Any]], reason_of: Callable[[Any], str | None]
) -> InvalidRecordsError:
    """Return the error that names the first fault of each record; at least one has one."""
    width = max(1, prod(form.shape[1:]))
    faults: dict[int, Fault] = {}
    for at, value in values:
        index = at // width
        if index not in faults and (reason := reason_of(value)) is not None:
            faults[index] = {"index": index, "field": form.name[:ECHOED], "reason": reason}
    return invalid(list(faults.values()), form.shape[0])
