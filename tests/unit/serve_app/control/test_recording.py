"""What is decided is done at once, and recorded in MLflow when that answers: in order, once."""

import asyncio
import json
from dataclasses import replace

import pytest

from contract import names
from serve_app.control.port import RejectedError
from serve_app.control.recorder import MOST_WAITING, TRIES
from serve_app.rollouts.rollout import State
from serve_app.routing import Table, Write
from tests.unit.serve_app.control.stage import BAD, BEGAN, FakeMlflow, Stage, model_of

SOON_S = 5.0
TAGS = tuple(Write("version_tag", "2", f"tag.{number}", "x") for number in range(4))


def kinds(stage: Stage) -> list[str]:
    """What was written, in order: the kinds, and the names of tags without numbers."""
    return [
        write.kind if write.kind == "end_rollout" else write.key.rstrip("0123456789.")
        for write in stage.mlflow.writes
    ]


def test_an_abort_needs_no_mlflow() -> None:
    """It is recorded later: the decision, the end, the state that is none; each once."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.mlflow.writes.clear()
        stage.mlflow.go_down()
        stage.observe(BAD)
        stage.conductor.tick()
        assert stage.serving() == ("1", None, 0.0)
        for _ in range(3):
            await stage.conductor.poll()
            stage.conductor.tick()
        assert stage.status["unrecorded"] == 3
        assert stage.mlflow.writes == []
        stage.mlflow.come_back()
        for _ in range(3):
            await stage.conductor.poll()
        assert stage.status["unrecorded"] == 0
        assert kinds(stage) == [
            names.TAG_ROLLOUT_DECISION,
            "end_rollout",
            names.TAG_ROLLOUT_STATE,
        ]
        assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())


def test_what_waits_is_done_oldest_first() -> None:
    """A state that is none must not be overwritten by the one before it."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.mlflow.writes.clear()
        stage.mlflow.go_down()
        stage.pass_step()
        stage.conductor.command("abort", "no")
        waiting = stage.table.unrecorded
        assert len(waiting) == 5
        stage.mlflow.come_back()
        await stage.conductor.poll()
        assert tuple(stage.mlflow.writes) == waiting
        assert stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE] == ""

    asyncio.run(scenario())


class Fading(FakeMlflow):
    """Takes some writes before it goes down."""

    left = 2

    def write(self, write: Write) -> None:
        """Record something, if there's breath left."""
        if not self.left:
            self.go_down()
        super().write(write)
        self.left -= 1


def test_what_was_recorded_is_not_recorded_again() -> None:
    """MLflow went down half-way."""

    async def scenario() -> None:
        mlflow = Fading()
        stage = Stage(table=Table(1, model_of("1"), unrecorded=TAGS), mlflow=mlflow)
        await stage.conductor.poll()
        assert stage.table.unrecorded == TAGS[2:]
        mlflow.come_back()
        mlflow.left = 9
        await stage.conductor.poll()
        assert mlflow.writes == list(TAGS)
        assert stage.table.unrecorded == ()

    asyncio.run(scenario())


class Choosy(FakeMlflow):
    """Refuses one write for good."""

    def write(self, write: Write) -> None:
        """Record something else."""
        if write == TAGS[1]:
            raise RejectedError("no version 2")
        super().write(write)


