"""Who MLflow knows in production: one account each to read, to serve and to train.

`python -m launcher secrets` makes their passwords, and `python -m launcher accounts` tells MLflow.
docs/security.md says what each may do, and what MLflow can't keep apart.
"""

from __future__ import annotations

import configparser
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import requests

from contract import tracking
from contract.tracking import Credentials
from launcher.errors import LaunchError, SettingError, UnreachableError

SERVER: Final = "mlflow_auth"
"""File with the server's own settings, the administrator's password among them."""

SESSION_KEY: Final = "mlflow_flask_key"
"""File with the key by which MLflow signs what it gives to browsers."""

READER: Final = "mlflow_reader"
SERVING: Final = "mlflow_serving"
TRAINING: Final = "mlflow_training"
ACCOUNTS: Final = (READER, SERVING, TRAINING)
"""Files with user and password of those who ask; each user is called as its file is."""

DATABASE: Final = "sqlite:////app/var/mlflow/auth.db"
"""Where the server of deploy/compose.production.yml keeps its users."""

_USERS: Final = "api/2.0/mlflow/users"
_GRANT: Final = "api/3.0/mlflow/users/permissions/grant"
_TIMEOUT_S: Final = 10.0

_SERVER_TEXT: Final = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Checking a password takes tens of milliseconds, and each request brings one. A change by MLflow's
# own interface takes effect at once, as there's one worker.
auth_cache_ttl_seconds = 60
"""
_ACCOUNT_TEXT: Final = """\
[mlflow]
mlflow_tracking_username = {name}
mlflow_tracking_password = {password}
"""


def make_secrets(folder: Path, database: str = DATABASE) -> list[Path]:
    """Write the files that aren't there yet, for their owner only; return those.

    The folder lets through whoever knows a name: compose looks for them as you, not as their owner.
    Raises SettingError.
    """
    texts = {
        SERVER: _SERVER_TEXT.format(database=database, password=_password()),
        SESSION_KEY: _password(),
        **{name: _ACCOUNT_TEXT.format(name=name, password=_password()) for name in ACCOUNTS},
    }
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        made = [folder / name for name in texts if not (folder / name).exists()]
        for file in made:
            file.touch(mode=0o600)
            file.write_text(texts[file.name])
    except OSError as error:
        raise SettingError(
            f"{folder}: secrets can't be written: {error}; name another folder by --to, or run "
            "this as the folder's owner or root"
        ) from error
    return made


def establish(uri: str, folder: Path, model_name: str) -> None:
    """Let MLflow know the accounts, with their passwords and what they may do; any number of times.

    Raises SettingError, UnreachableError, LaunchError.
    """
    server = _Server(uri, _administrator(folder / SERVER))
    for name in ACCOUNTS:
        account = _account(folder / name)
        if not server.tell("POST", f"{_USERS}/create", account):
            server.tell("PATCH", f"{_USERS}/update-password", account)
    for name, resource, pattern, permission in (
        # Deleting an alias takes as much as deleting the model does.
        (SERVING, "registered_model", model_name, "MANAGE"),
        (TRAINING, "registered_model", model_name, "MANAGE"),
        # What it makes itself is its own; this is for what was there before.
        (TRAINING, "experiment", "*", "EDIT"),
    ):
        user = _account(folder / name)["username"]
        grant = {"resource_type": resource, "resource_id": pattern, "permission": permission}
        server.tell("POST", _GRANT, {"username": user, **grant})


class _Server:
    """MLflow, as its administrator tells it something."""

    def __init__(self, uri: str, administrator: Credentials) -> None:
        self._uri = tracking.without_password(uri).rstrip("/")
        self._who = administrator

    def tell(self, method: str, route: str, content: Mapping[str, str]) -> bool:
        """Return whether it is new."""
        try:
            answer = requests.request(
                method,
                f"{self._uri}/{route}",
                json=dict(content),
                auth=self._who,
                timeout=_TIMEOUT_S,
            )
        except requests.RequestException as error:
            raise UnreachableError(
                f"no MLflow server answers at {self._uri} ({type(error).__name__})"
            ) from error
        if answer.ok:
            return True
        code = _code(answer)
        if code == "RESOURCE_ALREADY_EXISTS":
            return False
        raise LaunchError(f"MLflow answered {answer.status_code} {code} to {method} {route}")


def _code(answer: requests.Response) -> str:
    try:
        content: Any = answer.json()
    except ValueError:
        return answer.reason
    return str(content.get("error_code")) if isinstance(content, dict) else answer.reason


def _administrator(file: Path) -> Credentials:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
        section = parser["mlflow"]
        return Credentials(section["admin_username"], section["admin_password"])
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        raise SettingError(
            f"{file} names no administrator of MLflow ({type(error).__name__}): "
            "make it with `python -m launcher secrets`"
        ) from None


def _account(file: Path) -> dict[str, str]:
    try:
        found = tracking.credentials("", {tracking.READER_VARIABLE: str(file)})
    except tracking.MlflowUnreachableError as error:
        raise SettingError(str(error)) from error
    assert found is not None
    return {"username": found.user, "password": found.password}


def _password() -> str:
    return secrets.token_hex(24)
