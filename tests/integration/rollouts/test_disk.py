"""The disk is full, copies are cut off or damaged: the last good version goes on, and all heals."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from contract import names
from tests import mlflow_relay, running, stage
from tests.integration.rollouts.conftest import PAUSE_S, RESTARTED_S
from tests.odd_models import Line
from tests.stage import CALM_PER_S, Stage
from tests.traffic import report


def test_a_version_that_a_full_disk_has_refused_is_served_once_there_is_room(staged: Stage) -> None:
    """The reason is shown meanwhile; nobody has to do anything."""
    first = staged.standing()["champion"]
    version = staged.add(Line(1.01, PAUSE_S))
    (controller,) = staged.service.replicas("RolloutController")
    with staged.traffic(CALM_PER_S) as traffic:
        before = resource.prlimit(controller["pid"], resource.RLIMIT_FSIZE)
        resource.prlimit(controller["pid"], resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            staged.name_as(names.CHAMPION, version)
            standing = staged.await_standing(lambda one: version in one["refused"], 40)
            assert standing["champion"] == first
            assert "File too large" in standing["refused"][version]
        finally:
            resource.prlimit(controller["pid"], resource.RLIMIT_FSIZE, before)
        staged.await_champion(version, 30)
        report("the controller without disk", traffic.stop()).check()
    assert not staged.standing()["refused"]


@pytest.mark.system
def test_copies_that_a_crash_has_cut_off_or_damaged_are_fetched_again(staged: Stage) -> None:
    """By a controller that is killed in mid-fetch, and by a worker that is killed meanwhile."""
    cache = staged.service.root / "var" / "cache"
    digest = staged.service.get("/model").json()["digest"]
    file = cache / "files" / digest / names.MODEL_FILE
    whole = file.read_bytes()
    version = staged.add(Line(1.02, PAUSE_S))
    (controller,) = staged.service.replicas("RolloutController")
    worker = staged.service.replicas("ModelWorker")[0]
    with staged.traffic(CALM_PER_S) as traffic:
        staged.relay.turn("stalling")
        staged.name_as(names.CHAMPION, version)
        running.wait_for(lambda: any(cache.glob("incoming-*/model/*")), 20)
        psutil.Process(controller["pid"]).kill()
        assert any(cache.glob("incoming-*"))
        os.truncate(file, len(whole) // 2)
        psutil.Process(worker["pid"]).kill()
        staged.relay.turn("well")
        running.wait_for(lambda: file.is_file() and file.read_bytes() == whole, RESTARTED_S)
        staged.await_champion(version, 40)
        running.wait_for(lambda: len(staged.service.replicas("ModelWorker")) >= 2, RESTARTED_S)
        report("a copy cut off, and one cut", traffic.stop()).check()
    assert worker["pid"] not in [one["pid"] for one in staged.service.replicas("ModelWorker")]


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Mount a disk of 2 MB inside the `with` block."""
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_disk_that_is_really_full_costs_nothing(
    tmp_path: Path, mlflow_server: str, free_port: Callable[[], int]
) -> None:
    """No copy can be kept; a worker that is killed starts from the one it has."""
    disk = tmp_path / "disk"
    with (
        small_disk(disk),
        mlflow_relay.relay(mlflow_server) as relay,
        stage.up(
            stage.launch(
                tmp_path / "project",
                running.environ(free_port, MODEL_CACHE_DIR=str(disk)),
                mlflow_server,
                relay,
                "small-disk",
                Line(1.0, PAUSE_S),
                stage.with_rollouts(),
            )
        ) as small,
    ):
        first = small.standing()["champion"]
        version = small.add(Line(1.5, PAUSE_S))
        with small.traffic() as traffic:
            filling = disk / "filling"
            with suppress(OSError), filling.open("wb", buffering=0) as file:
                while file.write(bytes(1024)):
                    pass
            small.name_as(names.CHAMPION, version)
            standing = small.await_standing(lambda one: version in one["refused"], 40)
            assert standing["champion"] == first
            assert "No space left on device" in standing["refused"][version]
            psutil.Process(small.service.replicas("ModelWorker")[0]["pid"]).kill()
            running.wait_for(lambda: len(small.service.replicas("ModelWorker")) >= 2, RESTARTED_S)
            filling.unlink()
            small.await_champion(version, 30)
            report("a full disk", traffic.stop()).check()
