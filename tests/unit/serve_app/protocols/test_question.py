"""Query parameters: those that count are found among others, and no query costs much to keep."""

import pytest

from serve_app.errors import UnknownParameterError
from serve_app.protocols import media, question
from serve_app.protocols.question import MOST_PARAMETERS, Head

LONG = b"x=" + b"y" * 15_000


def head(query: bytes) -> Head:
    """Of a request in JSON."""
    return Head(media.JSON, media.JSON, {}, query, {})


@pytest.mark.parametrize(
    "query",
    [
        b"proba=true",
        b"proba=false&proba=true",
        b"%70roba=true",
        b"&".join([b"x=1"] * (MOST_PARAMETERS - 1) + [b"proba=true"]),
        LONG + b"&proba=true",
    ],
)
def test_a_parameter_is_found_in_any_query(query: bytes) -> None:
    """However long, and beside as many others as there may be; the last one counts."""
    assert head(query).is_set("proba")
    assert not head(query).is_set("partial")


@pytest.mark.parametrize("other", [b"x=1", b"", b"proba=true"])
@pytest.mark.parametrize("count", [MOST_PARAMETERS + 1, 5000])
def test_a_query_of_too_many_parameters_is_refused(other: bytes, count: int) -> None:
    """400, whatever they are."""
    with pytest.raises(UnknownParameterError, match="more than 64 parameters") as caught:
        head(b"&".join([other] * count)).is_set("proba")
    assert caught.value.status == 400


def test_only_what_counts_of_short_queries_is_kept() -> None:
    """A client can't fill the memory with queries."""
    question._cached.cache_clear()
    for at in range(300):
        assert not head(b"%d=1&" % at + LONG).is_set("proba")
    assert question._cached.cache_info().currsize == 0
    query = b"proba=true&" + b"&".join(b"%d=%d" % (at, at) for at in range(30))
    assert head(query).is_set("proba")
    assert question._cached.cache_info().currsize == 1
    assert question._cached(query) == {"proba": "true"}
