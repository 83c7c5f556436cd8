"""`/stream` and `/batch`: what they ask of the model, and how they write what it says."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.errors import InvalidRecordsError, ServeError, UnknownParameterError
from serve_app.models.predictions import NO_ROWS, Predictions
from serve_app.protocols import media
from serve_app.protocols.original import Original
from serve_app.protocols.question import Head, Question
from serve_app.records.reader import RecordReader
from serve_app.records.signature import Column, Signature

READER = RecordReader(Signature((Column("bmi", "double"),)), 100)
PLAIN = Original(READER, None, "f")
CLASSIFIER = Original(READER, ("yes", "no"), "U")


def head(query: bytes = b"") -> Head:
    """Of a request in JSON."""
    return Head(media.JSON, media.JSON, {}, query, {})


def body(x: Any) -> bytes:
    """A request body with this X."""
    return json.dumps({"X": x}).encode()


def written(question: Question, *found: Predictions) -> Any:
    """The answer's document."""
    answer = question.write(found)
    assert answer.media_type == media.JSON
    return json.loads(answer.body)


def test_one_record_has_one_result() -> None:
    """A number, not a list."""
    question = PLAIN.stream(head(), body(0.5))
    assert question.rows.tolist() == [[0.5]]
    assert (question.asks, question.takes_errors) == ((False,), False)
    assert written(question, Predictions(np.array([7.5]))) == {"result": 7.5}


def test_many_records_have_as_many_results() -> None:
    """In their order."""
    question = PLAIN.batch(head(), body([0.5, 1]))
    assert question.rows.tolist() == [[0.5], [1.0]]
    assert written(question, Predictions(np.array([1.5, 2.5]))) == {"result": [1.5, 2.5]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(["a", "long"]), ["a", "long"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (np.array([True, False]), [True, False]),
        (np.array([1, 2**62]), [1, 2**62]),
        (np.array([0.1, 2], dtype=np.float32), [0.1, 2.0]),
        (np.array([[1.0, 2.0], [3.0, 4.0]])[:, 1], [2.0, 4.0]),
    ],
)
@pytest.mark.parametrize("query", [b"", b"partial=true"])
def test_labels_and_numbers_of_every_kind_are_written(
    values: npt.NDArray[Any], expected: list[Any], query: bytes
) -> None:
    """Also those that lie in memory in another order."""
    question = PLAIN.batch(head(query), body([1, 2]))
    assert written(question, Predictions(values))["result"] == expected
    one = PLAIN.stream(head(), body(1))
    assert written(one, Predictions(values)) == {"result": expected[0]}


def test_probabilities_are_named_by_label() -> None:
    """If asked for, and if there are any."""
    shares = Predictions(np.array([[0.25, 0.75], [1, 0]]))
    many = CLASSIFIER.batch(head(b"proba=true"), body([1, 2]))
    assert many.asks == (True,)
    first = {"yes": 0.25, "no": 0.75}
    assert written(many, shares) == {"result": [first, {"yes": 1.0, "no": 0.0}]}
    one = CLASSIFIER.stream(head(b"proba=true"), body(1))
    assert written(one, shares.part(0, 1)) == {"result": first}
    for read in (PLAIN.stream, PLAIN.batch):
        with pytest.raises(UnknownParameterError, match="no probabilities"):
            read(head(b"proba=true"), body([1]))


@pytest.mark.parametrize(
    "query", [b"proba=1", b"proba=", b"partial=TRUE", b"partial=%FF", b"proba"]
)
def test_a_parameter_is_true_or_false(query: bytes) -> None:
    """Nothing else, and `proba` says it even if the model gives none."""
    with pytest.raises(UnknownParameterError, match="must be true or false"):
        PLAIN.batch(head(query), body([1]))


@pytest.mark.parametrize("query", [b"proba=false", b"partial=false&x=1", b"&&=", b"\xff"])
def test_false_and_unknown_parameters_change_nothing(query: bytes) -> None:
    """They are for others."""
    assert PLAIN.batch(head(query), body([1])).asks == (False,)


def test_partial_answers_the_good_records_and_names_the_others() -> None:
    """Those that don't fit, and those that the model has no answer for, in their order."""
    question = PLAIN.batch(head(b"partial=true"), body([None, 1, {"x": 1}, 2, 3]))
    assert question.rows.tolist() == [[1.0], [2.0], [3.0]]
    assert question.takes_errors
    found = Predictions(np.array([1.5, np.nan, 3.5]), {1: "no finite number"})
    assert written(question, found) == {
        "result": [None, 1.5, None, None, 3.5],
        "errors": [
            {"index": 0, "field": "bmi", "reason": "must be a number, got null"},
            {"index": 2, "field": "x", "reason": "unknown field; the model has bmi"},
            {"index": 3, "reason": "no finite number"},
        ],
    }


@pytest.mark.parametrize("query", [b"partial=true", b"partial=true&proba=true"])
def test_partial_of_no_good_record_is_an_answer_too(query: bytes) -> None:
    """All null; no worker need be asked."""
    question = CLASSIFIER.batch(head(query), body([None, "a"]))
    assert len(question.rows) == 0
    document = written(question, NO_ROWS)
    assert document["result"] == [None, None]
    assert [one["index"] for one in document["errors"]] == [0, 1]


def test_partial_of_good_records_has_no_errors() -> None:
    """The list is there, and empty."""
    question = CLASSIFIER.batch(head(b"partial=true&proba=true"), body([1]))
    document = written(question, Predictions(np.array([[0.5, 0.5]])))
    assert document == {"result": [{"yes": 0.5, "no": 0.5}], "errors": []}


@pytest.mark.parametrize("raw", [b"", b"{", b'{"X": []}', b'{"X": 1}', b'{"Y": [1]}'])
def test_partial_forgives_records_and_not_the_body(raw: bytes) -> None:
    """What has no records has no results."""
    with pytest.raises(ServeError):
        PLAIN.batch(head(b"partial=true"), raw)


def test_without_partial_one_bad_record_refuses_the_batch() -> None:
    """And none runs."""
    with pytest.raises(InvalidRecordsError):
        PLAIN.batch(head(), body([1, None]))
