"""True values that clients have sent, in the order they came: pure."""

import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

MOST_VALUES: Final = 100_000
"""Values that are kept at once; the oldest go first."""

MOST_AT_ONCE: Final = 1_000
"""Labels in one answer, which must fit into one message between replicas."""

LabelState = Literal["accepted", "duplicate", "unused"]
"""What becomes of a true value: it will be compared; its request has one already; no rollout is
under way."""


class Label(NamedTuple):
    """What was true of the records of a request."""

    request_id: str
    values: tuple[Any, ...]
    """One for each record; None where it isn't known."""


class Labels:
    """A log of labels, each with a number that only grows; the first label of a request wins.

    Numbers begin at the present time, so that those of a process that came before are older.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._log: deque[Label] = deque()
        self._ids: set[str] = set()
        self._values = 0
        self._first = clock_ns()

    def add(self, label: Label) -> bool:
        """Take a label; return whether it was the first of its request."""
        if label.request_id in self._ids:
            return False
        self._log.append(label)
        self._ids.add(label.request_id)
        self._values += len(label.values)
        while self._values > MOST_VALUES:
            oldest = self._log.popleft()
            self._ids.remove(oldest.request_id)
            self._values -= len(oldest.values)
            self._first += 1
        return True

    def since(self, number: int | None) -> tuple[int, list[Label]]:
        """Return labels from `number` on, and the number to ask for next.

        Not all at once if they are many. None is for who begins: there is nothing for it yet.
        """
        if number is None:
            return self._first + len(self._log), []
        begin = max(self._first, number)
        page = list(islice(self._log, begin - self._first, begin - self._first + MOST_AT_ONCE))
        return begin + len(page), page
