"""Messages between ingress and worker as bytes: a JSON head, then the arrays as they lie in memory.

A frame is two big-endian 32-bit lengths, of the head and of the payload, and both of these. Nothing
in a frame is code: what comes in can only become numbers, text and lists.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

MAX_FRAME_BYTES: Final = 256 * 2**20
"""A longer frame can only be garbage: bodies and calls are bounded well below."""

MOST_BYTES_A_CHARACTER: Final = 6
"""Of text in a head: `\\u0000`, as JSON has it; what isn't ASCII takes up to 4."""

_LENGTHS: Final = struct.Struct(">II")

Head = dict[str, Any]
Array = npt.NDArray[Any]


class MalformedFrameError(Exception):
    """What arrived is no frame of ours; the connection is of no use any more."""


class FrameTooLargeError(Exception):
    """A message that no frame holds."""


def frame(head: Head, array: Array | None = None) -> list[bytes | memoryview]:
    """Return a message, with its array if it has one, as buffers to be written in their order.

    Raises FrameTooLargeError.
    """
    buffers: list[memoryview] = []
    if array is not None:
        if array.dtype.names is not None and array.dtype.hasobject:
            _check_length(int(text_lengths(array).sum()))  # before it becomes JSON
        head["array"] = _described(array, buffers)
    text = orjson.dumps(head)
    payload_bytes = sum(map(len, buffers))
    _check_length(_LENGTHS.size + len(text) + payload_bytes)
    return [_LENGTHS.pack(len(text), payload_bytes) + text, *buffers]


def text_lengths(rows: Array) -> npt.NDArray[np.int64]:
    """Return how many characters of text each of structured rows has."""
    lengths = np.zeros(len(rows), np.int64)
    for name in rows.dtype.names or ():
        if rows.dtype[name].hasobject:
            lengths += np.fromiter(map(len, rows[name].tolist()), np.int64, len(rows))
    return lengths


def array_of(head: Head, payload: bytearray) -> Array:
    """Return the array that came with a message; it shares the payload's memory.

    Raises MalformedFrameError.
    """
    try:
        array, _ = _restored(head["array"], payload, 0)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedFrameError(f"no array: {error}") from error
    return array


class Frames:
    """Puts frames together from the bytes of a stream."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_bytes = max_bytes
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Head, bytearray]]:
        """Add what has arrived; give the head and the payload of each frame that is complete.

        Raises MalformedFrameError.
        """
        received = self._received
        received += data
        start = 0
        while (end := self._end(start)) is not None:
            head_bytes, _ = _LENGTHS.unpack_from(received, start)
            split = start + _LENGTHS.size + head_bytes
            yield _head(received[start + _LENGTHS.size : split]), received[split:end]
            start = end
        del received[:start]

    def _end(self, start: int) -> int | None:
        """Return where the frame that begins at `start` ends, None if it isn't all there."""
        if len(self._received) - start < _LENGTHS.size:
            return None
        length = _LENGTHS.size + sum(_LENGTHS.unpack_from(self._received, start))
        if length > self.max_bytes:
            raise MalformedFrameError(
                f"a frame of {length} bytes; at most {self.max_bytes} are read"
            )
        return start + length if len(self._received) - start >= length else None


def _check_length(least: int) -> None:
    if least > MAX_FRAME_BYTES:
        raise FrameTooLargeError(
            f"a frame of at least {least} bytes; at most {MAX_FRAME_BYTES} are sent"
        )


def _head(text: bytearray) -> Head:
    try:
        head = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedFrameError(f"the head is no JSON: {error}") from error
    if not isinstance(head, dict):
        raise MalformedFrameError("the head is no object")
    return head


def _described(array: Array, buffers: list[memoryview]) -> Head:
    """Return what `_restored` needs besides `buffers`, to which the array's memory is added."""
    if array.dtype.names is not None:
        fields = [[name, _described(array[name], buffers)] for name in array.dtype.names]
        return {"fields": fields}
    if array.dtype.kind == "O":
        return {"values": array.tolist()}
    if array.size:
        buffers.append(np.ascontiguousarray(array).data.cast("B"))
    return {"dtype": array.dtype.str, "shape": array.shape}


def _restored(described: Head, payload: bytearray, start: int) -> tuple[Array, int]:
    """Return the array and where the next one begins in `payload`."""
    if "fields" in described:
        columns: dict[str, Array] = {}
        for name, field in described["fields"]:
            columns[name], start = _restored(field, payload, start)
        return _structured(columns), start
    if "values" in described:
        return np.array(described["values"], dtype=object), start
    dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
    count = math.prod(shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {shape}")
    array = (
        np.frombuffer(payload, dtype=dtype, count=count, offset=start)
        if count
        else np.empty(0, dtype)
    )
    return array.reshape(shape), start + count * dtype.itemsize


def _structured(columns: dict[str, Array]) -> Array:
    if not columns:
        raise ValueError("no fields")
    rows = np.empty(
        len(next(iter(columns.values()))),
        dtype=[(name, column.dtype) for name, column in columns.items()],
    )
    for name, column in columns.items():
        rows[name] = column
    return rows
