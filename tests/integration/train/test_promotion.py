"""Promotions over a real MLflow server: at once, cut off, retried, and by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import ViewType

from contract import names
from contract.lock import TAG_EXPIRES, LockUnavailableError, PromotionLock
from contract.promotion import ChampionMovedError, NoPreviousChampionError, Promoter
from contract.registry import Candidate, NoSuchVersionError, Registry
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


def promote_until_judged_right(made: Promoter, chosen: Candidate, start: threading.Barrier) -> str:
    """Promote as a job does: judge against the champion again whenever it moved."""
    judged_against = made.registry.champion()
    start.wait(30)
    while True:
        try:
            return made.promote_candidate(chosen, judged_against, "passed")[0]
        except ChampionMovedError:
            judged_against = made.registry.champion()


@pytest.mark.parametrize(
    ("twins", "pairs"),
    [
        pytest.param(False, 20, id="different models", marks=pytest.mark.system),
        pytest.param(True, 20, id="the same model", marks=pytest.mark.system),
        pytest.param(True, 4, id="the same model, a few times"),
    ],
)
def test_pairs_at_once_end_with_one_champion_each(
    mlflow_server: str, mlflow_client: MlflowClient, twins: bool, pairs: int
) -> None:
    """Two jobs start together, many times: no duplicate, and a record without a gap."""
    model_name = f"pairs-{'twins' if twins else 'others'}-{pairs}"
    clients = [MlflowClient(mlflow_server, mlflow_server) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for pair in range(pairs):
            start = threading.Barrier(2)
            marks = [f"{pair}", f"{pair}" if twins else f"{pair}-other"]
            promoted = [
                pool.submit(
                    promote_until_judged_right,
                    promoter(client, model_name),
                    candidate(client, mark),
                    start,
                )
                for client, mark in zip(clients, marks, strict=True)
            ]
            chosen = {future.result(60) for future in promoted}
            assert len(chosen) == len(set(marks))
            assert Registry(mlflow_client, model_name).champion() in chosen
    fingerprints = [
        tags[names.TAG_FINGERPRINT] for tags in tags_by_version(mlflow_client, model_name).values()
    ]
    assert len(fingerprints) == len(set(fingerprints)) == (pairs if twins else 2 * pairs)
    assert len(record(mlflow_client, model_name)) == len(fingerprints)
    assert_record_agrees(mlflow_client, model_name)
    left = mlflow_client.search_experiments(filter_string=f"name LIKE '{model_name}.promotion.%'")
    assert len(left) == 0


def test_champion_that_moved_since_the_judgement_stops_the_promotion(
    mlflow_client: MlflowClient,
) -> None:
    """A candidate judged against an older champion is neither registered nor promoted."""
    made = promoter(mlflow_client, "moved")
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    with pytest.raises(ChampionMovedError):
        made.promote_candidate(candidate(mlflow_client, "b"), None, "passed")
    assert list(tags_by_version(mlflow_client, "moved")) == ["1"]


def test_rollback_swaps_the_two_aliases_and_is_recorded(mlflow_client: MlflowClient) -> None:
    """Rolling back twice brings the later one back."""
    made = promoter(mlflow_client, "swap")
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert made.roll_back("answers too slowly") == "1"
    assert made.registry.aliases() == {names.CHAMPION: "1", names.PREVIOUS: "2"}
    assert made.roll_back("it was the network") == "2"
    assert made.registry.aliases() == {names.CHAMPION: "2", names.PREVIOUS: "1"}
    told = record(mlflow_client, "swap")
    assert [move.reason for move in told[2:]] == ["answers too slowly", "it was the network"]
    assert all(move.who and move.at for move in told)
    assert_record_agrees(mlflow_client, "swap")


def test_numbers_of_moves_grow_though_those_of_the_lock_begin_anew(
    mlflow_client: MlflowClient,
) -> None:
    """As after `mlflow gc`, which forgets the lock's experiments: no record is overwritten."""
    made = promoter(mlflow_client, "forgotten")
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    anew = replace(made, lock=PromotionLock(mlflow_client, "forgotten-anew"))
    anew.roll_back("slow answers")
    assert [move.number for move in record(mlflow_client, "forgotten")] == [1, 2, 3]
    assert_record_agrees(mlflow_client, "forgotten")


def test_version_that_was_rolled_back_is_not_promoted_again_by_a_job(
    mlflow_client: MlflowClient,
) -> None:
    """A job that finds its fingerprint promoted before leaves the aliases alone."""
    made = promoter(mlflow_client, "respected")
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    made.roll_back("worse in the field")
    again = made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    assert again == ("2", False, "promoted")
    assert made.registry.champion() == "1"


