"""What a node remembers of the last table is whole, or not there."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LinearRegression

from serve_app.control import memory
from serve_app.models import model_files
from serve_app.models.served import ServedVersion, describe
from serve_app.routing import Table, Write
from serve_app.settings import Settings
from tests import models
from tests.unit.serve_app.control.stage import model_of, version_of

WRITES = (
    Write("version_tag", "2", "endeavour.rollout.decision.9", "{}"),
    Write("end_rollout", "2", "aborted", "too slow\nand wrong"),
)
TABLE = Table(9, model_of("1"), unrecorded=WRITES)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a cache of their own."""
    return Settings(cache_dir=tmp_path / "cache")


def written(settings: Settings) -> Path:
    """The file that a table was kept in."""
    memory.remember(settings, TABLE)
    (file,) = (settings.cache_dir / "tables").iterdir()
    return file


def test_what_was_kept_last_comes_back(settings: Settings) -> None:
    """The champion's exact version, and what MLflow doesn't know yet, in order."""
    memory.remember(settings, Table(8, model_of("7")))
    memory.remember(settings, TABLE)
    assert memory.recall(settings) == memory.Remembered(9, version_of("1"), WRITES)


def test_a_node_that_has_served_nothing_remembers_nothing(settings: Settings) -> None:
    """Nor does one that has served another model."""
    assert memory.recall(settings) is None
    memory.remember(settings, TABLE)
    assert memory.recall(settings.model_copy(update={"model_name": "other"})) is None


def test_nothing_is_left_beside_the_file(settings: Settings) -> None:
    """It is written elsewhere and moved into its place."""
    for _ in range(3):
        written(settings)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_a_file_is_none(settings: Settings, share: float) -> None:
    """As a disk that was full, or a machine that lost power, may leave it."""
    file = written(settings)
    text = file.read_text()
    file.write_text(text[: int(share * len(text))])
    assert memory.recall(settings) is None


CHAMPION = asdict(version_of("1"))


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        None,
        {},
        {"epoch": None, "champion": CHAMPION, "unrecorded": []},
        {"epoch": float("inf"), "champion": CHAMPION, "unrecorded": []},
        {"epoch": 9, "champion": "1", "unrecorded": []},
        {"epoch": 9, "champion": {"name": "m"}, "unrecorded": []},
        {"epoch": 9, "champion": {**CHAMPION, "colour": "red"}, "unrecorded": []},
        {"epoch": 9, "champion": CHAMPION, "unrecorded": 3},
        {"epoch": 9, "champion": CHAMPION, "unrecorded": [{"sort": "tag"}]},
    ],
)
def test_what_others_have_written_is_none(settings: Settings, content: Any) -> None:
    """Whatever it is, a start doesn't fail by it."""
    written(settings).write_text(json.dumps(content))
    assert memory.recall(settings) is None


def test_bytes_that_are_no_text_are_none(settings: Settings) -> None:
    """Not even JSON."""
    written(settings).write_bytes(b"\xff\xfe\x00")
    assert memory.recall(settings) is None


def test_a_directory_that_cannot_be_ours_holds_nothing(tmp_path: Path) -> None:
    """What can't be read can't be remembered; nothing else fails by it."""
    (tmp_path / "file").touch()
    assert memory.recall(Settings(cache_dir=tmp_path / "file" / "cache")) is None


@pytest.fixture
def exported(tmp_path: Path) -> ServedVersion:
    """A version in a directory."""
    rows = np.arange(6.0).reshape(-1, 1)
    estimator = LinearRegression().fit(rows, rows[:, 0])
    directory = models.write(tmp_path / "model", estimator, rows, ["x"])
    digest = model_files.digest_of(directory)
    return replace(version_of("5"), source=str(directory), digest=digest)


def test_the_last_table_is_fallen_back_on(settings: Settings, exported: ServedVersion) -> None:
    """Its champion is loaded anew; what is unrecorded comes along."""
    champion = describe(exported, model_files.read(Path(exported.source)))
    memory.remember(settings, Table(9, champion, unrecorded=WRITES))
    seed = Table(3, model_of("1"))
    assert memory.fallback(seed, settings) == replace(
        seed, epoch=9, champion=champion, unrecorded=WRITES
    )


@pytest.mark.parametrize("epoch", [9, 10])
def test_a_seed_that_is_as_new_stands(
    settings: Settings, exported: ServedVersion, epoch: int
) -> None:
    """The node's memory is of before."""
    champion = describe(exported, model_files.read(Path(exported.source)))
    memory.remember(settings, Table(9, champion))
    seed = Table(epoch, model_of("1"))
    assert memory.fallback(seed, settings) is seed


def test_a_last_version_that_was_tampered_with_is_not_served(
    settings: Settings, exported: ServedVersion
) -> None:
    """The seed is."""
    champion = describe(exported, model_files.read(Path(exported.source)))
    memory.remember(settings, Table(9, champion))
    (Path(exported.source) / "more").write_text("more")
    seed = Table(3, model_of("1"))
    assert memory.fallback(seed, settings) is seed


def test_what_the_last_version_says_of_itself_makes_no_line_of_its_own_in_the_log(
    settings: Settings, exported: ServedVersion, caplog: pytest.LogCaptureFixture
) -> None:
    """A reason may hold what stands in its files."""
    champion = describe(exported, model_files.read(Path(exported.source)))
    directory = Path(exported.source)
    description = yaml.safe_load((directory / "MLmodel").read_text())
    description["flavors"]["a\nERROR all is lost\x1b[31m"] = {}
    (directory / "MLmodel").write_text(yaml.safe_dump(description))
    altered = replace(exported, digest=model_files.digest_of(directory))
    memory.remember(settings, Table(9, replace(champion, version=altered)))
    seed = Table(3, model_of("1"))
    assert memory.fallback(seed, settings) is seed
    (said,) = [record.getMessage() for record in caplog.records if record.name == "ray.serve"]
    assert "a ERROR all is lost?[31m" in said
    assert said.isprintable()
