"""CSV with a header row to columns of values, as MLflow's scoring server reads it, but strictly.

MLflow reads CSV with pandas, which takes nothing at all and some words for missing values (`NA`,
`null`, ...). Those are null here as well, so that no text is a string to one and missing to the
other; and a null fits no column.
"""

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from serve_app.errors import ECHOED, BodyTooLargeError, InvalidRecordsError, MalformedCsvError
from serve_app.records.faults import Fault, invalid
from serve_app.records.reader import RecordReader
from serve_app.records.signature import Column

_MISSING: Final = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"}
    | {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""What pandas reads as a missing value, beside nothing at all."""

_TRUTH: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Python's own conversions also take underscores, other digits than ASCII's, and words.
_IN_INTEGERS: Final = b"0123456789+- "
_IN_NUMBERS: Final = _IN_INTEGERS + b".eE"
_BOM: Final = "\ufeff"

csv.field_size_limit(sys.maxsize)  # of the whole process; bodies are bounded already


def columns_of(body: bytes, reader: RecordReader) -> dict[str, list[Any]]:
    """Return the columns by name; a value that its column can't hold is left as text, or None.

    Raises MalformedCsvError, InvalidRecordsError, BodyTooLargeError.
    """
    text = _text(body)
    _check_values(text, (reader.max_records + 1) * len(reader.signature.names))
    header, records = _table(text, reader.max_records)
    if "" in header:
        raise InvalidRecordsError("a column has no name: write no index, as to_csv(index=False)")
    reader.check_names(header)
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InvalidRecordsError(f"column {twice[:ECHOED]!r}: stands twice in the header")
    if {len(record) for record in records} - {len(header)}:
        raise invalid(_ragged(records, len(header)), len(records))
    reader.check_count(len(records))
    known = {column.name: column for column in reader.signature.columns}
    columns = zip(header, zip(*records, strict=True), strict=True)
    return {name: _values(known[name], texts, len(header) == 1) for name, texts in columns}


def is_missing(text: str, is_alone: bool) -> bool:
    """Whether text is no value of a string column, as pandas reads it.

    `is_alone`: whether there is no other column; pandas leaves out a line of blanks only.
    """
    return text in _MISSING or not (text.strip(" \t") if is_alone else text)


def _text(body: bytes) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedCsvError(f"the body is not UTF-8: {error.reason}") from error
    if "\0" in text:
        raise MalformedCsvError("the body holds a null character")
    return text.removeprefix(_BOM)


def _check_values(text: str, most_values: int) -> None:
    """Raise BodyTooLargeError for more values than so many; a comma in quotes separates none."""
    if text.count(",") <= most_values:
        return
    if sum(part.count(",") for part in text.split('"')[::2]) > most_values:
        raise BodyTooLargeError(
            f"the body holds more than {most_values} values: send fewer records at once"
        )


def _table(text: str, max_records: int) -> tuple[list[str], list[list[str]]]:
    """Return the header and the records; blank lines don't count."""
    lines = filter(None, csv.reader(io.StringIO(text, newline=""), strict=True))
    try:
        header = next(lines, None)
        records = list(islice(lines, max_records + 1))
    except csv.Error as error:
        raise MalformedCsvError(f"the body is not CSV: {error}") from error
    if header is None:
        raise MalformedCsvError("the body is empty: send a header row and records")
    if len(records) > max_records:
        raise BodyTooLargeError(f"more than {max_records} records in one batch")
    return header, records


def _ragged(records: list[list[str]], width: int) -> list[Fault]:
    return [
        {"index": index, "reason": f"must have {width} values, got {len(record)}"}
        for index, record in enumerate(records)
        if len(record) != width
    ]


def _values(column: Column, texts: Sequence[str], is_alone: bool) -> list[Any]:
    if column.type == "string":
        return [None if is_missing(text, is_alone) else text for text in texts]
    if column.type == "boolean":
        return [_TRUTH.get(text, _unread(text)) for text in texts]
    convert, alphabet = (int, _IN_INTEGERS) if column.is_integer else (float, _IN_NUMBERS)
    try:
        return _numbers(convert, alphabet, texts)
    except ValueError:
        return [_number(convert, alphabet, text) for text in texts]


def _numbers(convert: Callable[[str], Any], alphabet: bytes, texts: Sequence[str]) -> list[Any]:
    """Return all texts as numbers; raises ValueError if one isn't a number."""
    if "".join(texts).encode().translate(None, alphabet):
        raise ValueError
    return list(map(convert, texts))


def _number(convert: Callable[[str], Any], alphabet: bytes, text: str) -> Any:
    try:
        return _numbers(convert, alphabet, [text])[0]
    except ValueError:
        return _unread(text)


def _unread(text: str) -> str | None:
    return None if text in _MISSING or not text.strip() else text
