"""How MLflow is reached: where, as whom, by when, and what is said when it isn't there."""

from __future__ import annotations

import configparser
import os
import threading
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import requests

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEADLINES = {
    # MLflow's own defaults (120 s, 7 retries) wait about 20 minutes for a server that hangs.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
PROBE_TIMEOUT_S = 5.0
OVERALL_TIMEOUT_S = 25.0
"""Several calls in a row, each within its deadline, add up to no more than this."""

READER_VARIABLE: Final = "MLFLOW_CREDENTIALS_FILE"
"""Names a file with user and password, as MLflow's own `~/.mlflow/credentials` has them."""

WRITER_VARIABLE: Final = "MLFLOW_WRITER_CREDENTIALS_FILE"
"""Names another one, for those who also write; without it they are who the readers are."""

USER_VARIABLE: Final = "MLFLOW_TRACKING_USERNAME"
PASSWORD_VARIABLE: Final = "MLFLOW_TRACKING_PASSWORD"

T = TypeVar("T")


class Credentials(NamedTuple):
    """Who asks MLflow."""

    user: str
    password: str


class MlflowUnreachableError(Exception):
    """MLflow did not answer within the deadline, or no address for it was given."""


def tracking_uri(environ: Mapping[str, str]) -> str | None:
    """Return the tracking URI: `MLFLOW_TRACKING_URI`, else the original's `MLFLOW_SERVER_HOST`."""
    if uri := environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if host := environ.get("MLFLOW_SERVER_HOST"):
        return host if "://" in host else f"http://{host}"
    return None


def bound_waits(environ: MutableMapping[str, str] = os.environ) -> None:
    """Give MLflow's HTTP client deadlines, where the environment has none. Call before import."""
    for name, value in DEADLINES.items():
        environ.setdefault(name, value)


def shorten_waits(environ: MutableMapping[str, str] = os.environ) -> None:
    """Give a server that has just failed one more short try at each call, not a full round."""
    environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "4"
    environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"


def without_password(uri: str) -> str:
    """Return an address that may be shown: its user and password are left out."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def credentials(
    uri: str, environ: Mapping[str, str], *, writes: bool = False
) -> Credentials | None:
    """Return who asks: as a file says, else MLflow's own variables, else the address itself.

    Raises MlflowUnreachableError if the file can't be used.
    """
    if file := (writes and environ.get(WRITER_VARIABLE)) or environ.get(READER_VARIABLE):
        return _of_file(file)
    if environ.get(USER_VARIABLE) and environ.get(PASSWORD_VARIABLE):
        return Credentials(environ[USER_VARIABLE], environ[PASSWORD_VARIABLE])
    parts = urlsplit(uri)
    if parts.username and parts.password:
        return Credentials(unquote(parts.username), unquote(parts.password))
    return None


def _of_file(file: str) -> Credentials:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(file, encoding="utf-8") as content:  # noqa: PTH123  # the text of a variable
            parser.read_file(content)
        section = parser["mlflow"]
        return Credentials(section[USER_VARIABLE], section[PASSWORD_VARIABLE])
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        # Of a line that is wrong, the error would show the text.
        raise MlflowUnreachableError(
            f"{file} holds no credentials for MLflow ({type(error).__name__}): it needs a section "
            f"[mlflow] with {USER_VARIABLE.lower()} and {PASSWORD_VARIABLE.lower()}"
        ) from None


def connect(
    uri: str | None, *, writes: bool = False, environ: MutableMapping[str, str] = os.environ
) -> MlflowClient:
    """Return a client of the server at `uri` that has just answered.

    Who asks is said to MLflow by its own variables, in `environ`: its errors repeat addresses.
    Raises MlflowUnreachableError within about 5 s if there's no address or no answer.
    """
    if uri is None:
        raise MlflowUnreachableError(
            "no MLflow server named: set MLFLOW_TRACKING_URI (or MLFLOW_SERVER_HOST), "
            "for example http://127.0.0.1:5000, or start one with `make run`"
        )
    bound_waits(environ)
    if uri.startswith(("http://", "https://")):
        who = credentials(uri, environ, writes=writes)
        if who is not None:
            environ[USER_VARIABLE], environ[PASSWORD_VARIABLE] = who
        uri = without_password(uri)
        _probe(uri, who)
    import mlflow  # noqa: PLC0415  # takes seconds: only for those who really connect

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def in_time(ask: Callable[[], T], timeout_s: float = OVERALL_TIMEOUT_S) -> T:
    """Return what `ask` returns, or raise what it raises.

    Raises MlflowUnreachableError after `timeout_s`; `ask` then goes on in a thread that nobody
    waits for, and that ends with the process.
    """
    answer: Future[T] = Future()

    def settle() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # whoever waits raises it
            answer.set_exception(error)

    threading.Thread(target=settle, name="mlflow", daemon=True).start()
    try:
        return answer.result(timeout_s)
    except TimeoutError as error:
        raise MlflowUnreachableError(
            f"MLflow answers too slowly (not done after {timeout_s:g} s): "
            "look at its server's log, or correct MLFLOW_TRACKING_URI"
        ) from error


def _probe(uri: str, who: Credentials | None) -> None:
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", auth=who, timeout=PROBE_TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise MlflowUnreachableError(
            f"no MLflow server answers at {uri} ({type(error).__name__}): "
            "start it, or correct MLFLOW_TRACKING_URI"
        ) from error
