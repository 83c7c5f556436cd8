"""Where public keys are set, only what training signed is read; everything else is refused."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import skops.io
import yaml
from mlflow.entities.model_registry import ModelVersion
from sklearn.linear_model import LinearRegression

from contract import names, signing
from contract.tracking import MlflowUnreachableError
from serve_app.control import memory
from serve_app.control.seed import seed
from serve_app.model_errors import ModelError, UnservableModelError
from serve_app.models import model_files, registry, signed
from serve_app.models.model_cache import ModelCache
from serve_app.models.served import ServedVersion, describe
from serve_app.routing import Table
from serve_app.settings import Settings, resolve
from tests import models, signed_models
from tests.signed_models import Damage, Keys
from tests.unit.serve_app.models import stores
from tests.unit.serve_app.models.stores import Store

ROWS = np.random.default_rng(0).normal(size=(10, 2))
PLANTS = ("pickle", "pickle as skops", "code", "loader")


def lengthen(name: str, size: int) -> Damage:
    """Return what makes a file so long."""

    def damage(directory: Path) -> None:
        with (directory / name).open("a") as content:
            content.truncate(size)

    return damage


DAMAGES: list[tuple[Damage, str]] = [
    (signed_models.flip_a_bit, "'model.skops' was changed"),
    (signed_models.add_a_file, "'notes.txt' was added"),
    (signed_models.remove_a_file, "'requirements.txt' is missing"),
    (signed_models.rename_a_file, "'needs.txt' was added, 'requirements.txt' is missing"),
    (signed_models.link_out, "leads out"),
    (signed_models.unsign, "not signed, and public keys are set"),
    (signed_models.cut_the_signature, r"manifest\.sig has 32 bytes, not 64"),
    (lengthen(names.SIGNATURE_FILE, 65), r"manifest\.sig has 65 bytes, more than 64"),
    (lengthen(names.MANIFEST_FILE, 2**20 + 1), r"json has 1048577 bytes, more than 1048576"),
    (signed_models.rewrite_the_manifest, "signed by none of the 1 keys"),
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """What the models of these tests are signed with."""
    return signed_models.new_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory without a signature."""
    estimator = LinearRegression().fit(ROWS, ROWS @ [1.0, 2.0])
    return models.write(tmp_path_factory.mktemp("written") / "model", estimator, ROWS, ["a", "b"])


@pytest.fixture
def directory(written: Path, keys: Keys, tmp_path: Path) -> Path:
    """A model directory, signed as model `m` of the run `run-1`."""
    copy = shutil.copytree(written, tmp_path / "model")
    keys.sign(copy, "m", "run-1")
    return copy


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was read by the libraries that read models; the tests ask for none."""
    read: list[Any] = []
    for module, name in (
        (skops.io, "load"),
        (skops.io, "get_untrusted_types"),
        (yaml, "safe_load"),
    ):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: read.append(args))
    yield read
    assert read == []


def local(directory: Path, public: Path | None) -> Settings:
    """Settings that serve a directory."""
    return Settings(
        model_name="m",
        model_served="local",
        model_dir=directory,
        signing_public_keys=public,
        cache_dir=directory.parent / "cache",
    )


def remote(directory: Path, public: Path | None) -> Settings:
    """Settings that serve the registry's champion, of a registry that is away."""
    return Settings(
        model_name="m",
        signing_public_keys=public,
        cache_dir=directory.parent / "cache",
        mlflow_tracking_uri="http://127.0.0.1:9",
    )


def cached(directory: Path, settings: Settings, run_id: str | None = "run-1") -> ServedVersion:
    """A version that this node has a copy of."""
    digest = model_files.digest_of(directory)
    shutil.copytree(directory, settings.cache_dir / "files" / digest)
    return ServedVersion("m", "3", run_id, "models:/m/3", digest)


def copy_in(settings: Settings) -> Path:
    """The one copy that a node has."""
    (copy,) = (settings.cache_dir / "files").iterdir()
    return copy