def test_promotion_by_hand_takes_any_version_that_exists(mlflow_client: MlflowClient) -> None:
    """A version that doesn't exist, or no previous champion, is an error."""
    made = promoter(mlflow_client, "by-hand")
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    with pytest.raises(NoSuchVersionError, match="has no version 7"):
        made.promote_version("7", "try")
    with pytest.raises(NoPreviousChampionError, match="no previous champion"):
        made.roll_back("try")
    assert not made.promote_version("1", "is it already")
    assert made.registry.aliases() == {names.CHAMPION: "1"}


def test_lock_of_a_holder_that_died_is_passed_over(mlflow_client: MlflowClient) -> None:
    """When the lease has run out, the next in line takes the next number and clears up."""
    dead = PromotionLock(mlflow_client, "orphan", lease_s=-10)
    lease = dead._acquire()
    with PromotionLock(mlflow_client, "orphan", wait_s=10).hold() as later:
        assert later.number == lease.number + 1
        (experiment,) = mlflow_client.search_experiments(
            filter_string="name LIKE 'orphan.promotion.%'"
        )
        assert experiment.experiment_id == later.experiment_id
    with pytest.raises(LockUnavailableError, match="lock ran out"):
        lease.check()


def test_lock_that_is_held_is_waited_for_only_so_long(mlflow_client: MlflowClient) -> None:
    """A second one waits its deadline, and gets in as soon as the first lets go."""
    first = PromotionLock(mlflow_client, "busy")
    with (
        first.hold() as held,
        pytest.raises(LockUnavailableError, match="another job has held"),
        PromotionLock(mlflow_client, "busy", wait_s=0.5).hold(),
    ):
        pass
    with first.hold() as later:
        assert later.number == held.number + 1


def test_a_lock_that_names_no_time_is_held_until_it_is_deleted(mlflow_client: MlflowClient) -> None:
    """Whoever may write experiments can make one: it costs a wait, and nothing else."""
    odd = mlflow_client.create_experiment("odd.promotion.1", tags={TAG_EXPIRES: "soon"})
    lock = PromotionLock(mlflow_client, "odd", wait_s=0.5)
    with pytest.raises(LockUnavailableError, match="another job has held"), lock.hold():
        pass
    mlflow_client.delete_experiment(odd)
    with lock.hold() as later:
        assert later.number == 2


def test_locks_of_models_with_similar_names_are_apart(mlflow_client: MlflowClient) -> None:
    """`_` in a name stands for itself, though LIKE takes it for any character."""
    with (
        PromotionLock(mlflow_client, "a_b").hold() as one,
        PromotionLock(mlflow_client, "axb", wait_s=5).hold() as other,
    ):
        assert one.experiment_id != other.experiment_id
        assert (one.number, other.number) == (1, 1)


@each_write(7)
def test_job_that_dies_at_any_write_is_finished_by_the_next(
    mlflow_client: MlflowClient, writes: int
) -> None:
    """Wherever it is cut off: the old champion or the new one serves, and a retry ends right."""
    name = f"cut-off-{writes}"
    made = promoter(mlflow_client, name)
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    chosen = candidate(mlflow_client, "b")
    with pytest.raises(ConnectionAbortedError):
        dying(made, writes).promote_candidate(chosen, "1", "passed")
    champion = made.registry.champion()
    assert champion in {"1", "2"}
    made.promote_candidate(candidate(mlflow_client, "b"), champion, "passed")
    assert made.registry.aliases() == {names.CHAMPION: "2", names.PREVIOUS: "1"}
    assert sorted(tags_by_version(mlflow_client, name)) == ["1", "2"]
    for version in ("1", "2"):
        last = moves(tags_by_version(mlflow_client, name)[version])[-1]
        assert (last.from_version, last.to_version, last.state) == ("1", "2", "done")
    assert_record_agrees(mlflow_client, name)
    assert made.promote_candidate(chosen, "2", "passed") == ("2", False, "promoted")


