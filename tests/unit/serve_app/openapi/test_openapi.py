"""The OpenAPI document: valid, complete, and as strict as what it describes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_app.access.scopes import needed_scope
from serve_app.errors import InvalidRecordsError
from serve_app.http.body import Limits
from serve_app.http.routes import Application, application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.openapi import access_openapi
from serve_app.openapi import document as openapi
from serve_app.records import rows
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service as service_of

VERSION = ServedVersion("diabetes", "7", "run1", "models:/diabetes/7", "ab" * 32, {"r2": 0.47})
LIMITS = Limits(max_body_bytes=10_000, body_timeout_s=5.0)
MAX_RECORDS = 5


def model(*columns: tuple[str, str], record: tuple[Any, ...], labels: Any = None) -> ServedModel:
    """A model of these columns with this example; a classifier if it has labels."""
    signature = Signature(tuple(Column(*column) for column in columns))
    one = rows.empty(signature, 1)
    one[0] = record
    classes = None if labels is None else tuple(map(str, labels))
    return ServedModel(VERSION, signature, one, classes, labels)


REGRESSOR = model(("bmi", "double"), record=(0.25,))
NUMBERS = model(
    ("a", "double"), ("b", "long"), ("c", "integer"), ("d", "float"), record=(0.5, 3, 4, 1.5)
)
MIXED = model(
    ("size", "double"),
    ("rooms", "long"),
    ("city", "string"),
    ("is_new", "boolean"),
    record=(80.5, 3, "Rome", True),
    labels=("cheap", "dear"),
)
WHOLE = model(("rooms", "long"), ("floor", "integer"), record=(3, 1), labels=(0, 1, 2))
MODELS = pytest.mark.parametrize(
    "served", [REGRESSOR, NUMBERS, MIXED, WHOLE], ids=["one", "numbers", "mixed", "whole"]
)


def document(served: ServedModel) -> dict[str, Any]:
    """The document of a model."""
    return openapi.document(served, LIMITS, MAX_RECORDS)


def serving(served: ServedModel) -> Application:
    """The application over a model that always answers the first label, or 1."""

    async def predict(
        asked: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        if wants_probabilities:
            assert served.classes is not None
            shape = (len(asked), len(served.classes))
            return Predictions(np.full(shape, 1 / len(served.classes)))
        value = 1.5 if served.labels is None else served.labels[0]
        return Predictions(np.array([value] * len(asked)))

    async def check() -> None:
        """All is well."""

    return application(
        service_of(served, predict, check=check, limits=LIMITS, max_batch_records=MAX_RECORDS)
    )


def validator(served: ServedModel, schema: dict[str, Any]) -> Draft202012Validator:
    """A validator of a schema that may name the document's."""
    components = document(served)["components"]
    return Draft202012Validator({**schema, "components": components})


@MODELS
def test_the_document_is_valid_openapi(served: ServedModel) -> None:
    """By the specification's own schema, with every reference resolved."""
    OpenAPIV31SpecValidator(document(served)).validate()


