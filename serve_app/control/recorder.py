"""Tells MLflow what was decided: in order, as often as it takes, and not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

from contract.tracking import MlflowUnreachableError
from serve_app.control.port import Tracker
from serve_app.control.record import Writes
from serve_app.routing import Write

logger = logging.getLogger("ray.serve")

TRIES: Final = 100
"""How often something is recorded in vain, with MLflow answering otherwise, before it is let go."""

MOST_WAITING: Final = 1_000
"""Entries that wait for MLflow; of more, the oldest are let go."""


class Recorder:
    """Makes the entries that wait, one after the other."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._failed = 0

    async def settled(self, waiting: Sequence[Write]) -> AsyncIterator[tuple[Write, bool]]:
        """Give each entry that needn't wait any more, and whether it was made, oldest first.

        Raises MlflowUnreachableError: from that entry on all are to be tried again.
        """
        for write in waiting:
            is_made = True
            try:
                await asyncio.to_thread(self._tracker.write, write)
            except MlflowUnreachableError:
                self._failed += 1
                if self._failed < TRIES:
                    raise
                logger.error("MLflow has not taken %s in %d tries", write, TRIES)
                is_made = False
            except Exception as error:  # noqa: BLE001  # the others must not wait for ever
                logger.error("MLflow does not take %s: %s", write, error)
                is_made = False
            self._failed = 0
            yield write, is_made


def newest(waiting: Writes) -> tuple[Writes, Writes]:
    """Return the entries that may wait, and those that are let go for them."""
    if len(waiting) <= MOST_WAITING:
        return waiting, ()
    logger.error("MLflow has been away for too long: the oldest entries are let go")
    return waiting[-MOST_WAITING:], waiting[:-MOST_WAITING]
