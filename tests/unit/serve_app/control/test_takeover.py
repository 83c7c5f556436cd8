"""A controller that replaces another goes on where that one was, and never further."""

import asyncio
import json
from dataclasses import replace

import pytest

from contract import names
from serve_app.control import preparation, record
from serve_app.control.conductor import REPORTED_S
from serve_app.rollouts.policy import Policy, Step
from serve_app.rollouts.rollout import State
from serve_app.routing import Table, Write
from tests.unit.serve_app.control.stage import BEGAN, GOOD, MIN_S, FakeMlflow, Stage, model_of

SOON_S = 5.0
STATE = State(77, "1", "2", 1, BEGAN - 500.0)
UNDER_WAY = Table(
    500,
    model_of("1"),
    challenger=model_of("2"),
    weight=0.25,
    shadow=0.5,
    previous=model_of("9"),
    rollout=STATE,
)


def mlflow_in_rollout(state: State = STATE) -> FakeMlflow:
    """MLflow as a rollout under way leaves it."""
    return FakeMlflow(
        aliases={names.CHAMPION: state.champion, names.CHALLENGER: state.challenger},
        model_tags={names.TAG_ROLLOUT_STATE: record.state_text(state, 0.25)},
    )


def test_a_newer_table_is_taken_over_as_it_is() -> None:
    """Nothing is written or restarted: whoever made it has seen to that."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout())
        stage.conductor.adopt(UNDER_WAY)
        taken_over = replace(UNDER_WAY, rollout=replace(STATE, step_began=stage.clock.now))
        assert stage.table == taken_over
        await stage.conductor.poll()
        stage.conductor.tick()
        assert stage.table == taken_over
        assert stage.mlflow.writes == []
        needed = stage.conductor.orders.value.needed
        assert [one.version for one in needed] == ["1", "2", "9"]

    asyncio.run(scenario())


@pytest.mark.parametrize("epoch", [499, 500])
def test_a_table_that_is_no_newer_is_not_taken_over(epoch: int) -> None:
    """The weight is never raised by what was before."""

    async def scenario() -> None:
        stage = Stage(table=replace(UNDER_WAY, weight=0.0, rollout=replace(STATE, step=0)))
        before = stage.table
        stage.conductor.adopt(replace(UNDER_WAY, epoch=epoch, weight=1.0))
        stage.conductor.tick()
        assert stage.table == before

    asyncio.run(scenario())


def test_a_rollout_taken_over_goes_on_with_its_step() -> None:
    """From its beginning: what was seen before has to be seen again."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout())
        stage.conductor.adopt(UNDER_WAY)
        stage.observe(GOOD)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.25)
        stage.go_on(MIN_S)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 1.0)

    asyncio.run(scenario())


def test_an_abort_that_only_a_replica_knows_of_is_recorded() -> None:
    """MLflow still names the challenger; it must not come back."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout())
        aborted = (
            Write("end_rollout", "2", names.ABORTED, "worse"),
            Write("model_tag", key=names.TAG_ROLLOUT_STATE, value=""),
        )
        stage.conductor.adopt(Table(500, model_of("1"), unrecorded=aborted))
        for _ in range(3):
            await stage.conductor.poll()
            assert stage.serving() == ("1", None, 0.0)
        assert stage.mlflow.tags("2")[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED

    asyncio.run(scenario())


@pytest.mark.parametrize("alias", [names.CHAMPION, names.CHALLENGER])
def test_a_table_taken_over_while_a_version_is_prepared_wins(alias: str) -> None:
    """The alias was read before, and what the table says of that version is newer."""

    async def scenario() -> None:
        stage = Stage(mlflow=FakeMlflow(aliases={names.CHAMPION: "1", alias: "2"}))
        stage.report("b", frozenset("1"))
        poll = asyncio.create_task(stage.conductor.poll())
        async with asyncio.timeout(SOON_S):
            while not stage.conductor.orders.value.wanted:
                await asyncio.sleep(0.001)
        newer = replace(
            Table(500, model_of("1"), previous=model_of("2")),
            unrecorded=(Write("end_rollout", "2", names.ABORTED, "worse"),),
        )
        stage.conductor.adopt(newer)
        stage.report("b")
        await poll
        assert stage.table == newer

    asyncio.run(scenario())


def test_a_rollout_that_mlflow_knows_of_is_resumed() -> None:
    """At its step, under its number, with a clock that begins anew."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout())
        await stage.conductor.poll()
        assert stage.serving() == ("1", "2", 0.25)
        assert stage.table.rollout == replace(STATE, step_began=BEGAN)
        stage.observe(GOOD)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.25)
        stage.pass_step()
        assert stage.serving() == ("1", "2", 1.0)

    asyncio.run(scenario())


