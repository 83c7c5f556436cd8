"""The service's OpenAPI document, made from the model's signature; pure.

OpenAPI 3.1, as its schemas are JSON Schema itself: rows of mixed columns (`prefixItems`), nullable
results and constants can be said.
"""

from typing import Any, Final

from serve_app.errors import MalformedArrowError, NoSuchRouteError, NotReadyError
from serve_app.http.body import Limits
from serve_app.models.served import ServedModel
from serve_app.openapi import mlflow_openapi as mlflow
from serve_app.openapi import open_inference_openapi as v2
from serve_app.openapi import rollout_openapi as rollouts
from serve_app.openapi import schemas
from serve_app.openapi.docs_page import FILES
from serve_app.openapi.operations import (
    HEADERS,
    OF_A_VERSION,
    PREDICTIONS,
    REQUEST_ID,
    WORKERS,
    Described,
    answer,
    content,
    flag,
    operation,
)
from serve_app.openapi.schemas import named
from serve_app.protocols import media

_PREDICT: Final = "Predict"
_HEALTH: Final = "Health"
_ABOUT: Final = "About"

_TAGS: Final = (_PREDICT, _HEALTH, _ABOUT, rollouts.TAG, v2.TAG, mlflow.TAG)

_MAX_NAMES: Final = 20

_PROBA: Final = "Answer with the probability of each label."
_PARTIAL: Final = (
    "Answer what can be answered: the result of a bad record is null, and `errors` says why."
)
_ARROW: Final = (
    "Arrow streams have the model's columns by name, and are answered with a column `result`, or "
    "one for each label, and with `partial=true` a column `error`."
)


def document(model: ServedModel, limits: Limits, max_batch_records: int) -> Described:
    """Return the document of all routes."""
    return {
        "openapi": "3.1.0",
        "info": _info(model, limits),
        "servers": [{"url": "."}],
        "tags": [
            {"name": name} for name in (_PREDICT, _HEALTH, _ABOUT, rollouts.TAG, v2.TAG, mlflow.TAG)
        ],
        "paths": {
            **_predictions(model),
            **_health(),
            **_about(),
            **rollouts.paths(model),
            **v2.paths(model),
            **mlflow.paths(model),
        },
        "components": {
            "schemas": {
                **schemas.components(model, max_batch_records),
                **rollouts.components(model),
                **v2.components(model),
                **mlflow.components(model, max_batch_records),
            },
            "headers": HEADERS,
            "parameters": {"x-request-id": REQUEST_ID},
        },
    }


def _info(model: ServedModel, limits: Limits) -> Described:
    columns = model.signature.columns
    names = ", ".join(f"`{one.name}` ({one.type})" for one in columns[:_MAX_NAMES])
    if len(columns) > _MAX_NAMES:
        names += f" and {len(columns) - _MAX_NAMES} more"
    return {
        "title": model.version.name,
        "version": model.version.version,
        "description": (
            f"Predictions of the model **{model.version.name}**, version "
            f"**{model.version.version}**, whose records have {names}.\n\n"
            f"A body may have at most {limits.max_body_bytes:,} bytes. "
            "Every error is a problem document with a stable `code`; an unknown path is a 404 "
            "(`not_found`), another method a 405 (`method_not_allowed`)."
        ),
    }


def _predictions(model: ServedModel) -> Described:
    one = content(media.JSON, named("OnePrediction"))
    many = content(
        media.JSON, {"anyOf": [named("ManyPredictions"), named("SomePredictions")]}
    ) | content(media.ARROW, {})
    return {
        "/stream": {
            "post": operation(
                "stream",
                _PREDICT,
                "Predict one record",
                answer("The prediction", one, OF_A_VERSION),
                errors=PREDICTIONS,
                parameters=_proba(model),
                body=content(media.JSON, named("OneRecord"), _forms(model, one=True)),
            )
        },
        "/batch": {
            "post": operation(
                "batch",
                _PREDICT,
                "Predict many records",
                answer("The predictions, in the records' order", many, OF_A_VERSION),
                description=_ARROW,
                errors=(*PREDICTIONS, MalformedArrowError),
                parameters=[*_proba(model), flag("partial", _PARTIAL)],
                body=content(media.JSON, named("ManyRecords"), _forms(model, one=False))
                | content(media.ARROW, {}),
            )
        },
    }


def _forms(model: ServedModel, one: bool) -> dict[str, Any]:
    """Return the model's example in each form that a record has."""
    by_name = schemas.example(model.signature, model.example)
    in_order = list(by_name.values())
    forms: dict[str, Any] = {"by name": by_name, "in order": in_order}
    if len(in_order) == 1:
        forms["plain"] = in_order[0]
    return {title: {"X": form if one else [form, form]} for title, form in forms.items()}


def _proba(model: ServedModel) -> list[Described]:
    return [] if model.classes is None else [flag("proba", _PROBA)]


def _health() -> Described:
    ok = answer("All is well", content("text/plain", {"const": "Ok"}))
    return {
        "/health": {"get": operation("health", _HEALTH, "The process answers", ok)},
        "/health/live": {"get": operation("health_live", _HEALTH, "The process answers", ok)},
        "/health/ready": {
            "get": operation(
                "health_ready",
                _HEALTH,
                "A real prediction passes through a worker",
                ok,
                errors=WORKERS,
            )
        },
    }


def _about() -> Described:
    model = answer("The model", content(media.JSON, named("Model")), OF_A_VERSION)
    this = answer("This document", content(media.JSON, {"type": "object"}), OF_A_VERSION)
    page = answer("The page", content("text/html", {}))
    counted = answer("What was counted", content("text/plain", {"type": "string"}))
    file = answer("The file", {media_type: {"schema": {}} for media_type in FILES.values()})
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": list(FILES)}}
    return {
        "/model": {"get": operation("model", _ABOUT, "What is served", model)},
        "/metrics": {
            "get": operation(
                "metrics",
                _ABOUT,
                "What all ingresses have counted, for Prometheus",
                counted,
                errors=(NotReadyError,),
            )
        },
        "/openapi.json": {"get": operation("openapi", _ABOUT, "This document", this)},
        "/docs": {"get": operation("docs", _ABOUT, "This document as a page", page)},
        "/docs/{name}": {
            "get": operation(
                "docs_file",
                _ABOUT,
                "What the page is made of",
                file,
                parameters=[name],
                errors=(NoSuchRouteError,),
            )
        },
    }
