"""What one ingress asks a version for: rows of several requests."""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from serve_app.records.rows import Rows


class Call(NamedTuple):
    """Rows, and how many of them each request has."""

    rows: Rows
    sizes: tuple[int, ...]
    wants_probabilities: bool

    def requests(self) -> "Iterator[Call]":
        """Return a call for each of the requests."""
        for start, end in pairwise(accumulate(self.sizes, initial=0)):
            yield Call(self.rows[start:end], (end - start,), self.wants_probabilities)
