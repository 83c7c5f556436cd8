"""JSON Schemas (2020-12) of records, answers and problems, made from the model's signature.

What a schema takes, the reader takes, and the other way round; but JSON Schema calls 1.0 a whole
number, and the reader doesn't.
"""

import math
from typing import Any, Final

import numpy as np

from serve_app.errors import MAX_REPORTED_ERRORS
from serve_app.models.served import ServedModel
from serve_app.records import rows as row_blocks
from serve_app.records.columns import limit_of
from serve_app.records.rows import Rows
from serve_app.records.signature import TYPES, Column, Signature

Schema = dict[str, Any]

_PLAIN: Final[dict[str, Schema]] = {
    "double": {"type": "number", "format": "double"},
    "float": {"type": "number", "format": "float"},
    "long": {"type": "integer", "format": "int64"},
    "integer": {"type": "integer", "format": "int32"},
    "boolean": {"type": "boolean"},
    "string": {"type": "string"},
}
_TEXT: Final[Schema] = {"type": "string"}
_MAYBE_TEXT: Final[Schema] = {"type": ["string", "null"]}
_INDEX: Final[Schema] = {"type": "integer", "minimum": 0}


def strict(properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def named(name: str) -> Schema:
    """Return a reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def components(model: ServedModel, max_batch_records: int) -> dict[str, Schema]:
    """Return all schemas that the document names."""
    return {
        "OneRecord": strict({"X": named("Record")}),
        "ManyRecords": strict({"X": many(named("Record"), max_batch_records)}),
        "Record": _record(model.signature),
        "RecordByName": _by_name(model.signature),
        "OnePrediction": strict({"result": named("Prediction")}),
        "ManyPredictions": strict({"result": many(named("Prediction"), max_batch_records)}),
        "SomePredictions": _some(max_batch_records),
        "Prediction": _prediction(model),
        "Result": _result(model),
        "Model": _MODEL,
        "Problem": _PROBLEM,
        "Fault": _FAULT,
    }


def column(one: Column, signature: Signature) -> Schema:
    """Return the schema of one value."""
    bound = limit_of(one, signature.is_numeric)
    if bound is None or one.type == "double":  # which holds whatever clients can write
        return dict(_PLAIN[one.type])
    return {**_PLAIN[one.type], "minimum": bound.low, "maximum": bound.high}


def _by_name(signature: Signature) -> Schema:
    columns = {one.name: column(one, signature) for one in signature.columns}
    return {"description": "The columns by name, in any order.", **strict(columns)}


def _record(signature: Signature) -> Schema:
    """Return the schema of one record, in all its forms."""
    columns = [column(one, signature) for one in signature.columns]
    count = len(columns)
    alike = all(one == columns[0] for one in columns)
    items = {"items": columns[0]} if alike else {"prefixItems": columns, "items": False}
    in_order = {
        "title": "in order",
        "description": f"In this order: {', '.join(signature.names)}.",
        "type": "array",
        **items,
        "minItems": count,
        "maxItems": count,
    }
    plain = [{"title": "plain", **columns[0]}] if count == 1 else []
    return {
        "description": "One record for the model.",
        "anyOf": [named("RecordByName"), in_order, *plain],
    }


def many(items: Schema, most: int) -> Schema:
    """Return the schema of a list that isn't empty."""
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def _some(most: int) -> Schema:
    result = {"anyOf": [named("Prediction"), {"type": "null"}]}
    errors = {"type": "array", "items": named("Fault"), "maxItems": most}
    return {
        "description": "The answer to `partial=true`.",
        **strict({"result": many(result, most), "errors": errors}),
    }


def _result(model: ServedModel) -> Schema:
    if model.labels is None:
        return {"type": "number", "description": "The predicted number."}
    texts = {"type": "string"} if all(isinstance(one, str) for one in model.labels) else {}
    return {**texts, "enum": list(model.labels), "description": "The predicted label."}


def _prediction(model: ServedModel) -> Schema:
    """Return the schema of what the model says of one record."""
    if model.classes is None:
        return named("Result")
    shares = strict({name: {"type": "number"} for name in model.classes})
    text = "With `proba=true`: the probability of each label."
    return {"anyOf": [named("Result"), {"title": "probabilities", "description": text, **shares}]}


def example(signature: Signature, rows: Rows) -> dict[str, Any]:
    """Return the first of `rows` as a record by name; 0 for what JSON can't write."""
    values = [row_blocks.column(rows, at)[0] for at in range(len(signature.columns))]
    return {
        one.name: _plain(value, one) for one, value in zip(signature.columns, values, strict=True)
    }


def _plain(value: Any, one: Column) -> Any:
    if not one.is_numeric:
        return bool(value) if one.type == "boolean" else str(value)
    if not math.isfinite(value):
        return 0
    if one.type == "float":  # with as many digits as 32 bits hold
        return float(str(np.float32(value)))
    return int(value) if one.is_integer else float(value)


_FAULT: Final = {
    "description": "A record that has no answer, and why.",
    **strict({"index": _INDEX, "field": _TEXT, "reason": _TEXT}, optional=("field",)),
}

_PROBLEM: Final = {
    "description": "What is wrong, where, and the way out (RFC 9457).",
    **strict(
        {
            "type": {"type": "string", "format": "uri"},
            "title": _TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string", "description": "Stable: programs may rely on it."},
            "detail": _TEXT,
            "errors": {
                "type": "array",
                "items": named("Fault"),
                "minItems": 1,
                "maxItems": MAX_REPORTED_ERRORS,
                "description": "The first records at fault.",
            },
            "error": {"type": "string", "description": "Under /v2: `detail` once more."},
            "error_code": {"type": "string", "description": "At /invocations: MLflow's own."},
            "message": {"type": "string", "description": "At /invocations: `detail` once more."},
        },
        optional=("errors", "error", "error_code", "message"),
    ),
}
SHARE: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}

