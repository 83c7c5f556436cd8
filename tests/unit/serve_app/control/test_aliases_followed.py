"""Aliases that people and jobs move are followed, and no version takes traffic unprepared."""

import asyncio
from collections.abc import Callable

import pytest

from contract import names
from contract.tracking import MlflowUnreachableError
from serve_app.control.conductor import LOAD_TIMEOUT_S
from serve_app.control.refusals import AGAIN_S, FETCHES, LONGEST_S
from serve_app.model_errors import NotNowError, UnservableModelError
from serve_app.rollouts.policy import Policy
from serve_app.routing import Table
from tests.unit.serve_app.control.stage import ALL, POLICY, Stage, model_of

SOON_S = 5.0


async def is_ordered(stage: Stage, version: str) -> None:
    """Return once workers are told to load a version."""
    async with asyncio.timeout(SOON_S):
        orders = stage.conductor.orders
        while version not in [one.version for one in orders.value.wanted]:
            revision = (await orders.wait(None, SOON_S)).revision
            await orders.wait(revision, SOON_S)


def test_a_moved_champion_is_followed() -> None:
    """The one before it stays warm, for a way back."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases[names.CHAMPION] = "2"
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.table.previous == model_of("1")
        needed = stage.conductor.orders.value.needed
        assert [one.version for one in needed] == ["2", "1"]
        assert stage.conductor.orders.value.wanted == ()

    asyncio.run(scenario())


def test_the_way_back_needs_no_preparation() -> None:
    """Every worker holds the champion before this one."""

    async def scenario() -> None:
        stage = Stage()
        for version in ("2", "1"):
            stage.mlflow.aliases[names.CHAMPION] = version
            await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        assert stage.table.previous == model_of("2")
        assert stage.rehearsed == ["2"]

    asyncio.run(scenario())


def test_after_a_start_the_way_back_is_warmed() -> None:
    """A start knows of the champion alone; the alias says what was before it."""

    async def scenario() -> None:
        stage = Stage(table=Table(1, model_of("2")))
        stage.mlflow.aliases |= {names.CHAMPION: "2", names.PREVIOUS: "1"}
        await stage.conductor.poll()
        assert (stage.serving(), stage.table.previous) == (("2", None, 0.0), model_of("1"))
        assert stage.rehearsed == ["1"]
        stage.mlflow.aliases[names.CHAMPION] = "1"
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        assert stage.rehearsed == ["1"]

    asyncio.run(scenario())


def test_a_way_back_that_is_broken_holds_up_nobody() -> None:
    """It says so, and the next challenger is walked."""

    async def scenario() -> None:
        stage = Stage(table=Table(1, model_of("2")))
        stage.faults["1"] = "its files are gone"
        stage.mlflow.aliases |= {names.CHAMPION: "2", names.PREVIOUS: "1"}
        for _ in range(2):
            await stage.conductor.poll()
        assert stage.status["refused"] == {"1": "its files are gone"}
        assert stage.table.previous is None
        await stage.begin("3")
        assert stage.serving()[:2] == ("2", "3")

    asyncio.run(scenario())


def test_nothing_happens_while_nothing_moves() -> None:
    """Nobody is woken, and nothing is written."""

    async def scenario() -> None:
        stage = Stage()
        await stage.conductor.poll()
        before = await stage.conductor.published.wait(None, SOON_S)
        await stage.conductor.poll()
        stage.conductor.tick()
        assert await stage.conductor.published.wait(None, SOON_S) == before
        assert stage.mlflow.writes == []

    asyncio.run(scenario())


@pytest.mark.parametrize("alias", [names.CHAMPION, names.CHALLENGER])
def test_a_version_waits_until_every_worker_holds_it(alias: str) -> None:
    """Until then all goes on as it was."""

    async def scenario() -> None:
        stage = Stage()
        stage.report("b", frozenset("1"))
        stage.mlflow.aliases[alias] = "2"
        poll = asyncio.create_task(stage.conductor.poll())
        await is_ordered(stage, "2")
        stage.conductor.tick()
        assert stage.serving() == ("1", None, 0.0)
        stage.report("b", frozenset("12"))
        await poll
        assert stage.serving() != ("1", None, 0.0)

    asyncio.run(scenario())


def test_a_worker_that_came_since_is_waited_for() -> None:
    """Some time may pass between the last worker's report and the next look at the aliases."""

    async def scenario() -> None:
        stage = Stage()
        stage.report("b", frozenset("1"))
        stage.mlflow.aliases[names.CHAMPION] = "2"
        poll = asyncio.create_task(stage.conductor.poll())
        await is_ordered(stage, "2")
        poll.cancel()
        stage.report("b")
        await asyncio.sleep(0.15)
        stage.report("c", frozenset("1"))
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        stage.report("c")
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


