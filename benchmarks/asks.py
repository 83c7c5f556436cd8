"""What is asked of a server, in each protocol and format, and how its answer is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import requests

Floats = npt.NDArray[np.float64]
Read = Callable[[bytes, Mapping[str, str]], Floats]
"""(body, headers) of an answer -> its predictions, shape (rows,)."""

JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
OCTETS: Final = "application/octet-stream"
V2_LENGTH: Final = "Inference-Header-Content-Length"
TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Ask:
    """A request that is sent over and over, and the answer that it must get."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Read
    expected: Floats

    @property
    def rows(self) -> int:
        """Records in one request."""
        return len(self.expected)

    def fault(self, status: int, body: bytes, headers: Mapping[str, str]) -> str | None:
        """Return what is wrong with an answer, in one line; None if it is right."""
        if status != requests.codes.ok:
            return f"{self.path} answered {status}: {body[:200]!r}"
        try:
            found = self.read(body, headers)
        except (ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
            return f"{self.path} gave an answer that can't be read: {error!r}: {body[:200]!r}"
        if found.shape != self.expected.shape or not np.allclose(
            found, self.expected, rtol=TOLERANCE, atol=0
        ):
            return f"{self.path} gave a wrong answer: {body[:200]!r}"
        return None


def original_one(path: str, row: Floats, expected: Floats) -> Ask:
    """`{"X": ...}` with one record."""
    record = row.tolist()
    body = {"X": record[0] if len(record) == 1 else record}
    return _json(path, body, _result, expected)


def original_many(path: str, rows: Floats, expected: Floats) -> Ask:
    """`{"X": [...]}`: numbers for one column, else lists."""
    records = rows[:, 0].tolist() if rows.shape[1] == 1 else rows.tolist()
    return _json(path, {"X": records}, _result, expected)


def original_named(path: str, rows: Floats, columns: tuple[str, ...], expected: Floats) -> Ask:
    """`{"X": [{...}]}`: objects of named columns."""
    records = [dict(zip(columns, row, strict=True)) for row in rows.tolist()]
    return _json(path, {"X": records}, _result, expected)


def mlflow_split(path: str, rows: Floats, columns: tuple[str, ...], expected: Floats) -> Ask:
    """MLflow's scoring protocol, `dataframe_split`."""
    frame = {"columns": list(columns), "data": rows.tolist()}
    return _json(path, {"dataframe_split": frame}, _predictions, expected)


def v2_json(path: str, tensors: Mapping[str, Floats], expected: Floats) -> Ask:
    """Open Inference Protocol v2, all in JSON; `tensors` by name, in their shapes."""
    inputs = [
        {**_v2_head(name, one), "data": one.ravel().tolist()} for name, one in tensors.items()
    ]
    return _json(path, {"inputs": inputs}, _v2, expected)


def v2_binary(path: str, tensors: Mapping[str, Floats], expected: Floats) -> Ask:
    """The same with binary tensors both ways, as tritonclient sends them."""
    inputs = [
        {**_v2_head(name, one), "parameters": {"binary_data_size": one.nbytes}}
        for name, one in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(one.astype("<f8").tobytes() for one in tensors.values())
    headers = {"Content-Type": OCTETS, V2_LENGTH: str(len(head))}
    return Ask(path, body, headers, _v2, expected)


def arrow(path: str, rows: Floats, columns: tuple[str, ...], expected: Floats) -> Ask:
    """An Arrow stream both ways."""
    batch = pa.record_batch([pa.array(one) for one in rows.T], names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    headers = {"Content-Type": ARROW, "Accept": ARROW}
    return Ask(path, sink.getvalue().to_pybytes(), headers, _arrow, expected)


def _json(path: str, document: Any, read: Read, expected: Floats) -> Ask:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Ask(path, body, {"Content-Type": JSON}, read, expected)


def _v2_head(name: str, tensor: Floats) -> dict[str, Any]:
    return {"name": name, "shape": list(tensor.shape), "datatype": "FP64"}


def _result(body: bytes, headers: Mapping[str, str]) -> Floats:
    return np.atleast_1d(np.asarray(json.loads(body)["result"], dtype=np.float64))


def _predictions(body: bytes, headers: Mapping[str, str]) -> Floats:
    return np.asarray(json.loads(body)["predictions"], dtype=np.float64)


def _v2(body: bytes, headers: Mapping[str, str]) -> Floats:
    length = int(headers.get(V2_LENGTH) or len(body))
    output = json.loads(body[:length])["outputs"][0]
    if "data" in output:
        return np.asarray(output["data"], dtype=np.float64).ravel()
    types = {"FP64": "<f8", "FP32": "<f4"}
    return np.frombuffer(body[length:], types[output["datatype"]]).astype(np.float64)


def _arrow(body: bytes, headers: Mapping[str, str]) -> Floats:
    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    return np.asarray(table.column(0).to_numpy(), dtype=np.float64)
