"""A controller that replaces another says nothing before it knows where that one was."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from serve_app import controller
from serve_app.control import memory
from serve_app.control.conductor import Orders
from serve_app.control.fleet import Report
from serve_app.controller import RolloutController
from serve_app.models import registry
from serve_app.models.served import describe
from serve_app.rollouts.rollout import State
from serve_app.routing import Table
from serve_app.settings import Settings
from tests import models
from tests.unit.serve_app.control.stage import model_of

STATE = State(1, "2", "3", 1, 0.0)
SEED = Table(7, model_of("1"))
NEWER = Table(9, model_of("2"), previous=model_of("1"))
SOON_S = 3.0
QUIET_S = 0.2
REPORT = Report(("127.0.0.1", 1, "secret"), frozenset("12"))


@pytest.fixture(autouse=True)
def _others_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait for longer than it takes to see that something waits."""
    monkeypatch.setattr(controller, "OTHERS_S", QUIET_S)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a node that remembers nothing."""
    return Settings(cache_dir=tmp_path / "cache", model_served="local")


def needed(orders: Orders) -> list[str]:
    """The versions that workers must hold."""
    return [one.version for one in orders.needed]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it wait for other replicas for longer than these tests take to look."""
    monkeypatch.setattr(controller, "OTHERS_S", 5 * QUIET_S)


async def shows(one: RolloutController, epoch: int) -> asyncio.Task[object]:
    """Let an ingress show a table, and the controller do what it does then."""
    table = replace(NEWER, epoch=epoch)
    asking = asyncio.create_task(one.follow_table(None, str(epoch), table))
    await asyncio.sleep(QUIET_S)
    return asking


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("epoch", [None, 6, 7, 8])
def test_workers_are_told_nothing_until_all_replicas_can_have_shown_their_tables(
    settings: Settings, epoch: int | None
) -> None:
    """Whatever this node remembers: what a seed is based on may be long gone."""
    if epoch is not None:
        memory.remember(settings, replace(SEED, epoch=epoch))

    async def scenario() -> None:
        one = RolloutController(SEED, settings)
        asked = asyncio.create_task(one.follow_orders(None, "w", REPORT))
        await asyncio.sleep(QUIET_S)
        assert not asked.done()
        behind = await shows(one, 8)
        assert not asked.done()
        newest = await shows(one, 9)
        async with asyncio.timeout(SOON_S):
            assert needed((await asked).value) == ["2", "1"]
            for asking in (behind, newest):
                await asking
        assert one._conductor.table.epoch == 9

    asyncio.run(scenario())


@pytest.mark.parametrize("seed_epoch", [7, int(time.time() * 1000)], ids=["low", "now"])
def test_what_this_node_remembers_is_waited_for(settings: Settings, seed_epoch: int) -> None:
    """Tables that are older are not enough, however new the deployment is."""
    remembered = seed_epoch + 3
    memory.remember(settings, replace(SEED, epoch=remembered))

    async def scenario() -> None:
        one = RolloutController(replace(SEED, epoch=seed_epoch), settings)
        asked = asyncio.create_task(one.follow_orders(None, "w", REPORT))
        older = await shows(one, remembered - 1)
        await asyncio.sleep(2 * QUIET_S)
        assert not asked.done()
        newer = await shows(one, remembered)
        async with asyncio.timeout(SOON_S):
            assert needed((await asked).value) == ["2", "1"]
            await older
            await newer

    asyncio.run(scenario())


def test_the_first_controller_of_a_deployment_waits_for_nobody(settings: Settings) -> None:
    """Its seed was made just now: nobody can have anything newer."""

    async def scenario() -> None:
        seed = replace(SEED, epoch=int(time.time() * 1000))
        one = RolloutController(seed, settings)
        async with asyncio.timeout(controller.SETTLE_S / 2):
            news = await one.follow_table(None, "i", None)
        assert news.value.table == seed

    asyncio.run(scenario())


def test_it_waits_for_replicas_only_so_long(settings: Settings) -> None:
    """There may be none: then it goes by what it has."""

    async def scenario() -> None:
        one = RolloutController(SEED, settings)
        asked = asyncio.create_task(one.follow_orders(None, "w", REPORT))
        await asyncio.sleep(QUIET_S / 2)
        assert not asked.done()
        async with asyncio.timeout(SOON_S):
            assert needed((await asked).value) == ["1"]

    with mock.patch.object(controller, "SETTLE_S", QUIET_S):
        asyncio.run(scenario())


def test_what_it_remembers_is_less_than_the_table_that_is_shown_later(settings: Settings) -> None:
    """It remembers no challenger: an ingress that comes too late still has the rollout."""
    estimator = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    rows = np.zeros((1, 1))
    directory = models.write(settings.cache_dir.parent / "model", estimator, rows, ["x"])
    own = settings.model_copy(update={"model_dir": directory})
    served = registry.resolve(own)
    champion = describe(served, registry.load(served, own))
    memory.remember(own, Table(9, champion))
    under_way = Table(9, champion, challenger=champion, weight=0.5, rollout=STATE)

    async def scenario() -> None:
        one = RolloutController(SEED, own)
        async with asyncio.timeout(SOON_S):
            orders = await one.follow_orders(None, "w", REPORT)
            assert needed(orders.value) == [served.version]
            news = await one.follow_table(None, "i", under_way)
        assert news.value.table.weight == 0.5

    with mock.patch.object(controller, "SETTLE_S", QUIET_S):
        asyncio.run(scenario())


def test_the_time_for_replicas_begins_when_they_know_of_it(settings: Settings) -> None:
    """Serve may take its time to tell them."""

    async def scenario() -> None:
        one = RolloutController(SEED, settings)
        await asyncio.sleep(3 * QUIET_S)
        asked = asyncio.create_task(one.follow_orders(None, "w", REPORT))
        await asyncio.sleep(QUIET_S / 2)
        showing = asyncio.create_task(one.follow_table(None, "i", NEWER))
        async with asyncio.timeout(SOON_S):
            assert needed((await asked).value) == ["2", "1"]
            await showing

    with mock.patch.object(controller, "SETTLE_S", QUIET_S):
        asyncio.run(scenario())


def test_a_command_waits_until_it_is_known_what_is_under_way(settings: Settings) -> None:
    """An abort right after a restart must find the rollout."""

    async def scenario() -> None:
        one = RolloutController(SEED, settings)
        asked = asyncio.create_task(one.command("abort", "worse"))
        await asyncio.sleep(QUIET_S)
        assert not asked.done()
        under_way = replace(NEWER, challenger=model_of("3"), rollout=STATE)
        showing = asyncio.create_task(one.follow_table(None, "i", under_way))
        async with asyncio.timeout(SOON_S):
            assert await asked is None
            assert (await showing).value.table.challenger is None

    asyncio.run(scenario())