@MODELS
def test_every_route_is_described_and_nothing_else(served: ServedModel) -> None:
    """Path and method; HEAD is GET without the body."""
    described = {
        (path, method.upper())
        for path, operations in document(served)["paths"].items()
        for method in operations
    }
    routes = {
        (route.path, method)
        for route in serving(served).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert described == routes


def operations(served: ServedModel) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation with its path and method."""
    return [
        (path, method, operation)
        for path, methods in document(served)["paths"].items()
        for method, operation in methods.items()
    ]


def filled(path: str, operation: dict[str, Any]) -> str:
    """A path with the values that its parameters may have."""
    for parameter in operation["parameters"]:
        if parameter.get("in") == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["schema"]["enum"][0])
    return path


@MODELS
def test_names_of_operations_are_unique(served: ServedModel) -> None:
    """Generators make functions of them."""
    names = [operation["operationId"] for _, _, operation in operations(served)]
    assert len(names) == len(set(names))


@MODELS
def test_every_example_fits_its_schema_and_is_answered_as_described(served: ServedModel) -> None:
    """The model's own input example, in each form of a record."""
    client = TestClient(serving(served))
    asked = 0
    for path, method, operation in operations(served):
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            for one in body.get("examples", {}).values():
                value = one["value"]
                validator(served, body["schema"]).validate(value)
                content = value if media_type == "text/csv" else json.dumps(value)
                headers = {"content-type": media_type}
                url = filled(path, operation)
                answer = client.request(method, url, content=content, headers=headers)
                (good,) = (status for status in operation["responses"] if status[0] == "2")
                assert answer.status_code == int(good)
                described = operation["responses"][good]
                schema = described["content"]["application/json"]["schema"]
                validator(served, schema).validate(answer.json())
                assert set(described["headers"]) - {"x-request-id"} <= set(answer.headers)
                asked += 1
    assert asked >= 13


@pytest.mark.parametrize("query", ["proba=true", "partial=true", "proba=true&partial=true"])
@MODELS
def test_answers_to_query_parameters_are_as_described(served: ServedModel, query: str) -> None:
    """Probabilities by label, nulls and reasons; a model without labels has no `proba`."""
    operation = document(served)["paths"]["/batch"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    records = body["examples"]["by name"]["value"]["X"]
    bad: list[dict[str, Any]] = [{}] if "partial" in query else []
    answer = TestClient(serving(served)).post(f"/batch?{query}", json={"X": [*records, *bad]})
    parameters = {one["name"] for one in operation["parameters"] if "name" in one}
    assert ("proba" in parameters) == (served.classes is not None)
    described = operation["responses"][str(answer.status_code)]["content"]
    assert answer.status_code == (400 if "proba" in query and served.classes is None else 200)
    media_type = answer.headers["content-type"]
    validator(served, described[media_type]["schema"]).validate(answer.json())


def values(column: Column) -> st.SearchStrategy[Any]:
    """Values that fit a column, and values that don't, or just not."""
    fractions = st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda value: not value.is_integer()  # to JSON Schema, 1.0 is a whole number
    )
    edges = st.sampled_from([2**31, 2**53, 2**63, 2**70]).flatmap(
        lambda edge: st.sampled_from([sign * edge + by for sign in (-1, 1) for by in (-1, 0, 1)])
    )
    odd = st.none() | st.booleans() | st.text(max_size=3) | edges | fractions | st.just([1])
    fits: dict[str, st.SearchStrategy[Any]] = {
        "double": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        "float": st.integers() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "long": st.integers(-(2**53), 2**53),
        "integer": st.integers(-(2**31), 2**31),
        "boolean": st.booleans(),
        "string": st.text(max_size=5),
    }
    return st.one_of(fits[column.type], fits[column.type], fits[column.type], odd)


def records(signature: Signature) -> st.SearchStrategy[Any]:
    """Records in all forms, most of them near to what fits."""
    columns = {one.name: values(one) for one in signature.columns}
    by_name = st.fixed_dictionaries(columns)
    in_order = st.tuples(*columns.values()).map(list)
    wrong = st.dictionaries(st.sampled_from([*columns, "x"]), st.integers(), max_size=3)
    short = st.lists(st.integers(), max_size=len(columns) + 1)
    return st.one_of(by_name, in_order, by_name, in_order, wrong, short, *columns.values())


@MODELS
def test_the_schema_takes_what_the_reader_takes(served: ServedModel) -> None:
    """Neither takes a record that the other refuses."""
    reader = RecordReader(served.signature, MAX_RECORDS)
    schema = validator(served, {"$ref": "#/components/schemas/Record"})

    @given(records(served.signature))
    @example(record=None)
    def agree(record: Any) -> None:
        try:
            reader.rows_of([record])
        except InvalidRecordsError:
            assert not schema.is_valid(record), record
        else:
            assert schema.is_valid(record), record

    agree()


@pytest.mark.parametrize("x", [[], [1] * (MAX_RECORDS + 1), 1, None, [[1]] * 6])
def test_the_schema_knows_how_many_records_are_taken(x: Any) -> None:
    """Not none, and no more than the limit."""
    schema = validator(REGRESSOR, {"$ref": "#/components/schemas/ManyRecords"})
    assert schema.is_valid({"X": [1] * MAX_RECORDS})
    assert not schema.is_valid({"X": x})


def test_an_example_that_json_cannot_write_is_replaced() -> None:
    """A model may take NaN; a client can't send it."""
    served = model(("a", "double"), ("b", "double"), record=(np.nan, 2.0))
    body = document(served)["paths"]["/stream"]["post"]["requestBody"]["content"]
    shown = body["application/json"]["examples"]["by name"]["value"]
    assert shown == {"X": {"a": 0, "b": 2.0}}


def test_an_example_of_32_bits_has_the_digits_that_a_person_would_write() -> None:
    """They are rounded to the same number."""
    served = model(("a", "float"), ("b", "double"), record=(np.float32(0.1), 0.1))
    body = document(served)["paths"]["/stream"]["post"]["requestBody"]["content"]
    shown = body["application/json"]["examples"]["by name"]["value"]
    assert shown == {"X": {"a": 0.1, "b": 0.1}}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("text", ["", "NA", " ", "Rome"])
def test_csv_has_no_example_that_would_be_refused(text: str, beside: bool) -> None:
    """Text that pandas takes for missing can't be sent as CSV; what is shown is answered."""
    columns = [("city", "string"), ("size", "double")][: 1 + beside]
    served = model(*columns, record=(text, 0.5)[: 1 + beside])
    content = document(served)["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert "examples" in content["application/json"]
    examples = content["text/csv"].get("examples", {})
    assert bool(examples) == (text == "Rome" or (text == " " and beside))
    for one in examples.values():
        answer = TestClient(serving(served)).post(
            "/invocations", content=one["value"], headers={"content-type": "text/csv"}
        )
        assert answer.status_code == 200


def test_the_document_is_served_with_the_version_that_it_describes() -> None:
    """As bytes; paths are relative to where it lies."""
    answer = TestClient(serving(REGRESSOR)).get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == "7"
    assert answer.json() == document(REGRESSOR)
    assert answer.json()["servers"] == [{"url": "."}]


@MODELS
def test_behind_keys_the_document_says_who_may_ask(served: ServedModel) -> None:
    """Valid still; open paths ask for nothing, all others can refuse."""
    behind_keys = access_openapi.secured(document(served))
    OpenAPIV31SpecValidator(behind_keys).validate()
    for path, operations in behind_keys["paths"].items():
        for one in operations.values():
            scope = needed_scope(path)
            assert (one.get("security") == []) == (scope is None)
            assert ({"401", "403", "429"} <= one["responses"].keys()) == (scope is not None)
            assert scope is None or f"scope `{scope}`" in one["description"]
    assert set(behind_keys["components"]["securitySchemes"]) == {"header", "bearer", "basic"}
