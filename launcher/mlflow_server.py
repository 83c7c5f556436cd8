"""The embedded MLflow server: SQLite and local artifacts under `var/mlflow`."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import requests

from contract import names, tracking
from contract.tracking import without_password
from launcher import preflight, processes
from launcher.errors import SettingError, UnreachableError
from launcher.processes import Child

_TIMEOUT_S = 5.0
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def store(folder: Path) -> str:
    """Return the address of the server's database, which can be used while no server runs."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def start(folder: Path, host: str, port: int, environ: Mapping[str, str], log: Path) -> Child:
    """Start the server on `port`."""
    command = [
        preflight.tool("mlflow"),
        "server",
        "--host",
        host,
        "--port",
        str(port),
        "--backend-store-uri",
        store(folder),
        "--artifacts-destination",
        str(folder / "artifacts"),
        "--workers",
        "1",
    ]
    if allowed := environ.get("MLFLOW_SERVER_ALLOWED_HOSTS"):
        command += ["--allowed-hosts", allowed]
    # Evaluation jobs are of no use here, and their workers take memory.
    environ = {**environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return processes.start("the MLflow server", command, environ=environ, log=log, cwd=folder)


def answers(uri: str) -> bool:
    """Whether a server answers at `uri`."""
    try:
        return requests.get(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_S).ok
    except requests.RequestException:
        return False


def check_address(uri: str) -> None:
    """Raise unless a server of one's own answers at `uri`: SettingError, UnreachableError."""
    shown = without_password(uri)
    if not uri.startswith(("http://", "https://")):
        raise SettingError(
            f"{shown} is no MLflow server: set MLFLOW_TRACKING_URI to an http address, "
            "or leave it out and one is started"
        )
    if not answers(uri):
        raise UnreachableError(
            f"no MLflow server answers at {shown}: start it, or correct MLFLOW_TRACKING_URI"
        )


def has_champion(uri: str, model_name: str, environ: Mapping[str, str]) -> bool:
    """Whether the registry has a version with the champion's alias.

    Raises UnreachableError if the server doesn't say, SettingError if it asks who wants to know.
    """
    try:
        who = tracking.credentials(uri, environ)
        answer = requests.get(
            f"{without_password(uri).rstrip('/')}/api/2.0/mlflow/registered-models/get",
            # Asked by its alias, a model that isn't there would be 403 where users have accounts.
            params={"name": model_name},
            auth=who,
            timeout=_TIMEOUT_S,
        )
        if answer.ok:
            aliases = answer.json()["registered_model"].get("aliases") or []
            return any(one["alias"] == names.CHAMPION for one in aliases)
        if answer.status_code in _REFUSED:
            raise SettingError(
                f"the MLflow server at {without_password(uri)} answered {answer.status_code}: "
                f"set {tracking.USER_VARIABLE} and {tracking.PASSWORD_VARIABLE}, "
                f"or {tracking.READER_VARIABLE}"
            )
        code = answer.json().get("error_code")
    except tracking.MlflowUnreachableError as error:
        raise SettingError(str(error)) from error
    except (requests.RequestException, ValueError, LookupError) as error:
        raise UnreachableError(
            f"the MLflow server at {without_password(uri)} does not answer: {type(error).__name__}"
        ) from error
    if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return False
    raise UnreachableError(
        f"the MLflow server at {without_password(uri)} answered {answer.status_code} {code}"
    )
