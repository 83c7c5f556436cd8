"""Sums of what was seen."""

import json

from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollouts.evidence import Arm, Evidence, Pairs

COUNTS = st.integers(0, 10**9)
TOTALS = st.integers(0, 10**9).map(lambda eighths: eighths / 8)
ARMS = st.builds(Arm, COUNTS, TOTALS, TOTALS)
PAIRS = st.builds(Pairs, COUNTS, TOTALS)
EVIDENCE = st.builds(Evidence, ARMS, ARMS, COUNTS, PAIRS, PAIRS, PAIRS)


@given(EVIDENCE, EVIDENCE, EVIDENCE)
def test_the_order_of_adding_does_not_matter(a: Evidence, b: Evidence, c: Evidence) -> None:
    """Reports of many ingresses come as they come."""
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(EVIDENCE)
def test_nothing_seen_adds_nothing(evidence: Evidence) -> None:
    """A step begins with `Evidence()`."""
    assert evidence + Evidence() == evidence


def test_every_field_is_added() -> None:
    """Arms and pairs too, field by field."""
    one = Evidence(Arm(1, 2, 3), Arm(4, 5, 6), 7, Pairs(8, 9), Pairs(10, 11), Pairs(12, 13))
    two = Evidence(Arm(2, 4, 6), Arm(8, 10, 12), 14, Pairs(16, 18), Pairs(20, 22), Pairs(24, 26))
    assert one + one == two


@given(EVIDENCE)
def test_json_brings_back_the_same(evidence: Evidence) -> None:
    """It outlives a restart."""
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence
