"""How many workers there should be, from what they record."""

import pytest

from serve_app.scaling import TARGET_QUEUED_ROWS, desired_workers


@pytest.mark.parametrize(
    ("workers", "busy", "queued", "expected"),
    [
        (1, [], [], 1),
        (1, [0.0], [0.0], 1),
        (1, [0.59], [0.0], 1),
        (1, [0.9], [0.0], 2),
        (2, [0.9, 0.9], [0.0, 0.0], 3),
        (2, [0.2, 0.2], [0.0, 0.0], 1),
        (3, [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], 2),
        (2, [0.1, 0.1], [TARGET_QUEUED_ROWS * 2, TARGET_QUEUED_ROWS], 3),
    ],
)
def test_workers_follow_the_time_busy_and_the_queue(
    workers: int, busy: list[float], queued: list[float], expected: int
) -> None:
    """The busy share says how much work there is; a backlog asks for one more."""
    assert desired_workers(workers, busy, queued) == expected
