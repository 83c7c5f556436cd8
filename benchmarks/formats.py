"""The formats in which many records can be sent to this service, as far as it takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks import asks
from benchmarks.asks import Ask, Floats
from benchmarks.client import Client
from benchmarks.model import Model
from contract import names

JSON_LIST: Final = "JSON list"
JSON_NAMED: Final = "JSON named columns"
V2_JSON: Final = "v2 JSON"
V2_BINARY: Final = "v2 binary"
ARROW: Final = "Arrow stream"
ALL: Final = (JSON_LIST, JSON_NAMED, V2_JSON, V2_BINARY, ARROW)

_BATCH: Final = "/batch"
_V2: Final = f"/v2/models/{names.MODEL_NAME}"

Make = Callable[[Model, int], Ask]
"""(model, rows in one request) -> the request."""


def taken(client: Client, model: Model) -> dict[str, Make]:
    """Return the formats that are answered right, by name."""
    metadata = client.document(_V2)
    candidates: dict[str, Make] = {
        JSON_LIST: as_list,
        JSON_NAMED: _named,
        V2_JSON: lambda model, rows: asks.v2_json(
            f"{_V2}/infer", *_tensors(metadata, model, model.rows(rows))
        ),
        V2_BINARY: lambda model, rows: asks.v2_binary(
            f"{_V2}/infer", *_tensors(metadata, model, model.rows(rows))
        ),
        ARROW: _arrow,
    }
    return {name: make for name, make in candidates.items() if client.fault(make(model, 3)) is None}


def as_list(model: Model, rows: int) -> Ask:
    """`{"X": [...]}` at `/batch`."""
    values = model.rows(rows)
    return asks.original_many(_BATCH, values, model.expected(values))


def _named(model: Model, rows: int) -> Ask:
    values = model.rows(rows)
    return asks.original_named(_BATCH, values, model.columns, model.expected(values))


def _arrow(model: Model, rows: int) -> Ask:
    values = model.rows(rows)
    return asks.arrow(_BATCH, values, model.columns, model.expected(values))


def _tensors(
    metadata: dict[str, Any], model: Model, rows: Floats
) -> tuple[dict[str, Floats], Floats]:
    """Return the input tensors, named and shaped as the server's metadata says, and the answers."""
    inputs = metadata.get("inputs") or []
    columns = dict(zip(model.columns, rows.T, strict=True))
    tensors: dict[str, Floats] = {}
    for one in inputs:
        values = columns.get(one["name"], rows)
        shape = [len(rows) if size == -1 else size for size in one["shape"]]
        tensors[one["name"]] = np.ascontiguousarray(values).reshape(shape)
    return tensors or {"X": rows}, model.expected(rows)
