"""Versions that are not what training signed never get traffic, and nothing of them runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from contract import names
from tests import mlflow_relay, running, signed_models, stage
from tests.integration.rollouts.conftest import RESTARTED_S
from tests.odd_models import Line
from tests.signed_models import Damage
from tests.stage import Stage

REFUSED_S = 20.0
REFUSED_BY_LOADER = {
    "pickle": "skops",
    "pickle as skops": "skops",
    "code": "code of its own",
    "loader": "loader",
}
NOT_AS_SIGNED = "its files are not those that were signed: '"

DAMAGES: dict[str, tuple[Damage, str]] = {
    "a bit flipped": (signed_models.flip_a_bit, "'model.skops' was changed"),
    "a file added": (signed_models.add_a_file, "'notes.txt' was added"),
    "a link out": (signed_models.add_a_link_out, "'notes.txt' was added"),
    "a file missing": (signed_models.remove_a_file, "'requirements.txt' is missing"),
    "no signature": (signed_models.unsign, "not signed, and public keys are set"),
    "another signature": (signed_models.rewrite_the_manifest, "signed by none of the 1 keys"),
}


@pytest.fixture(scope="module")
def signed_stage(
    mlflow_server: str, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Stage]:
    """A service that reads signed versions only."""
    root = tmp_path_factory.mktemp("signed")
    keys = signed_models.new_keys(root / "keys")
    with (
        mlflow_relay.relay(mlflow_server) as relay,
        stage.up(
            stage.launch(
                root / "project",
                running.environ(free_port),
                mlflow_server,
                relay,
                "signed",
                Line(1.0),
                stage.with_rollouts(),
                signed_with=keys,
            )
        ) as running_stage,
    ):
        yield running_stage


def is_refused(version: str, standing: dict[str, Any]) -> bool:
    """Whether the service shows why a version isn't served."""
    return version in standing["refused"]


def is_on_record(stage: Stage, version: str) -> bool:
    """Whether the version's tags say so."""
    return names.TAG_REFUSED in stage.tags(version)


def check_refused(stage: Stage, damages: Mapping[str, tuple[Damage, str]]) -> None:
    """Name each as champion: the one before goes on, the reason is shown and on record."""
    first = stage.standing()["champion"]
    for name, (damage, reason) in damages.items():
        version = stage.add(Line(2.0), damage)
        stage.name_as(names.CHAMPION, version)
        standing = stage.await_standing(partial(is_refused, version), REFUSED_S)
        assert standing["champion"] == first, name
        assert reason in standing["refused"][version], name
        running.wait_for(partial(is_on_record, stage, version), REFUSED_S)


@pytest.mark.system
@pytest.mark.timeout(400)
def test_nothing_of_what_was_not_signed_is_served_or_run(
    signed_stage: Stage, tmp_path: Path
) -> None:
    """A signed one is followed after all of these."""
    marker = tmp_path / "ran"
    plants = {name: (plant, NOT_AS_SIGNED) for name, plant in signed_models.plants(marker).items()}
    first = signed_stage.standing()["champion"]
    with signed_stage.traffic() as traffic:
        check_refused(signed_stage, {**DAMAGES, **plants})
        good = signed_stage.add(Line(3.0))
        signed_stage.name_as(names.CHAMPION, good)
        signed_stage.await_champion(good)
        ledger = traffic.stop().check()
    assert {key.split()[0] for key in ledger.right} == {first, good}
    assert not marker.exists()


@pytest.mark.system
def test_a_link_out_of_a_copy_is_not_followed(signed_stage: Stage) -> None:
    """Though it leads to the very bytes that were signed: they are fetched again."""
    copies = signed_stage.service.root / "var" / "cache" / "files"
    copy = copies / signed_stage.service.get("/model").json()["digest"]
    file = copy / names.MODEL_FILE
    worker = psutil.Process(signed_stage.service.replicas("ModelWorker")[0]["pid"])
    with signed_stage.traffic() as traffic:
        signed_models.link_out(copy)
        worker.kill()
        running.wait_for(lambda: file.is_file() and not file.is_symlink(), RESTARTED_S)
        running.wait_for(
            lambda: len(signed_stage.service.replicas("ModelWorker")) >= 2, RESTARTED_S
        )
        traffic.stop().check()
    (copies / signed_models.OUTSIDE).unlink()


@pytest.mark.system
@pytest.mark.timeout(400)
def test_nothing_that_was_planted_runs_where_no_keys_are_set_either(
    staged: Stage, tmp_path: Path
) -> None:
    """Then the loader is what refuses it."""
    marker = tmp_path / "ran"
    plants = signed_models.plants(marker).items()
    first = staged.standing()["champion"]
    with staged.traffic() as traffic:
        check_refused(staged, {name: (plant, REFUSED_BY_LOADER[name]) for name, plant in plants})
        ledger = traffic.stop().check()
    assert set(ledger.right) == {f"{first} champion"}
    assert not marker.exists()
