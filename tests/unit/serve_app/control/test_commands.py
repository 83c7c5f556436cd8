"""What people can do about a rollout: pause, resume, promote, abort."""

import asyncio

import pytest

from contract import names
from serve_app.rollouts.rollout import CommandError
from tests.unit.serve_app.control.stage import GOOD, MIN_S, Stage

SOON_S = 5.0


def test_a_pause_stops_the_clock_and_a_resumption_lets_it_run_on() -> None:
    """Both are on record."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.go_on(MIN_S / 2)
        stage.conductor.command("pause", "let me look")
        stage.observe(GOOD)
        stage.go_on(100 * MIN_S)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.0)
        stage.conductor.command("resume", "looks well")
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.0)
        stage.go_on(MIN_S / 2)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.25)
        await stage.conductor.poll()
        found = [(one["action"], one["reasons"]) for one in stage.mlflow.decisions("2")]
        assert found[1:3] == [("pause", ["let me look"]), ("resume", ["looks well"])]

    asyncio.run(scenario())


def test_a_person_can_skip_what_is_left() -> None:
    """With the reason on record."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.conductor.command("promote", "tested elsewhere")
        await stage.promoted()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.mlflow.promotions == [("2", "1", "by hand: tested elsewhere")]

    asyncio.run(scenario())


def test_a_promotion_by_hand_waits_for_mlflow_too() -> None:
    """Whoever asked for it was not told otherwise; an abort ends the waiting."""

    async def scenario() -> None:
        for is_aborted in (False, True):
            stage = Stage()
            await stage.begin()
            stage.mlflow.go_down()
            stage.conductor.command("promote", "tested elsewhere")
            async with asyncio.timeout(SOON_S):
                while "refused" not in stage.status["mlflow"]:
                    await asyncio.sleep(0.001)
            assert stage.serving() == ("1", "2", 0.0)
            if is_aborted:
                stage.conductor.command("abort", "not so well")
            stage.mlflow.come_back()
            await asyncio.sleep(0)
            stage.conductor.tick()
            await stage.promoted()
            assert stage.serving() == ("1" if is_aborted else "2", None, 0.0)

    asyncio.run(scenario())


def test_an_abort_before_the_alias_has_moved_stops_a_promotion() -> None:
    """MLflow is told of what was decided before; the abort comes while it takes its time."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.conductor.command("pause", "let me look")
        stage.mlflow.hang()
        stage.conductor.command("promote", "looks well")
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.conductor.command("abort", "no")
        stage.mlflow.let_go()
        for _ in range(3):
            await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        assert stage.mlflow.aliases == {names.CHAMPION: "1"}

    asyncio.run(scenario())


def test_an_abort_while_the_alias_moves_takes_it_back() -> None:
    """Else the next look would follow it, as if somebody had moved it by hand."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        await stage.conductor.poll()
        stage.mlflow.hang()
        stage.conductor.command("promote", "looks well")
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.conductor.command("abort", "no")
        assert stage.serving() == ("1", None, 0.0)
        stage.mlflow.let_go()
        for _ in range(3):
            await stage.conductor.poll()
        assert len(stage.mlflow.promotions) == 1
        assert stage.serving() == ("1", None, 0.0)
        assert stage.mlflow.aliases[names.CHAMPION] == "1"

    asyncio.run(scenario())


def test_a_person_can_abort() -> None:
    """With the reason on record."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.pass_step()
        stage.conductor.command("abort", "customers complain")
        assert stage.serving() == ("1", None, 0.0)
        await stage.conductor.poll()
        reasons = stage.mlflow.tags("2")[names.TAG_ROLLOUT_REASONS]
        assert reasons == "by hand: customers complain"

    asyncio.run(scenario())


@pytest.mark.parametrize("action", ["pause", "resume", "promote", "abort"])
def test_there_must_be_a_rollout_for_a_command(action: str) -> None:
    """Whoever asks is told so, and nothing changes."""

    async def scenario() -> None:
        stage = Stage()
        with pytest.raises(CommandError, match="no rollout is under way"):
            stage.conductor.command(action, "why not")
        assert stage.kept == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("actions", "refusal"),
    [
        (("destroy",), "no action 'destroy': pause, resume, promote or abort"),
        (("resume",), "is not paused"),
        (("pause", "pause"), "is paused already"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(actions: tuple[str, ...], refusal: str) -> None:
    """The rollout goes on as it was."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        for action in actions[:-1]:
            stage.conductor.command(action, "why not")
        before = stage.table
        with pytest.raises(CommandError, match=refusal):
            stage.conductor.command(actions[-1], "why not")
        assert stage.table is before

    asyncio.run(scenario())