def test_a_worker_that_died_holds_up_no_version() -> None:
    """Its lease runs out while the version waits."""

    async def scenario() -> None:
        stage = Stage()
        stage.report("b", frozenset("1"))
        stage.mlflow.aliases[names.CHAMPION] = "2"
        poll = asyncio.create_task(stage.conductor.poll())
        await is_ordered(stage, "2")
        stage.clock.go_on(9.0)
        stage.report("a")
        stage.clock.go_on(2.0)
        stage.conductor.tick()
        await poll
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


Spoil = Callable[[Stage], None]


def fails_rehearsal(stage: Stage) -> None:
    """It ends its process."""
    stage.faults["2"] = "it ended its process by SIGSEGV"


def fails_verification(stage: Stage) -> None:
    """Its files can't be taken."""
    stage.mlflow.unresolved["2"] = UnservableModelError("its files hold a type of their own")


def fails_on_a_worker(stage: Stage) -> None:
    """One of two can't load it."""
    stage.report("b", frozenset("1"), {"2": "MemoryError"})


def has_another_interface(stage: Stage) -> None:
    """Clients would have to send another column."""
    stage.models["2"] = model_of("2", column="y")


REFUSALS: list[tuple[Spoil, str]] = [
    (fails_rehearsal, "SIGSEGV"),
    (fails_verification, "a type of their own"),
    (fails_on_a_worker, "a worker could not load it: MemoryError"),
    (has_another_interface, "its signature or the kind of its answers is not that of version 1"),
]


@pytest.mark.parametrize("alias", [names.CHAMPION, names.CHALLENGER])
@pytest.mark.parametrize(("spoil", "reason"), REFUSALS)
def test_a_version_that_cannot_be_served_gets_no_traffic(
    spoil: Spoil, reason: str, alias: str
) -> None:
    """What was served is served on; the version's tag says why, and so does the status."""

    async def scenario() -> None:
        stage = Stage()
        spoil(stage)
        stage.mlflow.aliases[alias] = "2"
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        assert reason in stage.status["refused"]["2"]
        assert stage.conductor.orders.value.wanted == ()
        await stage.conductor.poll()
        assert reason in stage.mlflow.tags("2")[names.TAG_REFUSED]

    asyncio.run(scenario())


