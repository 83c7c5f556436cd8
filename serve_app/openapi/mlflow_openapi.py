"""MLflow's scoring protocol, as the OpenAPI document describes it; pure."""

import csv
import io
from typing import Any, Final

from serve_app.errors import MalformedCsvError
from serve_app.models.served import ServedModel
from serve_app.openapi import schemas
from serve_app.openapi.operations import (
    OF_A_VERSION,
    PREDICTIONS,
    Described,
    answer,
    content,
    operation,
)
from serve_app.openapi.schemas import Schema, many, named, strict
from serve_app.protocols import media, mlflow_csv
from serve_app.records.signature import Signature

TAG: Final = "MLflow's scoring protocol"

_NO_PARAMS: Final[Schema] = {"type": ["object", "null"], "maxProperties": 0}


def components(model: ServedModel, max_records: int) -> dict[str, Schema]:
    """Return the schemas that `paths` names."""
    columns = {
        one.name: many(schemas.column(one, model.signature), max_records)
        for one in model.signature.columns
    }
    forms = {
        "dataframe_split": _split(model.signature, max_records),
        "dataframe_records": many(named("RecordByName"), max_records),
        "instances": named("RecordsOrColumns"),
        "inputs": named("RecordsOrColumns"),
    }
    return {
        "Invocation": {
            "anyOf": [
                {"title": name, **strict({name: schema, "params": _NO_PARAMS}, ("params",))}
                for name, schema in forms.items()
            ]
        },
        "RecordsOrColumns": {
            "anyOf": [
                many(named("Record"), max_records),
                {"description": "Columns, all as long.", **strict(columns)},
                named("RecordByName"),
            ]
        },
        "InvocationAnswer": strict({"predictions": many(named("Result"), max_records)}),
    }


def _split(signature: Signature, max_records: int) -> Schema:
    count = {"minItems": len(signature.names), "maxItems": len(signature.names)}
    columns = {"type": "array", "items": {"enum": list(signature.names)}, **count}
    in_order = {"type": "array", "description": "In the order of `columns`.", **count}
    plain = [schemas.column(signature.columns[0], signature)] if len(signature.names) == 1 else []
    records = {"anyOf": [in_order, named("RecordByName"), *plain]}
    index = {"type": ["array", "null"], "description": "Changes nothing."}
    return strict(
        {
            "columns": {**columns, "uniqueItems": True},
            "index": index,
            "data": many(records, max_records),
        },
        optional=("index",),
    )


def paths(model: ServedModel) -> Described:
    """Return the protocol's paths."""
    predicted = content(media.JSON, named("InvocationAnswer"))
    return {
        "/invocations": {
            "post": operation(
                "invocations",
                TAG,
                "Predict many records",
                answer("The predictions, in the records' order", predicted, OF_A_VERSION),
                errors=(*PREDICTIONS, MalformedCsvError),
                body={
                    **content(media.JSON, named("Invocation"), _examples(model)),
                    **content(media.CSV, {"type": "string"}, _csv_examples(model)),
                },
            )
        },
        "/ping": _page("ping", "The process answers"),
        "/version": _page("version", "The version of MLflow whose protocol this is"),
    }


def _page(name: str, summary: str) -> Described:
    described = answer("Plain text, which MLflow calls JSON", {media.JSON: {}})
    return {"get": operation(name, TAG, summary, described)}


def _examples(model: ServedModel) -> dict[str, Any]:
    record = schemas.example(model.signature, model.example)
    values = list(record.values())
    return {
        "dataframe_split": {
            "dataframe_split": {"columns": list(record), "data": [values, values]},
        },
        "dataframe_records": {"dataframe_records": [record, record]},
        "instances": {"instances": [record, record]},
        "inputs": {"inputs": {name: [value, value] for name, value in record.items()}},
    }


def _csv_examples(model: ServedModel) -> dict[str, str]:
    """Return two records, or nothing if CSV can't tell a text of them from a missing value."""
    record = schemas.example(model.signature, model.example)
    texts = [value for value in record.values() if isinstance(value, str)]
    if any(mlflow_csv.is_missing(text, len(record) == 1) for text in texts):
        return {}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([record.keys(), *[record.values()] * 2])
    return {"two records": text.getvalue()}