STANDING: Final[dict[str, Schema]] = {
    "champion": _TEXT,
    "challenger": _MAYBE_TEXT,
    "previous": _MAYBE_TEXT,
    "weight": {**SHARE, "description": "Share of the clients that the challenger answers."},
    "shadow": {**SHARE, "description": "Share of the calls that are made to both versions."},
    "epoch": {"type": "integer", "description": "Number of the routing table; it only grows."},
    "is_from_cache": {
        "type": "boolean",
        "description": "Whether MLflow has not confirmed the champion, which is what this service "
        "served last.",
    },
    "rollout": {"anyOf": [named("Rollout"), {"type": "null"}]},
    "last_rollout": {"anyOf": [named("LastRollout"), {"type": "null"}]},
    "waiting": {**_MAYBE_TEXT, "description": "The version whose rollout is next."},
    "refused": {
        "type": "object",
        "additionalProperties": _TEXT,
        "description": "Why versions that an alias names are not served.",
    },
    "mlflow": {"type": "string", "description": "Whether MLflow answers."},
    "unrecorded": {
        "type": "integer",
        "minimum": 0,
        "description": "Entries that MLflow could not be told yet.",
    },
}

_MODEL: Final = {
    "description": "What is served.",
    **strict(
        {
            "name": _TEXT,
            "versions": {
                "type": "array",
                "minItems": 1,
                "items": strict(
                    {
                        "version": _TEXT,
                        "role": _TEXT,
                        "weight": SHARE,
                        "run_id": _MAYBE_TEXT,
                        "digest": _TEXT,
                    }
                ),
            },
            "run_id": _MAYBE_TEXT,
            "digest": _TEXT,
            "metrics": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
            "signature": {
                "type": "array",
                "minItems": 1,
                "items": strict({"name": _TEXT, "type": {"enum": sorted(TYPES)}}),
            },
            "classes": {"type": ["array", "null"], "items": _TEXT},
            "example": named("RecordByName"),
            **STANDING,
        }
    ),
}
