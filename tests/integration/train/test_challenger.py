"""Candidates that become challengers, and rollouts that end, over a real MLflow server."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from contract import names
from contract.promotion import ChallengerDroppedError, ChampionMovedError, Promoter
from contract.registry import NoSuchVersionError
from contract.standing import moves
from tests.integration.train.promoting import (
    assert_record_agrees,
    candidate,
    dying,
    each_write,
    promoter,
    record,
    tags_by_version,
)

WHO = "somebody else"


def with_rollouts(client: MlflowClient, model_name: str, said: str = names.ON) -> Promoter:
    """Return the promoter of a model for which the serving side says that it runs rollouts."""
    client.create_registered_model(model_name, {names.TAG_ROLLOUTS: said})
    return promoter(client, model_name)


def two(client: MlflowClient, model_name: str) -> Promoter:
    """Return the promoter of a model with a champion, version 1, and a challenger, version 2."""
    made = with_rollouts(client, model_name)
    made.promote_candidate(candidate(client, "a"), None, "passed")
    made.promote_candidate(candidate(client, "b"), "1", "passed")
    assert made.registry.aliases() == {names.CHAMPION: "1", names.CHALLENGER: "2"}
    return made


def begin(client: MlflowClient, model_name: str, version: str) -> None:
    """Put a rollout under way on record, as the serving side does."""
    state = json.dumps({"number": 1, "champion": "1", "challenger": version, "step": 0})
    client.set_registered_model_tag(model_name, names.TAG_ROLLOUT_STATE, state)


def test_first_version_is_champion_at_once_though_rollouts_are_on(
    mlflow_client: MlflowClient,
) -> None:
    """There's nothing to compare it with."""
    made = with_rollouts(mlflow_client, "roll-first")
    placed = made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    assert placed == ("1", True, "promoted")
    assert made.registry.aliases() == {names.CHAMPION: "1"}
    assert_record_agrees(mlflow_client, "roll-first")


def test_second_version_is_challenger_and_the_champion_stays(mlflow_client: MlflowClient) -> None:
    """No move of `champion` is made or recorded."""
    made = with_rollouts(mlflow_client, "roll-second")
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    placed = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert placed == ("2", True, "challenger")
    assert made.registry.aliases() == {names.CHAMPION: "1", names.CHALLENGER: "2"}
    assert [move.to_version for move in record(mlflow_client, "roll-second")] == ["1"]


@pytest.mark.system
def test_third_version_takes_the_alias_of_the_second(mlflow_client: MlflowClient) -> None:
    """The newest is next; whoever runs the rollout of the second remembers that by himself."""
    made = two(mlflow_client, "roll-third")
    placed = made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    assert placed == ("3", True, "challenger")
    assert made.registry.aliases() == {names.CHAMPION: "1", names.CHALLENGER: "3"}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(names.OFF, id="off", marks=pytest.mark.system),
        pytest.param("", id="said nothing"),
    ],
)
def test_without_rollouts_a_candidate_is_champion_at_once(
    mlflow_client: MlflowClient, said: str
) -> None:
    """A service that runs none says so; one that has never run says nothing."""
    name = f"roll-off-{said}"
    made = with_rollouts(mlflow_client, name, said)
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    placed = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert placed == ("2", True, "promoted")
    assert made.registry.aliases() == {names.CHAMPION: "2", names.PREVIOUS: "1"}


def test_challenger_is_champion_by_the_next_job_when_rollouts_were_turned_off(
    mlflow_client: MlflowClient,
) -> None:
    """Nobody else would ever decide on it."""
    made = two(mlflow_client, "roll-turned-off")
    mlflow_client.set_registered_model_tag("roll-turned-off", names.TAG_ROLLOUTS, names.OFF)
    placed = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert placed == ("2", True, "promoted")
    assert made.registry.aliases() == {names.CHAMPION: "2", names.PREVIOUS: "1"}


def test_candidate_judged_against_another_champion_is_no_challenger(
    mlflow_client: MlflowClient,
) -> None:
    """Nothing is registered, and no alias moves."""
    made = two(mlflow_client, "roll-judged")
    made.promote_version("2", "by hand")
    with pytest.raises(ChampionMovedError):
        made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    assert sorted(tags_by_version(mlflow_client, "roll-judged")) == ["1", "2"]


def test_same_job_again_changes_nothing_while_its_version_is_in_a_rollout(
    mlflow_client: MlflowClient,
) -> None:
    """Be it the newest, or the one under way that the alias has left."""
    made = two(mlflow_client, "roll-again")
    again = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert again == ("2", False, "challenger")
    begin(mlflow_client, "roll-again", "2")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    again = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert again == ("2", False, "challenger")
    assert made.registry.aliases()[names.CHALLENGER] == "3"