def test_what_training_signed_is_served(directory: Path, keys: Keys) -> None:
    """From a directory, and from this node's cache without MLflow."""
    settings = local(directory, keys.public)
    version = registry.resolve(settings)
    np.testing.assert_allclose(
        registry.load(version, settings).predict(np.array([[1.0, 10.0]])).values, [21.0]
    )
    settings = remote(directory, keys.public)
    registry.load(cached(directory, settings), settings)


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_directory_that_is_not_what_was_signed_is_not_read(
    directory: Path, keys: Keys, damage: Damage, says: str
) -> None:
    """The reason is one line with the way out."""
    damage(directory)
    with pytest.raises(UnservableModelError, match=says) as refused:
        registry.resolve(local(directory, keys.public))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_worker_does_not_read_what_has_changed_since_the_start(
    directory: Path, keys: Keys, damage: Damage, says: str
) -> None:
    """Each load looks again."""
    settings = local(directory, keys.public)
    version = registry.resolve(settings)
    damage(directory)
    with pytest.raises(UnservableModelError, match=says):
        registry.load(version, settings)


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(("damage", "says"), DAMAGES[5:])
def test_a_copy_without_a_good_signature_is_not_read(
    directory: Path, keys: Keys, damage: Damage, says: str
) -> None:
    """Without MLflow there is no better one, and the reason is the signature."""
    settings = remote(directory, keys.public)
    version = cached(directory, settings)
    damage(copy_in(settings))
    if damage is signed_models.rewrite_the_manifest:  # its files are no longer the copy's own
        with pytest.raises(MlflowUnreachableError):
            registry.load(version, settings)
        return
    with pytest.raises(UnservableModelError, match=says) as refused:
        registry.load(version, settings)
    assert "version 3 of 'm'" in str(refused.value)
    assert "--version 3" in str(refused.value)


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(("damage", "_says"), DAMAGES[:5])
def test_a_copy_that_was_changed_is_deleted_and_not_read(
    directory: Path, keys: Keys, damage: Damage, _says: str
) -> None:
    """A link that leads out, too."""
    settings = remote(directory, keys.public)
    version = cached(directory, settings)
    copy = copy_in(settings)
    damage(copy)
    with pytest.raises(MlflowUnreachableError):
        registry.load(version, settings)
    assert not copy.exists()


def test_a_manifest_of_another_model_is_refused(directory: Path, keys: Keys) -> None:
    """Signed by the same key, as a model of another name."""
    keys.sign(directory, "other", "run-1")
    with pytest.raises(UnservableModelError, match="signed as 'other', not as 'm'"):
        registry.resolve(local(directory, keys.public))
    settings = remote(directory, keys.public)
    with pytest.raises(UnservableModelError, match="signed as 'other', not as 'm'"):
        registry.load(cached(directory, settings), settings)


def test_another_version_of_the_model_is_refused(directory: Path, keys: Keys) -> None:
    """All its files, its manifest and its signature, in the place of this one's."""
    settings = remote(directory, keys.public)
    version = replace(cached(directory, settings), run_id="run-2")
    with pytest.raises(UnservableModelError, match="of run run-1, not of run run-2"):
        registry.load(version, settings)


def test_the_signature_of_another_version_is_refused(
    directory: Path, keys: Keys, tmp_path: Path
) -> None:
    """Without its files it signs nothing."""
    other = shutil.copytree(directory, tmp_path / "other")
    signed_models.flip_a_bit(other)
    keys.sign(other, "m", "run-2")
    shutil.copy(other / names.SIGNATURE_FILE, directory)
    with pytest.raises(UnservableModelError, match="signed by none"):
        registry.resolve(local(directory, keys.public))
    shutil.copy(other / names.MANIFEST_FILE, directory)
    with pytest.raises(UnservableModelError, match=r"'model\.skops' was changed"):
        registry.resolve(local(directory, keys.public))