@pytest.mark.parametrize("alias", [names.CHAMPION, names.CHALLENGER])
def test_an_error_that_nobody_thought_of_refuses_the_version(
    alias: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else each look at the aliases would end by it; the log has where it was raised."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.unresolved["2"] = RecursionError("too deep")
        stage.mlflow.aliases[alias] = "2"
        for _ in range(3):
            await stage.conductor.poll()
        assert stage.mlflow.resolved == 1
        assert stage.mlflow.tags("2")[names.TAG_REFUSED] == "RecursionError: too deep"
        stage.mlflow.aliases = {names.CHAMPION: "3"}
        await stage.conductor.poll()
        assert stage.serving() == ("3", None, 0.0)

    asyncio.run(scenario())
    assert "Traceback" in caplog.text
    assert "in resolve" in caplog.text


def test_what_a_model_says_of_itself_is_shown_in_one_short_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the status, the tag and the log: a terminal would obey control characters."""

    async def scenario() -> None:
        stage = Stage()
        stage.faults["2"] = "a\x1b[2J\r\nb\x9b\u202ec\ud800\U000e0041é" + 10_000 * "d"
        stage.mlflow.aliases[names.CHAMPION] = "2"
        for _ in range(2):
            await stage.conductor.poll()
        reason = stage.status["refused"]["2"]
        assert reason.startswith("a?[2J  b??c??éddd")
        assert len(reason) == names.LONGEST_TAG
        assert stage.mlflow.tags("2")[names.TAG_REFUSED] == reason

    asyncio.run(scenario())
    assert "a?[2J  b??c??é" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_version_that_is_not_loaded_in_time_is_refused() -> None:
    """A worker that hangs in it must not hold up everything else for ever."""

    async def scenario() -> None:
        stage = Stage()
        stage.report("b", frozenset("1"))
        stage.mlflow.aliases[names.CHAMPION] = "2"
        poll = asyncio.create_task(stage.conductor.poll())
        await is_ordered(stage, "2")
        stage.clock.go_on(LOAD_TIMEOUT_S + 1)
        await poll
        assert "not loaded by every worker within 60 s" in stage.status["refused"]["2"]
        assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())


def test_a_challenger_that_cannot_be_served_loses_its_alias() -> None:
    """Else it would be tried for ever; its tags say how it ended and why."""

    async def scenario() -> None:
        stage = Stage()
        fails_rehearsal(stage)
        stage.mlflow.aliases[names.CHALLENGER] = "2"
        for _ in range(2):
            await stage.conductor.poll()
        assert names.CHALLENGER not in stage.mlflow.aliases
        tags = stage.mlflow.tags("2")
        assert tags[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
        assert "it can't be served: it ended" in tags[names.TAG_ROLLOUT_REASONS]

    asyncio.run(scenario())


def test_a_refused_version_is_not_tried_again_by_itself() -> None:
    """It would fail again, and cost a process each time."""

    async def scenario() -> None:
        stage = Stage()
        fails_rehearsal(stage)
        stage.mlflow.aliases[names.CHAMPION] = "2"
        for _ in range(4):
            await stage.conductor.poll()
        assert stage.rehearsed == ["2"]
        assert len(stage.mlflow.writes) == 1

    asyncio.run(scenario())


def test_who_names_a_refused_version_again_wants_it_tried_again() -> None:
    """The alias was elsewhere in between."""

    async def scenario() -> None:
        stage = Stage()
        fails_rehearsal(stage)
        for version in ("2", "1", "2"):
            stage.mlflow.aliases[names.CHAMPION] = version
            await stage.conductor.poll()
            await stage.conductor.poll()
        assert stage.rehearsed == ["2", "2"]
        stage.faults.clear()
        for version in ("1", "2"):
            stage.mlflow.aliases[names.CHAMPION] = version
            await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.status["refused"] == {}

    asyncio.run(scenario())


def test_a_refused_version_is_tried_again_though_it_was_previous_meanwhile() -> None:
    """`make promote` and `make rollback` leave it there."""

    async def scenario() -> None:
        stage = Stage()
        fails_rehearsal(stage)
        for champion, previous in (("2", "1"), ("1", "2"), ("2", "1")):
            stage.mlflow.aliases |= {names.CHAMPION: champion, names.PREVIOUS: previous}
            await stage.conductor.poll()
            await stage.conductor.poll()
        assert stage.rehearsed == ["2", "2"]
        stage.faults.clear()
        for champion, previous in (("1", "2"), ("2", "1")):
            stage.mlflow.aliases |= {names.CHAMPION: champion, names.PREVIOUS: previous}
            await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.status["refused"] == {}
        await stage.conductor.poll()
        assert stage.mlflow.tags("2")[names.TAG_REFUSED] == ""

    asyncio.run(scenario())


def test_a_rollback_leads_to_a_version_that_could_not_be_kept_warm() -> None:
    """What was refused as `previous` is tried again as champion."""

    async def scenario() -> None:
        stage = Stage(table=Table(1, model_of("1")))
        fails_rehearsal(stage)
        stage.mlflow.aliases[names.PREVIOUS] = "2"
        for _ in range(2):
            await stage.conductor.poll()
        assert list(stage.status["refused"]) == ["2"]
        stage.faults.clear()
        stage.mlflow.aliases |= {names.CHAMPION: "2", names.PREVIOUS: "1"}
        for _ in range(2):
            await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


def test_a_challenger_replaces_a_champion_that_cannot_be_served() -> None:
    """It was judged against what is served; MLflow's champion is another."""

    async def scenario() -> None:
        stage = Stage()
        fails_rehearsal(stage)
        stage.mlflow.aliases[names.CHAMPION] = "2"
        for _ in range(2):
            await stage.conductor.poll()
        await stage.begin("3")
        for _ in POLICY.steps:
            stage.pass_step()
        await stage.promoted()
        assert stage.serving() == ("3", None, 0.0)
        assert stage.mlflow.aliases[names.CHAMPION] == "3"

    asyncio.run(scenario())


def test_a_refused_champion_holds_up_no_challenger() -> None:
    """They are two decisions."""

    async def scenario() -> None:
        stage = Stage()
        fails_rehearsal(stage)
        stage.mlflow.aliases |= {names.CHAMPION: "2", names.CHALLENGER: "3"}
        for _ in range(2):
            await stage.conductor.poll()
        assert stage.serving()[:2] == ("1", "3")

    asyncio.run(scenario())


def test_a_version_that_cannot_be_fetched_is_refused_at_the_third_time() -> None:
    """MLflow answers, but not with this version's files."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.unresolved["2"] = MlflowUnreachableError("404: no such artifact")
        stage.mlflow.aliases[names.CHAMPION] = "2"
        for _ in range(FETCHES - 1):
            await stage.conductor.poll()
        assert stage.status["refused"] == {}
        await stage.conductor.poll()
        assert stage.status["refused"] == {"2": "404: no such artifact"}
        assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())


def test_fetches_in_vain_count_in_a_row() -> None:
    """A version that comes at last is served."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases[names.CHAMPION] = "2"
        for _ in range(FETCHES - 1):
            stage.mlflow.unresolved["2"] = MlflowUnreachableError("503")
            await stage.conductor.poll()
        stage.mlflow.unresolved.clear()
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("alias", [names.CHAMPION, names.CHALLENGER])
def test_what_a_full_disk_had_refused_is_served_once_there_is_room(alias: str) -> None:
    """Nobody has to name it again; until then it is looked at every now and then."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.unresolved["2"] = NotNowError("no space left on device")
        stage.mlflow.aliases[alias] = "2"
        for _ in range(3):
            await stage.conductor.poll()
        assert stage.status["refused"] == {"2": "no space left on device"}
        assert stage.mlflow.aliases[alias] == "2"
        assert [write.value for write in stage.mlflow.writes] == ["no space left on device"]
        stage.mlflow.unresolved.clear()
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        stage.go_on(AGAIN_S)
        for _ in range(2):
            await stage.conductor.poll()
        assert "2" in stage.serving()
        assert stage.status["refused"] == {}
        assert stage.mlflow.tags("2")[names.TAG_REFUSED] == ""

    asyncio.run(scenario())


def test_a_worker_that_is_short_of_something_refuses_no_version_for_good() -> None:
    """Its node may have room again."""

    async def scenario() -> None:
        stage = Stage()
        stage.report("b", frozenset("1"), delayed={"2": "too many open files"})
        stage.mlflow.aliases[names.CHAMPION] = "2"
        poll = asyncio.create_task(stage.conductor.poll())
        await is_ordered(stage, "2")
        stage.clock.go_on(LOAD_TIMEOUT_S + 1)
        await poll
        assert "a worker can't load it now: too many open" in stage.status["refused"]["2"]
        stage.report("b")
        stage.go_on(AGAIN_S)
        for _ in range(2):
            await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


def test_a_version_whose_files_could_not_be_fetched_is_tried_again() -> None:
    """Where they lie may answer again; ever more rarely, and the reason is written once."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.unresolved["2"] = MlflowUnreachableError("503 of the artifact store")
        stage.mlflow.aliases[names.CHAMPION] = "2"
        waits_s = []
        for _ in range(FETCHES):
            await stage.conductor.poll()
        for _ in range(8):
            tried, waited_s = stage.mlflow.resolved, 0.0
            while stage.mlflow.resolved == tried:
                stage.go_on(AGAIN_S)
                waited_s += AGAIN_S
                await stage.conductor.poll()
            waits_s.append(waited_s)
        assert waits_s == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, LONGEST_S, LONGEST_S]
        assert stage.status["refused"] == {"2": "503 of the artifact store"}
        assert len(stage.mlflow.writes) == 1
        stage.mlflow.unresolved.clear()
        stage.go_on(LONGEST_S)
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


