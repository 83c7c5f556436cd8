"""Records as one array, whatever their columns hold."""

import numpy as np
import pytest

from serve_app.records import rows
from serve_app.records.signature import Column, Signature

NUMBERS = Signature((Column("a", "double"), Column("b", "long")))
MIXED = Signature(
    (Column("a", "float"), Column("b", "integer"), Column("c", "boolean"), Column("d", "string"))
)


def filled(signature: Signature) -> rows.Rows:
    """Three records."""
    block = rows.empty(signature, 3)
    for at, values in enumerate([[0.5, 1.5, 2.5], [1, 2, 3], [True, False, True], ["x", "", "é"]]):
        if at < len(signature.columns):
            rows.column(block, at)[:] = values
    return block


@pytest.mark.parametrize("signature", [NUMBERS, MIXED])
def test_rows_are_cut_and_joined_alike(signature: Signature) -> None:
    """Whether they are a matrix or have fields."""
    block = filled(signature)
    assert len(block) == 3
    again = np.concatenate([block[:1], block[1:]])
    assert again.dtype == block.dtype
    np.testing.assert_array_equal(again, block)


def test_numbers_are_a_matrix_of_floats() -> None:
    """Which estimators take as it is."""
    block = filled(NUMBERS)
    assert block.dtype == np.float64
    assert block.shape == (3, 2)
    assert rows.column(block, 1).tolist() == [1.0, 2.0, 3.0]


def test_a_frame_has_each_column_in_its_own_kind() -> None:
    """And of its own width, as MLflow's server hands it to the model."""
    frame = rows.frame(filled(MIXED), MIXED.columns)
    assert list(frame) == ["a", "b", "c", "d"]
    assert [frame[name].dtype.str for name in "abc"] == ["<f4", "<i4", "|b1"]
    assert frame["d"].tolist() == ["x", "", "é"]