@pytest.mark.parametrize("run_id", [None, ""])
def test_a_registered_version_must_name_its_run(
    directory: Path, keys: Keys, run_id: str | None
) -> None:
    """Else any signed version of the name could be passed off as it."""
    settings = remote(directory, keys.public)
    with pytest.raises(UnservableModelError, match="names no run"):
        registry.load(cached(directory, settings, run_id), settings)


def test_a_stranger_who_signs_is_refused(directory: Path, keys: Keys, tmp_path: Path) -> None:
    """By a key that isn't in the file."""
    signed_models.new_keys(tmp_path / "strangers").sign(directory, "m", "run-1")
    with pytest.raises(UnservableModelError, match="signed by none of the 1 keys"):
        registry.resolve(local(directory, keys.public))


def test_an_exported_directory_is_of_the_run_that_it_names(directory: Path, keys: Keys) -> None:
    """Its facts and its manifest must agree."""
    digest = model_files.digest_of(directory)
    facts = registry.Exported(name="m", version="3", run_id="run-1", digest=digest)
    file = directory / names.EXPORT_FILE
    file.write_text(facts.model_dump_json())
    assert registry.resolve(local(directory, keys.public)).version == "3"
    file.write_text(facts.model_copy(update={"run_id": "run-2"}).model_dump_json())
    with pytest.raises(UnservableModelError, match="of run run-1, not of run run-2"):
        registry.resolve(local(directory, keys.public))


def test_two_keys_are_in_force_while_one_takes_the_others_place(
    directory: Path, keys: Keys, tmp_path: Path
) -> None:
    """The file is read at each load: no restart is needed, and a key that is gone is gone."""
    new = signed_models.new_keys(tmp_path / "new")
    file = tmp_path / "public_keys.pem"
    settings = local(directory, file)
    file.write_bytes(keys.public.read_bytes())
    registry.resolve(settings)
    file.write_bytes(keys.public.read_bytes() + new.public.read_bytes())
    registry.resolve(settings)
    new.sign(directory, "m", "run-1")
    version = registry.resolve(settings)
    file.write_bytes(new.public.read_bytes())
    registry.load(version, settings)
    file.write_bytes(keys.public.read_bytes())
    with pytest.raises(UnservableModelError, match="signed by none of the 1 keys"):
        registry.load(version, settings)


def test_without_public_keys_a_signature_is_not_asked_for(directory: Path) -> None:
    """Signed or not, right or wrong: as before."""
    registry.resolve(local(directory, None))
    signed_models.cut_the_signature(directory)
    registry.resolve(local(directory, None))
    signed_models.unsign(directory)
    registry.resolve(local(directory, None))


@pytest.mark.parametrize("content", [None, b"", b"no key", signing.generate()[0]])
def test_public_keys_that_cannot_be_read_let_nothing_in(
    directory: Path, tmp_path: Path, content: bytes | None
) -> None:
    """It is no fault of the version's: what was served last isn't tried instead."""
    file = tmp_path / "public_keys.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=signing.PUBLIC_KEYS_VARIABLE) as refused:
        registry.resolve(local(directory, file))
    assert not isinstance(refused.value, UnservableModelError)


def test_a_start_without_mlflow_serves_signed_copies_only(directory: Path, keys: Keys) -> None:
    """What this node served last was perhaps served before public keys were set."""
    signed_models.unsign(directory)
    settings = remote(directory, None)
    version = cached(directory, settings)
    model = describe(version, registry.load(version, settings))
    memory.remember(settings, Table(9, model))
    assert seed(settings).champion.version == version
    settings = remote(directory, keys.public)
    with pytest.raises(UnservableModelError, match="not signed"):
        seed(settings)
    # Nor is it taken when a replica falls back on it, with a newer one known.
    table = Table(3, model)
    assert memory.fallback(table, settings) is table


