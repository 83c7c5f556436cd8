"""Tensors as JSON and as bytes: what goes in comes out, and nothing else gets in."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serve_app.errors import InvalidRecordsError, MalformedTensorsError, ServeError
from serve_app.protocols import open_inference_tensors as tensors
from serve_app.protocols.open_inference_tensors import DTYPES, Form

NUMERIC = sorted(set(DTYPES) - {tensors.BYTES})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Form, npt.NDArray[Any]]:
    """A tensor of finite numbers or truth values, of one or two dimensions."""
    datatype = draw(st.sampled_from(NUMERIC))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=5))
    is_finite = {"allow_nan": False, "allow_infinity": False}
    elements = is_finite if datatype.startswith("FP") else None
    array = draw(hnp.arrays(DTYPES[datatype], shape, elements=elements))
    return Form("t", datatype, shape), array


@given(arrays())
def test_numbers_come_back_from_bytes_flat_lists_and_nested_lists(
    tensor: tuple[Form, npt.NDArray[Any]],
) -> None:
    """Row-major, and of the datatype's own dtype."""
    form, array = tensor
    read = [
        tensors.from_bytes(form, memoryview(array.tobytes())),
        tensors.from_json(form, array.ravel().tolist()),
        tensors.from_json(form, array.tolist()),
    ]
    for values in read:
        assert isinstance(values, np.ndarray)
        assert values.dtype == array.dtype
        np.testing.assert_array_equal(values, array.ravel())


@given(st.lists(TEXT))
def test_text_comes_back_from_bytes_and_lists(texts: list[str]) -> None:
    """What `to_bytes` writes, `from_bytes` reads."""
    form = Form("t", "BYTES", (len(texts),))
    written = tensors.to_bytes(np.array(texts, dtype=object))
    assert tensors.from_bytes(form, memoryview(written)) == texts
    assert tensors.from_json(form, texts) == texts


@given(arrays())
def test_predictions_are_written_as_they_are(tensor: tuple[Form, npt.NDArray[Any]]) -> None:
    """In the widest datatype of their kind, as JSON and as bytes."""
    _, array = tensor
    datatype = tensors.datatype_of(array.dtype.kind)
    flat = array.ravel().tolist()
    assert np.frombuffer(tensors.to_bytes(array), DTYPES[datatype]).tolist() == flat
    assert tensors.to_json(array).tolist() == flat


@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 2**64), min_size=1, max_size=3),
    st.binary(max_size=64),
)
def test_no_bytes_raise_anything_but_errors_for_the_client(
    datatype: str, shape: list[int], content: bytes
) -> None:
    """Whatever the shape says of them."""
    form = Form("t", datatype, tuple(shape))
    try:
        values = tensors.from_bytes(form, memoryview(content))
    except ServeError as error:
        assert error.status in (400, 422)
    else:
        assert len(values) == form.size


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=2),
)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), min_size=1, max_size=3), JSON)
def test_no_json_raises_anything_but_errors_for_the_client(
    datatype: str, shape: list[int], data: Any
) -> None:
    """Nor does it come out as something that it isn't."""
    form = Form("t", datatype, tuple(shape))
    try:
        values = tensors.from_json(form, data)
    except ServeError as error:
        assert error.status in (400, 422)
    else:
        assert len(values) == form.size


@pytest.mark.parametrize(
    ("datatype", "value", "reason"),
    [
        ("FP64", "1", "must be a number, got a string"),
        ("FP64", None, "must be a number, got null"),
        ("FP64", True, "must be a number, got a boolean"),
        ("FP64", 10**400, "does not fit into FP64"),
        ("FP64", float("inf"), "does not fit into FP64"),
        ("FP32", 1e39, "does not fit into FP32"),
        ("FP16", 70_000, "does not fit into FP16"),
        ("INT64", 1.0, "must be a whole number, got 1.0"),
        ("INT64", 2**63, "does not fit into INT64"),
        ("INT8", 128, "does not fit into INT8"),
        ("UINT8", -1, "does not fit into UINT8"),
        ("BOOL", 1, "must be true or false, got a number"),
        ("BYTES", 1, "must be a string, got a number"),
    ],
)
def test_a_value_that_its_datatype_does_not_hold_is_named(
    datatype: str, value: Any, reason: str
) -> None:
    """With its record's index."""
    fits: Any = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)
    form = Form("t", datatype, (2, 2))
    with pytest.raises(InvalidRecordsError) as caught:
        tensors.from_json(form, [fits, fits, value, value])
    assert caught.value.errors == [{"index": 1, "field": "t", "reason": reason}]


