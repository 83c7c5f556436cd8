"""A model gives one outcome a row, whatever its estimator does."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.mixture import GaussianMixture

from serve_app.models import model_check
from serve_app.models.model import NO_FINITE_ANSWER, Model
from serve_app.models.predictions import Predictions, concatenate
from serve_app.models.served import ServedVersion, describe
from serve_app.records import rows as row_blocks
from serve_app.records.signature import Column, Signature

RAISED = "the model raised ValueError for this record"


class Fragile:
    """Doubles; raises for negative rows, gives infinity above 100, loses a row at 50."""

    def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return 2x for each row."""
        if (rows < 0).any():
            raise ValueError("negative")
        values: npt.NDArray[Any] = np.where(rows[:, 0] > 100, np.inf, rows[:, 0] * 2)
        return values[:-1] if (rows == 50).any() else values


def model(estimator: Any) -> Model:
    """A one-feature model."""
    return Model(estimator, Signature((Column("x", "double"),)), np.zeros((1, 1)))


def column(*values: float) -> npt.NDArray[np.float64]:
    """Rows of one feature."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def test_good_rows_are_predicted_at_once() -> None:
    """No error, values in order."""
    outcome = model(Fragile()).predict(column(1, 2, 3))
    assert outcome.values.tolist() == [2, 4, 6]
    assert not outcome.errors


def test_a_linear_model_of_numbers_and_truth_values_takes_a_table() -> None:
    """Its sums alone are for a matrix; rows of mixed columns are none."""
    signature = Signature((Column("x", "double"), Column("b", "boolean")))
    rows = row_blocks.empty(signature, 2)
    rows["x"], rows["b"] = [1.0, 2.0], [True, False]
    table = row_blocks.frame(rows, signature.columns)
    fitted = LinearRegression().fit(table, [3.0, 5.0])
    outcome = Model(fitted, signature, rows[:1]).predict(rows)
    assert outcome.values.tolist() == fitted.predict(table).tolist()
    assert not outcome.errors


def test_every_record_at_fault_is_named_and_no_other() -> None:
    """Requests beside them get their values, and so do the good records of theirs."""
    outcome = model(Fragile()).predict(column(1, 3, -1, 4, -2, 6, 7), (1, 4, 1, 1))
    assert outcome.errors == dict.fromkeys((2, 4), RAISED)
    assert outcome.values[[0, 1, 3, 5, 6]].tolist() == [2, 6, 8, 12, 14]


def test_labels_of_blocks_told_apart_are_not_cut() -> None:
    """Text of different lengths from each of them."""

    class Labels(Fragile):
        def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.array(["long" * int(one) for one in super().predict(rows)])

    outcome = model(Labels()).predict(column(1, -1, 3))
    assert outcome.values[[0, 2]].tolist() == ["longlong", "long" * 6]


def test_warnings_of_the_estimator_are_not_shown() -> None:
    """What comes of an overflow is checked; the log is not the client's to fill."""

    class Overflowing(Fragile):
        def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            warnings.warn("overflow", RuntimeWarning, stacklevel=2)
            return super().predict(rows * 1e300 * 1e300)

    assert model(Overflowing()).predict(column(1)).errors == {0: NO_FINITE_ANSWER}


def test_a_value_that_is_not_finite_is_that_rows_error() -> None:
    """Infinity is no answer."""
    outcome = model(Fragile()).predict(column(1, 200))
    assert outcome.errors == {1: NO_FINITE_ANSWER}
    assert outcome.values[0] == 2


def test_a_wrong_number_of_predictions_fails_no_neighbour() -> None:
    """The record with which the estimator loses count is found."""
    outcome = model(Fragile()).predict(column(1, 50, 3), (1, 1, 1))
    assert outcome.errors == {1: RAISED}


def test_all_rows_may_fail() -> None:
    """A broken estimator gives an error for each request, not an exception."""
    outcome = model(Fragile()).predict(column(-1, -2), (1, 1))
    assert set(outcome.errors) == {0, 1}
    assert outcome.values.shape == (2,)