def test_same_job_again_leaves_an_aborted_version_alone(mlflow_client: MlflowClient) -> None:
    """With rollouts on or off: live traffic has shown what it is like."""
    made = two(mlflow_client, "roll-respected")
    made.drop_challenger("2", names.ABORTED, ["5% errors"])
    for said in (names.ON, names.OFF):
        mlflow_client.set_registered_model_tag("roll-respected", names.TAG_ROLLOUTS, said)
        again = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
        assert again == ("2", False, "aborted")
    assert made.registry.aliases() == {names.CHAMPION: "1"}


def test_challenger_is_promoted_by_a_recorded_move(mlflow_client: MlflowClient) -> None:
    """As every other, with who decided; `challenger` names nobody then. Again is as good."""
    made = two(mlflow_client, "roll-promoted")
    assert made.promote_challenger("2", "1", "no worse", who=WHO)
    assert made.registry.aliases() == {names.CHAMPION: "2", names.PREVIOUS: "1"}
    last = record(mlflow_client, "roll-promoted")[-1]
    assert (last.from_version, last.to_version, last.reason, last.who, last.state) == (
        "1",
        "2",
        "no worse",
        WHO,
        "done",
    )
    assert not made.promote_challenger("2", "1", "no worse", who=WHO)
    assert_record_agrees(mlflow_client, "roll-promoted")
    assert made.roll_back("after all") == "1"


@pytest.mark.system
def test_promoted_challenger_leaves_a_newer_one_its_alias(mlflow_client: MlflowClient) -> None:
    """The third waits, and is next."""
    made = two(mlflow_client, "roll-newer")
    begin(mlflow_client, "roll-newer", "2")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    made.promote_challenger("2", "1", "no worse")
    aliases = {names.CHAMPION: "2", names.PREVIOUS: "1", names.CHALLENGER: "3"}
    assert made.registry.aliases() == aliases


def test_challenger_is_not_promoted_over_a_champion_it_was_not_compared_with(
    mlflow_client: MlflowClient,
) -> None:
    """Whoever moved `champion` meanwhile, on MLflow's page or by the command, is respected."""
    made = two(mlflow_client, "roll-moved")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    made.promote_version("3", "by hand")
    before = made.registry.aliases(), tags_by_version(mlflow_client, "roll-moved")
    with pytest.raises(ChampionMovedError):
        made.promote_challenger("2", "1", "no worse")
    assert (made.registry.aliases(), tags_by_version(mlflow_client, "roll-moved")) == before


@pytest.mark.parametrize("undo", ["abort", pytest.param("rollback", marks=pytest.mark.system)])
def test_promotion_that_came_too_late_undoes_nothing(
    mlflow_client: MlflowClient, undo: str
) -> None:
    """One that still waited for the lock when a person aborted, or rolled back, writes nothing."""
    made = two(mlflow_client, f"roll-late-{undo}")
    begin(mlflow_client, f"roll-late-{undo}", "2")
    if undo == "abort":
        made.drop_challenger("2", names.ABORTED, ["by hand"])
    else:
        made.promote_challenger("2", "1", "no worse")
        made.roll_back("slow answers")
    before = made.registry.aliases()
    assert before[names.CHAMPION] == "1"
    with pytest.raises(ChallengerDroppedError):
        made.promote_challenger("2", "1", "no worse")
    assert made.registry.aliases() == before


@pytest.mark.system
def test_aborted_version_that_is_named_again_may_be_promoted(mlflow_client: MlflowClient) -> None:
    """Its new rollout counts, though a newer version takes the alias meanwhile."""
    made = two(mlflow_client, "roll-named-again")
    made.drop_challenger("2", names.ABORTED, ["5% errors"])
    mlflow_client.set_registered_model_alias("roll-named-again", names.CHALLENGER, "2")
    begin(mlflow_client, "roll-named-again", "2")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    assert made.promote_challenger("2", "1", "no worse")


@pytest.mark.system
def test_challenger_that_a_person_promotes_is_challenger_no_more(
    mlflow_client: MlflowClient,
) -> None:
    """Rolled back later, it doesn't get a rollout again."""
    made = two(mlflow_client, "roll-by-hand")
    begin(mlflow_client, "roll-by-hand", "2")
    assert made.promote_version("2", "by hand")
    made.roll_back("too early")
    registered = made.registry.registered()
    assert registered.aliases == {names.CHAMPION: "1", names.PREVIOUS: "2"}
    assert not registered.challengers


