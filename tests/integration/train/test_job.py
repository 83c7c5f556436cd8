"""Whole jobs: from data to a promoted version, or to a clear refusal."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer
from sklearn.datasets import load_iris

from contract import names
from contract.model_types import TRUSTED_TYPES
from contract.standing import moves
from tests.integration.train.conftest import Trained
from tests.integration.train.registry import aliases, only_run, versions

Train = Callable[..., subprocess.CompletedProcess[str]]
WriteConfig = Callable[..., Path]


def test_default_job_ends_in_time_and_says_what_it_did(promoted: Trained) -> None:
    """Seven plain lines and the result; about 12 s alone on two cores, which others share here."""
    lines = promoted.output.splitlines()
    assert [line[:5] for line in lines[:7]] == [f"[{n}/7]" for n in range(1, 8)]
    assert "gate: passed; no champion yet: the absolute thresholds alone decide" in lines[4]
    assert lines[7:] == ["promoted version 1 is champion now"]
    assert promoted.seconds < 120


def test_run_holds_parameters_metrics_and_tags(promoted: Trained) -> None:
    """Whoever opens the run finds how the model came to be."""
    data = promoted.run.data
    assert promoted.run.info.status == "FINISHED"
    assert data.params["estimator.path"] == "sklearn.linear_model.SGDRegressor"
    assert data.params["fitted.learning_rate"] == "invscaling"
    assert data.metrics["test_r2"] >= 0.47
    assert data.metrics["test_mse"] <= 2565
    assert {"test_rmse", "test_mae", "cv_r2_mean", "cv_r2_std"} <= set(data.metrics)
    for tag in (names.TAG_COMMIT, names.TAG_DATA_DIGEST, names.TAG_SEED, names.TAG_FINGERPRINT):
        assert data.tags[tag]
    assert data.tags["endeavour.library.scikit-learn"]
    assert data.tags[names.TAG_DECISION] == "passed"
    assert data.tags[names.TAG_VERSION] == "1"


def test_run_holds_the_loss_of_every_epoch(promoted: Trained, mlflow_client: MlflowClient) -> None:
    """One hundred epochs, one hundred losses."""
    history = mlflow_client.get_metric_history(promoted.run.info.run_id, "train_loss")
    assert [point.step for point in history] == list(range(1, 101))
    assert history[-1].value < history[0].value


def test_run_holds_data_pictures_and_decision(promoted: Trained) -> None:
    """Files and datasets are all there, and agree."""
    found = {
        str(file.relative_to(promoted.artifacts))
        for file in promoted.artifacts.rglob("*")
        if file.is_file()
    }
    assert found == {
        "data/test.csv",
        "data/train.csv",
        "gate_decision.json",
        "plots/fit.png",
        "plots/loss.png",
        "plots/predicted_against_actual.png",
        "plots/residuals.png",
        "predictions.csv",
        "settings.json",
        "weights.json",
    }
    rows = {
        p: len(pd.read_csv(promoted.artifacts / "data" / f"{p}.csv")) for p in ("train", "test")
    }
    assert rows == {"train": 422, "test": 20}
    assert promoted.run.inputs is not None
    inputs = promoted.run.inputs.dataset_inputs
    assert {i.dataset.name for i in inputs} == {"train", "test"}
    assert all(i.dataset.digest for i in inputs)
    decision = json.loads((promoted.artifacts / "gate_decision.json").read_text())
    assert decision["passed"] is True
    assert decision["champion_version"] is None


def test_registered_model_predicts_by_its_weights(
    promoted: Trained, mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    """The champion, read as serving reads it, is the line that weights.json describes."""
    path = Path(mlflow.artifacts.download_artifacts("models:/promoted/1", dst_path=str(tmp_path)))
    model = skops.io.load(path / names.MODEL_FILE, trusted=list(TRUSTED_TYPES))
    own = json.loads((promoted.artifacts / "weights.json").read_text())["own_units"]
    assert 920 <= own["slope"]["bmi"] <= 940
    assert 151 <= own["intercept"] <= 153
    predicted = model.predict(np.array([[0.2]]))[0]
    assert predicted == pytest.approx(own["intercept"] + 0.2 * own["slope"]["bmi"])
    assert 338 <= predicted <= 343
    signature = mlflow.models.Model.load(str(path)).signature
    assert signature is not None
    assert signature.inputs.to_dict() == [{"type": "double", "name": "bmi", "required": True}]
    assert signature.outputs.to_dict() == [{"type": "double", "required": True}]
    example = json.loads((path / "input_example.json").read_text())
    assert example["columns"] == ["bmi"]
    recorded = promoted.run.data.tags[names.TAG_EXAMPLE_PREDICTION]
    assert json.loads(recorded) == model.predict(np.array(example["data"][:1])).tolist()
    version = mlflow_client.get_model_version("promoted", "1")
    assert version.tags[names.TAG_EXAMPLE_PREDICTION] == recorded


def test_version_carries_decision_and_promotion(
    promoted: Trained, mlflow_client: MlflowClient
) -> None:
    """The version names its run, its fingerprint, the gate's reasons and its promotion."""
    version = mlflow_client.get_model_version(promoted.model_name, "1")
    assert aliases(mlflow_client, promoted.model_name) == {names.CHAMPION: "1"}
    assert version.run_id == promoted.run.info.run_id
    assert version.tags[names.TAG_FINGERPRINT] == promoted.run.data.tags[names.TAG_FINGERPRINT]
    assert version.tags[names.TAG_DECISION] == "passed"
    said = str(version.description)
    assert said.startswith("r2 0.47")
    assert "passed; no champion yet" in said
    assert "pass: r2 is 0.47" in version.tags[names.TAG_REASONS]
    (move,) = moves(version.tags)
    assert (move.from_version, move.to_version, move.state) == (None, "1", "done")
    assert promoted.run.info.run_id in move.reason