def test_parts_and_their_concatenation_keep_errors_in_place() -> None:
    """Cutting and joining moves the indexes along."""
    whole = Predictions(np.arange(5.0), {1: "a", 4: "b"})
    parts = [whole.part(0, 2), whole.part(2, 5)]
    assert parts[1].errors == {2: "b"}
    again = concatenate(parts)
    assert again.errors == whole.errors
    np.testing.assert_array_equal(again.values, whole.values)


@pytest.mark.parametrize("label", [7, "label", 0.5, True])
def test_records_that_all_failed_change_no_label_beside_them(label: Any) -> None:
    """When the parts of a large batch are put together."""

    class Labels(Fragile):
        def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.full(len(super().predict(rows)), label)

    parts = [model(Labels()).predict(column(*values)) for values in ((-1, -2), (1, 2))]
    outcome = concatenate(parts)
    assert outcome.values.tolist()[2:] == [label, label]
    assert type(outcome.values.tolist()[2]) is type(label)
    assert set(outcome.errors) == {0, 1}


@pytest.mark.parametrize("failed", [[], [3], [0, 1, 2, 3, 4], [1, 4]])
def test_parts_of_every_size_have_their_own_errors(failed: list[int]) -> None:
    """However many there are beside them."""
    whole = Predictions(np.arange(5.0), {at: f"fault {at}" for at in failed})
    for start in range(5):
        for end in range(start + 1, 6):
            expected = {at - start: f"fault {at}" for at in failed if start <= at < end}
            assert whole.part(start, end).errors == expected


@pytest.mark.parametrize(("has", "classes"), [(True, ("0", "1")), (False, None)])
def test_classes_are_known_where_there_are_probabilities(
    has: bool, classes: tuple[str, ...] | None
) -> None:
    """Labels are text, as JSON's keys are."""

    class Classifier(Fragile):
        classes_ = (0, 1)

    if has:
        Classifier.predict_proba = Fragile.predict  # type: ignore[attr-defined]
    assert model(Classifier()).classes == classes


def test_a_model_of_probabilities_without_labels_is_one_without_classes() -> None:
    """It is loaded and described, and answers with what it predicts."""
    rows = np.random.default_rng(0).normal(size=(20, 1))
    mixture = model(GaussianMixture(2, random_state=0).fit(rows))
    model_check.check(mixture)
    served = describe(ServedVersion("m", "1", None, "models:/m/1", "ab" * 32), mixture)
    assert (served.classes, served.labels, served.result_type) == (None, None, "i")
    assert mixture.predict(rows).values.tolist() == mixture.estimator.predict(rows).tolist()


@pytest.mark.parametrize("dtype", [">i4", ">i8", ">f4", ">f8", ">u2", ">U5"])
def test_values_come_in_the_order_of_bytes_that_json_is_written_from(dtype: str) -> None:
    """Whatever the order in which a model's labels or numbers lie."""

    class Foreign(Fragile):
        classes_ = np.array([2, 4], dtype)

        def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return super().predict(rows).astype(int).astype(dtype)

        def predict_proba(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.column_stack([rows, rows]).astype(">f8")

    for rows in (column(1, 2), column(1, -1, 2)):
        outcome = model(Foreign()).predict(rows)
        assert outcome.values.dtype == np.dtype(dtype).newbyteorder("=")
        written = np.array([2, 4]).astype(dtype).tolist()
        assert outcome.values[[0, -1]].tolist() == written
        assert _json(outcome.values[[0, -1]]) == written
    probabilities = model(Foreign()).probabilities(column(1, 2)).values
    assert _json(probabilities) == [[1.0, 1.0], [2.0, 2.0]]


def _json(values: npt.NDArray[Any]) -> Any:
    """What a client reads."""
    return orjson.loads(orjson.dumps(values, lambda one: one.tolist(), orjson.OPT_SERIALIZE_NUMPY))
