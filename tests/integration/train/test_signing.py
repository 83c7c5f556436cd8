"""From a signed training job to what serving takes and refuses, over a real MLflow server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from contract import manifest, names, signing
from serve_app.control.tracker import MlflowTracker
from serve_app.model_errors import UnservableModelError
from serve_app.models import registry
from serve_app.settings import Settings
from tests import models, signed_models
from tests.integration.train.conftest import Trained
from tests.integration.train.registry import only_run
from tests.signed_models import Keys
from train.__main__ import main

Train = Callable[..., subprocess.CompletedProcess[str]]
WriteConfig = Callable[..., Path]


@pytest.fixture(autouse=True)
def _environment(mlflow_server: str, keys: Keys) -> Iterator[None]:
    """Name server and key for commands in this process, and give the environment back."""
    before = dict(os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = mlflow_server
    os.environ[signing.KEY_FILE_VARIABLE] = str(keys.private)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def settings(mlflow_server: str, keys: Keys, tmp_path: Path) -> Callable[[str], Settings]:
    """Settings that serve a model of this server, signed by our key, with a cache of their own."""

    def make(model_name: str) -> Settings:
        return Settings(
            model_name=model_name,
            mlflow_tracking_uri=mlflow_server,
            cache_dir=tmp_path / "cache",
            signing_public_keys=keys.public,
        )

    return make


MakeSettings = Callable[[str], Settings]


def sign(write_config: WriteConfig, model_name: str, version: str) -> int:
    """Run `python -m train sign` in this process."""
    return main(["sign", "--version", version, "--config", str(write_config(model_name))])


def fetched(name: str, version: str, folder: Path) -> Path:
    """What MLflow holds of a version."""
    folder.mkdir()
    return Path(
        mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(folder))
    )


def model_id(client: MlflowClient, name: str, version: str) -> str:
    """The logged model that a version is of."""
    source = client.get_model_version(name, version).source
    assert source is not None
    return source.removeprefix("models:/")


def test_a_job_signs_what_it_has_logged_and_serving_takes_it(
    promoted: Trained, mlflow_client: MlflowClient, settings: MakeSettings, tmp_path: Path
) -> None:
    """As champion, as challenger, and exported; a copy that was changed in MLflow is refused.

    It changes the job's version in MLflow, and stands after all other tests of it.
    """
    name, run_id = promoted.model_name, promoted.run.info.run_id
    assert f"run {run_id}, signed" in promoted.output

    directory = fetched(name, "1", tmp_path / "fetched")
    found = manifest.parse((directory / names.MANIFEST_FILE).read_bytes())
    assert (found.model_name, found.run_id) == (name, run_id)
    assert {"MLmodel", names.MODEL_FILE, "input_example.json"} <= found.files.keys()

    chosen = settings(name)
    version = registry.resolve(chosen)
    registry.load(version, chosen)
    assert MlflowTracker(chosen).resolve("1")[0] == version

    exported = tmp_path / "exported"
    registry.export(chosen, exported)
    local = chosen.model_copy(update={"model_served": "local", "model_dir": exported})
    registry.load(registry.resolve(local), local)
    signed_models.flip_a_bit(exported)
    with pytest.raises(UnservableModelError, match=r"'model\.skops' was changed"):
        registry.resolve(local)

    signed_models.flip_a_bit(directory)
    file = str(directory / names.MODEL_FILE)
    mlflow_client.log_model_artifact(model_id(mlflow_client, name, "1"), file)
    registry.resolve(chosen)  # this node has what was signed
    fresh = chosen.model_copy(update={"cache_dir": tmp_path / "fresh"})
    with pytest.raises(UnservableModelError, match=r"version 1 .*'model\.skops' was changed"):
        registry.resolve(fresh)
    with pytest.raises(UnservableModelError, match=r"'model\.skops' was changed"):
        MlflowTracker(fresh).resolve("1")


@pytest.mark.system
def test_a_model_that_the_gate_refused_is_not_signed(
    train: Train,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
    settings: MakeSettings,
    keys: Keys,
) -> None:
    """Registered by hand all the same, it isn't served."""
    name = "signed-refused"
    config = write_config(name, gate={"minimum": {"r2": 0.99}}, cross_validation={"folds": 0})
    done = train("--config", config, environment={signing.KEY_FILE_VARIABLE: str(keys.private)})
    assert done.returncode == 3, done.stderr
    assert ", signed" not in done.stdout
    run = only_run(mlflow_client, name)
    assert run.outputs is not None
    logged = run.outputs.model_outputs[0].model_id
    mlflow_client.create_registered_model(name)
    mlflow_client.create_model_version(
        name, f"models:/{logged}", run_id=run.info.run_id, model_id=logged
    )
    mlflow_client.set_registered_model_alias(name, names.CHAMPION, "1")
    with pytest.raises(UnservableModelError, match=r"version 1 .* not signed"):
        registry.resolve(settings(name))


