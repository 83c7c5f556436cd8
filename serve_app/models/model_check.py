"""Whether a model that has been read can answer at all; asked once, when it is loaded."""

import contextlib
import json
from typing import Any, Final

import numpy as np

from serve_app.model_errors import UnservableModelError
from serve_app.models.model import Model, unwarned
from serve_app.records.rows import frame

REPLAY_TOLERANCE: Final = 1e-6
"""Difference that another processor or library may make to the same sums, relative to them or,
around zero, absolute."""


def check(model: Model) -> None:
    """Raise UnservableModelError unless the estimator fits its signature and its example."""
    _check_columns(model)
    rows = len(model.example)
    answer = _answer(model, "predict")
    _check_shape("predict", answer, (rows,))
    _check_kind(answer)
    if model.classes is not None:
        _check_shape("predict_proba", _answer(model, "predict_proba"), (rows, len(model.classes)))
    if reasons := list(model.predict(model.example).errors.values()):
        raise UnservableModelError(f"the model's input example: {reasons[0]}")


def check_replay(model: Model, expected: Any) -> None:
    """Raise UnservableModelError unless the example's prediction is what training recorded.

    `expected` is a list with one value, as JSON has it; None if nothing was recorded.
    """
    if expected is None:
        return
    found = model.predict(model.example).values.tolist()
    if found == expected:
        return
    is_close = False
    if all(isinstance(value, float) for value in found):  # labels and whole numbers are exact
        with contextlib.suppress(TypeError, ValueError):
            is_close = np.allclose(found, expected, rtol=REPLAY_TOLERANCE, atol=REPLAY_TOLERANCE)
    if not is_close:
        raise UnservableModelError(
            f"the model predicts {json.dumps(found)} for its input example, but training recorded "
            f"{json.dumps(expected)}: its files or libraries aren't those that it was trained with"
        )


def _check_columns(model: Model) -> None:
    names = model.signature.names
    wanted = getattr(model.estimator, "n_features_in_", None)
    if wanted is not None and wanted != len(names):
        raise UnservableModelError(
            f"the signature has {len(names)} columns, but the estimator was fitted on {wanted}: "
            "log it with its own signature"
        )
    fitted = getattr(model.estimator, "feature_names_in_", None)
    if fitted is not None and tuple(map(str, fitted)) != names:
        raise UnservableModelError(
            f"the signature's columns {names[:10]} are not those that the estimator was fitted on, "
            f"{tuple(map(str, fitted[:10]))}, in that order: log it with its own signature"
        )


def _answer(model: Model, method: str) -> Any:
    try:
        with unwarned():
            return np.asarray(getattr(model.estimator, method)(_taken(model)))
    except Exception as error:
        raise UnservableModelError(
            f"the model fails on its input example ({method}: {type(error).__name__}: {error}): "
            "log it with an `input_example` that it takes"
        ) from error


def _taken(model: Model) -> Any:
    """Return the example as the estimator takes it."""
    if model.signature.is_numeric:
        return model.example
    return frame(model.example, model.signature.columns)


def _check_shape(method: str, values: Any, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise UnservableModelError(
            f"{method} gives an array of shape {values.shape} for the input example, not {shape}: "
            "only models with one value a record are served"
        )


def _check_kind(values: Any) -> None:
    written = {type(value) for value in values.tolist()}
    if not written <= {bool, int, float, str}:
        raise UnservableModelError(
            f"predict gives values of the type {values.dtype} for the input example: "
            "only numbers, truth values and text can be answered"
        )
