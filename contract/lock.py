"""The promotion lock: one holder at a time for each model, over all machines.

MLflow has no compare-and-set, but the name of an experiment is unique, so its creation is
atomic. Holder number n creates the experiment `<model>.promotion.<n>`, and deletes it to let go.
MLflow keeps the name of a deleted experiment, so a number is never used twice and a number that
is free can't come back. A holder that died is passed over when its lease has run out: the next
one creates n + 1. Clocks of the machines must agree to within `CLOCK_SKEW_S`.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Experiment, ViewType
from mlflow.exceptions import MlflowException

from contract.tracking import MlflowUnreachableError

LEASE_S = 60.0
WRITE_RESERVE_S = 25.0
"""No write starts later than this before the lease ends: one call to MLflow, with its retry,
takes up to 20 s."""

CLOCK_SKEW_S = 5.0
WAIT_S = 150.0
POLL_S = 0.1
TAG_OWNER = "endeavour.lock.owner"
TAG_EXPIRES = "endeavour.lock.expires_at"


class LockUnavailableError(MlflowUnreachableError):
    """Others held the lock for too long, or MLflow was too slow to keep it: try again."""


@dataclass(frozen=True)
class Lease:
    """The lock, held until `expires_at` (seconds since 1970); `number` counts the holders."""

    number: int
    experiment_id: str
    expires_at: float

    def check(self) -> None:
        """Raise LockUnavailableError if too little of the lease is left to begin a write."""
        if time.time() > self.expires_at - WRITE_RESERVE_S:
            raise LockUnavailableError(
                "MLflow was too slow: the promotion lock ran out before all was written; "
                "run the command again, it will finish what is missing"
            )


@dataclass(frozen=True)
class PromotionLock:
    """The lock of one registered model."""

    client: MlflowClient
    model_name: str
    lease_s: float = LEASE_S
    wait_s: float = WAIT_S

    @contextmanager
    def hold(self) -> Iterator[Lease]:
        """Wait for the lock, hold it for the block. Raises LockUnavailableError after `wait_s`."""
        lease = self._acquire()
        try:
            yield lease
        finally:
            # What can't be released runs out by itself.
            with suppress(MlflowException):
                self.client.delete_experiment(lease.experiment_id)

    def _acquire(self) -> Lease:
        owner = uuid.uuid4().hex
        until = time.monotonic() + self.wait_s
        while True:
            highest = self._highest()
            if highest is None or _is_free(highest):
                number = 1 if highest is None else self._number(highest) + 1
                if lease := self._try_to_create(number, owner):
                    self._clear(highest)
                    return lease
            if time.monotonic() > until:
                raise LockUnavailableError(
                    f"another job has held the promotion lock of {self.model_name!r} for "
                    f"{self.wait_s:g} s: try again later"
                )
            time.sleep(POLL_S)

    def _try_to_create(self, number: int, owner: str) -> Lease | None:
        """Return the lease if `number` is ours, be it by an earlier try whose answer was lost."""
        name = f"{self.model_name}.promotion.{number}"
        expires_at = time.time() + self.lease_s
        tags = {TAG_OWNER: owner, TAG_EXPIRES: repr(expires_at)}
        try:
            experiment_id = self.client.create_experiment(name, tags=tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            existing = self.client.get_experiment_by_name(name)
            if existing is None or existing.tags.get(TAG_OWNER) != owner or _is_free(existing):
                return None
            experiment_id = existing.experiment_id
            expires_at = _expires_at(existing)
        return Lease(number, experiment_id, expires_at)

    def _highest(self) -> Experiment | None:
        """Return the last holder, free or not. Identifiers grow, so it is on the first page."""
        pattern = self.model_name.replace("\\", "\\\\")
        token = None
        while True:
            page = self.client.search_experiments(
                view_type=ViewType.ALL,
                max_results=20,
                filter_string=f"name LIKE '{pattern}.promotion.%'",
                order_by=["creation_time DESC", "experiment_id DESC"],
                page_token=token,
            )
            # `_` and `%` in a model's name match more than themselves.
            if own := [found for found in page if self._matches(found)]:
                return max(own, key=self._number)
            token = page.token
            if not token:
                return None

    def _matches(self, experiment: Experiment) -> bool:
        pattern = rf"{re.escape(self.model_name)}\.promotion\.\d+"
        return re.fullmatch(pattern, experiment.name) is not None

    @staticmethod
    def _number(experiment: Experiment) -> int:
        return int(experiment.name.rpartition(".")[2])

    def _clear(self, passed_over: Experiment | None) -> None:
        """Hide the experiment of a holder that died from MLflow's page."""
        if passed_over is not None and passed_over.lifecycle_stage == "active":
            with suppress(MlflowException):
                self.client.delete_experiment(passed_over.experiment_id)


def _is_free(experiment: Experiment) -> bool:
    if experiment.lifecycle_stage != "active":
        return True
    return time.time() > _expires_at(experiment) + CLOCK_SKEW_S


def _expires_at(experiment: Experiment) -> float:
    """Return when a lease ends; one that doesn't say so, or not in a number, never does."""
    try:
        return float(experiment.tags[TAG_EXPIRES])
    except (KeyError, ValueError):
        return math.inf
