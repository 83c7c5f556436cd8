"""What an Arrow stream would unpack to, read off its messages before any of it is unpacked.

pyarrow allocates what a compressed buffer claims to hold, and joins each addition to a dictionary
with all before it. Neither can be bounded while it reads, and neither can be asked of pyarrow, so
the few fields that tell are looked up in the messages' flatbuffers (Arrow's `Message.fbs`), which
pyarrow has verified by then.
"""

import struct
from typing import Any, Final

import pyarrow as pa

from serve_app.errors import BodyTooLargeError, MalformedArrowError

MAX_MESSAGES: Final = 1_000
MAX_DICTIONARY_BYTES: Final = 64 * 2**20
"""Of all dictionaries, once for each record batch: each batch is checked with its dictionaries."""

# Fields by their number in `Message.fbs`.
_HEADER, _CUSTOM_METADATA = 2, 4
_LENGTH, _COMPRESSION = 0, 3
_DATA, _IS_DELTA = 1, 2


def count_records(body: bytes) -> int:
    """Return how many records the stream in `body` says it holds.

    Raises MalformedArrowError for what isn't one whole stream, or holds what isn't read here;
    BodyTooLargeError for one in too many pieces. May raise pyarrow's own errors.
    """
    source = pa.BufferReader(body)
    records = batches = dictionary_bytes = 0
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(source)):
        if number == MAX_MESSAGES:
            raise BodyTooLargeError(
                f"more than {MAX_MESSAGES} Arrow messages: send larger record batches"
            )
        if message.type == "record batch":
            batches += 1
            records += _records(message)
        elif message.type == "dictionary":
            dictionary_bytes += _dictionary_bytes(message)
        elif message.type != "schema":
            raise MalformedArrowError(f"a message of type {message.type!r} is not read here")
    if source.tell() != len(body):
        raise MalformedArrowError("there are bytes after the end of the stream")
    if dictionary_bytes * batches > MAX_DICTIONARY_BYTES:
        raise BodyTooLargeError(
            "the dictionaries are too large for that many record batches: send fewer batches, "
            "or plain strings"
        )
    return records


def _records(message: Any) -> int:
    metadata, batch = _header(message)
    _refuse_compression(metadata, batch)
    at = _field(metadata, batch, _LENGTH)
    records = 0 if at is None else _number("<q", metadata, at)
    if records < 0:
        raise MalformedArrowError("a record batch has a negative length")
    return records


def _dictionary_bytes(message: Any) -> int:
    metadata, dictionary = _header(message)
    at = _field(metadata, dictionary, _IS_DELTA)
    if at is not None and metadata[at]:
        raise MalformedArrowError("dictionaries in several parts are not read: send them whole")
    _refuse_compression(metadata, _table(metadata, dictionary, _DATA))
    return len(message.body or b"")


def _refuse_compression(metadata: bytes, batch: int) -> None:
    if _field(metadata, batch, _COMPRESSION) is not None:
        raise MalformedArrowError("compressed buffers are not read: write the stream without")


def _header(message: Any) -> tuple[bytes, int]:
    """Return a message's metadata, and where in it the table of its kind lies."""
    metadata = message.metadata.to_pybytes()
    root = _number("<I", metadata, 0)
    if _field(metadata, root, _CUSTOM_METADATA) is not None:  # Arrow before 1.0 compressed so
        raise MalformedArrowError("messages with metadata of their own are not read")
    return metadata, _table(metadata, root, _HEADER)


def _table(data: bytes, table: int, number: int) -> int:
    """Return where the table lies that a field of another one refers to."""
    at = _field(data, table, number)
    if at is None:
        raise MalformedArrowError("a message lacks its content")
    return at + _number("<I", data, at)


def _field(data: bytes, table: int, number: int) -> int | None:
    """Return where a field of a table lies; None if it isn't there, and so has its default."""
    vtable = table - _number("<i", data, table)
    slot = 4 + 2 * number
    if slot >= _number("<H", data, vtable):
        return None
    offset = _number("<H", data, vtable + slot)
    return table + offset if offset else None


def _number(kind: str, data: bytes, at: int) -> int:
    if at < 0:  # from the end, as Python has it
        raise MalformedArrowError("a message refers to what lies outside of it")
    number: int = struct.unpack_from(kind, data, at)[0]
    return number
