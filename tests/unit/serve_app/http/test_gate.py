"""An ingress has no more under way than it may."""

import pytest

from serve_app.errors import OverloadedError
from serve_app.http.gate import Gate


def test_requests_that_are_too_many_are_refused_until_there_is_room() -> None:
    """The answer says when to come back."""
    gate = Gate(max_requests=2, max_bytes=100)
    gate.enter()
    gate.check()
    gate.enter()
    with pytest.raises(OverloadedError, match="2 requests are under way") as refused:
        gate.check()
    assert refused.value.headers == {"retry-after": "1"}
    with pytest.raises(OverloadedError):
        gate.enter()
    gate.leave()
    gate.enter()


def test_bodies_count_by_what_has_come_of_them() -> None:
    """Until they are gone again, however that ends; who announces much takes nobody's place."""
    gate = Gate(max_requests=2, max_bytes=100)
    with gate.body() as first, gate.body() as second:
        first.grow(60)
        second.grow(40)
        with pytest.raises(OverloadedError, match="bodies of 100 bytes") as refused:
            first.grow(1)
        assert refused.value.headers == {"retry-after": "1", "connection": "close"}
    with pytest.raises(ValueError, match="broken"), gate.body() as third:
        third.grow(100)
        raise ValueError("broken")
    with gate.body() as fourth:
        fourth.grow(100)


def test_a_large_answer_counts_with_the_bodies() -> None:
    """Alone it may have any size, or it could never be had."""
    gate = Gate(max_requests=2, max_bytes=100)
    with gate.answer(1000), gate.body() as body:
        with pytest.raises(OverloadedError, match="bodies of 1000 bytes") as refused:
            gate.answer(1)
        assert refused.value.headers == {"retry-after": "1"}  # all of the request has been read
        with pytest.raises(OverloadedError):
            body.grow(1)
    with gate.answer(60), gate.answer(40), pytest.raises(OverloadedError):
        gate.answer(1)
    with gate.body() as body:
        body.grow(100)
