"""A model gives one outcome a row, whatever its estimator does."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.model import NO_FINITE_ANSWER, Model
from serve_app.predictions import Predictions, concatenate
from serve_app.signature import Column, Signature


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


def test_only_the_rows_at_fault_fail() -> None:
    """Rows beside one that makes the model raise still get their values."""
    outcome = model(Fragile()).predict(column(1, -1, 3, 4, -2, 6, 7))
    assert set(outcome.errors) == {1, 4}
    assert "ValueError" in outcome.errors[1]
    assert outcome.values[[0, 2, 3, 5, 6]].tolist() == [2, 6, 8, 12, 14]


def test_a_value_that_is_not_finite_is_that_rows_error() -> None:
    """Infinity is no answer."""
    outcome = model(Fragile()).predict(column(1, 200))
    assert outcome.errors == {1: NO_FINITE_ANSWER}
    assert outcome.values[0] == 2


def test_a_wrong_number_of_predictions_fails_no_neighbour() -> None:
    """The row with which the estimator loses count is found."""
    assert set(model(Fragile()).predict(column(1, 50, 3)).errors) == {1}


def test_all_rows_may_fail() -> None:
    """A broken estimator gives an error for each row, not an exception."""
    outcome = model(Fragile()).predict(column(-1, -2))
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
