"""How many workers there should be, from what they record."""

import pytest

from serve_app.scaling import BUSY_SHARE, QUEUED_ROWS, TARGET_QUEUED_ROWS, desired_workers
from serve_app.worker import Recorder


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


def test_the_recorder_counts_time_and_the_longest_queue() -> None:
    """Statistics are of the time since they were last taken."""
    recorder = Recorder(now=100.0)
    recorder.queue(10)
    recorder.queue(30)
    recorder.done(40, busy_s=0.5)
    assert recorder.take(now=102.0) == {BUSY_SHARE: 0.25, QUEUED_ROWS: 40.0}
    assert recorder.take(now=103.0) == {BUSY_SHARE: 0.0, QUEUED_ROWS: 0.0}
