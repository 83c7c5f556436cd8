"""What docs/serving.md says of errors is what the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from serve_app import errors
from serve_app.errors import ServeError
from serve_app.models.blame import MAX_EXTRA_CALLS
from serve_app.records import strict_json
from serve_app.records.signature import TYPES
from serve_app.settings import Limits

TEXT = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()


def every(kind: type[ServeError]) -> Iterator[type[ServeError]]:
    """A class of errors and all below it."""
    yield kind
    for one in kind.__subclasses__():
        yield from every(one)


def test_the_table_of_errors_has_every_status_and_code() -> None:
    """In order of their statuses, each once."""
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", TEXT, re.MULTILINE)
    documented = [(int(status), code) for status, code in rows]
    assert set(documented) == {(one.status, one.code) for one in every(ServeError)}
    assert len(set(documented)) == len(documented)
    assert [status for status, _ in documented] == sorted(status for status, _ in documented)


def test_every_error_says_when_it_is_raised_and_has_a_title() -> None:
    """A code belongs to one class; titles are no copies."""
    kinds = list(every(ServeError))
    assert all(kind.__module__ == errors.__name__ for kind in kinds)
    assert len({kind.code for kind in kinds}) == len({kind.title for kind in kinds}) == len(kinds)
    assert all(kind.__doc__ for kind in kinds)


def test_limits_in_the_table_are_those_of_the_code() -> None:
    """Bytes, records, seconds, levels and calls."""
    limits = Limits()
    for said in (
        f"more bytes ({limits.max_body_bytes // 2**20} MiB) or records "
        f"({limits.max_batch_records:,}) than are taken",
        f"had not arrived within {limits.body_timeout_s:g} s",
        f"no answer in {limits.deadline_s:g} s",
        f"nested deeper than {strict_json.MAX_DEPTH} levels",
        f"not more than {MAX_EXTRA_CALLS} times",
        f"cut to {errors.ECHOED} characters",
        f"index, field and reason of the first {errors.MAX_REPORTED_ERRORS}",
    ):
        assert said in " ".join(TEXT.split()), said


def test_the_table_of_types_has_every_type() -> None:
    """That a signature may have."""
    table = TEXT[TEXT.index("| type | takes |") : TEXT.index("A model whose columns are all")]
    assert set(re.findall(r"`(\w+)`", table)) >= TYPES
