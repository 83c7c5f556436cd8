"""How serving starts: what can't be served ends the start in time, and plain `serve run` works."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

from tests import models, running, signed_models, starts
from tests.conftest import is_needed
from tests.running import Running


@pytest.fixture(scope="module")
def unloadable(
    mlflow_server: str,
    client: MlflowClient,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
) -> Iterator[Running]:
    """A start with a champion that may not be loaded; it may still be under way."""
    models.register(client, "pickled", 2.0, serialization_format="cloudpickle")
    root = running.copy_project(tmp_path_factory.mktemp("unloadable") / "project")
    environ = running.environ(free_port, MLFLOW_TRACKING_URI=mlflow_server, MODEL_NAME="pickled")
    launched = running.launch(root, environ)
    yield launched
    running.stop(launched)


@pytest.fixture(scope="module", autouse=True)
def _the_slow_one_goes_ahead(request: pytest.FixtureRequest) -> None:
    """Let it start while the other tests run."""
    if is_needed(request, "unloadable"):
        request.getfixturevalue("unloadable")


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"MODEL_NAME": "never-registered"}, 2, "no version of 'never-registered'"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, 4, "no MLflow server answers"),
        pytest.param(
            {"MLFLOW_TRACKING_URI": "http://192.0.2.1:5000"},
            4,
            "no MLflow server answers",
            marks=pytest.mark.system,
        ),
        ({"MODEL_SERVED": "s3"}, 2, "model_served"),
    ],
)
def test_what_cannot_be_served_fails_the_start_with_one_line_in_time(
    mlflow_server: str,
    tmp_path: Path,
    free_port: Callable[[], int],
    changes: dict[str, str],
    code: int,
    says: str,
) -> None:
    """Within 30 s, with the way out, and with nothing left behind."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, **{"MLFLOW_TRACKING_URI": mlflow_server, **changes})
    began = time.monotonic()
    completed = subprocess.run(
        [sys.executable, "-m", "launcher", "run"],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == code
    assert says in completed.stderr
    assert len(completed.stderr.strip().splitlines()) == 1
    assert time.monotonic() - began < 30
    assert not (root / "var" / "run.json").exists()


def nothing(directory: Path) -> None:
    """Leave a directory without a model."""


def a_model_that_links_out(directory: Path) -> None:
    """Put a model there whose file is somewhere else."""
    rows = np.arange(3.0)[:, np.newaxis]
    estimator = LinearRegression().fit(rows, rows[:, 0])
    signed_models.link_out(models.write(directory, estimator, rows, ["x"]))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (nothing, r"model holds no model: .*make export"),
        pytest.param(
            a_model_that_links_out,
            r"a link that leads out of the model's directory",
            marks=pytest.mark.system,
        ),
    ],
)
def test_a_model_directory_that_cannot_be_served_is_named(
    tmp_path: Path, free_port: Callable[[], int], made: Callable[[Path], None], why: str
) -> None:
    """The start fails within 30 s with one clear line, and leaves nothing."""
    made(tmp_path / "model")
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MODEL_SERVED="local", MODEL_DIR=str(tmp_path / "model"))
    began = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=rf"ended with 2(?s:.*){why}"),
        running.system(root, environ),
    ):
        pass
    assert time.monotonic() - began < 30
    assert not (root / "var" / "run.json").exists()


@pytest.mark.system
@pytest.mark.timeout(200)
@pytest.mark.system
def test_plain_serve_run_works_without_launcher_and_environment(
    plain_serve_run: Future[tuple[requests.Response, str]],
) -> None:
    """`serve run serve_config.yaml` answers, and says that it is the slower way."""
    answer, said = plain_serve_run.result(180)
    assert answer.json()["result"] == pytest.approx(starts.SLOPE * starts.X)
    assert "slower path" in said


@pytest.mark.system
def test_a_champion_that_may_not_be_loaded_fails_the_deployment_with_one_line(
    unloadable: Running,
) -> None:
    """Serve's own traceback stays in its log; people get the reason, and nothing is left."""
    with pytest.raises(RuntimeError, match=r"not deployed: only the scikit-learn flavor in skops"):
        running.await_start(unloadable)
    assert not (unloadable.root / "var" / "run.json").exists()


def test_a_server_that_is_well_but_hangs_is_given_up_after_25_s(
    hung_check: Future[starts.Ended],
) -> None:
    """`serve_app check` ends with 4; on a busy machine its process takes some seconds to end."""
    completed, took_s = hung_check.result(90)
    assert completed.returncode == 4
    assert "not done after 25 s" in completed.stderr
    assert 20 < took_s < 40
