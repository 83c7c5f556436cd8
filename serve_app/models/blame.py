"""Which records make an estimator raise: halves are asked again, then each request by itself."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serve_app.records.rows import Rows

MAX_EXTRA_CALLS: Final = 256
"""Calls of the estimator for halves of one batch, beside the first."""

Predict = Callable[[Rows], Any]


class Block(NamedTuple):
    """Rows that were predicted together."""

    start: int
    values: npt.NDArray[Any]


class _Raising(NamedTuple):
    """Rows for which the estimator raises, one of them at least."""

    cuts: Sequence[int]
    """Where the requests in it begin, and where the last one ends."""
    error: BaseException

    def halves(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the cuts of two halves: of the requests, or of the rows if there is one."""
        middle = len(self.cuts) // 2
        if len(self.cuts) > 2:  # noqa: PLR2004
            return self.cuts[: middle + 1], self.cuts[middle:]
        start, end = self.cuts
        return (start, (start + end) // 2), ((start + end) // 2, end)

    def faults(self) -> dict[int, str]:
        """Return the reason for each of the rows."""
        start, end = self.cuts[0], self.cuts[-1]
        reason = f"the model raised {type(self.error).__name__} for this record"
        if end - start > 1:
            reason += f", or for one of {end - start} that could not be told apart in time"
        return dict.fromkeys(range(start, end), reason)


def predict(
    estimate: Predict,
    rows: Rows,
    sizes: Sequence[int],
    width: tuple[int, ...] = (),
    max_extra_calls: int = MAX_EXTRA_CALLS,
) -> tuple[list[Block], dict[int, str]]:
    """Return what `estimate` gives for the rows, and why some have nothing, by their index.

    `sizes` are the row counts of the requests in `rows`, `width` is the shape of one row's answer.
    If the estimator raises for all rows at once, or gives another shape, they are halved until each
    record at fault is found: between requests first, then inside of them, largest blocks first.
    When the calls are used up, each request that still shares a block is asked for by itself once,
    so that none fails with another; those that raise have failed as they are.
    """
    values, error = _tried(estimate, rows, width)
    if error is None:
        return [Block(0, values)], {}
    found: list[Block] = []
    faults: dict[int, str] = {}
    between: deque[_Raising] = deque()
    within: deque[_Raising] = deque()

    def note(cuts: Sequence[int], error: BaseException) -> None:
        if cuts[-1] - cuts[0] == 1:
            faults.update(_Raising(cuts, error).faults())
        else:
            (within if len(cuts) == 2 else between).append(_Raising(cuts, error))  # noqa: PLR2004

    note(tuple(accumulate(sizes, initial=0)), error)
    while (raising := between or within) and max_extra_calls > 1:
        max_extra_calls -= 2
        for half in raising.popleft().halves():
            start, end = half[0], half[-1]
            values, error = _tried(estimate, rows[start:end], width)
            if error is None:
                found.append(Block(start, values))
            else:
                note(half, error)
    for request in chain.from_iterable(pairwise(block.cuts) for block in between):
        start, end = request
        values, error = _tried(estimate, rows[start:end], width)
        if error is None:
            found.append(Block(start, values))
        else:
            within.append(_Raising(request, error))
    for block in within:
        faults.update(block.faults())
    return found, faults


def _tried(
    estimate: Predict, rows: Rows, width: tuple[int, ...]
) -> tuple[npt.NDArray[Any], BaseException | None]:
    try:
        # A copy, as some estimators transform in place, and the rows may be asked for again.
        values = np.asarray(estimate(rows.copy()))
        if values.shape != (len(rows), *width):
            raise ValueError(f"an array of shape {values.shape} for {len(rows)} records")
    except BaseException as error:  # noqa: BLE001  # SystemExit, too: a model must not end its worker
        return np.empty(0), error
    return values, None
