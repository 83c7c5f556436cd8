"""What goes through a frame comes out the same, however the stream is cut."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from serve_app.calls import wire
from serve_app.calls.wire import Frames, MalformedFrameError

MATRICES = np_st.arrays(
    np_st.floating_dtypes(sizes=64) | np_st.integer_dtypes(sizes=64) | np_st.boolean_dtypes(),
    np_st.array_shapes(min_dims=1, max_dims=2, min_side=0),
)
LABELS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))).map(
    lambda texts: np.array(texts, dtype=str if texts else "<U1")
)


def bytes_of(head: dict[str, Any], array: npt.NDArray[Any] | None = None) -> bytes:
    """A message as it goes over the connection."""
    return b"".join(bytes(one) for one in wire.frame(head, array))


@given(MATRICES | LABELS, st.lists(st.integers(1, 50), max_size=20))
def test_an_array_arrives_as_it_was_sent(array: npt.NDArray[Any], cuts: list[int]) -> None:
    """Type, shape and values, whatever pieces the bytes come in."""
    data = bytes_of({"id": 7}, array) * 2
    frames = Frames()
    found = []
    for cut in [*cuts, len(data)]:
        found += list(frames.feed(data[:cut]))
        data = data[cut:]
    assert len(found) == 2
    for head, payload in found:
        arrived = wire.array_of(head, payload)
        assert head["id"] == 7
        assert (arrived.dtype, arrived.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrived, array)


def test_rows_of_mixed_columns_arrive_as_they_were_sent() -> None:
    """Structured arrays with text, numbers and truth values."""
    rows = np.empty(3, dtype=[("age", "i8"), ("city", "O"), ("bmi", "f8"), ("old", "?")])
    rows["age"], rows["bmi"], rows["old"] = [1, 2, 2**62], [0.1, np.pi, -0.0], [True, False, True]
    rows["city"] = ["Ulm", "", "Zürich\n"]
    ((head, payload),) = Frames().feed(bytes_of({}, rows))
    np.testing.assert_array_equal(wire.array_of(head, payload), rows)


def test_what_arrives_may_be_written_to() -> None:
    """Some estimators work in place."""
    ((head, payload),) = Frames().feed(bytes_of({}, np.zeros((2, 2))))
    wire.array_of(head, payload)[:] = 1.0


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    """Nothing else comes of it."""
    try:
        for head, payload in Frames().feed(data):
            wire.array_of(head, payload)
    except MalformedFrameError:
        pass


@pytest.mark.parametrize(
    "array",
    [
        None,
        {"dtype": "<f8", "shape": [2**40]},
        {"dtype": "O", "shape": [1]},
        {"dtype": "nonsense", "shape": [1]},
        {"dtype": "<f8", "shape": [-1]},
        {"fields": [["a", {"dtype": "<f8", "shape": [9]}]]},
        {"fields": []},
        7,
    ],
)
def test_an_array_that_is_not_there_is_refused(array: Any) -> None:
    """Its bytes must be in the payload."""
    with pytest.raises(MalformedFrameError):
        wire.array_of({"array": array}, bytearray(8))


def test_a_frame_over_the_limit_is_refused_before_it_has_arrived() -> None:
    """By its announced length."""
    with pytest.raises(MalformedFrameError, match="at most 100"):
        list(Frames(max_bytes=100).feed(bytes_of({}, np.zeros(20))[:8]))