def test_an_unsigned_version_is_refused_until_it_is_signed(
    mlflow_client: MlflowClient, write_config: WriteConfig, settings: MakeSettings
) -> None:
    """Its copy, which this node had before public keys were set, is no way around that."""
    name = "signed-later"
    models.register(mlflow_client, name, 2.0)
    chosen = settings(name)
    unguarded = chosen.model_copy(update={"signing_public_keys": None})
    before = registry.resolve(unguarded)
    registry.load(before, unguarded)
    with pytest.raises(UnservableModelError, match=r"not signed.*--version 1"):
        registry.resolve(chosen)
    with pytest.raises(UnservableModelError, match=r"not signed.*--version 1"):
        registry.load(before, chosen)
    assert sign(write_config, name, "1") == 0
    registry.load(before, chosen)
    assert registry.resolve(chosen) == before
    registry.load(before, chosen.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"}))


def test_a_version_signed_by_the_old_key_is_signed_by_the_new_one(
    mlflow_client: MlflowClient,
    write_config: WriteConfig,
    settings: MakeSettings,
    tmp_path: Path,
) -> None:
    """The rotation ends when the old key is taken out of the service's file."""
    name = "signed-anew"
    models.register(mlflow_client, name, 2.0)
    assert sign(write_config, name, "1") == 0
    old = settings(name)
    registry.resolve(old)
    new = signed_models.new_keys(tmp_path / "new")
    both = tmp_path / "both.pem"
    assert old.signing_public_keys is not None
    both.write_bytes(old.signing_public_keys.read_bytes() + new.public.read_bytes())
    for public in (both, new.public):
        os.environ[signing.KEY_FILE_VARIABLE] = str(new.private)
        assert sign(write_config, name, "1") == 0
        chosen = old.model_copy(update={"signing_public_keys": public})
        registry.load(registry.resolve(chosen), chosen)
    fresh = old.model_copy(update={"cache_dir": tmp_path / "fresh"})
    with pytest.raises(UnservableModelError, match="signed by none of the 1 keys"):
        registry.resolve(fresh)


def test_the_files_of_another_signed_version_are_refused(
    mlflow_client: MlflowClient,
    write_config: WriteConfig,
    settings: MakeSettings,
    tmp_path: Path,
) -> None:
    """Of this model or another one, put in the place of this version's in MLflow's store."""
    for name in ("signed-mine", "signed-yours"):
        for slope in (2.0, 3.0):
            version = models.register(mlflow_client, name, slope)
            assert sign(write_config, name, version) == 0
    cases = {
        ("signed-mine", "1"): "is of run .*, not of run",
        ("signed-yours", "2"): "signed as 'signed-yours', not as 'signed-mine'",
    }
    victim = model_id(mlflow_client, "signed-mine", "2")
    for number, ((name, version), says) in enumerate(cases.items()):
        directory = fetched(name, version, tmp_path / f"fetched-{number}")
        mlflow_client.log_model_artifacts(victim, str(directory))
        with pytest.raises(UnservableModelError, match=says):
            registry.resolve(settings("signed-mine"))


def test_what_is_planted_in_mlflow_does_not_run(
    mlflow_client: MlflowClient,
    write_config: WriteConfig,
    settings: MakeSettings,
    tmp_path: Path,
) -> None:
    """Neither a pickle nor a loader; the reason names what was changed."""
    name = "signed-planted"
    models.register(mlflow_client, name, 2.0)
    assert sign(write_config, name, "1") == 0
    good = fetched(name, "1", tmp_path / "good")
    marker = tmp_path / "it-ran"
    for plant, damage in signed_models.plants(marker).items():
        directory = shutil.copytree(good, tmp_path / plant)
        damage(directory)
        mlflow_client.log_model_artifacts(model_id(mlflow_client, name, "1"), str(directory))
        with pytest.raises(UnservableModelError, match="not those that were signed"):
            registry.resolve(settings(name))
    assert not marker.exists()
    # What was planted is not taken for good by signing it, either.
    assert sign(write_config, name, "1") == 0
    chosen = settings(name)
    with pytest.raises(UnservableModelError):
        registry.load(registry.resolve(chosen), chosen)
    assert not marker.exists()


def test_what_training_has_not_logged_is_not_signed(
    mlflow_client: MlflowClient,
    write_config: WriteConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A version of files that somebody has uploaded; exit code 2."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("{}")
    version = models.register_directory(mlflow_client, "signed-no-model", tmp_path / "model")
    assert sign(write_config, "signed-no-model", version) == 2
    assert "can't be signed" in capsys.readouterr().err
    assert sign(write_config, "signed-no-model", "9") == 2
    assert "no version 9" in capsys.readouterr().err
