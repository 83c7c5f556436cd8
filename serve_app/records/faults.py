"""Records that don't fit: which, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.errors import MAX_REPORTED_ERRORS, InvalidRecordsError
from serve_app.records.rows import Rows

Fault = dict[str, Any]
"""`index` of the record, `field` if one is at fault, and `reason`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The records of a batch that fit, and why the others don't."""

    rows: Rows
    kept: npt.NDArray[np.intp]
    """Where each of `rows` stood in the batch."""
    faults: list[Fault]
    total: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows of all records, undefined where one doesn't fit, and the faults in their order."""

    rows: Rows
    faults: Sequence[Fault] = ()

    def all(self) -> Rows:
        """Return the rows. Raises InvalidRecordsError if there are faults."""
        if self.faults:
            raise invalid(self.faults, len(self.rows))
        return self.rows

    def fitting(self) -> Selection:
        """Return the rows that fit."""
        fits = np.ones(len(self.rows), dtype=np.bool_)
        fits[[fault["index"] for fault in self.faults]] = False
        kept = np.flatnonzero(fits)
        return Selection(self.rows[kept], kept, list(self.faults), len(fits))


def invalid(faults: Sequence[Fault], total: int) -> InvalidRecordsError:
    """Return the error that names the first faults of a batch of `total` records."""
    first = faults[0]
    where = f"record {first['index']}" + (f", field {first['field']!r}" if "field" in first else "")
    detail = f"{where}: {first['reason']}"
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more of {total} records)"
    return InvalidRecordsError(detail, errors=faults[:MAX_REPORTED_ERRORS])