@each_write(5)
def test_rollback_that_dies_at_any_write_is_finished_by_the_next(
    mlflow_client: MlflowClient, writes: int
) -> None:
    """Called again, it ends where it was going, and doesn't swap the versions back."""
    name = f"cut-off-rollback-{writes}"
    made = promoter(mlflow_client, name)
    made.promote_candidate(candidate(mlflow_client, "a"), None, "passed")
    made.promote_candidate(candidate(mlflow_client, "b"), "1", "passed")
    with pytest.raises(ConnectionAbortedError):
        dying(made, writes).roll_back("slow answers")
    assert made.roll_back("slow answers") == "1"
    assert made.registry.aliases() == {names.CHAMPION: "1", names.PREVIOUS: "2"}
    assert_record_agrees(mlflow_client, name)
    assert made.roll_back("it was the network") == "2"


def test_rollback_that_died_is_finished_by_a_move_elsewhere(mlflow_client: MlflowClient) -> None:
    """Though the version that it came from was deleted: the record has no gap."""
    made = promoter(mlflow_client, "cut-off-elsewhere")
    for mark, champion in (("a", None), ("b", "1"), ("c", "2")):
        made.promote_candidate(candidate(mlflow_client, mark), champion, "passed")
    with pytest.raises(ConnectionAbortedError):
        dying(made, 2).roll_back("slow answers")
    mlflow_client.delete_model_version("cut-off-elsewhere", "3")
    assert made.promote_version("1", "by hand")
    assert made.registry.aliases() == {names.CHAMPION: "1", names.PREVIOUS: "2"}
    assert_record_agrees(mlflow_client, "cut-off-elsewhere")


def test_version_of_a_job_that_died_keeps_what_is_said_of_its_model(
    mlflow_client: MlflowClient,
) -> None:
    """The next job was judged anew, but its model, maybe other by a few bits, isn't registered."""
    made = promoter(mlflow_client, "kept")
    died, second = (candidate(mlflow_client, "a") for _ in range(2))
    with pytest.raises(ConnectionAbortedError):
        dying(made, 2).promote_candidate(died, None, "passed")
    again = replace(second, judgement={names.TAG_DECISION: "passed again"})
    assert made.promote_candidate(again, None, "passed") == ("1", True, "promoted")
    tags = tags_by_version(mlflow_client, "kept")["1"]
    assert tags[names.TAG_EXAMPLE_PREDICTION] == died.tags[names.TAG_EXAMPLE_PREDICTION]
    assert tags[names.TAG_DECISION] == "passed again"


class LossyProxy(BaseHTTPRequestHandler):
    """Forwards to MLflow; the first answer to each path in `lose` is lost after MLflow acted."""

    target: ClassVar[str]
    lose: ClassVar[set[str]]

    def _forward(self) -> None:
        length = int(self.headers.get("content-length", 0))
        answer = requests.request(
            self.command,
            self.target + self.path,
            data=self.rfile.read(length),
            headers={"content-type": "application/json"},
            timeout=30,
        )
        route = self.path.partition("?")[0]
        if route in self.lose:
            self.lose.discard(route)
            self.close_connection = True
            return
        self.send_response(answer.status_code)
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PATCH = do_DELETE = _forward  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def lossy(mlflow_server: str, free_port: Callable[[], int]) -> Iterator[tuple[str, set[str]]]:
    """The URI of a proxy before MLflow, and the paths whose next answer it loses."""
    lose: set[str] = set()
    handler = type("Handler", (LossyProxy,), {"target": mlflow_server, "lose": lose})
    port = free_port()
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{port}", lose
        server.shutdown()
        thread.join(10)


def test_answers_that_are_lost_leave_no_duplicate(
    lossy: tuple[str, set[str]], mlflow_client: MlflowClient
) -> None:
    """MLflow's client asks again; the lock knows its own experiment, the registry its version."""
    uri, lose = lossy
    chosen = candidate(mlflow_client, "a")
    paths = {
        "/api/2.0/mlflow/experiments/create",
        "/api/2.0/mlflow/model-versions/create",
        "/api/2.0/mlflow/registered-models/alias",
    }
    lose |= paths
    started = time.monotonic()
    made = promoter(MlflowClient(uri, uri), "lossy")
    assert made.promote_candidate(chosen, None, "passed") == ("1", True, "promoted")
    assert not lose, "every path was asked, and its answer lost"
    assert time.monotonic() - started < 40
    assert list(tags_by_version(mlflow_client, "lossy")) == ["1"]
    assert record(mlflow_client, "lossy")[0].number == 1
    assert_record_agrees(mlflow_client, "lossy")
    every = mlflow_client.search_experiments(
        view_type=ViewType.ALL, filter_string="name LIKE 'lossy.promotion.%'"
    )
    assert [experiment.lifecycle_stage for experiment in every] == ["deleted"]