def test_what_mlflow_refuses_for_good_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its version may have been deleted; the log has it."""

    async def scenario() -> None:
        stage = Stage(table=Table(1, model_of("1"), unrecorded=TAGS), mlflow=Choosy())
        stage.mlflow.aliases[names.CHAMPION] = "3"
        await stage.conductor.poll()
        assert stage.mlflow.writes == [TAGS[0], *TAGS[2:]]
        assert stage.serving() == ("3", None, 0.0)

    asyncio.run(scenario())
    assert "no version 2" in caplog.text


@pytest.mark.parametrize("fault", ["down", "refuses"])
def test_an_abort_that_mlflow_never_takes_stays_one(fault: str) -> None:
    """Its alias and its state are still there; nothing that has failed gets traffic by that."""

    class Deaf(FakeMlflow):
        """Takes no end."""

        def write(self, write: Write) -> None:
            """Record something else."""
            if write.kind == "end_rollout" and fault == "refuses" and self.is_deaf:
                raise RejectedError("no")
            super().write(write)

        is_deaf = True

    async def scenario() -> None:
        mlflow = Deaf()
        stage = Stage(mlflow=mlflow)
        await stage.begin()
        stage.pass_step()
        await stage.conductor.poll()
        number = stage.table.rollout.number if stage.table.rollout else 0
        assert stage.serving() == ("1", "2", 0.25)
        if fault == "down":
            mlflow.go_down("write")
        stage.observe(BAD)
        stage.conductor.tick()
        for _ in range(3 * TRIES + 10):
            await stage.conductor.poll()
            assert stage.serving() == ("1", None, 0.0)
        assert stage.table.unrecorded == ()
        assert "its rollout was aborted" in stage.status["refused"]["2"]
        assert mlflow.aliases[names.CHALLENGER] == "2"
        mlflow.come_back()
        mlflow.is_deaf = False
        del mlflow.aliases[names.CHALLENGER]
        await stage.conductor.poll()
        assert stage.status["refused"] == {}
        await stage.begin()
        assert stage.serving() == ("1", "2", 0.0)
        assert stage.table.rollout is not None
        assert stage.table.rollout.number > number

    asyncio.run(scenario())


async def aborted_for_mlflow_in_vain() -> Stage:
    """A stage whose challenger has failed, of which MLflow has taken nothing."""
    stage = Stage()
    await stage.begin()
    stage.mlflow.go_down("write")
    stage.observe(BAD)
    stage.conductor.tick()
    for _ in range(3 * TRIES + 1):
        await stage.conductor.poll()
    return stage


def test_while_an_abort_is_not_taken_the_champion_is_followed() -> None:
    """Somebody moves it by hand; the challenger that failed stays out."""

    async def scenario() -> None:
        stage = await aborted_for_mlflow_in_vain()
        stage.mlflow.aliases[names.CHAMPION] = "3"
        await stage.conductor.poll()
        assert stage.serving() == ("3", None, 0.0)

    asyncio.run(scenario())


def test_whoever_makes_it_champion_by_hand_is_followed() -> None:
    """Though its rollout was aborted, which MLflow has not taken."""

    async def scenario() -> None:
        stage = await aborted_for_mlflow_in_vain()
        stage.mlflow.aliases[names.CHAMPION] = "2"
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


def test_of_too_many_entries_an_abort_is_remembered() -> None:
    """MLflow was away for long; the version that had failed is still its challenger."""

    async def scenario() -> None:
        end = Write("end_rollout", "2", names.ABORTED, "worse")
        waiting = (end, *TAGS[:1] * (MOST_WAITING - 1))
        table = Table(1, model_of("1"), model_of("3"), 0.25, rollout=State(7, "1", "3", 1, BEGAN))
        stage = Stage(table=replace(table, unrecorded=waiting))
        stage.conductor.command("abort", "no")
        assert "worse" in stage.status["refused"]["2"]
        assert len(stage.table.unrecorded) == MOST_WAITING
        stage.mlflow.aliases[names.CHALLENGER] = "2"
        for _ in range(3):
            await stage.conductor.poll()
            assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())


def test_a_decision_made_while_others_are_recorded_is_not_lost() -> None:
    """Nor is the one under way recorded twice."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases[names.CHALLENGER] = "2"
        await stage.conductor.poll()
        stage.mlflow.hang()
        poll = asyncio.create_task(stage.conductor.poll())
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.conductor.command("abort", "no")
        stage.mlflow.let_go()
        await poll
        await stage.conductor.poll()
        assert kinds(stage) == [
            names.TAG_ROLLOUT_DECISION,
            names.TAG_ROLLOUT_STATE,
            names.TAG_ROLLOUT_DECISION,
            "end_rollout",
            names.TAG_ROLLOUT_STATE,
        ]
        assert stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE] == ""

    asyncio.run(scenario())


def test_a_table_adopted_while_others_are_recorded_keeps_its_own_writes() -> None:
    """What was done may not be among them."""

    async def scenario() -> None:
        stage = Stage(table=Table(1, model_of("1"), unrecorded=TAGS[:2]))
        stage.mlflow.hang()
        poll = asyncio.create_task(stage.conductor.poll())
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.conductor.adopt(replace(stage.table, epoch=2, unrecorded=TAGS[1:]))
        stage.mlflow.let_go()
        await poll
        await stage.conductor.poll()
        assert stage.mlflow.writes[-2:] == list(TAGS[2:])
        assert stage.table.unrecorded == ()

    asyncio.run(scenario())


def test_aliases_read_before_a_decision_say_nothing_after_it() -> None:
    """They are read again once the abort, which is newer, is on record."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.mlflow.aliases[names.CHALLENGER] = "3"
        stage.mlflow.hang()
        poll = asyncio.create_task(stage.conductor.poll())
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.conductor.command("abort", "no")
        stage.mlflow.let_go()
        await poll
        assert stage.mlflow.tags("2")[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
        assert stage.serving() == ("1", "3", 0.0)

    asyncio.run(scenario())


def test_nothing_is_followed_while_something_is_unrecorded() -> None:
    """MLflow answers, but takes nothing: its aliases are older than what was decided."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.mlflow.go_down("write")
        stage.conductor.command("abort", "no")
        stage.mlflow.aliases[names.CHAMPION] = "3"
        for _ in range(3):
            await stage.conductor.poll()
            assert stage.serving() == ("1", None, 0.0)
        assert stage.mlflow.aliases[names.CHALLENGER] == "2"
        assert stage.rehearsed == ["2"]

    asyncio.run(scenario())


def test_a_tag_holds_no_more_than_mlflow_does() -> None:
    """Reasons may be long: a person's, or those of a model that can't be loaded."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.conductor.command("pause", "a" * 10_000)
        stage.conductor.command("abort", "b" * 10_000)
        await stage.conductor.poll()
        stage.faults["3"] = "c" * 10_000
        stage.mlflow.aliases[names.CHAMPION] = "3"
        for _ in range(2):
            await stage.conductor.poll()
        tags = [write for write in stage.mlflow.writes if write.kind == "version_tag"]
        assert len(tags) == 4
        for tag in tags:
            assert len(tag.value) <= names.LONGEST_TAG
        for tag in tags[:3]:
            assert json.loads(tag.value)["champion"] == "1"

    asyncio.run(scenario())


def test_every_table_is_kept_on_this_node() -> None:
    """With what is unrecorded, before ingresses go by it."""

    async def scenario() -> None:
        stage = Stage()
        stage.mlflow.aliases[names.CHALLENGER] = "2"
        await stage.conductor.poll()
        assert stage.kept[-1] is stage.table
        assert len(stage.kept[-1].unrecorded) == 2
        await stage.conductor.poll()
        assert stage.kept[-1] is stage.table
        assert not stage.kept[-1].unrecorded

    asyncio.run(scenario())


def test_a_node_that_can_keep_nothing_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk stops no abort."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.is_disk_full = True
        stage.conductor.command("abort", "no")
        assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())
    assert "no space left" in caplog.text
