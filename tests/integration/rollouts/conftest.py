"""A system that the modules of this folder share, in front of the shared MLflow server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests import stage
from tests.stage import Stage

PAUSE_S = 0.002
"""How long the first champion takes, so that another can be slower by a factor."""

MOST_LIVE_STEP = 1
"""A bad version is stopped at this step, of 5% of the clients, or before."""

ROLLED_BACK_S = 5.0
"""Within which nobody is answered any more by a version whose rollout was aborted."""

RESTARTED_S = 60.0
"""Within which a process that was killed is replaced."""


@pytest.fixture(scope="package")
def shared_stage(launched_stage: Stage) -> Iterator[Stage]:
    """A service with short steps."""
    with stage.up(launched_stage) as up:
        yield up


@pytest.fixture
def staged(shared_stage: Stage) -> Iterator[Stage]:
    """The shared stage, with nothing under way before and after."""
    yield shared_stage
    shared_stage.relay.turn("well")
    if shared_stage.alias("challenger") is not None:
        shared_stage.client.delete_registered_model_alias(shared_stage.name, "challenger")
    champion = shared_stage.standing()["champion"]
    shared_stage.name_as("champion", champion)
    shared_stage.await_standing(
        lambda standing: standing["rollout"] is None and not standing["refused"], 30
    )


def ask_as(stage: Stage, client: str, x: float) -> requests.Response:
    """Ask as a client of this name."""
    headers = {"x-api-key": stage.service.key, "x-client-id": client}
    return stage.service.post("/stream", {"X": x}, headers=headers)
