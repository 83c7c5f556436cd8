"""An ingress has no more under way than it may."""

import pytest

from serve_app.errors import OverloadedError
from serve_app.http.gate import Gate


def test_what_is_too_much_is_refused_until_there_is_room() -> None:
    """By number and by bytes; the answer says when to come back."""
    gate = Gate(max_requests=2, max_bytes=100)
    gate.enter(10)
    with pytest.raises(OverloadedError) as refused:
        gate.enter(91)
    assert refused.value.headers == {"retry-after": "1"}
    gate.enter(90)
    with pytest.raises(OverloadedError, match="2 requests of 100 bytes"):
        gate.enter(0)
    gate.leave(90)
    gate.enter(20)


def test_one_is_always_let_in() -> None:
    """However large its body may be."""
    gate = Gate(max_requests=2, max_bytes=100)
    gate.enter(1000)
    with pytest.raises(OverloadedError):
        gate.enter(1)
    gate.leave(1000)
    gate.enter(1000)
