"""Only a model that has been quick is taken to be."""

from serve_app.pace import QUICK_S, Pace


def test_a_model_is_quick_once_it_has_been() -> None:
    """For batches of about that size, and no others."""
    pace = Pace()
    assert not pace.is_quick(5)
    pace.note(5, QUICK_S / 2)
    assert pace.is_quick(6)
    assert not pace.is_quick(500)


def test_one_slow_batch_is_remembered_for_a_while() -> None:
    """And forgotten after many quick ones."""
    pace = Pace()
    pace.note(1, QUICK_S * 10)
    pace.note(1, QUICK_S / 10)
    assert not pace.is_quick(1)
    for _ in range(50):
        pace.note(1, QUICK_S / 10)
    assert pace.is_quick(1)
