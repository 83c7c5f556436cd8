"""Which rows are held out: the last ones, random ones, or the latest."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from train import fault
from train.errors import BadDataError
from train.settings import LastSplit, RandomSplit, Split, TimeSplit

Rows = NDArray[np.int64]
"""Numbers of source rows, from 0, ascending."""


def split(frame: pd.DataFrame, by: Split, labels: pd.Series | None, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to train on and the rows to hold out.

    `labels`, given in classification, keeps their shares alike in both parts of a random split.
    Raises BadDataError if the rows don't suffice or a time can't be read.
    """
    held_out = _size(by.test_size, len(frame))
    if held_out >= len(frame):
        raise BadDataError(f"split.test_size holds out {held_out} of {len(frame)} rows")
    rows = np.arange(len(frame))
    if isinstance(by, LastSplit):
        return rows[:-held_out], rows[-held_out:]
    if isinstance(by, RandomSplit):
        return _random(rows, held_out, labels, seed)
    return _latest(frame, by, held_out)


def _size(test_size: int | float, rows: int) -> int:
    return test_size if isinstance(test_size, int) else math.ceil(test_size * rows)


def _random(rows: Rows, held_out: int, labels: pd.Series | None, seed: int) -> tuple[Rows, Rows]:
    try:
        train, test = train_test_split(
            rows, test_size=held_out, random_state=seed, shuffle=True, stratify=labels
        )
    except ValueError as error:
        raise BadDataError(f"split: the rows can't be split by label: {error}") from error
    return np.sort(train), np.sort(test)


def _latest(frame: pd.DataFrame, by: TimeSplit, held_out: int) -> tuple[Rows, Rows]:
    times = _times(frame, by.column)
    # Rows of one moment stay together, so up to all of that moment's rows are held out on top.
    cutoff = times.sort_values(ignore_index=True).iloc[-held_out]
    later = (times >= cutoff).to_numpy()
    if later.all():
        raise BadDataError(
            f"column {by.column!r}: too few different times to hold out {held_out} rows"
        )
    return np.flatnonzero(~later), np.flatnonzero(later)


def _times(frame: pd.DataFrame, column: str) -> pd.Series:
    if column not in frame.columns:
        raise BadDataError(f"split.column: no column {column!r}; there are {list(frame.columns)}")
    times = frame[column]
    if not pd.api.types.is_numeric_dtype(times) and not pd.api.types.is_datetime64_any_dtype(times):
        times = pd.to_datetime(times.astype("str"), errors="coerce", format="ISO8601", utc=True)
    if times.isna().any():
        is_bad = times.isna().to_numpy()
        value = frame[column].iloc[int(is_bad.argmax())]
        place = fault.where(frame[column], is_bad)
        raise BadDataError(f"{place}: {value!r} is neither a number nor an ISO 8601 date")
    return times
