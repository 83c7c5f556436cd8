"""What goes through a frame comes out the same, however the stream is cut."""

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from serve_app.calls import wire
from serve_app.calls.wire import Frames, FrameTooLargeError, MalformedFrameError

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


def texts(*values: str) -> npt.NDArray[Any]:
    """Rows of a column of text, and one of numbers."""
    rows = np.zeros(len(values), dtype=[("city", "O"), ("bmi", "f8")])
    rows["city"] = values
    return rows


@pytest.mark.parametrize(
    ("array", "more"),
    [
        (np.zeros(100), np.zeros(101)),
        (np.array(["x" * 200]), np.array(["x" * 202])),
        (texts("x" * 500), texts("x" * 501)),
        (texts("x" * 250, "\0" * 40), texts("x" * 250, "\0" * 41)),
        (np.array(["x" * 500], dtype=object), np.array(["x" * 501], dtype=object)),
    ],
)
def test_a_frame_that_would_be_refused_is_not_made(
    array: npt.NDArray[Any], more: npt.NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest one that is made is read."""
    most = len(bytes_of({"id": 7}, array))
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", most)
    ((head, payload),) = Frames(max_bytes=most).feed(bytes_of({"id": 7}, array))
    np.testing.assert_array_equal(wire.array_of(head, payload), array)
    with pytest.raises(FrameTooLargeError, match=f"at most {most}"):
        wire.frame({"id": 7}, more)


def test_text_that_fits_no_frame_never_becomes_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may share one long text, of which each would get a copy."""

    def never(head: Any) -> bytes:
        raise AssertionError

    rows = texts(*["x" * 2**20] * 300)
    monkeypatch.setattr(orjson, "dumps", never)
    with pytest.raises(FrameTooLargeError):
        wire.frame({}, rows)


@given(st.text())
def test_a_character_takes_no_more_bytes_than_that(text: str) -> None:
    """Escaped or not."""
    rows = texts(text, "", text)
    lengths = wire.text_lengths(rows)
    assert lengths.tolist() == [len(text), 0, len(text)]
    written, bare = (len(bytes_of({}, one)) for one in (rows, texts("", "", "")))
    assert written - bare <= wire.MOST_BYTES_A_CHARACTER * lengths.sum()