@pytest.mark.system
def test_second_job_with_nothing_changed_registers_nothing(
    promoted: Trained, train: Train, mlflow_client: MlflowClient
) -> None:
    """It names the version that there is, and leaves no run."""
    done = train("run", "--config", promoted.config)
    assert done.returncode == 0
    assert "nothing changed since promoted version 1 was trained" in done.stdout
    assert versions(mlflow_client, "promoted") == ["1"]
    assert only_run(mlflow_client, "promoted").info.run_id == promoted.run.info.run_id


def test_refused_model_changes_nothing_and_keeps_its_run(
    promoted: Trained, train: Train, write_config: WriteConfig, mlflow_client: MlflowClient
) -> None:
    """Exit code 3; the run has the reasons, the registry has what it had."""
    gate = {"minimum": {"r2": 0.99}}
    config = write_config(
        "promoted", experiment="refused", gate=gate, cross_validation={"folds": 0}
    )
    done = train("--config", config)
    assert done.returncode == 3
    assert done.stderr.startswith("error: the gate refused the model: r2 is 0.47")
    assert "wanted at least 0.99" in done.stderr
    assert done.stderr.count("\n") == 1
    run = only_run(mlflow_client, "refused")
    assert run.info.status == "FINISHED"
    assert run.data.tags[names.TAG_DECISION] == "refused"
    assert names.TAG_VERSION not in run.data.tags
    # The champion was asked for the same rows, and did as well.
    assert json.loads(run.data.tags[names.TAG_COMPARISON])["change"] == 0
    assert versions(mlflow_client, "promoted") == ["1"]
    assert aliases(mlflow_client, "promoted") == {names.CHAMPION: "1"}


def test_model_of_another_target_does_not_replace_the_champion(
    promoted: Trained, train: Train, write_config: WriteConfig, mlflow_client: MlflowClient
) -> None:
    """Clients of the one would get the other: the gate refuses, and says what to do."""
    config = write_config(
        "promoted",
        experiment="other_target",
        data={"target": "bp"},
        gate={"minimum": {}},
        cross_validation={"folds": 0},
    )
    done = train("--config", config)
    assert done.returncode == 3
    assert "it predicts 'target', and this model 'bp'; use another model_name" in done.stderr
    assert aliases(mlflow_client, "promoted") == {names.CHAMPION: "1"}


@pytest.mark.system
def test_local_cluster_gives_the_same_weights_and_leaves_the_home_alone(
    promoted: Trained,
    train: Train,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
    tmp_path: Path,
) -> None:
    """Without RAY_ADDRESS the job brings its own cluster: same seed, same bits, nothing left."""
    config = write_config("local", deadlines={"ray_connect_s": 120})
    home = tmp_path / "home"
    home.mkdir()
    environment = {"RAY_ADDRESS": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(home)}
    # Ray's socket paths must be short, so this is no folder of pytest's.
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        environment["RAY_TMPDIR"] = folder
        done = train("--config", config, environment=environment)
        assert list(Path(folder).iterdir()) == []
    assert done.returncode == 0, done.stderr
    run = only_run(mlflow_client, "local")
    mlflow_client.download_artifacts(run.info.run_id, "weights.json", str(tmp_path))
    weights = (tmp_path / "weights.json").read_bytes()
    assert weights == (promoted.artifacts / "weights.json").read_bytes()
    assert not (home / ".ray").exists()


@pytest.fixture
def bucket(free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on an S3 server of this test's own, found through AWS's usual variables."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="rows")
    yield "rows"
    server.stop()


@pytest.mark.system
def test_classifier_is_trained_from_parquet_on_s3(
    bucket: str,
    train: Train,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
    tmp_path: Path,
) -> None:
    """Text labels, a random split, a pipeline: promoted, and its output is text."""
    iris = load_iris(as_frame=True)
    table = iris.data.assign(species=iris.target_names[iris.target]).drop_duplicates()
    table.to_parquet(tmp_path / "iris.parquet")
    boto3.client("s3").upload_file(str(tmp_path / "iris.parquet"), bucket, "iris.parquet")
    config = write_config(
        "flowers",
        task="classification",
        data={"source": f"s3://{bucket}/iris.parquet", "target": "species", "features": "all"},
        split={"by": "random", "test_size": 0.3},
        estimator={"path": "sklearn.linear_model.LogisticRegression", "standardize": True},
        gate={},
    )
    done = train("--config", config)
    assert done.returncode == 0, done.stderr
    run = only_run(mlflow_client, "flowers")
    assert run.data.metrics["test_accuracy"] > 0.9
    assert "test_log_loss" in run.data.metrics
    mlflow_client.download_artifacts(run.info.run_id, "plots", str(tmp_path))
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["confusion_matrix.png"]
    assert run.outputs is not None
    model = run.outputs.model_outputs[0].model_id
    signature = mlflow.models.get_model_info(f"models:/{model}").signature
    assert signature is not None
    assert signature.outputs.to_dict() == [{"type": "string", "required": True}]
    (label,) = json.loads(run.data.tags[names.TAG_EXAMPLE_PREDICTION])
    assert label in set(iris.target_names)
