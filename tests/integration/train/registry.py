"""What jobs have left in MLflow."""

from mlflow import MlflowClient
from mlflow.entities import Run


def only_run(client: MlflowClient, experiment: str) -> Run:
    """Return the one run of an experiment."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return run


def versions(client: MlflowClient, model_name: str) -> list[str]:
    """Return the version numbers of a model, the newest first."""
    return [str(v.version) for v in client.search_model_versions(f"name = '{model_name}'")]


def aliases(client: MlflowClient, model_name: str) -> dict[str, str]:
    """Return version by alias."""
    return {k: str(v) for k, v in client.get_registered_model(model_name).aliases.items()}
