"""A challenger is walked through its rollout: weight, alias and record move together."""

import asyncio

from contract import names
from serve_app.control import record
from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from tests.unit.serve_app.control.stage import BAD, BEGAN, GOOD, MIN_S, Stage, model_of

SOON_S = 5.0


async def at_last_step(stage: Stage) -> None:
    """Walk version 2 to the step at which it takes all traffic."""
    await stage.begin()
    for _ in range(2):
        stage.pass_step()
    assert stage.serving() == ("1", "2", 1.0)


def test_a_challenger_begins_in_the_shadow() -> None:
    """It answers no client yet, and MLflow knows of its rollout."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        assert stage.serving() == ("1", "2", 0.0)
        assert stage.table.shadow == 0.5
        state = stage.table.rollout
        assert state is not None
        assert (state.step, state.step_began, state.champion) == (0, BEGAN, "1")
        assert record.state_of(stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE]) == (state, 0.0)
        (decision,) = stage.mlflow.decisions("2")
        assert (decision["action"], decision["weight"]) == ("begin", 0.0)

    asyncio.run(scenario())


def test_a_step_that_has_passed_leads_to_the_next() -> None:
    """The clock begins anew, and what was seen before doesn't count for it."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.observe(GOOD)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.0)
        stage.pass_step()
        assert stage.serving() == ("1", "2", 0.25)
        state = stage.table.rollout
        assert state is not None
        assert (state.step, state.step_began) == (1, BEGAN + MIN_S)
        stage.go_on(MIN_S)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.25)

    asyncio.run(scenario())


def test_a_step_is_on_record_with_what_has_led_to_it() -> None:
    """Reasons, verdicts and evidence are those of the step before, the weight is the new one."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.pass_step()
        await stage.conductor.poll()
        decision = stage.mlflow.decisions("2")[-1]
        assert (decision["action"], decision["step"], decision["weight"]) == ("advance", 1, 0.25)
        assert any("errors: 0.00%" in reason for reason in decision["reasons"])
        assert decision["evidence"] == GOOD.to_json()
        assert {one["metric"]: one["outcome"] for one in decision["verdicts"]} == {
            "errors": "pass",
            "missing": "pass",
            "time": "pass",
            "shift": "pass",
            "quality": "inconclusive",
        }

    asyncio.run(scenario())


def test_evidence_of_another_step_does_not_count() -> None:
    """Nor does that of another rollout; an ingress may be late with it."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        state = stage.table.rollout
        assert state is not None
        stage.pass_step()
        for window in ((state.number, 0), (state.number, 2), (state.number - 1, 1)):
            stage.conductor.observe(window, BAD)
        stage.conductor.tick()
        assert stage.serving() == ("1", "2", 0.25)
        assert stage.status["rollout"]["evidence"] == Evidence().to_json()

    asyncio.run(scenario())


