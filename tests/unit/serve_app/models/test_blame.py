"""Records at fault are found in few calls, and in a bounded number whatever happens."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.models import blame
from serve_app.models.blame import MAX_EXTRA_CALLS
from serve_app.records.rows import Rows


class Counted:
    """Doubles; raises for negative rows, and counts what it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.rows = 0

    def __call__(self, rows: Rows) -> npt.NDArray[Any]:
        """Return 2x for each row."""
        self.calls += 1
        self.rows += len(rows)
        if (rows < 0).any():
            raise ValueError("negative")
        doubled: npt.NDArray[Any] = rows[:, 0] * 2
        return doubled


def good(rows: int) -> Rows:
    """Rows that can be answered, each different."""
    return np.arange(rows, dtype=np.float64).reshape(-1, 1)


def answered(found: list[blame.Block]) -> dict[int, float]:
    """The values by row."""
    return {
        start + at: value for start, values in found for at, value in enumerate(values.tolist())
    }


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=9))
def test_within_the_budget_exactly_the_records_at_fault_fail(requests: list[list[bool]]) -> None:
    """Every other record gets its value, whatever request it stands in."""
    is_bad = np.array([one for request in requests for one in request])
    rows = good(len(is_bad))
    rows[is_bad] = -1
    found, faults = blame.predict(Counted(), rows, tuple(map(len, requests)))
    assert set(faults) == set(np.flatnonzero(is_bad).tolist())
    assert answered(found) == {at: 2.0 * at for at in np.flatnonzero(~is_bad).tolist()}


def test_good_rows_are_asked_for_once() -> None:
    """The usual case costs nothing more."""
    counted = Counted()
    blame.predict(counted, good(100), (50, 50))
    assert counted.calls == 1


@pytest.mark.parametrize("sizes", [(4096,), (1,) * 4096])
@pytest.mark.parametrize("bad", [0, 1, 2047, 4095])
def test_one_bad_record_is_found_in_few_calls(sizes: tuple[int, ...], bad: int) -> None:
    """Two for each halving of 4,096 rows, in one request or in as many."""
    counted, rows = Counted(), good(4096)
    rows[bad] = -1
    found, faults = blame.predict(counted, rows, sizes)
    assert faults == {bad: "the model raised ValueError for this record"}
    assert len(answered(found)) == 4095
    assert counted.calls <= 1 + 2 * 12


@pytest.mark.parametrize("sizes", [(4096,), (1,) * 4096, (96, *(40,) * 100)])
def test_the_worst_case_is_bounded_in_calls_and_rows(sizes: tuple[int, ...]) -> None:
    """An estimator that always raises is asked 257 times and once a request, for each row 10 times
    at most."""
    counted = Counted()
    found, faults = blame.predict(counted, -1 - good(4096), sizes)
    assert not found
    assert set(faults) == set(range(4096))
    assert counted.calls <= 1 + MAX_EXTRA_CALLS + len(sizes)
    assert counted.rows <= 10 * 4096


def test_no_request_fails_with_another_however_many_are_at_fault() -> None:
    """Every second one; there are not enough calls to halve them all."""
    rows = good(1000)
    rows[::2] = -1
    found, faults = blame.predict(Counted(), rows, (1,) * 1000)
    assert set(faults) == set(range(0, 1000, 2))
    assert answered(found) == {at: 2.0 * at for at in range(1, 1000, 2)}
    assert set(faults.values()) == {"the model raised ValueError for this record"}


def test_what_cannot_be_told_apart_fails_with_its_block_and_says_so() -> None:
    """The others keep their values."""
    rows = good(8)
    rows[[5, 7]] = -1
    found, faults = blame.predict(Counted(), rows, (8,), max_extra_calls=2)
    assert sorted(answered(found)) == [0, 1, 2, 3]
    assert set(faults) == {4, 5, 6, 7}
    assert "or for one of 4" in faults[4]


def test_requests_are_told_apart_before_records() -> None:
    """A request full of bad records doesn't use up what its neighbours need."""
    rows, sizes = good(1015), (1000, *(1,) * 15)
    rows[:1000] = -1
    rows[-1] = -1
    found, faults = blame.predict(Counted(), rows, sizes, max_extra_calls=14)
    assert set(answered(found)) == set(range(1000, 1014))
    assert set(faults) == {*range(1000), 1014}


def test_rows_that_fail_only_together_all_get_their_values() -> None:
    """Nobody is at fault alone."""

    def raises_for_many(rows: Rows) -> npt.NDArray[Any]:
        if len(rows) > 4:
            raise MemoryError
        return rows[:, 0]

    found, faults = blame.predict(raises_for_many, good(10), (10,))
    assert not faults
    assert sorted(answered(found)) == list(range(10))


def test_an_estimator_that_writes_into_its_rows_is_asked_for_what_was_sent() -> None:
    """As scikit-learn's transformers with `copy=False` do."""

    def in_place(rows: Rows) -> npt.NDArray[Any]:
        is_bad = bool((rows < 0).any())
        rows += 1000.0
        if is_bad:
            raise ValueError("negative")
        values: npt.NDArray[Any] = rows[:, 0] - 1000.0
        return values

    sent = np.array([[1.0], [2.0], [-1.0]])
    found, faults = blame.predict(in_place, sent, (1, 1, 1))
    assert answered(found) == {0: 1.0, 1: 2.0}
    assert set(faults) == {2}
    assert sent[0] == 1.0
