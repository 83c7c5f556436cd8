"""The values of one column: whether they all fit, at once, or which don't, and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serve_app.records.signature import Column
from serve_app.records.strict_json import kind

Array = npt.NDArray[Any]

NUMBERS: Final = frozenset({int, float})
_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "double": NUMBERS,
    "float": NUMBERS,
    "long": frozenset({int}),
    "integer": frozenset({int}),
    "boolean": frozenset({bool}),
    "string": frozenset({str}),
}
_ARRAY_KINDS: Final = {
    "double": "fiu",
    "float": "fiu",
    "long": "iu",
    "integer": "iu",
    "boolean": "b",
    "string": "U",
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
    """The least and the largest number of a column, and what is said of others."""

    low: float | int
    high: float | int
    reason: str


def largest_for(dtype: np.dtype[Any]) -> float:
    """Return the largest 64-bit float that is rounded to a finite number of a smaller type.

    It is a little larger than the type's own largest, which programs write cut to a few digits.
    """
    info = np.finfo(dtype)
    half_a_step = 2.0 ** int(info.maxexp - info.nmant - 2)
    return math.nextafter(2.0 ** int(info.maxexp) - half_a_step, 0)


_MAX_SINGLE: Final = float(np.finfo(np.float32).max)
_MAX_DOUBLE: Final = float(np.finfo(np.float64).max)
_LARGEST_SINGLE: Final = largest_for(np.dtype(np.float32))
_EXACT: Final = Limit(-(2**53), 2**53, "is larger than 2**53 and would be rounded")
_LIMITS: Final = {
    "integer": Limit(-(2**31), 2**31 - 1, "does not fit into 32 bits"),
    "long": Limit(-(2**63), 2**63 - 1, "does not fit into 64 bits"),
    "float": Limit(-_LARGEST_SINGLE, _LARGEST_SINGLE, "does not fit into a 32-bit float"),
    "double": Limit(-_MAX_DOUBLE, _MAX_DOUBLE, "does not fit into a 64-bit float"),
}


def limit_of(column: Column, is_matrix: bool) -> Limit | None:
    """Return what bounds a column's values; None if it holds no numbers.

    `is_matrix`: whether all columns are numbers, and so become float64.
    """
    return _EXACT if is_matrix and column.type == "long" else _LIMITS.get(column.type)


class ColumnReader:
    """Judges the values of one column; `is_matrix` as in `limit_of`."""

    def __init__(self, column: Column, is_matrix: bool) -> None:
        self.name = column.name
        self.is_integer = column.is_integer
        self.is_single = column.type == "float"
        """Whether its numbers are rounded to 32-bit floats."""
        self.wanted = _WANTED[column.type]
        self.neutral = "" if column.type == "string" else 0
        """A value that fits."""
        self._kinds = _KINDS[column.type]
        self._array_kinds = _ARRAY_KINDS[column.type]
        self._limit = limit_of(column, is_matrix)
        self.bound = min(-self._limit.low, self._limit.high) if self._limit else math.inf
        """Numbers below this and above its negative fit; others may, and are looked at."""
        if self.is_single:  # what has been rounded to it may have been too large
            self.bound = _MAX_SINGLE

    def fill(self, column: Array, values: Sequence[Any] | Array) -> bool:
        """Write values into `column`, a view of rows; False if one doesn't fit, or may not.

        Arrays must have the column's own kind of values: floats or integers for a number, integers
        for a whole number, booleans, or strings; an array of objects is taken as a list is.
        """
        if isinstance(values, np.ndarray) and values.dtype.kind != "O":
            return self._fill_array(column, values)
        if not set(map(type, values)) <= self._kinds:
            return False
        try:
            self.write(column, values)
        except OverflowError:
            return False
        return self._limit is None or bool((np.abs(column) < self.bound).all())

    def write(self, column: Array, values: Sequence[Any] | Array) -> None:
        """Write values that fit into `column`; those of 32-bit floats are rounded."""
        if not self.is_single:
            column[:] = values
            return
        with np.errstate(over="ignore"):  # by numbers that turn out not to fit
            column[:] = np.asarray(values, np.float64).astype(np.float32)

    def misfits(self, values: Sequence[Any]) -> dict[int, str]:
        """Return where a value doesn't fit, and why."""
        suspects = [at for at, value in enumerate(values) if type(value) not in self._kinds]
        if self._limit is not None:
            numbers = list(values)
            for at in suspects:
                numbers[at] = 0
            suspects += np.flatnonzero(~self._are_small(_floats(numbers))).tolist()
        reasons = ((at, self._misfit(values[at])) for at in suspects)
        return {at: reason for at, reason in reasons if reason is not None}

    def _fill_array(self, column: Array, values: Array) -> bool:
        if values.dtype.kind not in self._array_kinds:
            return False
        # Compared before they are cast: unsigned or larger ones would come out as something else.
        if self._limit is not None and not self._are_small(values.astype(np.float64)).all():
            return False
        self.write(column, values)
        return True

    def _are_small(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        # Numbers from the bound on, rounded or not, are no smaller than the bound when rounded.
        return np.abs(numbers) < float(self.bound)

    def _misfit(self, value: Any) -> str | None:
        if self._limit is not None and type(value) in NUMBERS:
            if type(value) is float and math.isnan(value):
                return f"must be {self.wanted}, got NaN"
            # Python compares whole numbers and floats exactly.
            if not self._limit.low <= value <= self._limit.high:
                return self._limit.reason
        if type(value) in self._kinds:
            return None
        return f"must be {self.wanted}, got {repr(value) if type(value) is float else kind(value)}"


def _floats(numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return numbers as floats; whole ones that no float holds as infinities."""
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        return np.array([_float(number) for number in numbers])


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
