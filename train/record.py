"""One MLflow run that holds everything about a training job."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import requests
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from contract import names, tracking
from contract.model_types import TRUSTED_TYPES
from contract.promotion import user
from train import fingerprint, plots, weights
from train.data import Dataset, Part
from train.estimator import last_step
from train.evaluate import Evaluation
from train.fit import Fitted
from train.gate import Champion, Decision
from train.settings import TrainSettings
from train.signing import SignedSklearn, Signer

METRICS_A_CALL = 1_000
PARAMS_A_CALL = 100
LONGEST_PARAM = 500
PARAM_NAME = re.compile(r"[\w -]+", re.ASCII)
"""Keys that MLflow takes as part of a parameter's name: fewer than it does, to be sure."""

EXAMPLE_ROWS = 3
REQUIREMENTS = ("numpy", "scikit-learn", "skops")


@dataclass(frozen=True)
class Result:
    """What a job found out, before the gate's word."""

    settings: TrainSettings
    dataset: Dataset
    fitted: Fitted
    evaluation: Evaluation
    cross_validation: dict[str, tuple[float, ...]]
    fingerprint: str
    started_ms: int


@dataclass(frozen=True)
class Logged:
    """Where MLflow keeps the run and its model."""

    run_id: str
    model_id: str


def log(
    client: MlflowClient,
    result: Result,
    decision: Decision,
    champion: Champion | None,
    signer: Signer | None = None,
) -> Logged:
    """Log the whole job as one run; a failure on the way leaves it marked FAILED.

    A model that the gate refused is not signed.
    """
    experiment = mlflow.set_experiment(result.settings.experiment)
    run = client.create_run(
        experiment.experiment_id,
        start_time=result.started_ms,
        run_name=f"{type(last_step(result.fitted.model)).__name__}-{result.fingerprint[:8]}",
        tags=model_tags(result) | _origin(),
    )
    run_id = run.info.run_id
    with _quiet(), mlflow.start_run(run_id=run_id):
        try:
            _log_params(client, run_id, result)
            _log_metrics(client, run_id, result)
            _log_datasets(result)
            log_decision(client, run_id, result, decision, champion)
            _log_files(run_id, result)
            model_id = _log_model(result, signer if decision.passed else None)
        except (MlflowException, requests.RequestException):
            # Leaving the block marks the run FAILED, which a server that hangs would hold up again.
            tracking.shorten_waits()
            raise
    return Logged(run_id, model_id)


def log_decision(
    client: MlflowClient,
    run_id: str,
    result: Result,
    decision: Decision,
    champion: Champion | None,
) -> None:
    """Put the gate's decision on the run, and the predictions that it compared.

    A later decision takes the place of an earlier one.
    """
    client.log_text(run_id, _predictions(result, champion).to_csv(), "predictions.csv")
    text = json.dumps(_finite(_decision(result, decision)), indent=2, allow_nan=False)
    client.log_text(run_id, text + "\n", "gate_decision.json")
    for key, value in decision_tags(decision).items():
        client.set_tag(run_id, key, value)


def decision_tags(decision: Decision) -> dict[str, str]:
    """Return the decision as tags, for the run and for the version."""
    tags = {
        names.TAG_DECISION: "passed" if decision.passed else "refused",
        names.TAG_REASONS: "\n".join(decision.reasons)[: names.LONGEST_TAG],
        names.TAG_JUDGED_AGAINST: decision.champion_version or "none",
    }
    if decision.comparison is not None:
        tags[names.TAG_COMPARISON] = json.dumps(_finite(asdict(decision.comparison)))
    return tags


def example_prediction(fitted: Fitted, part: Part) -> str:
    """Return, as a JSON list of one value, what the model predicts for the example's first row.

    The row is predicted by itself, as serving does: sums over many rows may be rounded otherwise.
    """
    with _quiet():
        predicted = np.asarray(fitted.model.predict(part.features[:1]))
    return json.dumps(_finite(predicted.reshape(-1).tolist()))


def model_tags(result: Result) -> dict[str, str]:
    """Return where the model comes from as tags, for the run and for the version."""
    libraries = fingerprint.library_versions().items()
    return {
        names.TAG_FINGERPRINT: result.fingerprint,
        names.TAG_COMMIT: fingerprint.commit(),
        names.TAG_DATA_DIGEST: result.dataset.digest,
        names.TAG_SEED: str(result.settings.seed),
        names.TAG_EXAMPLE_PREDICTION: example_prediction(result.fitted, result.dataset.train),
        **{f"endeavour.library.{name}": installed for name, installed in libraries},
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name, which MLflow takes as the name of a parameter.

    What has keys that it wouldn't take is one value.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and all(PARAM_NAME.fullmatch(str(name)) for name in value):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _origin() -> dict[str, str]:
    """Return the tags that MLflow's page shows as user, source and commit."""
    tags = {MLFLOW_USER: user(), MLFLOW_SOURCE_NAME: "python -m train", MLFLOW_SOURCE_TYPE: "JOB"}
    commit = fingerprint.commit()
    return tags if commit == "unknown" else {**tags, MLFLOW_GIT_COMMIT: commit}


def _log_params(client: MlflowClient, run_id: str, result: Result) -> None:
    flat = flatten(result.settings.model_dump(mode="json", exclude={"deadlines"}))
    flat |= {f"fitted.{k}": v for k, v in last_step(result.fitted.model).get_params().items()}
    flat |= {
        "rows.train": len(result.dataset.train.rows),
        "rows.test": len(result.dataset.test.rows),
    }
    params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flat.items()]
    for start in range(0, len(params), PARAMS_A_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])


