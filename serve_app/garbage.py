"""Garbage collection for processes that live long and make few reference cycles."""

import gc
from typing import Final

YOUNG_OBJECTS: Final = 20_000
"""Made since the last collection, before the next; 700 by default. A request makes about 60."""


def collect_rarely() -> None:
    """Leave out what stands now (modules, the model), and look at the rest less often.

    Call it once all is loaded. Requests, answered or refused, free what they use by reference
    counts; what collections find is what rare errors leave behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
