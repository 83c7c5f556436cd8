"""MLflow with accounts, started as deploy/compose.production.yml does: who may do what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from contract import names, tracking
from contract.tracking import Credentials, MlflowUnreachableError
from launcher import mlflow_accounts, mlflow_server
from launcher.errors import LaunchError, SettingError
from tests import mlflow_relay, running, stage
from tests.conftest import stop_process_group, wait_until_healthy
from tests.integration.deploy import compose
from tests.odd_models import Line

pytestmark = pytest.mark.system

MODEL = "diabetes"
READ = "api/2.0/mlflow/registered-models/search"
ASK_S = 10.0


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `python -m launcher secrets` fills."""
    folder = tmp_path_factory.mktemp("secrets")
    database = tmp_path_factory.mktemp("accounts") / "auth.db"
    mlflow_accounts.make_secrets(folder, f"sqlite:///{database}")
    return folder


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], secrets: Path
) -> Iterator[str]:
    """The URI of compose's server, on loopback and a free port, with its accounts."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    service = compose.services(compose.PRODUCTION)["mlflow"]
    shell, option, script = service["command"]
    for inside, here in (
        ("$$", "$"),
        ("/run/secrets", str(secrets)),
        ("/app/var/mlflow", str(folder)),
        ("--host=0.0.0.0", "--host=127.0.0.1"),
        ("--port=5000", f"--port={port}"),
    ):
        assert inside in script
        script = script.replace(inside, here)
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_AUTH_CONFIG_PATH": str(secrets / mlflow_accounts.SERVER),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [shell, option, script],
            cwd=folder,
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(process, f"{uri}/health", log)
        mlflow_accounts.establish(uri, secrets, MODEL)
        yield uri
    finally:
        stop_process_group(process)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who asks is said by each test; MLflow's own global address is put back."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    for variable in (tracking.USER_VARIABLE, tracking.PASSWORD_VARIABLE, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture
def connect(
    server: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., MlflowClient]:
    """A function that returns a client that an account's file speaks for."""

    def connect(account: str) -> MlflowClient:
        monkeypatch.setenv(tracking.READER_VARIABLE, str(secrets / account))
        return tracking.connect(server)

    return connect


@pytest.fixture
def registered(connect: Callable[..., MlflowClient]) -> str:
    """A version that the training account has logged and registered; its run's identifier."""
    client = connect(mlflow_accounts.TRAINING)
    experiment = client.get_experiment_by_name(MODEL)
    number = experiment.experiment_id if experiment else client.create_experiment(MODEL)
    run_id: str = client.create_run(number).info.run_id
    client.log_text(run_id, "flavors: {}", "model/MLmodel")
    found = client.search_registered_models(filter_string=f"name = '{MODEL}'")
    if not found:
        client.create_registered_model(MODEL)
    source = client.get_run(run_id).info.artifact_uri + "/model"
    version = client.create_model_version(MODEL, source, run_id)
    client.set_registered_model_alias(MODEL, names.CHAMPION, version.version)
    return run_id


def status(server: str, who: Credentials | None) -> int:
    """Return the status of a request that reads."""
    return requests.get(f"{server}/{READ}", auth=who, timeout=ASK_S).status_code


def refused(ask: Callable[[], object]) -> bool:
    """Whether MLflow says that this account may not."""
    try:
        ask()
    except MlflowException as error:
        return error.error_code == "PERMISSION_DENIED" or "403" in str(error)
    return False


def test_a_registry_without_the_model_has_no_champion(server: str, secrets: Path) -> None:
    """So that the first one is trained; stands first, before another test registers one."""
    environ = {tracking.READER_VARIABLE: str(secrets / mlflow_accounts.READER)}
    assert not mlflow_server.has_champion(server, "no-such-model", environ)


def test_only_the_health_page_is_for_everybody(server: str) -> None:
    """Nobody, and somebody with a wrong password, read nothing."""
    assert requests.get(f"{server}/health", timeout=ASK_S).ok
    assert status(server, None) == 401
    assert status(server, Credentials(mlflow_accounts.READER, "wrong")) == 401
    assert status(server, Credentials("admin", "password1234")) == 401


