"""Inference requests of the Open Inference Protocol v2: a JSON document, then binary tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from serve_app.errors import ECHOED, MalformedHeaderError, MalformedTensorsError
from serve_app.protocols import open_inference_tensors as tensors
from serve_app.protocols.open_inference_tensors import Form, Values
from serve_app.records import strict_json
from serve_app.records.strict_json import kind

HEADER: Final = b"inference-header-content-length"
"""Says how many bytes the JSON document has; the rest of the body are binary tensors."""

_MOST_DIGITS: Final = 18
_ABSENT: Final[Mapping[str, Any]] = {}
_REFUSED: Final = ("shared_memory_region", "classification")
"""Parameters of Triton's that can't be ignored: data would be elsewhere, answers another thing."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input, not looked at yet."""

    form: Form
    data: Any
    """Its values in JSON."""
    content: memoryview | None
    """Its values as bytes, instead of `data`."""

    def values(self) -> Values:
        """Return the values. Raises MalformedTensorsError, InvalidRecordsError."""
        if self.content is None:
            return tensors.from_json(self.form, self.data)
        return tensors.from_bytes(self.form, self.content)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for."""

    name: str
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks; names within `inputs`, and within `outputs`, differ."""

    id: str | None
    inputs: list[Tensor]
    outputs: list[Wanted]
    """Empty for the default one."""
    is_binary: bool
    """Whether an output that says nothing is to be binary."""


def read(body: bytes, json_bytes: bytes | None, is_binary: bool, most_values: int) -> Request:
    """Return the request in `body`, whose document holds no more than `most_values`.

    `json_bytes` is the header HEADER's value; `is_binary` holds if the request doesn't say. Raises
    MalformedBodyError, MalformedHeaderError, MalformedTensorsError, BodyTooLargeError.
    """
    end = len(body) if json_bytes is None else _json_end(json_bytes, len(body))
    document = _object(strict_json.loads_unique(body[:end], most_values), "the body")
    _check_fields(document, ("id", "parameters", "inputs", "outputs"), "the body")
    parameters = _parameters(document, "the body")
    is_binary = _boolean(parameters, "binary_data_output", is_binary)
    return Request(
        _id(document.get("id")),
        _inputs(document.get("inputs"), memoryview(body)[end:]),
        _outputs(document.get("outputs"), is_binary),
        is_binary,
    )


def _json_end(header: bytes, body_bytes: int) -> int:
    is_number = header.isdigit() and len(header) <= _MOST_DIGITS
    if not is_number or not 0 < int(header) <= body_bytes:
        raise MalformedHeaderError(
            f"{HEADER.decode()} must be a number of bytes from 1 to the body's {body_bytes}, "
            f"got {header.decode('latin-1')[:ECHOED]!r}"
        )
    return int(header)


def _id(value: Any) -> str | None:
    if value is not None and type(value) is not str:
        _refuse(f"id must be a string, got {kind(value)}")
    return value


def _inputs(listed: Any, content: memoryview) -> list[Tensor]:
    """Return the tensors; `content` are the bytes of the binary ones, in their order."""
    found: list[Tensor] = []
    for one in _named(listed, "inputs"):
        where = f"tensor {one['name'][:ECHOED]!r}"
        _check_fields(one, ("name", "shape", "datatype", "parameters", "data"), where)
        form = Form(one["name"], _datatype(one, where), _shape(one, where))
        size = _binary_bytes(one, where)
        if size is None:
            found.append(Tensor(form, one.get("data"), None))
            continue
        if size > len(content):
            raise form.malformed(f"binary_data_size is {size}, but {len(content)} bytes are left")
        found.append(Tensor(form, None, content[:size]))
        content = content[size:]
    if not found:
        _refuse("inputs must have at least one tensor")
    if content:
        _refuse(f"{len(content)} bytes of the body belong to no tensor")
    return found


def _outputs(listed: Any, is_binary: bool) -> list[Wanted]:
    if listed is None:
        return []
    found: list[Wanted] = []
    for one in _named(listed, "outputs"):
        where = f"output {one['name'][:ECHOED]!r}"
        _check_fields(one, ("name", "parameters"), where)
        parameters = _parameters(one, where)
        found.append(Wanted(one["name"], _boolean(parameters, "binary_data", is_binary)))
    return found


def _named(listed: Any, what: str) -> list[dict[str, Any]]:
    """Return a list of objects that have names of their own."""
    if type(listed) is not list:
        _refuse(f"{what} must be a list, got {kind(listed)}")
    seen: set[str] = set()
    for one in listed:
        name = _object(one, f"each of {what}").get("name")
        if type(name) is not str:
            _refuse(f"each of {what} must have a name that is a string, got {kind(name)}")
        if name in seen:
            _refuse(f"{what} has {name[:ECHOED]!r} twice")
        seen.add(name)
    return list(listed)


def _datatype(tensor: Mapping[str, Any], where: str) -> str:
    datatype = tensor.get("datatype")
    if type(datatype) is not str or datatype not in tensors.DTYPES:
        got = repr(datatype[:ECHOED]) if type(datatype) is str else kind(datatype)
        _refuse(f"{where}: datatype must be one of {', '.join(tensors.DTYPES)}, got {got}")
    return datatype


def _shape(tensor: Mapping[str, Any], where: str) -> tuple[int, ...]:
    shape = tensor.get("shape")
    is_shape = type(shape) is list and all(type(size) is int and size >= 0 for size in shape)
    if not is_shape or not shape:
        _refuse(f"{where}: shape must be a list of whole numbers, as [3, 2]")
    return tuple(shape)


def _binary_bytes(tensor: Mapping[str, Any], where: str) -> int | None:
    size = _parameters(tensor, where).get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        _refuse(f"{where}: binary_data_size must be a number of bytes")
    if tensor.get("data") is not None:
        _refuse(f"{where}: send data or binary_data_size, not both")
    return size


def _parameters(owner: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return _ABSENT
    parameters = _object(parameters, f"{where}: parameters")
    for name in _REFUSED:
        if name in parameters:
            _refuse(f"{where}: the parameter {name} is not offered here")
    return parameters


def _boolean(parameters: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return otherwise
    if type(value) is not bool:
        _refuse(f"the parameter {name} must be true or false, got {kind(value)}")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        _refuse(f"{what} must be an object, got {kind(value)}")
    return value


def _check_fields(value: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in value:
        if name not in known:
            _refuse(f"{where} has an unknown field {name[:ECHOED]!r}: it takes {', '.join(known)}")


def _refuse(detail: str) -> NoReturn:
    raise MalformedTensorsError(detail)
