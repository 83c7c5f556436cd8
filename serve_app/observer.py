"""What an ingress sees of a rollout: calls counted, and some of them made to both versions."""

import asyncio
import contextvars
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serve_app.calls.ask import Ask
from serve_app.calls.workers import Workers
from serve_app.errors import OverloadedError
from serve_app.models.model import NO_FINITE_ANSWER
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows
from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.spread import Spread
from serve_app.routing import Table, window_of

logger = logging.getLogger("ray.serve")

SHADOW_TIMEOUT_S: Final = 5.0
"""A version that takes longer to answer has failed, if the other was quick."""

QUICK_S: Final = 1.0
"""Within this the other has answered; else the queue may be at fault, which is no version's."""

IDLE_FACTOR: Final = 4.0
"""After a shadow call comes none for this many times as long as it took: at most a fifth of a
worker's time goes into answers that nobody waits for."""

BUSY_PAUSE_S: Final = 0.02
"""How long no other one comes after a worker had no time for a shadow call."""

Classes = tuple[str, ...] | None
"""Labels of a version that gives probabilities, in their order."""

_ids = random.Random()
_random = np.random.default_rng()


class Observer:
    """Makes the calls of an ingress; while a rollout is under way it counts and compares.

    Whichever of the two versions answers, the other gets a share of the calls, too; its answers
    are compared, and discarded. A worker that is busy takes no such call. Must be used on one
    event loop.
    """

    def __init__(self, workers: Workers, policy: Policy) -> None:
        self._workers = workers
        self._policy = policy
        self._window: tuple[int, int] | None = None
        self._champion = self._challenger = ""
        self._predicts_labels = False
        self._classes: tuple[Classes, Classes] = (None, None)
        self._share = 0.0
        self._evidence = Evidence()
        self._spread = Spread()
        self._shadow: asyncio.Task[None] | None = None
        self._idle_until = 0.0

    def turn(self, table: Table) -> None:
        """Count for another step, or for none."""
        window = window_of(table)
        challenger = table.challenger.version.version if table.challenger is not None else ""
        champion = table.champion.version.version
        is_same_rollout = window is not None and window[:1] == (self._window or ())[:1]
        if window != self._window:
            self._evidence = self._evidence.at_next_step() if is_same_rollout else Evidence()
        if not is_same_rollout or champion != self._champion:
            self._spread = Spread()
        self._window, self._share = window, table.shadow
        self._champion, self._challenger = champion, challenger
        self._predicts_labels = table.champion.labels is not None
        other = table.challenger.classes if table.challenger is not None else None
        self._classes = table.champion.classes, other

    @property
    def window(self) -> tuple[int, int] | None:
        """Which step of which rollout is counted for; None if none is under way."""
        return self._window

    @property
    def versions(self) -> tuple[str, str]:
        """The champion's version and the challenger's, which is empty if there is none."""
        return self._champion, self._challenger

    @property
    def predicts_labels(self) -> bool:
        """Whether the versions predict labels; else they predict numbers."""
        return self._predicts_labels

    def quality_margin(self, sizes: Sequence[int], champion: Predictions) -> float | None:
        """Return how much further off is no tie; None if too few predictions were seen to say.

        `sizes` are the row counts of the requests that the champion's predictions are of.
        """
        if self._predicts_labels:
            return 0.0
        self._spread.add(sampled(sizes, champion))
        deviation = self._spread.deviation
        return None if deviation is None else self._policy.quality_distance * deviation

    def add_quality(self, window: tuple[int, int], quality: Pairs) -> None:
        """Count what true values say; they come late, and go on over the steps of a rollout."""
        if self._window is not None and window[0] == self._window[0]:
            self._evidence += Evidence(quality=quality)

    def take(self) -> tuple[tuple[int, int], Evidence] | None:
        """Return the step and what was seen in it since the last time; None if there's nothing."""
        evidence, self._evidence = self._evidence, Evidence()
        if self._window is None or evidence == Evidence():
            return None
        return self._window, evidence

    async def call(self, ask: Ask, rows: Rows, sizes: tuple[int, ...]) -> Predictions:
        """Return one outcome for each of `rows`; raises as `Workers.predict`."""
        if self._window is None:
            return await self._workers.predict(rows, sizes, ask)
        window = self._window
        begun = asyncio.get_running_loop().time()
        try:
            found = await self._workers.predict(rows, sizes, ask)
        except OverloadedError:
            raise
        except Exception:
            # Maybe no worker answers at all, which is no version's fault: the other one shows.
            self._offer(window, ask, rows, sizes, None)
            raise
        self._note(window, ask.version, arm_of(sizes, found.errors), is_live=True)
        is_quick = asyncio.get_running_loop().time() - begun < QUICK_S
        if _ids.random() < self._share:
            self._offer(window, ask, rows, sizes, found, is_quick)
        return found

    def _note(self, window: tuple[int, int], version: str, arm: Arm, is_live: bool) -> None:
        if window != self._window:
            return
        if version == self._challenger:
            live = arm.requests if is_live else 0
            self._evidence += Evidence(challenger=arm, live=live)
        elif version == self._champion:
            self._evidence += Evidence(champion=arm)

    def _offer(
        self,
        window: tuple[int, int],
        ask: Ask,
        rows: Rows,
        sizes: tuple[int, ...],
        found: Predictions | None,
        is_quick: bool = False,
    ) -> None:
        """Make the same call to the other version, if no such call is under way or was lately."""
        if self._shadow is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._idle_until or ask.version not in (self._champion, self._challenger):
            return
        self._shadow = loop.create_task(
            self._compare(window, ask, rows, sizes, found, is_quick), context=contextvars.Context()
        )
        self._shadow.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._shadow = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a comparison failed", exc_info=error)

    async def _compare(
        self,
        window: tuple[int, int],
        ask: Ask,
        rows: Rows,
        sizes: tuple[int, ...],
        found: Predictions | None,
        is_quick: bool,
    ) -> None:
        is_champion = ask.version == self._champion
        other = self._challenger if is_champion else self._champion
        failed = Arm(len(sizes), float(len(sizes)))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        pause_s = 0.0
        try:
            async with asyncio.timeout(SHADOW_TIMEOUT_S):
                shadow = ask._replace(version=other, is_shadow=found is not None)
                second = await self._workers.predict(rows, sizes, shadow)
        except OverloadedError:
            pause_s = BUSY_PAUSE_S
            return
        except Exception as error:  # noqa: BLE001  # whatever it is: this version has no answer
            if found is not None and (is_quick or not isinstance(error, TimeoutError)):
                self._note(window, other, failed, is_live=False)
            return
        finally:
            now = loop.time()
            self._idle_until = now + max(pause_s, IDLE_FACTOR * (now - begun))
        self._note(window, other, arm_of(sizes, second.errors), is_live=False)
        if found is None:
            self._note(window, ask.version, failed, is_live=True)
        elif window == self._window:
            pair = (found, second) if is_champion else (second, found)
            self._evidence += self._paired(sizes, *pair)

    def _paired(
        self, sizes: tuple[int, ...], champion: Predictions, challenger: Predictions
    ) -> Evidence:
        limit = None
        values = champion.values
        if values.ndim == 1 and values.dtype.kind in "biuf" and not self._predicts_labels:
            self._spread.add(sampled(sizes, champion))
            if (deviation := self._spread.deviation) is None:
                return Evidence(time=timed(self._policy, champion, challenger))
            limit = self._policy.shift_distance * deviation
        return Evidence(
            time=timed(self._policy, champion, challenger),
            shift=shifted(sizes, champion, challenger, limit, self._classes),
        )


