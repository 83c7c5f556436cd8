"""What a worker answers: one outcome for each row."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

NO_ERRORS: Final[Mapping[int, str]] = {}

UNANSWERED: Final = "the model has not answered in time"
"""Reason why a record has no answer, that is no fault of the record's: it may be worth a try."""


class Predictions(NamedTuple):
    """Values of shape (records,), or (records, classes) for probabilities, and what failed.

    `errors` maps the index of a record that has no answer to the reason; its value is undefined.
    """

    values: npt.NDArray[Any]
    errors: Mapping[int, str] = NO_ERRORS
    model_s: float = 0.0
    """Seconds that the model took for the batch that these were in."""
    model_rows: int = 0
    """Rows in that batch; more than these if calls were joined."""

    def part(self, start: int, end: int) -> "Predictions":
        """Return the outcomes of rows `start` to `end`, indexed anew from 0."""
        if not self.errors:
            return Predictions(self.values[start:end], NO_ERRORS, self.model_s, self.model_rows)
        # Whichever are fewer: a call may be made of thousands of small requests that all failed.
        rows = range(start, end)
        found = rows if len(rows) < len(self.errors) else self.errors
        errors = {at - start: self.errors[at] for at in found if at in self.errors and at in rows}
        return Predictions(self.values[start:end], errors, self.model_s, self.model_rows)


NO_ROWS = Predictions(np.empty(0))
"""The outcome of no rows."""


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Return the outcomes of several row blocks as one, in order."""
    if len(parts) == 1:
        return parts[0]
    errors: dict[int, str] = {}
    offset = 0
    for part in parts:
        errors.update({at + offset: why for at, why in part.errors.items()})
        offset += len(part.values)
    model_s = max((part.model_s for part in parts), default=0.0)
    return Predictions(np.concatenate([part.values for part in parts]), errors, model_s)


def with_gaps(
    parts: Sequence[Predictions | str], sizes: Sequence[int], width: tuple[int, ...] = ()
) -> Predictions:
    """Return the outcomes of row blocks as one; a block that has failed is given by its reason.

    `sizes` are the row counts of the blocks, `width` is the shape of one row's answer.
    """
    # Truth values give way to any other type when outcomes are put together.
    nothing = np.empty((0, *width), dtype=np.bool_)
    like = next((part.values for part in parts if not isinstance(part, str)), nothing)

    def failed(reason: str, rows: int) -> Predictions:
        values = np.zeros((rows, *like.shape[1:]), dtype=like.dtype)
        return Predictions(values, dict.fromkeys(range(rows), reason))

    return concatenate(
        [
            failed(part, rows) if isinstance(part, str) else part
            for part, rows in zip(parts, sizes, strict=True)
        ]
    )