@pytest.mark.parametrize(("datatype", "number"), [("FP32", 3.4028235e38), ("FP16", 65519.0)])
def test_a_number_that_is_rounded_to_the_largest_of_its_datatype_is_no_fault(
    datatype: str, number: float
) -> None:
    """Alone it is read, and beside one that is too large that one alone is named."""
    largest = {"FP32": float(np.finfo(np.float32).max), "FP16": 65504.0}[datatype]
    values = tensors.from_json(Form("t", datatype, (1,)), [number])
    assert isinstance(values, np.ndarray)
    assert values.tolist() == [largest]
    with pytest.raises(InvalidRecordsError) as caught:
        tensors.from_json(Form("t", datatype, (2,)), [number, 1e39])
    assert [fault["index"] for fault in caught.value.errors] == [1]


@pytest.mark.parametrize("data", [[1, 2], [[1], [2]]])
def test_a_shape_is_cut_where_it_is_repeated(data: list[Any]) -> None:
    """It may be as long as a body."""
    with pytest.raises(MalformedTensorsError, match="shape") as caught:
        tensors.from_json(Form("t", "FP64", (1,) * 100_000), data)
    assert len(caught.value.detail) < 200


def test_numbers_that_are_not_finite_are_named() -> None:
    """Bytes can hold what JSON can't."""
    content = np.array([[1, 2], [3, np.nan], [np.inf, np.inf]])
    with pytest.raises(
        InvalidRecordsError, match="record 1, field 't': must be a finite"
    ) as caught:
        tensors.from_bytes(Form("t", "FP64", (3, 2)), memoryview(content.tobytes()))
    assert [fault["index"] for fault in caught.value.errors] == [1, 2]


@pytest.mark.parametrize(
    ("datatype", "content", "reason"),
    [
        ("FP64", b"\0" * 15, "2 values of FP64 are 16 bytes, got 15"),
        ("FP64", b"\0" * 17, "2 values of FP64 are 16 bytes, got 17"),
        ("BOOL", b"\0\2", "a BOOL is a byte of 0 or 1"),
        ("BYTES", b"\1\0\0\0a", "end in the middle of value 1 of 2"),
        ("BYTES", b"\1\0\0\0a\1\0\0", "end in the middle of value 1 of 2"),
        ("BYTES", b"\1\0\0\0a\xff\xff\xff\xffb", "end in the middle of value 1 of 2"),
        ("BYTES", b"\1\0\0\0a\1\0\0\0bc", "1 bytes follow its 2 values"),
        ("BYTES", b"\1\0\0\0a\1\0\0\0\xff", "value 1 is not text in UTF-8"),
    ],
)
def test_bytes_that_are_not_what_the_shape_says_are_malformed(
    datatype: str, content: bytes, reason: str
) -> None:
    """Too few, too many, or not of the datatype."""
    with pytest.raises(MalformedTensorsError, match=reason):
        tensors.from_bytes(Form("t", datatype, (2,)), memoryview(content))


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((3,), [1, 2]),
        ((2, 2), [1, 2, 3]),
        ((2, 2), [[1, 2], [3]]),
        ((2, 2), [[1, 2, 3, 4]]),
        ((2, 2), [[1, 2], 3, 4]),
        ((3, 0), [[], []]),
        ((1,), {"0": 1}),
        ((1,), 1),
        ((1,), None),
    ],
)
def test_lists_that_are_not_what_the_shape_says_are_malformed(
    shape: tuple[int, ...], data: Any
) -> None:
    """Neither flat nor nested."""
    with pytest.raises(MalformedTensorsError):
        tensors.from_json(Form("t", "FP64", shape), data)
