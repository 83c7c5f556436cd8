"""Open Inference Protocol v2 (KServe, Triton), with its extension for binary tensors.

Inputs are one tensor for each column, shape [n] or [n, 1], or, if all columns are numbers, one
tensor of any name, shape [n, columns]. Outputs are `predict`, and `predict_proba` if asked for.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from serve_app.errors import ECHOED, InvalidRecordsError, ServeError, UnknownOutputError
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel
from serve_app.protocols import media, open_inference_request
from serve_app.protocols import open_inference_tensors as tensors
from serve_app.protocols.open_inference_request import HEADER, Tensor, Wanted
from serve_app.protocols.open_inference_tensors import Form
from serve_app.protocols.question import Answer, Head, Question
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows

PREDICT: Final = "predict"
PREDICT_PROBA: Final = "predict_proba"

_DATATYPES: Final = {
    "double": "FP64",
    "float": "FP32",
    "long": "INT64",
    "integer": "INT32",
    "boolean": "BOOL",
    "string": tensors.BYTES,
}
_NUMBERS: Final = "fiu"
_KINDS: Final = {
    "double": _NUMBERS,
    "float": _NUMBERS,
    "long": "iu",
    "integer": "iu",
    "boolean": "b",
    "string": "O",
}
"""Kinds of numpy's that a column takes."""


def members(error: ServeError) -> Mapping[str, Any]:
    """Return what v2 clients look for in an error's body."""
    return {"error": error.detail}


OPTIONS: Final[Mapping[str, Any]] = {
    "takes": (media.JSON, media.OCTETS, media.UNNAMED),  # tritonclient names no type
    "offers": (media.JSON, media.OCTETS),
    "members": members,
}
"""Of the endpoint that infers."""


class OpenInference:
    """Reads and writes for one model version."""

    def __init__(self, reader: RecordReader, model: ServedModel) -> None:
        self._reader = reader
        self._model = model
        self._columns = {column.name: column for column in model.signature.columns}
        self._most_values = 32 + 2 * (reader.max_records + 8) * len(self._columns)  # nested, named
        self._outputs = (PREDICT,) if model.classes is None else (PREDICT, PREDICT_PROBA)

    def infer(self, head: Head, body: bytes) -> Question:
        """Read an inference request."""
        is_binary = head.accepted == media.OCTETS
        header = head.headers.get(HEADER)
        request = open_inference_request.read(body, header, is_binary, self._most_values)
        outputs = request.outputs or [Wanted(PREDICT, request.is_binary)]
        for output in outputs:
            if output.name not in self._outputs:
                raise UnknownOutputError(
                    f"no output {output.name[:ECHOED]!r}: "
                    f"this model has {' and '.join(self._outputs)}"
                )
        asks = tuple(output.name == PREDICT_PROBA for output in outputs)
        write = partial(self._write, request.id, outputs)
        return Question(self._rows(request.inputs), write, asks)

    def metadata(self) -> dict[str, Any]:
        """Return the model's metadata."""
        version = self._model.version
        result = tensors.datatype_of(self._model.result_type)
        outputs = [{"name": PREDICT, "datatype": result, "shape": [-1]}]
        if self._model.classes is not None:
            shape = [-1, len(self._model.classes)]
            outputs.append({"name": PREDICT_PROBA, "datatype": "FP64", "shape": shape})
        return {
            "name": version.name,
            "versions": [version.version],
            "platform": "sklearn_skops",
            "inputs": [
                {"name": column.name, "datatype": _DATATYPES[column.type], "shape": [-1]}
                for column in self._columns.values()
            ],
            "outputs": outputs,
        }

    def _rows(self, inputs: Sequence[Tensor]) -> Rows:
        """Return the rows; values are looked at only if shapes and datatypes are right."""
        if len(inputs) == 1 and self._is_matrix(inputs[0].form):
            return self._matrix(inputs[0])
        if len(inputs) == 1 and inputs[0].form.name not in self._columns:
            raise self._unknown(inputs[0].form)
        self._reader.check_names([tensor.form.name for tensor in inputs])
        for tensor in inputs:
            self._check_column(tensor.form)
        return self._reader.rows_of_columns(
            {tensor.form.name: tensor.values() for tensor in inputs}
        )

    def _is_matrix(self, form: Form) -> bool:
        """Whether a tensor, which is the only one, holds all columns."""
        is_wide = form.shape[1:] == (len(self._columns),)
        return is_wide and self._model.signature.is_numeric

    def _matrix(self, tensor: Tensor) -> Rows:
        form = tensor.form
        if tensors.DTYPES[form.datatype].kind not in _NUMBERS:
            raise InvalidRecordsError(
                f"input {form.name[:ECHOED]!r} must be of numbers, as FP64, got {form.datatype}"
            )
        self._reader.check_count(form.shape[0])
        return self._reader.rows_of_matrix(np.reshape(tensor.values(), form.shape))

    def _check_column(self, form: Form) -> None:
        """Raise InvalidRecordsError unless a tensor can hold the column that it's named as."""
        column, name = self._columns[form.name], form.name[:ECHOED]
        if form.shape[1:] not in ((), (1,)):
            raise InvalidRecordsError(
                f"input {name!r} must have the shape [n] or [n, 1], got {form.shape_text}"
            )
        if tensors.DTYPES[form.datatype].kind not in _KINDS[column.type]:
            raise InvalidRecordsError(
                f"input {name!r} is {_DATATYPES[column.type]}, got {form.datatype}"
            )
        self._reader.check_count(form.shape[0])

    def _unknown(self, form: Form) -> InvalidRecordsError:
        count = len(self._columns)
        ways = "send one tensor of shape [n] for each column, named as it is"
        if self._model.signature.is_numeric:
            ways += f", or one tensor of numbers of shape [n, {count}]"
        return InvalidRecordsError(
            f"input {form.name[:ECHOED]!r} of shape {form.shape_text} is neither a column nor "
            f"all {count} of them: {ways}"
        )

    def _write(
        self, request_id: str | None, outputs: Sequence[Wanted], found: Sequence[Predictions]
    ) -> Answer:
        document: dict[str, Any] = {
            "model_name": self._model.version.name,
            "model_version": self._model.version.version,
            "outputs": [],
        }
        if request_id is not None:
            document["id"] = request_id
        contents: list[bytes] = []
        for output, predictions in zip(outputs, found, strict=True):
            document["outputs"].append(_written(output, predictions.values, contents))
        text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if not contents:
            return Answer(text)
        header = (HEADER, b"%d" % len(text))
        return Answer(b"".join((text, *contents)), media.OCTETS, (header,))


def _written(output: Wanted, values: npt.NDArray[Any], contents: list[bytes]) -> dict[str, Any]:
    """Return an output tensor; if it is binary, add its bytes to `contents`."""
    tensor: dict[str, Any] = {
        "name": output.name,
        "datatype": tensors.datatype_of(values.dtype.kind),
        "shape": list(values.shape),
    }
    if output.is_binary:
        contents.append(tensors.to_bytes(values))
        tensor["parameters"] = {"binary_data_size": len(contents[-1])}
    else:
        tensor["data"] = tensors.to_json(values)
    return tensor