def _log_metrics(client: MlflowClient, run_id: str, result: Result) -> None:
    now = int(time.time() * 1000)
    found = {f"test_{name}": value for name, value in result.evaluation.metrics.items()}
    for name, values in result.cross_validation.items():
        found[f"cv_{name}_mean"] = float(np.mean(values))
        found[f"cv_{name}_std"] = float(np.std(values))
    metrics = [Metric(name, value, now, 0) for name, value in found.items()]
    losses = enumerate(result.fitted.losses, start=1)
    metrics += [Metric("train_loss", loss, now, epoch) for epoch, loss in losses]
    for start in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])


def _log_datasets(result: Result) -> None:
    dataset = result.dataset
    for context, part in (("train", dataset.train), ("test", dataset.test)):
        source = CodeDatasetSource({"source": result.settings.data.source, "part": context})
        logged = mlflow.data.from_pandas(  # type: ignore[attr-defined]
            dataset.table(part), source=source, targets=dataset.target_name, name=context
        )
        mlflow.log_input(logged, context=context)


def _log_files(run_id: str, result: Result) -> None:
    dataset, fitted = result.dataset, result.fitted
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("data", "plots"):
            (root / name).mkdir()
        dataset.table(dataset.train).to_csv(root / "data" / "train.csv")
        dataset.table(dataset.test).to_csv(root / "data" / "test.csv")
        _write_json(root / "weights.json", weights.describe(fitted.model, dataset.feature_names))
        _write_json(root / "settings.json", result.settings.model_dump(mode="json"))
        figures = plots.draw(result.settings, dataset, fitted, result.evaluation)
        for name, figure in figures.items():
            plots.save(figure, str(root / "plots" / name))
        mlflow.log_artifacts(folder, run_id=run_id)


def _log_model(result: Result, signer: Signer | None) -> str:
    dataset = result.dataset
    inputs = Schema([ColSpec(DataType.double, name) for name in dataset.feature_names])
    # MLflow would write them into the model after it was signed.
    os.environ["MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING"] = "false"
    info = Model.log(
        artifact_path=None,
        name=names.MODEL_ARTIFACT,
        flavor=SignedSklearn(signer, result.settings.model_name) if signer else mlflow.sklearn,
        sk_model=result.fitted.model,
        serialization_format="skops",
        skops_trusted_types=[*TRUSTED_TYPES, *result.settings.extra_trusted_types],
        signature=ModelSignature(inputs, Schema([ColSpec(_output_type(dataset.train))])),
        input_example=dataset.table(dataset.train)[list(dataset.feature_names)].head(EXAMPLE_ROWS),
        pip_requirements=_requirements(result),
    )
    return str(info.model_id)


def _output_type(part: Part) -> DataType:
    kinds = {"f": DataType.double, "i": DataType.long, "U": DataType.string}
    return kinds[part.target.dtype.kind]


def _requirements(result: Result) -> list[str]:
    """Name what the model needs; left to itself, MLflow loads it in a new process to find out."""
    packages = set(REQUIREMENTS)
    module = type(last_step(result.fitted.model)).__module__.partition(".")[0]
    if module != "sklearn":
        packages |= set(packages_distributions().get(module, []))
    return [f"{name}=={version(name)}" for name in sorted(packages)]


def _predictions(result: Result, champion: Champion | None) -> pd.DataFrame:
    test = result.dataset.test
    table = pd.DataFrame(
        {"actual": test.target, "predicted": result.evaluation.predictions}, index=test.rows
    )
    if champion is not None and champion.predictions is not None:
        table["champion_predicted"] = champion.predictions
    return table.rename_axis("row")


def _decision(result: Result, decision: Decision) -> dict[str, Any]:
    return {
        **asdict(decision),
        "metrics": result.evaluation.metrics,
        "policy": result.settings.policy.model_dump(),
        "seed": result.settings.seed,
    }


def _finite(value: Any) -> Any:
    """Return the value with null for what JSON has no number for: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow tries the example as a DataFrame on a model fitted on arrays, and warns of that.

    A prediction may overflow; what comes of it is looked at.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
