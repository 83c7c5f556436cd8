"""Which clients a challenger answers."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollouts.assignment import _fraction, is_challenger, position

SALTS = st.binary(max_size=64)
WEIGHTS = st.floats(0, 1)


@given(SALTS, st.binary(), WEIGHTS, WEIGHTS)
def test_who_is_in_stays_in_as_the_weight_grows(
    salt: bytes, key: bytes, one: float, other: float
) -> None:
    """Assignment is monotone."""
    low, high = sorted((one, other))
    assert is_challenger(salt, key, low) <= is_challenger(salt, key, high)


@given(SALTS, st.binary())
def test_nobody_is_in_at_0_and_everybody_at_1(salt: bytes, key: bytes) -> None:
    """The ends are exact."""
    assert not is_challenger(salt, key, 0.0)
    assert is_challenger(salt, key, 1.0)


def test_the_greatest_digest_stays_below_1() -> None:
    """It would round up to 1, and that client would be left out at full weight."""
    assert _fraction(b"\xff" * 8) < 1.0
    assert _fraction(b"\x00" * 8) == 0.0


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.25, 0.5])
def test_a_share_of_the_clients_as_large_as_the_weight_is_in(weight: float) -> None:
    """Of 20,000 clients, within four standard deviations."""
    count = sum(is_challenger(b"m/3", f"client-{one}".encode(), weight) for one in range(20_000))
    assert abs(count - 20_000 * weight) < 4 * (20_000 * weight * (1 - weight)) ** 0.5


def test_another_salt_deals_the_places_anew() -> None:
    """The first one percent isn't the same people at every rollout."""
    keys = [f"client-{one}".encode() for one in range(2_000)]
    first, second = ([position(salt, key) for key in keys] for salt in (b"m/3", b"m/4"))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_the_place_is_the_same_in_every_process() -> None:
    """Python's own hash is not."""
    code = "from serve_app.rollouts.assignment import position; print(position(b's', b'k'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(done.stdout) == position(b"s", b"k")