def test_while_mlflow_is_down_no_version_is_refused() -> None:
    """It says nothing of the version."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases[names.CHAMPION] = "2"
        stage.mlflow.go_down()
        for _ in range(FETCHES + 1):
            await stage.conductor.poll()
        assert stage.status["refused"] == {}
        assert stage.status["mlflow"] == "does not answer: connection refused"
        stage.mlflow.come_back()
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.status["mlflow"] == "answers"

    asyncio.run(scenario())


def test_without_an_alias_all_goes_on() -> None:
    """Somebody may have removed `champion` by mistake."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases.clear()
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())


def test_a_worker_without_all_versions_is_not_named_to_ingresses() -> None:
    """Until it holds them."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases[names.CHAMPION] = "2"
        await stage.conductor.poll()
        stage.report("c", frozenset("2"))
        assert stage.workers() == ["a", "b"]
        stage.report("c", ALL)
        assert stage.workers() == ["a", "b", "c"]

    asyncio.run(scenario())


def test_where_rollouts_are_off_a_challenger_is_none() -> None:
    """Nothing is prepared."""

    async def scenario() -> None:
        stage = Stage(Policy(enabled=False, steps=POLICY.steps))
        stage.mlflow.aliases[names.CHALLENGER] = "2"
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        assert stage.rehearsed == []

    asyncio.run(scenario())


def test_a_poll_holds_up_neither_ticks_nor_aborts() -> None:
    """MLflow may take its time."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.mlflow.hang()
        poll = asyncio.create_task(stage.conductor.poll())
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.conductor.tick()
        stage.conductor.command("abort", "no")
        assert stage.serving() == ("1", None, 0.0)
        stage.mlflow.let_go()
        await poll

    asyncio.run(scenario())