class Registered:
    """A registry that knows one version."""

    def __init__(self, run_id: str | None) -> None:
        self.found = ModelVersion("m", "3", 0, source="models:/m-1", run_id=run_id)

    def get_run(self, run_id: str) -> Any:
        """Nothing is asked of it before the files are found good."""
        raise AssertionError(run_id)


@pytest.mark.usefixtures("reads")
def test_what_is_fetched_is_checked_before_it_becomes_a_copy(
    directory: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a version that is refused stays on the node."""
    signed_models.add_a_file(directory)
    settings = remote(directory, keys.public)
    stores.use(monkeypatch, Store(directory))
    client = Registered("run-1")
    with pytest.raises(UnservableModelError, match=r"'notes\.txt' was added"):
        registry.fetch(client, client.found, settings)
    assert {file.name for file in settings.cache_dir.rglob("*")} == {"files", "versions"}


def test_a_copy_that_was_signed_since_is_fetched_and_served(
    directory: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its signature takes the place of the old one; the files, being the same, stay."""
    settings = remote(directory, keys.public)
    version = cached(directory, settings)
    copy = copy_in(settings)
    signed_models.unsign(copy)
    stores.use(monkeypatch, Store(directory))
    check = signed.check_of_version(settings, "m", "3", "run-1")
    assert ModelCache(settings.cache_dir, check).fetch("m", "3", "models:/m-1") == copy
    registry.load(version, settings)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What planted code makes when it runs."""
    return tmp_path / "it-ran"


@pytest.fixture
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no planted module, and no folder of one, to other tests."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("planted_loader", None)


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_runs_where_it_is_read_in_the_usual_way(
    directory: Path, marker: Path, plant: str
) -> None:
    """Or the tests below would show nothing."""
    signed_models.plants(marker)[plant](directory)
    if plant == "pickle":
        pickle.loads((directory / "model.pkl").read_bytes())
    elif plant == "pickle as skops":
        pickle.loads((directory / names.MODEL_FILE).read_bytes())
    else:
        if plant == "loader":
            sys.path.insert(0, str(directory / "code"))
        mlflow.pyfunc.load_model(str(directory))
    assert marker.is_dir()


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("has_keys", [True, False])
def test_nothing_planted_runs(
    directory: Path, keys: Keys, marker: Path, plant: str, has_keys: bool
) -> None:
    """With public keys it isn't read at all, without them it is refused for what it is."""
    signed_models.plants(marker)[plant](directory)
    settings = local(directory, keys.public if has_keys else None)
    says = {
        "pickle": "skops format",
        "pickle as skops": "not a readable skops file",
        "code": "carries code of its own",
        "loader": "asks for the loader 'planted_loader'",
    }[plant]
    with pytest.raises(UnservableModelError) as refused:
        registry.load(registry.resolve(settings), settings)
    assert ("not those that were signed" if has_keys else says) in str(refused.value)
    assert not marker.exists()
    assert "planted_loader" not in sys.modules


@pytest.mark.parametrize("plant", PLANTS)
def test_nothing_planted_runs_even_if_training_signed_it(
    directory: Path, keys: Keys, marker: Path, plant: str
) -> None:
    """A signature says whose the files are; what is read is bounded as before."""
    signed_models.plants(marker)[plant](directory)
    keys.sign(directory, "m", "run-1")
    settings = local(directory, keys.public)
    with pytest.raises(UnservableModelError):
        registry.load(registry.resolve(settings), settings)
    assert not marker.exists()


def test_the_setting_is_a_file_by_its_absolute_path(tmp_path: Path) -> None:
    """The variable wins over the config; replicas run elsewhere than who wrote it."""
    args = {"signing_public_keys": "keys.pem"}
    assert resolve(args, {}).signing_public_keys == Path("keys.pem").absolute()
    environ = {signing.PUBLIC_KEYS_VARIABLE: str(tmp_path)}
    assert resolve(args, environ).signing_public_keys == tmp_path
    assert resolve({}, {}).signing_public_keys is None