def test_mlflows_own_variables_say_who_asks(
    server: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our client passes its probe and MLflow's door with the right password, and only with it."""
    reader = tracking.credentials(
        server, {tracking.READER_VARIABLE: str(secrets / mlflow_accounts.READER)}
    )
    assert reader is not None
    monkeypatch.setenv(tracking.USER_VARIABLE, reader.user)
    monkeypatch.setenv(tracking.PASSWORD_VARIABLE, reader.password)
    tracking.connect(server).search_registered_models()
    monkeypatch.setenv(tracking.PASSWORD_VARIABLE, "wrong")
    with pytest.raises(MlflowException, match="401") as caught:
        tracking.connect(server).search_registered_models()
    assert reader.password not in str(caught.value)


def test_an_address_with_a_password_is_taken_apart(server: str, secrets: Path) -> None:
    """It works, and MLflow, whose errors repeat addresses, never gets to see it whole."""
    reader = tracking.credentials(
        server, {tracking.READER_VARIABLE: str(secrets / mlflow_accounts.READER)}
    )
    assert reader is not None
    uri = server.replace("http://", f"http://{reader.user}:{reader.password}@")
    tracking.connect(uri).search_registered_models()
    assert mlflow.get_tracking_uri() == server
    assert reader.password not in os.environ["MLFLOW_TRACKING_URI"]


def test_a_reader_reads_models_and_changes_none(
    connect: Callable[..., MlflowClient], registered: str, tmp_path: Path
) -> None:
    """Ingresses and workers need no more than that."""
    client = connect(mlflow_accounts.READER)
    version = client.get_model_version_by_alias(MODEL, names.CHAMPION)
    client.get_run(registered)
    assert mlflow.artifacts.download_artifacts(version.source, dst_path=str(tmp_path))
    assert refused(lambda: client.set_registered_model_alias(MODEL, names.CHALLENGER, "1"))
    assert refused(lambda: client.set_model_version_tag(MODEL, version.version, "a", "b"))
    assert refused(lambda: client.set_tag(registered, "a", "b"))
    assert refused(lambda: client.delete_registered_model(MODEL))


def test_the_controller_moves_aliases_and_touches_no_run(
    connect: Callable[..., MlflowClient], registered: str
) -> None:
    """It walks rollouts: tags, aliases and the lock are its own, what was trained isn't."""
    client = connect(mlflow_accounts.SERVING)
    version = client.get_model_version_by_alias(MODEL, names.CHAMPION).version
    client.set_registered_model_tag(MODEL, names.TAG_ROLLOUTS, "on")
    client.set_model_version_tag(MODEL, version, "a", "b")
    client.set_registered_model_alias(MODEL, names.CHALLENGER, version)
    client.delete_registered_model_alias(MODEL, names.CHALLENGER)
    client.delete_experiment(client.create_experiment(f"{MODEL}.promotion.{version}"))
    assert refused(lambda: client.set_tag(registered, "a", "b"))
    assert refused(lambda: client.log_metric(registered, "r2", 1.0))
    experiment = client.get_run(registered).info.experiment_id
    assert refused(lambda: client.delete_experiment(experiment))


def test_what_mlflow_can_not_keep_apart(
    connect: Callable[..., MlflowClient], registered: str
) -> None:
    """docs/security.md says so: whoever has an account may make experiments and models."""
    client = connect(mlflow_accounts.READER)
    client.create_experiment("of-a-reader")
    client.create_registered_model("of-a-reader")


def test_the_launcher_finds_the_champion_as_the_reader(
    server: str, secrets: Path, registered: str
) -> None:
    """And says what to set if it isn't let in."""
    environ = {tracking.READER_VARIABLE: str(secrets / mlflow_accounts.READER)}
    assert mlflow_server.has_champion(server, MODEL, environ)
    with pytest.raises(SettingError, match="answered 401: set MLFLOW_TRACKING_USERNAME"):
        mlflow_server.has_champion(server, MODEL, {})


def test_a_new_password_replaces_the_old_one_at_once(server: str, secrets: Path) -> None:
    """Told again, with one file made anew; the others stay as they are."""
    environ = {tracking.READER_VARIABLE: str(secrets / mlflow_accounts.READER)}
    before = tracking.credentials(server, environ)
    (secrets / mlflow_accounts.READER).unlink()
    assert mlflow_accounts.make_secrets(secrets) == [secrets / mlflow_accounts.READER]
    mlflow_accounts.establish(server, secrets, MODEL)
    assert status(server, before) == 401
    assert status(server, tracking.credentials(server, environ)) == 200


def test_accounts_are_told_by_the_administrator_only(
    server: str, secrets: Path, tmp_path: Path
) -> None:
    """Another password is refused, and not shown."""
    mlflow_accounts.make_secrets(tmp_path)
    with pytest.raises(LaunchError, match="answered 401") as caught:
        mlflow_accounts.establish(server, tmp_path, MODEL)
    text = (tmp_path / mlflow_accounts.SERVER).read_text()
    assert text.partition("admin_password = ")[2].splitlines()[0] not in str(caught.value)


def test_an_account_file_that_is_missing_is_named(server: str, tmp_path: Path) -> None:
    """By the client at its first connection."""
    environ = {tracking.READER_VARIABLE: str(tmp_path / "none")}
    with pytest.raises(MlflowUnreachableError, match="none holds no credentials"):
        tracking.connect(server, environ=environ)


@pytest.mark.timeout(400)
def test_of_a_running_service_only_the_controller_writes(
    tmp_path: Path,
    server: str,
    secrets: Path,
    free_port: Callable[[], int],
    connect: Callable[..., MlflowClient],
) -> None:
    """Through a whole rollout of a version that training's account has registered."""
    connect(mlflow_accounts.TRAINING)
    environ = running.environ(
        free_port,
        MLFLOW_CREDENTIALS_FILE=str(secrets / mlflow_accounts.READER),
        MLFLOW_WRITER_CREDENTIALS_FILE=str(secrets / mlflow_accounts.SERVING),
    )
    with (
        mlflow_relay.relay(server) as relay,
        stage.up(
            stage.launch(
                tmp_path / "project",
                environ,
                server,
                relay,
                MODEL,
                Line(1.0),
                stage.with_rollouts(),
            )
        ) as small,
    ):
        version = small.add(Line(1.001))
        with small.traffic() as traffic:
            small.client.set_registered_model_alias(MODEL, names.CHALLENGER, version)
            assert small.await_end(version)["outcome"] == names.PROMOTED
            traffic.stop().check()
        assert small.alias(names.CHAMPION) == version
    asked = {one for one in relay.asked if one.path != "/health"}
    wrote = {one for one in asked if one.method != "GET" and not one.path.endswith("/search")}
    assert {one.user for one in asked} == {mlflow_accounts.READER, mlflow_accounts.SERVING}
    assert {one.user for one in wrote} == {mlflow_accounts.SERVING}
