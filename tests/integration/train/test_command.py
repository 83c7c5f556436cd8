"""The command against a real MLflow server: what it refuses, and promotion by hand."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from contract import names
from contract.standing import moves
from train.__main__ import main

WriteConfig = Callable[..., Path]
Damage = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(autouse=True)
def _address(mlflow_server: str) -> Iterator[None]:
    """Name the MLflow server, and give the environment back as it was."""
    before = dict(os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = mlflow_server
    yield
    os.environ.clear()
    os.environ.update(before)


def good_rows() -> pd.DataFrame:
    """Return forty rows that could be trained on."""
    generator = np.random.default_rng(8)
    return pd.DataFrame({"a": generator.normal(size=40), "y": generator.normal(size=40)})


def put(column: str, value: Any) -> Damage:
    """Return a damage that puts a value into row 3."""

    def damage(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.astype({column: object} if isinstance(value, str) else {}).assign(
            **{column: lambda r: r[column].where(r.index != 3, value)}
        )

    return damage


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda rows: rows.drop(columns="y"), "data.target: no column 'y'"),
        (put("y", np.nan), "column 'y', row 3: the target is missing"),
        (put("a", np.nan), "column 'a', row 3: the value is missing (NaN)"),
        (put("a", np.inf), "column 'a', row 3: the value is infinite"),
        (put("a", "tall"), "column 'a', row 3: 'tall' is not a number"),
        (lambda rows: rows.assign(y=1.5), "column 'y': the target is constant"),
        (lambda rows: rows.tail(20), "too few rows: 10 to train on, at least 20 needed"),
        (
            lambda rows: pd.concat([rows, rows.iloc[[5]]]),
            "row 40 (held out) repeats row 5 (trained on)",
        ),
    ],
)
def test_bad_data_is_refused_and_leaves_no_trace(
    damage: Damage,
    text: str,
    tmp_path: Path,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, one line with column and row; no experiment, no run, no model."""
    source = tmp_path / "rows.csv"
    damage(good_rows()).to_csv(source, index=False)
    data = {"source": str(source), "target": "y", "features": ["a"]}
    config = write_config("bad", data=data, split={"by": "last", "test_size": 10})
    assert main(["--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert text in said
    assert said.count("\n") == 1
    assert mlflow_client.get_experiment_by_name("bad") is None
    assert not mlflow_client.search_registered_models("name = 'bad'")


def test_estimator_that_serving_would_refuse_leaves_no_trace(
    write_config: WriteConfig, mlflow_client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of types that serving does not trust ends the job before anything is logged."""
    estimator = {
        "path": "sklearn.neighbors.KNeighborsRegressor",
        "parameters": {"algorithm": "ball_tree"},
    }
    config = write_config("untrusted", estimator=estimator)
    assert main(["--config", str(config)]) == 2
    assert "serving does not trust the types" in capsys.readouterr().err
    assert mlflow_client.get_experiment_by_name("untrusted") is None


def test_server_that_is_down_is_told_at_once(
    write_config: WriteConfig, free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4, with the address and the way out."""
    uri = f"http://127.0.0.1:{free_port()}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    assert main(["--config", str(write_config("down"))]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"error: no MLflow server answers at {uri}")
    assert "MLFLOW_TRACKING_URI" in said


def test_server_that_never_answers_is_given_up(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port that accepts and says nothing costs seconds, not 20 minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert main(["--config", str(write_config("silent"))]) == 4
        assert time.monotonic() - started < 30
    assert "no MLflow server answers" in capsys.readouterr().err


def test_versions_are_promoted_and_rolled_back_by_hand(
    write_config: WriteConfig, mlflow_client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each move says what it did, and its reason is on record."""
    mlflow_client.create_registered_model("hand")
    experiment = mlflow_client.create_experiment("hand")
    model = mlflow_client.create_logged_model(experiment, name="model").model_id
    for _ in range(2):
        mlflow_client.create_model_version(
            "hand", f"models:/{model}", model_id=model, await_creation_for=0
        )
    config = str(write_config("hand"))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--config", config])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("promote", "--version", "1", "--reason", "first") == (
        0,
        "hand version 1 is champion now\n",
        "",
    )
    code, _, said = run("rollback", "--reason", "too early")
    assert code == 2
    assert "has no previous champion" in said
    run("promote", "--version", "2", "--reason", "better")
    assert run("promote", "--version", "2", "--reason", "again")[1] == (
        "hand version 2 was champion already: nothing changed\n"
    )
    assert run("rollback", "--reason", "slow answers")[1] == "hand version 1 is champion again\n"
    code, _, said = run("promote", "--version", "9", "--reason", "typo")
    assert (code, said) == (2, "error: model 'hand' has no version 9; see MLflow's page\n")
    aliases = mlflow_client.get_registered_model("hand").aliases
    assert {k: str(v) for k, v in aliases.items()} == {names.CHAMPION: "1", names.PREVIOUS: "2"}
    told = moves(mlflow_client.get_model_version("hand", "1").tags)
    assert [move.reason for move in told] == ["first", "better", "slow answers"]
