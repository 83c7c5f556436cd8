"""A worker's versions are loaded each by itself, beside everything else."""

import asyncio
import errno
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from contract.tracking import MlflowUnreachableError
from serve_app.control.conductor import Orders
from serve_app.model_errors import UnservableModelError
from serve_app.models import model_files
from serve_app.models.model import Model
from serve_app.models.served import ServedVersion
from serve_app.shelf import LINGER_S, Shelf
from tests import models
from tests.unit.serve_app.control.stage import version_of

ROWS = np.random.default_rng(0).normal(size=(10, 1))
SOON_S = 5.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model."""
    estimator = LinearRegression().fit(ROWS, ROWS[:, 0])
    directory: Path = tmp_path_factory.mktemp("shelf") / "model"
    return model_files.read(models.write(directory, estimator, ROWS, ["x"]))


def orders(needed: str, wanted: str = "") -> Orders:
    """Orders by the versions' numbers, a digit each."""
    return Orders(tuple(map(version_of, needed)), tuple(map(version_of, wanted)))


async def obeyed(shelf: Shelf, ordered: Orders, now: float = 0.0) -> None:
    """Let the shelf do what is ordered, and return when it is done."""
    shelf.obey(ordered, now)
    async with asyncio.timeout(SOON_S):
        while shelf.loading:
            await asyncio.sleep(0.001)


def test_versions_are_loaded_beside_the_event_loop(model: Model) -> None:
    """Others are answered meanwhile."""
    is_answered = threading.Event()

    def load(_: ServedVersion) -> Model:
        assert is_answered.wait(10)
        return model

    async def scenario() -> None:
        shelf = Shelf(load)
        adding = asyncio.create_task(shelf.add(version_of("2")))
        await asyncio.sleep(0.05)
        is_answered.set()
        async with asyncio.timeout(SOON_S):
            await adding
        assert list(shelf.held) == ["2"]

    asyncio.run(scenario())


def test_what_is_ordered_is_held_and_what_cannot_be_loaded_is_said(model: Model) -> None:
    """What is wanted no more stays for a while: an ingress may still send what has waited."""
    changes: list[set[str]] = []
    asked: list[str] = []

    def load(version: ServedVersion) -> Model:
        asked.append(version.version)
        if version.version == "2":
            raise UnservableModelError("a bit was flipped")
        return model

    async def scenario() -> None:
        shelf = Shelf(load, changed=lambda: changes.append({*shelf.held, *shelf.failed}))
        await obeyed(shelf, orders("1", "23"))
        assert set(shelf.held) == {"1", "3"}
        assert shelf.failed == {"2": "a bit was flipped"}
        assert (len(changes), changes[-1]) == (3, {"1", "2", "3"})
        await obeyed(shelf, orders("1", "23"))
        assert sorted(asked) == ["1", "2", "3"]
        await obeyed(shelf, orders("3"), now=100.0)
        assert set(shelf.held) == {"1", "3"}
        assert shelf.failed == {}
        await obeyed(shelf, orders("1"), now=110.0)
        await obeyed(shelf, orders("3"), now=150.0)
        await obeyed(shelf, orders("3"), now=100.0 + LINGER_S + 1)
        assert set(shelf.held) == {"1", "3"}
        await obeyed(shelf, orders("3"), now=150.0 + LINGER_S + 1)
        assert set(shelf.held) == {"3"}
        assert changes[3:] == [{"3"}]

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [UnservableModelError, MlflowUnreachableError])
def test_what_a_model_says_of_itself_makes_no_line_of_its_own_in_the_log(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """A reason may hold what stands in its files."""

    def load(_: ServedVersion) -> Model:
        raise kind("no type 'a\nERROR all is lost\x1b[31m'")

    shelf = Shelf(load)
    asyncio.run(obeyed(shelf, orders("", "2")))
    (said,) = [record.getMessage() for record in caplog.records if record.name == "ray.serve"]
    assert said.endswith("no type 'a ERROR all is lost?[31m'")
    assert said.isprintable()


def test_a_version_that_takes_long_holds_up_no_other(model: Model) -> None:
    """Neither of the same orders nor of later ones; it is loaded once."""
    is_let_go = threading.Event()
    asked: list[str] = []

    def load(version: ServedVersion) -> Model:
        asked.append(version.version)
        if version.version == "2":
            assert is_let_go.wait(10)
        return model

    async def scenario() -> None:
        shelf = Shelf(load)
        for ordered in (orders("1", "23"), orders("1", "24")):
            shelf.obey(ordered, now=0.0)
            async with asyncio.timeout(SOON_S):
                while shelf.loading != {"2"}:
                    await asyncio.sleep(0.001)
        assert set(shelf.held) == {"1", "3", "4"}
        is_let_go.set()
        await obeyed(shelf, orders("1", "24"))
        assert set(shelf.held) == {"1", "2", "3", "4"}
        assert sorted(asked) == ["1", "2", "3", "4"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error", [MlflowUnreachableError("refused"), OSError(errno.EMFILE, "Too many open files")]
)
def test_what_mlflow_or_the_node_did_not_give_is_tried_again(
    model: Model, error: Exception
) -> None:
    """That is no fault of the version; and nobody is told, or all would be asked at once."""
    answers: list[Model | Exception] = [error, model]

    def load(_: ServedVersion) -> Model:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scenario() -> None:
        changed = asyncio.Event()
        shelf = Shelf(load, changed=changed.set)
        await obeyed(shelf, orders("1"))
        assert (shelf.held, shelf.failed, changed.is_set()) == ({}, {}, False)
        assert shelf.delayed == {"1": str(error)}
        await obeyed(shelf, orders("1"))
        assert list(shelf.held) == ["1"]
        assert shelf.delayed == {}
        assert changed.is_set()

    asyncio.run(scenario())
