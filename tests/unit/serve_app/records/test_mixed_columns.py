"""Records with text and truth values, from bytes to labels: what the pipeline itself would say."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serve_app.models import model_files
from serve_app.models.model import NO_FINITE_ANSWER, Model
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from tests import customers, models

ESTIMATOR = customers.estimator()
RECORDS = customers.frame(50, seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The pipeline, written by MLflow and read as the service reads it."""
    folder: Path = tmp_path_factory.mktemp("customers") / "model"
    return model_files.read(models.write_frame(folder, ESTIMATOR, customers.frame(3)))


def rows(model: Model, records: Any) -> Rows:
    """Records from the body of a request."""
    body = json.dumps({"X": records}).encode()
    return RecordReader(model.signature, 100).read_many(body)


def objects(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Records as clients send them."""
    found: list[dict[str, Any]] = json.loads(records.to_json(orient="records", double_precision=15))
    return found


def test_the_signature_and_the_example_have_each_column_in_its_kind(model: Model) -> None:
    """As MLflow inferred them from the frame."""
    types = [column.type for column in model.signature.columns]
    assert types == ["double", "long", "boolean", "string"]
    assert model.example.dtype == [
        ("income", "f8"),
        ("visits", "i8"),
        ("is_new", "?"),
        ("city", "O"),
    ]
    assert model.example["city"].tolist() == customers.frame(3)["city"].tolist()[:1]
    assert model.classes == customers.LABELS


@pytest.mark.parametrize("shape", ["objects", "lists", "both"])
def test_answers_are_those_of_the_pipeline_on_a_frame(model: Model, shape: str) -> None:
    """Labels and probabilities, whatever shape the records had."""
    sent: list[Any] = objects(RECORDS)
    frame = pd.DataFrame(sent)
    if shape != "objects":
        sent[:40] = [list(record.values()) for record in sent[:40]]
    if shape == "lists":
        sent[40:] = [list(record.values()) for record in sent[40:]]
    found = rows(model, sent)
    assert model.predict(found).values.tolist() == ESTIMATOR.predict(frame).tolist()
    shares = model.probabilities(found)
    np.testing.assert_array_equal(shares.values, ESTIMATOR.predict_proba(frame))
    assert not shares.errors


def test_rows_survive_the_way_to_a_worker(model: Model) -> None:
    """Cut, joined with those of others, and pickled."""
    found = rows(model, objects(RECORDS))
    sent = pickle.loads(pickle.dumps(np.concatenate([found[:20], found[20:]])))
    outcome = model.predict(sent, (20, 30))
    assert outcome.values.tolist() == ESTIMATOR.predict(RECORDS).tolist()
    assert outcome.part(20, 50).values.tolist() == outcome.values[20:].tolist()


def test_a_record_for_which_the_pipeline_raises_fails_alone(model: Model) -> None:
    """A city that it hasn't seen."""
    outcome = model.predict(rows(model, [customers.GOOD, customers.UNSEEN, customers.GOOD]))
    assert outcome.errors == {1: "the model raised ValueError for this record"}
    assert outcome.values[0] == outcome.values[2]
    assert outcome.values[0] in customers.LABELS


def test_probabilities_that_are_not_finite_are_that_records_error(model: Model) -> None:
    """An income at the end of what a float holds."""
    outcome = model.probabilities(rows(model, [customers.GOOD, customers.HUGE]))
    assert outcome.errors == {1: NO_FINITE_ANSWER}
    np.testing.assert_allclose(outcome.values[0].sum(), 1)
