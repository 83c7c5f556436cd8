"""The service's own protocol: `/stream` and `/batch`, `{"X": ...}` in, `{"result": ...}` out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serve_app.errors import UnknownParameterError
from serve_app.predictions import Predictions
from serve_app.question import Answer, Head, Question
from serve_app.records import RecordReader, Selection

Values = Callable[[npt.NDArray[Any]], Any]
"""Predictions, shape (records, ...), as what orjson writes as a list of that length."""


class Original:
    """Reads and writes for one model version."""

    def __init__(self, reader: RecordReader, classes: tuple[str, ...] | None) -> None:
        self._reader = reader
        self._classes = classes

    def stream(self, head: Head, body: bytes) -> Question:
        """Read one record."""
        values = self._values(head)
        rows = self._reader.read_one(body)
        return Question(rows, partial(_write_one, values), _asks(values))

    def batch(self, head: Head, body: bytes) -> Question:
        """Read many records; with `partial=true`, leave out those that don't fit."""
        values = self._values(head)
        if head.is_set("partial"):
            found = self._reader.read_fitting(body)
            write = partial(_write_some, values, found)
            return Question(found.rows, write, _asks(values), takes_errors=True)
        rows = self._reader.read_many(body)
        return Question(rows, partial(_write_all, values), _asks(values))

    def _values(self, head: Head) -> Values:
        if not head.is_set("proba"):
            return _plain
        if self._classes is None:
            raise UnknownParameterError("proba=true: this model gives no probabilities")
        return partial(_labelled, self._classes)


def _asks(values: Values) -> tuple[bool, ...]:
    return (values is not _plain,)


def _plain(values: npt.NDArray[Any]) -> Any:
    # orjson writes arrays of numbers by itself, faster than lists; of text it doesn't.
    return values if values.dtype.kind in "fiub" else values.tolist()


def _labelled(classes: tuple[str, ...], probabilities: npt.NDArray[Any]) -> Any:
    return [dict(zip(classes, row, strict=True)) for row in probabilities.tolist()]


def _write_one(values: Values, found: Sequence[Predictions]) -> Answer:
    return _answer({"result": values(found[0].values)[0]})


def _write_all(values: Values, found: Sequence[Predictions]) -> Answer:
    return _answer({"result": values(found[0].values)})


def _write_some(values: Values, selection: Selection, found: Sequence[Predictions]) -> Answer:
    """Put the results where their records stood, null where there is none."""
    errors = {fault["index"]: fault for fault in selection.faults}
    result: list[Any] = [None] * selection.total
    written = values(found[0].values)
    for at, value in zip(
        selection.kept.tolist(),
        written.tolist() if isinstance(written, np.ndarray) else written,
        strict=True,
    ):
        result[at] = value
    for row, reason in found[0].errors.items():
        at = int(selection.kept[row])
        result[at] = None
        errors[at] = {"index": at, "reason": reason}
    return _answer({"result": result, "errors": [errors[at] for at in sorted(errors)]})


def _answer(document: Any) -> Answer:
    return Answer(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