def arm_of(sizes: Sequence[int], errors: Mapping[int, str]) -> Arm:
    """Return the requests of a call, with the shares of their records that failed."""
    if not errors:
        return Arm(len(sizes))
    rows = sum(sizes)
    failed, missing = np.zeros(rows), np.zeros(rows)
    for at, reason in errors.items():
        (missing if reason == NO_FINITE_ANSWER else failed)[at] = 1.0
    return Arm(len(sizes), _shares(sizes, failed), _shares(sizes, missing))


def sampled(sizes: Sequence[int], found: Predictions) -> npt.NDArray[Any]:
    """Return the answer to one record of each request, drawn by chance; none if that has failed.

    No batch makes the spread alone, however long it is and whatever its records are sorted by.
    """
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    at = starts + (np.asarray(sizes) * _random.random(len(sizes))).astype(np.intp)
    taken: npt.NDArray[Any] = found.values[[one for one in at.tolist() if one not in found.errors]]
    return taken


def timed(policy: Policy, champion: Predictions, challenger: Predictions) -> Pairs:
    """Return whether the challenger's model took longer; no pair if others' rows were joined."""
    rows = len(champion.values)
    if (champion.model_rows, challenger.model_rows) != (rows, rows):
        return Pairs()
    longer_s = challenger.model_s - champion.model_s
    is_longer = (
        challenger.model_s > policy.slower_factor * champion.model_s
        and longer_s > policy.slower_by_s
    )
    return Pairs(1, float(is_longer))


def shifted(
    sizes: Sequence[int],
    champion: Predictions,
    challenger: Predictions,
    limit: float | None,
    classes: tuple[Classes, Classes] = (None, None),
) -> Pairs:
    """Return the requests of which both have answered all records, and the shares that differ.

    `limit` is how far apart two numbers may be; None for labels and probabilities, of which the
    most probable label counts. `classes` are those of the champion and of the challenger.
    """
    if limit is None:
        differs = _labels(champion.values, classes[0]) != _labels(challenger.values, classes[1])
    else:
        with np.errstate(invalid="ignore"):
            distance = np.abs(champion.values.astype(np.float64) - challenger.values)
        differs = distance > limit
    failed: npt.NDArray[Any] = np.zeros(len(differs), dtype=bool)
    for errors in (champion.errors, challenger.errors):
        failed[list(errors)] = True
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    is_whole = ~np.logical_or.reduceat(failed, starts)
    shares = np.add.reduceat(differs.astype(np.float64), starts) / np.asarray(sizes)
    return Pairs(int(is_whole.sum()), float(shares[is_whole].sum()))


def _labels(values: npt.NDArray[Any], classes: Classes) -> npt.NDArray[Any]:
    if values.ndim == 1:
        return values
    places: npt.NDArray[Any] = values.argmax(axis=1)
    return places if classes is None else np.asarray(classes)[places]


def _shares(sizes: Sequence[int], marks: npt.NDArray[Any]) -> float:
    """Return the sum over requests of the share of their records that are marked."""
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    return float((np.add.reduceat(marks, starts) / np.asarray(sizes)).sum())