def test_challenger_that_does_not_exist_is_not_promoted(mlflow_client: MlflowClient) -> None:
    """A version may be deleted while its rollout is under way."""
    made = two(mlflow_client, "roll-gone")
    mlflow_client.delete_model_version("roll-gone", "2")
    with pytest.raises(NoSuchVersionError):
        made.promote_challenger("2", "1", "no worse")
    assert not made.drop_challenger("2", names.ABORTED, ["it is gone"])
    assert made.registry.aliases() == {names.CHAMPION: "1"}


def test_dropped_challenger_says_why(mlflow_client: MlflowClient) -> None:
    """Outcome and reasons are to be read in MLflow, and the alias is free."""
    made = two(mlflow_client, "roll-dropped")
    assert made.drop_challenger("2", names.ABORTED, ["5% errors", "3 times slower"])
    assert made.registry.aliases() == {names.CHAMPION: "1"}
    tags = tags_by_version(mlflow_client, "roll-dropped")["2"]
    assert tags[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
    assert tags[names.TAG_ROLLOUT_REASONS] == "5% errors\n3 times slower"
    assert not made.drop_challenger("2", names.ABORTED, ["5% errors", "3 times slower"])


@pytest.mark.system
def test_dropped_challenger_leaves_a_newer_one_its_alias(mlflow_client: MlflowClient) -> None:
    """The record goes to the version that was dropped, wherever the alias is."""
    made = two(mlflow_client, "roll-dropped-newer")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    assert not made.drop_challenger("2", names.ABORTED, ["5% errors"])
    assert made.registry.aliases() == {names.CHAMPION: "1", names.CHALLENGER: "3"}
    tags = tags_by_version(mlflow_client, "roll-dropped-newer")
    assert tags["2"][names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
    assert names.TAG_ROLLOUT_OUTCOME not in tags["3"]


def promote_if_still_judged_right(
    made: Promoter, version: str, champion: str, start: threading.Barrier
) -> bool:
    """Promote a challenger, as a rollout does; return whether the champion was still the same."""
    start.wait(30)
    try:
        return made.promote_challenger(version, champion, "no worse", who=WHO)
    except ChampionMovedError:
        return False


def promote_by_hand(made: Promoter, version: str, start: threading.Barrier) -> bool:
    """Promote a version as a person does."""
    start.wait(30)
    return made.promote_version(version, "by hand")


@pytest.mark.parametrize("pairs", [1, pytest.param(10, marks=pytest.mark.system)])
def test_rollout_and_person_at_once_end_with_one_champion(
    mlflow_server: str, mlflow_client: MlflowClient, pairs: int
) -> None:
    """Pairs of moves: the person's counts, before or after; the record has no gap."""
    name = f"roll-pairs-{pairs}"
    with_rollouts(mlflow_client, name).promote_candidate(
        candidate(mlflow_client, "first"), None, "passed"
    )
    makers = [promoter(MlflowClient(mlflow_server, mlflow_server), name) for _ in range(2)]
    expected = 1
    with ThreadPoolExecutor(2) as pool:
        for pair in range(pairs):
            champion = makers[0].registry.champion()
            assert champion is not None
            other, challenger = (
                makers[0].promote_candidate(candidate(mlflow_client, mark), champion, "passed")
                for mark in (f"{pair}-by-hand", f"{pair}-by-rollout")
            )
            start = threading.Barrier(2)
            by_rollout = pool.submit(
                promote_if_still_judged_right, makers[0], challenger.version, champion, start
            )
            by_hand = pool.submit(promote_by_hand, makers[1], other.version, start)
            assert by_hand.result(60)
            expected += 1 + by_rollout.result(60)
            aliases = makers[0].registry.aliases()
            assert aliases[names.CHAMPION] == other.version
            assert (names.CHALLENGER in aliases) != by_rollout.result()
    assert len(record(mlflow_client, name)) == expected
    assert_record_agrees(mlflow_client, name)


@each_write(3)
def test_job_that_dies_before_its_version_is_challenger_is_finished_by_the_next(
    mlflow_client: MlflowClient, writes: int
) -> None:
    """Wherever it is cut off, the champion stays, and a retry leaves one version and the alias."""
    name = f"roll-cut-off-{writes}"
    made = with_rollouts(mlflow_client, name)
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    chosen = candidate(mlflow_client, "b")
    with pytest.raises(ConnectionAbortedError):
        dying(made, writes).promote_candidate(chosen, "1", "passed")
    assert made.registry.aliases() == {names.CHAMPION: "1"}
    assert made.promote_candidate(chosen, "1", "passed") == ("2", True, "challenger")
    assert made.registry.aliases() == {names.CHAMPION: "1", names.CHALLENGER: "2"}
    assert sorted(tags_by_version(mlflow_client, name)) == ["1", "2"]


@each_write(6)
def test_promotion_of_a_challenger_that_dies_at_any_write_is_finished_by_the_next(
    mlflow_client: MlflowClient, writes: int
) -> None:
    """The old champion or the new one serves meanwhile; aliases and record agree in the end."""
    name = f"roll-cut-off-promotion-{writes}"
    made = two(mlflow_client, name)
    with pytest.raises(ConnectionAbortedError):
        dying(made, writes).promote_challenger("2", "1", "no worse")
    moved = made.registry.champion() == "1"
    assert made.promote_challenger("2", "1", "no worse") == moved
    assert made.registry.aliases() == {names.CHAMPION: "2", names.PREVIOUS: "1"}
    assert_record_agrees(mlflow_client, name)
    placed = made.promote_candidate(candidate(mlflow_client, "b"), "2", "passed")
    assert placed == ("2", False, "promoted")


@pytest.mark.system
def test_next_move_finishes_the_record_of_one_that_was_cut_off(mlflow_client: MlflowClient) -> None:
    """A rollout that died when `champion` had moved, then a move by hand: no gap."""
    made = two(mlflow_client, "roll-settled")
    begin(mlflow_client, "roll-settled", "2")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    with pytest.raises(ConnectionAbortedError):
        dying(made, 3).promote_challenger("2", "1", "no worse")
    assert made.registry.champion() == "2"
    made.promote_version("3", "by hand")
    assert_record_agrees(mlflow_client, "roll-settled")


@pytest.mark.system
def test_record_of_a_cut_off_move_is_finished_though_the_old_champion_was_deleted(
    mlflow_client: MlflowClient,
) -> None:
    """The version that is left tells of the move."""
    made = two(mlflow_client, "roll-deleted")
    with pytest.raises(ConnectionAbortedError):
        dying(made, 3).promote_challenger("2", "1", "no worse")
    mlflow_client.delete_model_version("roll-deleted", "1")
    assert not made.promote_challenger("2", "1", "no worse")
    (move,) = moves(tags_by_version(mlflow_client, "roll-deleted")["2"])
    assert move.state == "done"


@each_write(4)
def test_drop_that_dies_at_any_write_is_finished_by_the_next(
    mlflow_client: MlflowClient, writes: int
) -> None:
    """The alias goes last: nothing is taken away of which the reason isn't on record."""
    name = f"roll-cut-off-drop-{writes}"
    made = two(mlflow_client, name)
    begin(mlflow_client, name, "2")
    with pytest.raises(ConnectionAbortedError):
        dying(made, writes).drop_challenger("2", names.ABORTED, ["5% errors"])
    assert made.registry.aliases() == {names.CHAMPION: "1", names.CHALLENGER: "2"}
    assert made.drop_challenger("2", names.ABORTED, ["5% errors"])
    tags = tags_by_version(mlflow_client, name)["2"]
    assert tags[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
    assert tags[names.TAG_ROLLOUT_REASONS] == "5% errors"
    assert made.registry.aliases() == {names.CHAMPION: "1"}
    assert not made.registry.registered().challengers


def test_a_promotion_that_came_too_late_is_taken_back(mlflow_client: MlflowClient) -> None:
    """The old champion is back, on record, and nobody can roll back to the one that is no good."""
    made = two(mlflow_client, "roll-taken-back")
    made.promote_challenger("2", "1", "passed all steps", WHO)
    assert made.take_back("2", "1", "aborted meanwhile", WHO)
    assert made.registry.aliases() == {names.CHAMPION: "1"}
    assert record(mlflow_client, "roll-taken-back")[-1].reason == "aborted meanwhile"
    assert not made.take_back("2", "1", "aborted meanwhile", WHO)


@pytest.mark.system
def test_what_somebody_else_made_champion_is_not_taken_back(mlflow_client: MlflowClient) -> None:
    """It is their decision."""
    made = two(mlflow_client, "roll-not-taken-back")
    made.promote_candidate(candidate(mlflow_client, "c"), "1", "passed")
    made.promote_version("3", "by hand")
    assert not made.take_back("2", "1", "aborted meanwhile", WHO)
    assert made.registry.champion() == "3"