def test_a_pause_outlives_a_restart() -> None:
    """The step begins when someone resumes it, however long that takes."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout(replace(STATE, paused_at=BEGAN - 400.0)))
        await stage.conductor.poll()
        stage.pass_step()
        assert stage.serving() == ("1", "2", 0.25)
        stage.conductor.command("resume", "I am back")
        stage.observe(GOOD)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.25)
        stage.pass_step()
        assert stage.serving() == ("1", "2", 1.0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "other", [replace(STATE, champion="8"), replace(STATE, challenger="8")], ids=["vs", "of"]
)
def test_another_rollout_is_not_resumed(other: State) -> None:
    """It compared other versions: this one begins in the shadow."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout())
        stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE] = record.state_text(other, 0.25)
        await stage.conductor.poll()
        assert stage.serving() == ("1", "2", 0.0)
        assert stage.table.rollout is not None
        assert stage.table.rollout.number != STATE.number

    asyncio.run(scenario())


FEWER = Policy(steps=(Step(weight=0.0), Step(weight=1.0)))


@pytest.mark.parametrize("source", ["mlflow", "replica"])
def test_settings_with_fewer_steps_raise_no_weight(source: str) -> None:
    """A rollout goes on with what its clients have seen already: here with none of them."""

    async def scenario() -> None:
        stage = Stage(FEWER, mlflow=mlflow_in_rollout())
        if source == "replica":
            stage.conductor.adopt(UNDER_WAY)
        await stage.conductor.poll()
        assert stage.table.rollout == replace(STATE, step=0, step_began=BEGAN)
        assert stage.serving() == ("1", "2", 0.25 if source == "replica" else 0.0)

    asyncio.run(scenario())


def test_a_rollout_recorded_without_its_weight_begins_in_the_shadow() -> None:
    """As versions of this project before had it."""

    async def scenario() -> None:
        stage = Stage(mlflow=mlflow_in_rollout())
        stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE] = json.dumps(STATE.to_json())
        await stage.conductor.poll()
        assert stage.serving() == ("1", "2", 0.0)
        assert stage.table.rollout == replace(STATE, step=0, step_began=BEGAN)

    asyncio.run(scenario())


def test_a_promotion_that_was_cut_off_is_finished() -> None:
    """The alias had moved; the traffic had not."""

    async def scenario() -> None:
        stage = Stage(mlflow=FakeMlflow(aliases={names.CHAMPION: "2", names.PREVIOUS: "1"}))
        stage.conductor.adopt(UNDER_WAY)
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.table.previous == model_of("1")
        assert stage.rehearsed == []

    asyncio.run(scenario())


def test_the_epoch_only_grows() -> None:
    """Through all that happens, with a clock that stands, and after one that was ahead."""

    async def scenario() -> None:
        stage = Stage()
        ahead = int(BEGAN * 1000) + 10**9
        epochs = [stage.table.epoch]
        stage.conductor.adopt(Table(ahead, model_of("1")))
        for action in ("", "pause", "resume", "abort"):
            if action:
                stage.conductor.command(action, "why not")
            else:
                await stage.begin()
            epochs.append(stage.table.epoch)
            await stage.conductor.poll()
            epochs.append(stage.table.epoch)
        assert epochs == sorted(epochs)
        assert epochs[1] > ahead
        assert len({epochs[at] for at in (1, 3, 5, 7)}) == 4

    asyncio.run(scenario())


def test_workers_are_not_named_before_all_could_report() -> None:
    """Ingresses would leave those that report later; the tick ends the silence."""

    async def scenario() -> None:
        stage = Stage()
        assert stage.workers() == ["a", "b"]
        stage.conductor.adopt(Table(500, model_of("1")))
        assert stage.workers() == []
        stage.report("c")
        stage.go_on(REPORTED_S - 0.1)
        stage.conductor.tick()
        assert stage.workers() == []
        stage.go_on(0.1)
        stage.conductor.tick()
        assert stage.workers() == ["a", "b", "c"]

    asyncio.run(scenario())


def test_a_champion_of_this_node_counts_as_such_until_mlflow_says_the_same() -> None:
    """Then nothing is left of the time without it."""

    async def scenario() -> None:
        stage = Stage(table=Table(1, model_of("1"), is_from_cache=True))
        stage.mlflow.go_down()
        await stage.conductor.poll()
        assert stage.table.is_from_cache
        stage.mlflow.come_back()
        await stage.conductor.poll()
        assert not stage.table.is_from_cache

    asyncio.run(scenario())


def test_a_challenger_waits_for_the_champion_that_is_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be compared with the one before, and lose its alias when that is replaced."""
    monkeypatch.setattr(preparation, "PATIENCE_S", 0.05)

    async def scenario() -> None:
        mlflow = FakeMlflow(aliases={names.CHAMPION: "3", names.CHALLENGER: "2"})
        stage = Stage(mlflow=mlflow)
        stage.report("b", frozenset("12"))
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        stage.report("b")
        async with asyncio.timeout(SOON_S):
            while stage.serving()[1] is None:
                await stage.conductor.poll()
        assert stage.serving() == ("3", "2", 0.0)

    asyncio.run(scenario())


def test_the_first_step_has_its_time() -> None:
    """A rollout begins when its table does."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.go_on(MIN_S - 1)
        stage.observe(GOOD)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.0)

    asyncio.run(scenario())
