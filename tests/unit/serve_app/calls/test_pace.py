"""Only a model that has been quick is taken to be."""

from serve_app.calls.pace import Pace

QUICK_S = 0.002


def test_a_model_is_quick_once_it_has_been() -> None:
    """For batches of about that size, and no others."""
    pace = Pace(QUICK_S)
    assert not pace.is_quick(5)
    pace.note(5, QUICK_S / 2)
    assert pace.is_quick(6)
    assert not pace.is_quick(500)


def test_one_slow_batch_makes_no_slow_model() -> None:
    """Most of the last five have to be slow; and then quick, to be taken as that again."""
    pace = Pace(QUICK_S)
    for took_s in (0.1, 0.1, 0.1, 10, 10):
        pace.note(1, QUICK_S * took_s)
        assert pace.is_quick(1)
    pace.note(1, QUICK_S * 10)
    assert not pace.is_quick(1)
    for _ in range(3):
        pace.note(1, QUICK_S / 10)
    assert pace.is_quick(1)
