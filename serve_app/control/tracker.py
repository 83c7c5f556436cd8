"""MLflow, as the conductor asks and tells it. Every call blocks, and not for long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import requests

from contract import names, tracking
from contract.tracking import MlflowUnreachableError
from serve_app.control import record
from serve_app.control.port import ChampionMovedError, RejectedError, Seen
from serve_app.model_errors import NotNowError
from serve_app.models import registry
from serve_app.models.served import ServedVersion
from serve_app.routing import Write
from serve_app.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from contract.promotion import Promoter

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

WHO = "RolloutController"

LOCK_WAIT_S = 10.0
"""Well below what one call may take in all, so that nobody is left who moves an alias too late."""

_FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
"""MLflow's codes for what it will refuse as often as it is asked."""


class MlflowTracker:
    """The registered model that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.model_name
        self._client: MlflowClient | None = None
        self._has_said_rollouts = False

    def look(self) -> Seen:
        """Return the aliases and the rollout under way."""
        return self._asked(self._look)

    def resolve(self, version: str) -> tuple[ServedVersion, Path]:
        """Return a version and its verified copy on this node."""

        def resolve(client: MlflowClient) -> tuple[ServedVersion, Path]:
            found = client.get_model_version(self._name, version)
            served = registry.fetch(client, found, self._settings)
            return served, registry.copy_of(served, self._settings)

        return self._asked(resolve)

    def write(self, write: Write) -> None:
        """Record something; doing it twice is as good as once."""
        self._asked(lambda client: self._write(client, write))

    def promote(self, version: str, judged_against: str, reason: str) -> None:
        """Move the alias `champion` to the challenger, under the lock and on record."""
        from contract import promotion  # noqa: PLC0415  # imports MLflow
        from contract.registry import NoSuchVersionError  # noqa: PLC0415

        def promote(client: MlflowClient) -> None:
            try:
                self._promoter(client).promote_challenger(version, judged_against, reason, who=WHO)
            except promotion.ChampionMovedError as error:
                raise ChampionMovedError("the champion was moved by hand meanwhile") from error
            except promotion.ChallengerDroppedError as error:
                raise ChampionMovedError("the alias challenger was moved meanwhile") from error
            except NoSuchVersionError as error:
                raise ChampionMovedError("the version was deleted meanwhile") from error

        self._asked(promote)

    def _look(self, client: MlflowClient) -> Seen:
        registered = client.get_registered_model(self._name)
        if not self._has_said_rollouts or names.TAG_ROLLOUTS not in registered.tags:
            said = "on" if self._settings.rollout.enabled else "off"
            if registered.tags.get(names.TAG_ROLLOUTS) != said:
                _say(client, self._name, said)
            self._has_said_rollouts = True
        aliases = {alias: str(version) for alias, version in registered.aliases.items()}
        state, weight = record.state_of(registered.tags.get(names.TAG_ROLLOUT_STATE, ""))
        champion, challenger = aliases.get(names.CHAMPION), aliases.get(names.CHALLENGER)
        return Seen(champion, challenger, state, aliases.get(names.PREVIOUS), weight)

    def _write(self, client: MlflowClient, write: Write) -> None:
        if write.kind == "end_rollout":
            self._promoter(client).drop_challenger(
                write.version, write.key, write.value.splitlines()
            )
        elif write.kind == "take_back":
            self._promoter(client).take_back(write.version, write.key, write.value, who=WHO)
        elif write.kind == "model_tag":
            value = write.value[: names.LONGEST_TAG]
            client.set_registered_model_tag(self._name, write.key, value)
        else:
            client.set_model_version_tag(self._name, write.version, write.key, write.value)

    def _promoter(self, client: MlflowClient) -> Promoter:
        from contract.lock import PromotionLock  # noqa: PLC0415  # imports MLflow
        from contract.promotion import Promoter  # noqa: PLC0415
        from contract.registry import Registry  # noqa: PLC0415

        lock = PromotionLock(client, self._name, wait_s=LOCK_WAIT_S)
        return Promoter(Registry(client, self._name), lock)

    def _asked(self, ask: Callable[[MlflowClient], T]) -> T:
        """Return what `ask` returns, within a bounded time, its failures as one of ours."""

        def in_thread() -> T:
            from mlflow.exceptions import MlflowException  # noqa: PLC0415  # slow to import

            if self._client is None:
                uri = self._settings.mlflow_tracking_uri
                self._client = tracking.connect(uri, writes=True)
            try:
                return ask(self._client)
            except (MlflowException, requests.RequestException) as error:
                if getattr(error, "error_code", None) in _FINAL:
                    raise RejectedError(_first_line(error)) from error
                self._client = None  # which is probed first, before it is used again
                raise MlflowUnreachableError(f"MLflow failed: {_first_line(error)}") from error
            except OSError as error:
                raise NotNowError(f"no copy could be kept on this node: {error}") from error

        return tracking.in_time(in_thread)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _say(client: MlflowClient, name: str, said: str) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.set_registered_model_tag(name, names.TAG_ROLLOUTS, said)
    except MlflowException as error:  # who may only read can still follow
        logger.warning("training can't be told whether rollouts are on: %s", _first_line(error))
