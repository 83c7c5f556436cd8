"""The Open Inference Protocol v2, as the OpenAPI document describes it; pure."""

from typing import Any, Final

from serve_app.errors import MalformedTensorsError, NoSuchRouteError, UnknownOutputError
from serve_app.models.served import ServedModel
from serve_app.openapi import schemas
from serve_app.openapi.operations import (
    OF_A_VERSION,
    PREDICTIONS,
    WORKERS,
    Described,
    answer,
    content,
    operation,
)
from serve_app.openapi.schemas import Schema, named, strict
from serve_app.protocols import media
from serve_app.protocols import open_inference_tensors as tensors
from serve_app.protocols.open_inference import OpenInference
from serve_app.records.reader import RecordReader

TAG: Final = "Open Inference Protocol v2"

_TEXT: Final[Schema] = {"type": "string"}
_DATATYPE: Final[Schema] = {"enum": list(tensors.DTYPES)}
_DATA: Final[Schema] = {"type": "array", "description": "Flat, or nested as the shape says."}
_OPTIONS: Final[Schema] = {"type": ["object", "null"]}
_TRUE: Final[Schema] = {"const": True}
_OF_A_VERSION: Final = "/versions/{version}"


def _shape(least: int) -> Schema:
    return {"type": "array", "items": {"type": "integer", "minimum": least}, "minItems": 1}


def components(model: ServedModel) -> dict[str, Schema]:
    """Return the schemas that `paths` names."""
    output = {"enum": [one["name"] for one in _metadata(model)["outputs"]]}
    outputs = strict({"name": output, "parameters": _OPTIONS}, ("parameters",))
    request = strict(
        {
            "id": {"type": ["string", "null"]},
            "parameters": _OPTIONS,
            "inputs": {"type": "array", "items": named("InputTensor"), "minItems": 1},
            "outputs": {"type": ["array", "null"], "items": outputs},
        },
        optional=("id", "parameters", "outputs"),
    )
    return {"InferenceRequest": request, **_COMPONENTS}


def _metadata(model: ServedModel) -> dict[str, Any]:
    return OpenInference(RecordReader(model.signature, max_records=1), model).metadata()


_COMPONENTS: Final[dict[str, Schema]] = {
    "InputTensor": {
        "description": (
            "A column, of shape [n] or [n, 1]; or, if all columns are numbers, all of them, of "
            "shape [n, columns]."
        ),
        **strict(
            {
                "name": _TEXT,
                "shape": _shape(0),
                "datatype": _DATATYPE,
                "parameters": _OPTIONS,
                "data": _DATA,
            },
            optional=("parameters",),
        ),
    },
    "InferenceResponse": strict(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _TEXT,
            "outputs": {"type": "array", "items": named("OutputTensor"), "minItems": 1},
        },
        optional=("id",),
    ),
    "OutputTensor": strict(
        {"name": _TEXT, "datatype": _DATATYPE, "shape": _shape(0), "data": _DATA}
    ),
    "ModelMetadata": strict(
        {
            "name": _TEXT,
            "versions": {"type": "array", "items": _TEXT, "minItems": 1},
            "platform": _TEXT,
            "inputs": {"type": "array", "items": named("TensorMetadata"), "minItems": 1},
            "outputs": {"type": "array", "items": named("TensorMetadata"), "minItems": 1},
        }
    ),
    "TensorMetadata": strict({"name": _TEXT, "datatype": _DATATYPE, "shape": _shape(-1)}),
    "ServerMetadata": strict(
        {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}
    ),
}


def paths(model: ServedModel) -> Described:
    """Return the protocol's paths."""
    found = {
        "/v2": _page("v2_server", "The service", named("ServerMetadata")),
        "/v2/health/live": _page("v2_live", "The process answers", strict({"live": _TRUE})),
        "/v2/health/ready": _page(
            "v2_ready",
            "A real prediction passes through a worker",
            strict({"ready": _TRUE}),
            errors=WORKERS,
        ),
    }
    for suffix, name in (("", "v2_model"), (_OF_A_VERSION, "v2_version")):
        found.update(_of_a_model(f"/v2/models/{{model}}{suffix}", name, model, bool(suffix)))
    return found


def _of_a_model(path: str, name: str, model: ServedModel, has_version: bool) -> Described:
    version = model.version
    parameters = [_parameter("model", version.name)]
    if has_version:
        parameters.append(_parameter("version", version.version))
    ready = strict({"name": _TEXT, "ready": _TRUE})
    missing = (NoSuchRouteError,)
    return {
        path: _page(
            name, "The model's tensors", named("ModelMetadata"), errors=missing, of=parameters
        ),
        f"{path}/ready": _page(
            f"{name}_ready",
            "A real prediction of the model passes through a worker",
            ready,
            errors=(*missing, *WORKERS),
            of=parameters,
        ),
        f"{path}/infer": {"post": _infer(f"{name}_infer", model, parameters)},
    }


def _infer(name: str, model: ServedModel, parameters: list[Described]) -> Described:
    answers = {
        **content(media.JSON, named("InferenceResponse")),
        **content(media.OCTETS, {}),
    }
    return operation(
        name,
        TAG,
        "Predict",
        answer("The predictions", answers, OF_A_VERSION),
        description=(
            "With the extension for binary tensors: a body (`application/octet-stream`) of JSON, "
            "as long as the header `inference-header-content-length` says, and the tensors' bytes."
        ),
        errors=(*PREDICTIONS, MalformedTensorsError, UnknownOutputError, NoSuchRouteError),
        parameters=parameters,
        body={
            **content(media.JSON, named("InferenceRequest"), {"one record": example(model)}),
            **content(media.OCTETS, {}),
        },
    )


def example(model: ServedModel) -> dict[str, Any]:
    """Return a request with the model's example."""
    record = schemas.example(model.signature, model.example)
    inputs = _metadata(model)["inputs"]
    return {"inputs": [{**one, "shape": [1], "data": [record[one["name"]]]} for one in inputs]}


def _page(
    name: str,
    summary: str,
    schema: Schema,
    errors: tuple[type[Any], ...] = (),
    of: tuple[Described, ...] | list[Described] = (),
) -> Described:
    described = answer(summary, content(media.JSON, schema))
    return {"get": operation(name, TAG, summary, described, errors=errors, parameters=of)}


def _parameter(name: str, value: str) -> Described:
    return {"name": name, "in": "path", "required": True, "schema": {"enum": [value]}}
