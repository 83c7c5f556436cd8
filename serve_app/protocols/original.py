"""The service's own protocol: `/stream` and `/batch`, `{"X": ...}` in, `{"result": ...}` out.

`/batch` also reads and writes Arrow streams, each by itself.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, Final, NamedTuple, Protocol

import numpy.typing as npt
import orjson

from serve_app.errors import UnknownParameterError
from serve_app.models.predictions import Predictions
from serve_app.protocols import arrow, media
from serve_app.protocols.question import Answer, Head, Places, Question
from serve_app.records.faults import Selection
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows

Classes = tuple[str, ...] | None
"""The labels of the probabilities that are asked for; None if it's the predictions."""

BATCH_TYPES: Final = (media.JSON, media.ARROW)
"""The media types that `/batch` takes and offers."""


class BatchReader(Protocol):
    """Reads many records from a body of one media type."""

    def read_many(self, body: bytes) -> Rows:
        """Return all records; raises ServeError if one doesn't fit."""

    def read_fitting(self, body: bytes) -> Selection:
        """Return the records that fit, and the faults of the others."""


class BatchWriter(NamedTuple):
    """Writes the answers for many records as a body of one media type."""

    all: Callable[[Classes, Sequence[Predictions]], Answer]
    some: Callable[[Classes, Selection, Sequence[Predictions]], Answer]


class Original:
    """Reads and writes for one model version.

    `result_type` is the kind of numpy's dtype that it predicts.
    """

    def __init__(self, reader: RecordReader, classes: Classes, result_type: str) -> None:
        self._reader = reader
        self._classes = classes
        self._readers: dict[str, BatchReader] = {
            media.JSON: reader,
            media.ARROW: arrow.ArrowReader(reader),
        }
        self._writers = {
            media.JSON: BatchWriter(_write_all, _write_some),
            media.ARROW: BatchWriter(arrow.write_all, partial(arrow.write_some, result_type)),
        }

    def stream(self, head: Head, body: bytes) -> Question:
        """Read one record."""
        classes = self._asked(head)
        rows = self._reader.read_one(body)
        return Question(rows, partial(_write_one, classes), (classes is not None,))

    def batch(self, head: Head, body: bytes) -> Question:
        """Read many records; with `partial=true`, leave out those that don't fit."""
        classes = self._asked(head)
        asks = (classes is not None,)
        reader, writer = self._readers[head.media_type], self._writers[head.accepted]
        if head.is_set("partial"):
            if head.accepted == media.ARROW and classes is not None and arrow.ERROR in classes:
                raise UnknownParameterError(
                    f"partial=true: a class of this model is named {arrow.ERROR}, as is the column "
                    "of reasons in Arrow; accept application/json, or leave out proba=true"
                )
            found = reader.read_fitting(body)
            write = partial(writer.some, classes, found)
            places = Places(found.kept, found.total) if found.faults else None
            return Question(found.rows, write, asks, takes_errors=True, places=places)
        rows = reader.read_many(body)
        return Question(rows, partial(writer.all, classes), asks)

    def _asked(self, head: Head) -> Classes:
        """Return the classes whose probabilities are asked for."""
        if not head.is_set("proba"):
            return None
        if self._classes is None:
            raise UnknownParameterError("proba=true: this model gives no probabilities")
        return self._classes


def _values(classes: Classes, values: npt.NDArray[Any]) -> Any:
    """Return what orjson writes as a list with an element for each record."""
    if classes is not None:
        return [dict(zip(classes, row, strict=True)) for row in values.tolist()]
    return values


def _write_one(classes: Classes, found: Sequence[Predictions]) -> Answer:
    return _answer({"result": _values(classes, found[0].values)[0]})


def _write_all(classes: Classes, found: Sequence[Predictions]) -> Answer:
    return _answer({"result": _values(classes, found[0].values)})


def _write_some(classes: Classes, selection: Selection, found: Sequence[Predictions]) -> Answer:
    """Put the results where their records stood, null where there is none."""
    errors = {fault["index"]: fault for fault in selection.faults}
    result: list[Any] = [None] * selection.total
    values = _values(classes, found[0].values)
    for row, (at, value) in enumerate(zip(selection.kept.tolist(), values, strict=True)):
        if row in found[0].errors:
            errors[at] = {"index": at, "reason": found[0].errors[row]}
        else:
            result[at] = value
    return _answer({"result": result, "errors": [errors[at] for at in sorted(errors)]})


def _answer(document: Any) -> Answer:
    return Answer(orjson.dumps(document, _TO_LIST, orjson.OPT_SERIALIZE_NUMPY))


_TO_LIST: Final = methodcaller("tolist")
"""For arrays that orjson doesn't write by itself, as those of text."""