def test_of_a_step_that_is_over_only_quality_counts() -> None:
    """True values come late; those of another rollout say nothing."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        state = stage.table.rollout
        assert state is not None
        late = Evidence(challenger=Arm(10, 10.0), quality=Pairs(5, 2.0))
        stage.conductor.observe((state.number, 0), Evidence(quality=Pairs(3, 1.0)))
        stage.pass_step()
        stage.conductor.observe((state.number, 0), late)
        stage.conductor.observe((state.number - 1, 0), late)
        expected = Evidence(quality=Pairs(8, 3.0))
        assert stage.status["rollout"]["evidence"] == expected.to_json()

    asyncio.run(scenario())


def test_evidence_without_a_rollout_is_passed_over() -> None:
    """An ingress may not have heard of its end."""

    async def scenario() -> None:
        stage = Stage()
        stage.conductor.observe((1, 0), BAD)
        stage.conductor.tick()
        await stage.begin()
        assert stage.status["rollout"]["evidence"] == Evidence().to_json()

    asyncio.run(scenario())


def test_a_fail_takes_the_traffic_back_at_once() -> None:
    """Alias, outcome, reasons and the state in MLflow follow."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.pass_step()
        stage.observe(BAD)
        stage.conductor.tick()
        assert stage.serving() == ("1", None, 0.0)
        assert (stage.table.shadow, stage.table.previous) == (0.0, None)
        await stage.conductor.poll()
        assert stage.mlflow.aliases == {names.CHAMPION: "1"}
        assert stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE] == ""
        tags = stage.mlflow.tags("2")
        assert tags[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
        assert tags[names.TAG_ROLLOUT_REASONS].startswith("errors: 50.00% of records failed")
        decision = stage.mlflow.decisions("2")[-1]
        assert (decision["action"], decision["step"], decision["weight"]) == ("aborted", 1, 0.25)
        assert decision["evidence"] == BAD.to_json()

    asyncio.run(scenario())


def test_a_challenger_that_hangs_is_aborted() -> None:
    """The worker says so before it is replaced; a champion that hangs is nobody else's fault."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.report("a", overdue=frozenset("1"))
        assert stage.serving()[1] == "2"
        stage.report("a", overdue=frozenset("2"))
        assert stage.serving() == ("1", None, 0.0)
        assert stage.status["last_rollout"]["reasons"] == [
            "time: a prediction has not ended by its deadline"
        ]

    asyncio.run(scenario())


def test_an_aborted_version_stays_away_until_it_is_named_again() -> None:
    """Then it begins at the first step."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.pass_step()
        stage.conductor.command("abort", "no")
        for _ in range(3):
            await stage.conductor.poll()
            assert stage.serving() == ("1", None, 0.0)
        await stage.begin()
        assert stage.serving() == ("1", "2", 0.0)

    asyncio.run(scenario())


def test_the_last_step_ends_in_a_promotion() -> None:
    """The champion before stays warm, in MLflow as here."""

    async def scenario() -> None:
        stage = Stage()
        await at_last_step(stage)
        stage.pass_step()
        await stage.promoted()
        assert stage.serving() == ("2", None, 0.0)
        assert (stage.table.shadow, stage.table.previous) == (0.0, model_of("1"))
        assert stage.mlflow.aliases == {names.CHAMPION: "2", names.PREVIOUS: "1"}
        ((version, against, reason),) = stage.mlflow.promotions
        assert (version, against) == ("2", "1")
        assert "errors: 0.00% of records failed" in reason
        await stage.conductor.poll()
        assert stage.mlflow.tags("2")[names.TAG_ROLLOUT_OUTCOME] == names.PROMOTED
        assert stage.mlflow.model_tags[names.TAG_ROLLOUT_STATE] == ""
        assert stage.rehearsed == ["2"]

    asyncio.run(scenario())


def test_the_traffic_moves_only_after_the_alias() -> None:
    """All restarts begin with the alias. Until it has moved, the promotion is asked for once."""

    async def scenario() -> None:
        stage = Stage()
        await at_last_step(stage)
        stage.mlflow.hang()
        stage.pass_step()
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        for _ in range(3):
            stage.conductor.tick()
        stage.conductor.command("promote", "now")
        assert stage.serving() == ("1", "2", 1.0)
        stage.mlflow.let_go()
        await stage.promoted()
        assert stage.serving() == ("2", None, 0.0)
        assert len(stage.mlflow.promotions) == 1

    asyncio.run(scenario())


def test_a_promotion_waits_for_mlflow() -> None:
    """The challenger goes on as it was, and is asked for again."""

    async def scenario() -> None:
        stage = Stage()
        await at_last_step(stage)
        stage.mlflow.go_down("promote")
        stage.pass_step()
        async with asyncio.timeout(SOON_S):
            while "refused" not in stage.status["mlflow"]:
                await asyncio.sleep(0.001)
        assert stage.serving() == ("1", "2", 1.0)
        stage.mlflow.come_back()
        await asyncio.sleep(0)
        stage.conductor.tick()
        await stage.promoted()
        assert stage.serving() == ("2", None, 0.0)

    asyncio.run(scenario())


def test_a_promotion_that_hangs_holds_up_no_abort() -> None:
    """MLflow may be down for long, and the challenger takes all traffic."""

    async def scenario() -> None:
        stage = Stage()
        await at_last_step(stage)
        stage.mlflow.go_down()
        stage.mlflow.hang()
        stage.pass_step()
        await asyncio.to_thread(stage.mlflow.entered.wait, SOON_S)
        stage.observe(BAD)
        stage.conductor.tick()
        assert stage.serving() == ("1", None, 0.0)
        stage.mlflow.let_go()
        await stage.conductor.poll()
        stage.mlflow.come_back()
        for _ in range(2):
            await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        assert stage.mlflow.tags("2")[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED

    asyncio.run(scenario())


def test_a_champion_that_moved_meanwhile_makes_a_promotion_an_abort() -> None:
    """The challenger was compared with another one."""

    async def scenario() -> None:
        stage = Stage()
        await at_last_step(stage)
        stage.mlflow.aliases[names.CHAMPION] = "5"
        stage.pass_step()
        await stage.promoted()
        assert stage.serving() == ("1", None, 0.0)
        assert stage.mlflow.promotions == []
        for _ in range(2):
            await stage.conductor.poll()
        assert stage.serving() == ("5", None, 0.0)
        reasons = stage.mlflow.tags("2")[names.TAG_ROLLOUT_REASONS]
        assert reasons == "the champion was moved by hand meanwhile"

    asyncio.run(scenario())


def test_a_champion_moved_by_hand_ends_a_rollout() -> None:
    """What was compared with the one before says nothing of this one."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.pass_step()
        await stage.conductor.poll()
        stage.mlflow.aliases[names.CHAMPION] = "3"
        await stage.conductor.poll()
        assert stage.serving() == ("3", None, 0.0)
        assert stage.table.previous == model_of("1")
        await stage.conductor.poll()
        assert names.CHALLENGER not in stage.mlflow.aliases
        reasons = stage.mlflow.tags("2")[names.TAG_ROLLOUT_REASONS]
        assert reasons == "the champion was moved by hand to version 3"

    asyncio.run(scenario())


def test_a_rollout_goes_on_beside_a_champion_that_cannot_be_served() -> None:
    """Nothing has changed for clients."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.faults["3"] = "no"
        stage.mlflow.aliases[names.CHAMPION] = "3"
        for _ in range(3):
            await stage.conductor.poll()
        assert stage.serving() == ("1", "2", 0.0)

    asyncio.run(scenario())


def test_a_challenger_made_champion_by_hand_takes_all_traffic() -> None:
    """At once: every worker holds it."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.mlflow.aliases[names.CHAMPION] = "2"
        await stage.conductor.poll()
        assert stage.serving() == ("2", None, 0.0)
        assert stage.table.previous == model_of("1")
        await stage.conductor.poll()
        assert stage.mlflow.tags("2")[names.TAG_ROLLOUT_OUTCOME] == names.PROMOTED

    asyncio.run(scenario())


def test_a_challenger_whose_alias_was_removed_is_aborted() -> None:
    """That is how it is done on MLflow's page."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.pass_step()
        await stage.conductor.poll()
        del stage.mlflow.aliases[names.CHALLENGER]
        await stage.conductor.poll()
        assert stage.serving() == ("1", None, 0.0)
        await stage.conductor.poll()
        reasons = stage.mlflow.tags("2")[names.TAG_ROLLOUT_REASONS]
        assert reasons == "the alias challenger was removed in MLflow"

    asyncio.run(scenario())


def test_a_third_version_waits_and_the_newest_is_next() -> None:
    """The rollout under way is carried to its end."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        for version in ("3", "4"):
            stage.mlflow.aliases[names.CHALLENGER] = version
            await stage.conductor.poll()
            assert stage.status["waiting"] == version
            assert stage.serving() == ("1", "2", 0.0)
        stage.pass_step()
        assert stage.serving() == ("1", "2", 0.25)
        stage.observe(BAD)
        stage.conductor.tick()
        await stage.conductor.poll()
        assert stage.serving() == ("1", "4", 0.0)
        assert stage.status["waiting"] is None
        assert stage.rehearsed == ["2", "4"]

    asyncio.run(scenario())


def test_a_step_past_its_deadline_aborts() -> None:
    """Too little was seen; the status says what it waits for until then."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.conductor.tick()
        assert "0 of at least 100 requests" in " ".join(stage.status["rollout"]["reasons"])
        stage.go_on(1001.0)
        stage.conductor.tick()
        assert stage.serving() == ("1", None, 0.0)

    asyncio.run(scenario())


def test_what_is_seen_is_shown_at_the_next_tick() -> None:
    """To all ingresses, any of which may be asked for it."""

    async def scenario() -> None:
        stage = Stage()
        await stage.begin()
        stage.observe(Evidence(challenger=Arm(7), live=7))
        stage.conductor.tick()
        shown = stage.conductor.published.value.status["rollout"]
        assert shown["evidence"]["live"] == 7
        assert shown["steps"] == [0.0, 0.25, 1.0]

    asyncio.run(scenario())
