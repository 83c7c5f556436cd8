"""Models are read without pickle and without code of their own, or not at all."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry.model_version_tag import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from contract import names, tracking
from contract.tracking import MlflowUnreachableError
from serve_app.model_errors import ModelError, NoSuchModelError, UnservableModelError
from serve_app.models import model_cache, model_check, model_files, registry
from serve_app.models.model import Model
from serve_app.models.model_cache import STALE_S, ModelCache
from serve_app.records.signature import Column, Signature
from serve_app.settings import Settings
from tests import models
from tests.unit.serve_app.models import stores
from tests.unit.serve_app.models.stores import Store

ROWS = np.random.default_rng(0).normal(size=(10, 2))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A linear model of two columns, y = a + 2b."""
    estimator = LinearRegression().fit(ROWS, ROWS @ [1.0, 2.0])
    return models.write(tmp_path / "model", estimator, ROWS, ["a", "b"])


def change(directory: Path, path: list[Any], value: Any) -> None:
    """Set a key of MLmodel."""
    file = directory / "MLmodel"
    content = yaml.safe_load(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(yaml.safe_dump(content))


def local(directory: Path) -> Settings:
    """Settings that serve a directory."""
    return Settings(model_served="local", model_dir=directory)


def test_a_model_predicts_in_the_signatures_order(directory: Path) -> None:
    """Columns, example and predictions come out as they went in."""
    model = model_files.read(directory)
    assert model.signature.names == ("a", "b")
    np.testing.assert_array_equal(model.example, ROWS[:1])
    np.testing.assert_allclose(model.predict(np.array([[1.0, 10.0]])).values, [21.0])


def test_a_pipeline_of_columns_of_all_kinds_is_read(tmp_path: Path) -> None:
    """Text and truth values beside numbers: its example is a record of them."""
    frame = pd.DataFrame(
        {"size": [20.5, 80.0], "rooms": [1, 3], "city": ["Oslo", "Rome"], "new": [True, False]}
    )
    columns = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    estimator = make_pipeline(columns, LogisticRegression()).fit(frame, ["cheap", "dear"])
    model = model_files.read(models.write_frame(tmp_path / "model", estimator, frame))
    assert model.example.tolist() == [(20.5, 1, "Oslo", True)]
    assert model.predict(model.example).values.tolist() == ["cheap"]
    assert model.labels == ("cheap", "dear")


def test_tree_ensembles_are_on_the_list(tmp_path: Path) -> None:
    """Gradient boosting loads by our list of types."""
    estimator = GradientBoostingRegressor(n_estimators=3).fit(ROWS, ROWS[:, 0])
    directory = models.write(tmp_path / "model", estimator, ROWS, ["a", "b"])
    expected = estimator.predict(ROWS)
    np.testing.assert_array_equal(model_files.read(directory).predict(ROWS).values, expected)


def test_a_type_that_is_not_on_the_list_is_refused_by_name(tmp_path: Path) -> None:
    """The model's own list of trusted types counts for nothing; ours can be extended."""
    estimator = LinearRegression().fit(ROWS, ROWS[:, 0])
    directory = models.write(tmp_path / "model", estimator, ROWS, ["a", "b"])
    odd = FunctionTransformer(func=shutil.rmtree)
    skops.io.dump(odd, directory / "model.skops")
    change(directory, ["flavors", "sklearn", "skops_trusted_types"], ["shutil.rmtree"])
    with pytest.raises(UnservableModelError, match=r"shutil.rmtree.*extra_trusted_types"):
        model_files.read(directory)


@pytest.mark.parametrize("place", ["outside.json", "input_example.json"])
def test_an_example_outside_of_the_model_or_without_end_is_not_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Zeros are taken for it, as for a model that has none; MLmodel may name any path."""
    outside = directory.parent / "outside.json"
    shutil.copy(directory / "input_example.json", outside)
    if place == "outside.json":
        change(directory, ["saved_input_example_info", "artifact_path"], str(outside))
    else:
        monkeypatch.setattr(model_files, "MOST_EXAMPLE_BYTES", 10)
    _, example = model_files.head(directory)
    np.testing.assert_array_equal(example, [[0.0, 0.0]])


def test_an_example_has_numbers_that_its_columns_hold(directory: Path) -> None:
    """Those of a float column are rounded, as a client's are; one too large is as good as none."""
    inputs = [{"type": "float", "name": "a"}, {"type": "double", "name": "b"}]
    change(directory, ["signature", "inputs"], json.dumps(inputs))
    file = directory / "input_example.json"
    for value, expected in ((0.1, [float(np.float32(0.1)), 0.1]), (1e39, [0.0, 0.0])):
        file.write_text(json.dumps({"columns": ["a", "b"], "data": [[value, 0.1]]}))
        assert model_files.read(directory).example.tolist() == [expected]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["flavors", "python_function", "predict_fn"], "predict_proba", r"predict_proba.*\?proba"),
        (["flavors", "python_function", "predict_fn"], None, "None.*instead of predict"),
        (["flavors", "sklearn", "serialization_format"], "cloudpickle", "skops"),
        (["flavors", "sklearn", "code"], "code", "code of its own"),
        (["flavors", "python_function", "code"], "code", "code of its own"),
        (["flavors", "python_function", "model_code_path"], "model.py", "code of its own"),
        (["flavors", "python_function", "loader_module"], "evil", "loader"),
        (["flavors", "python_function"], "evil", "no mapping"),
        (["flavors", "xgboost"], {"loader_module": "evil"}, "other flavors.*: xgboost;"),
        (["flavors", 3], None, "other flavors.*: 3;"),
        (["flavors", "sklearn", "pickled_model"], "../elsewhere.skops", "not in the model"),
        (["flavors"], {"xgboost": {}}, "skops"),
        (["signature"], None, "signature"),
        (["signature", "inputs"], '[{"type": "tensor"}]', "named columns"),
        (["signature", "inputs"], '[{"type": "binary", "name": "a"}]', "of type binary"),
    ],
)
def test_what_would_run_code_or_cannot_be_checked_is_refused(
    directory: Path, path: list[Any], value: Any, says: str
) -> None:
    """The error says which part of MLmodel stands in the way."""
    change(directory, path, value)
    with pytest.raises(UnservableModelError, match=says):
        model_files.read(directory)


def test_a_damaged_file_is_refused(directory: Path) -> None:
    """Bytes that are no skops archive give an error, not a crash."""
    (directory / "model.skops").write_bytes(b"not a zip")
    with pytest.raises(UnservableModelError, match="not a readable skops file"):
        model_files.read(directory)
    with zipfile.ZipFile(directory / "model.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "x"}))
    with pytest.raises(UnservableModelError):
        model_files.read(directory)


def test_a_file_that_is_small_only_while_it_is_packed_is_refused(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """Before anything of it is unpacked."""
    with zipfile.ZipFile(directory / "model.skops", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.npy", b"\0" * 10**6)
    monkeypatch.setattr(skops.io, "load", None)
    monkeypatch.setattr(model_files, "MOST_UNPACKED_BYTES", 10**6)
    with pytest.raises(UnservableModelError, match=r"unpacked, more than 1000000"):
        model_files.read(directory)


def test_a_directory_without_a_model_says_how_to_get_one(tmp_path: Path) -> None:
    """`make export` is the way out."""
    with pytest.raises(NoSuchModelError, match="make export"):
        registry.resolve(local(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "m"}', '{"name": 1, "version": "2"}'])
def test_a_damaged_export_file_is_refused(directory: Path, content: str) -> None:
    """It names the version; without it people would be told a wrong one."""
    (directory / names.EXPORT_FILE).write_text(content)
    with pytest.raises(UnservableModelError, match="make export"):
        registry.resolve(local(directory))


def test_the_digest_leaves_out_only_what_is_written_beside_the_model(directory: Path) -> None:
    """The same names further down are the model's own."""
    digest = model_files.digest_of(directory)
    (directory / names.EXPORT_FILE).write_text("{}")
    (directory / "registered_model_meta").write_text("x")
    assert model_files.digest_of(directory) == digest
    (directory / "data").mkdir()
    (directory / "data" / names.EXPORT_FILE).write_text("{}")
    assert model_files.digest_of(directory) != digest


def test_a_link_that_leads_out_of_the_directory_is_refused(directory: Path) -> None:
    """What it leads to would not be in the digest; a link inside is taken."""
    (directory / "inside").symlink_to("MLmodel")
    registry.resolve(local(directory))
    (directory / "outside").symlink_to(directory.parent)
    with pytest.raises(UnservableModelError, match="leads out"):
        registry.resolve(local(directory))


class Odd(LinearRegression):  # type: ignore[misc]
    """A linear model whose answers can be bent."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer = answer

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Give the answer that was set."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return super().predict(X) if self.answer is None else self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ValueError("no"), "fails on its input example"),
        (np.zeros((1, 2)), "one value a record"),
        (np.zeros(2), "one value a record"),
        (np.float64(1), "one value a record"),
        (np.array([np.nan]), "no finite number"),
        (np.array([1j]), "complex128.*only numbers"),
        (np.array([b"a"]), "only numbers, truth values and text"),
        (np.array([None]), "only numbers, truth values and text"),
    ],
)
def test_a_model_that_cannot_answer_is_refused_when_it_is_loaded(answer: Any, says: str) -> None:
    """Its own input example shows it."""
    estimator = Odd().fit(ROWS, ROWS[:, 0])
    columns = Signature((Column("a", "double"), Column("b", "double")))
    model_check.check(Model(estimator, columns, ROWS[:1]))
    estimator.answer = answer
    with pytest.raises(UnservableModelError, match=says):
        model_check.check(Model(estimator, columns, ROWS[:1]))


def test_a_signature_that_is_not_the_estimators_is_refused(directory: Path) -> None:
    """The number of columns, and their order where the estimator knows it."""
    inputs = [{"type": "double", "name": name} for name in ("a", "b", "c")]
    change(directory, ["signature", "inputs"], json.dumps(inputs))
    with pytest.raises(UnservableModelError, match="3 columns, but the estimator was fitted on 2"):
        model_files.read(directory)
    frame = pd.DataFrame(ROWS, columns=pd.Index(["b", "a"]))
    estimator = LinearRegression().fit(frame, ROWS[:, 0])
    columns = Signature((Column("a", "double"), Column("b", "double")))
    with pytest.raises(UnservableModelError, match="in that order"):
        model_check.check(Model(estimator, columns, ROWS[:1]))


def test_probabilities_must_fit_the_classes() -> None:
    """One number a class."""
    estimator = LogisticRegression().fit(ROWS, ROWS[:, 0] > 0)
    columns = Signature((Column("a", "double"), Column("b", "double")))
    model_check.check(Model(estimator, columns, ROWS[:1]))
    estimator.classes_ = np.array([0, 1, 2])
    with pytest.raises(UnservableModelError, match="predict_proba"):
        model_check.check(Model(estimator, columns, ROWS[:1]))


def test_a_copy_that_was_changed_is_deleted_and_not_used(directory: Path, tmp_path: Path) -> None:
    """A cache gives a copy with the digest it is asked for, or none."""
    cache = ModelCache(tmp_path / "cache")
    digest = model_files.digest_of(directory)
    copy = tmp_path / "cache" / "files" / digest
    shutil.copytree(directory, copy)
    assert cache.get(digest) == copy
    (copy / "MLmodel").write_text("changed")
    assert cache.get(digest) is None
    assert not copy.exists()


def test_what_a_crash_left_half_written_is_swept_away(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all of it is old: another process may have fetched for long, and be at a file now."""
    stores.use(monkeypatch, Store(directory))
    folder = tmp_path / "cache"
    cache = ModelCache(folder)
    long_ago = time.time() - STALE_S - 1
    lefts = _, young, slow = [folder / f"incoming-{age}" for age in ("old", "young", "slow")]
    for left in lefts:
        (left / "model").mkdir(parents=True)
        (left / "model" / "model.skops").write_text("half of it")
        if left is not young:
            for path in (left / "model" / "model.skops", left / "model", left):
                os.utime(path, (long_ago, long_ago))
    os.utime(slow / "model" / "model.skops")
    cache.fetch("m", "1", "models:/m-1")
    assert [left.exists() for left in lefts] == [False, True, True]


SOON_S = 5.0


def wait_for(is_so: Callable[[], bool]) -> None:
    """Return once it is so."""
    deadline = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_takes_longer_than_anybody_waits_is_fetched_once(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks meanwhile waits for that, and who asks later finds its copy."""
    store = Store(directory)
    stores.use(monkeypatch, store)
    store.is_open.clear()

    def fetch() -> Path:
        return ModelCache(tmp_path / "cache").fetch("m", "1", "models:/m-1")

    for _ in range(3):
        with pytest.raises(MlflowUnreachableError):
            tracking.in_time(fetch, timeout_s=0.05)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(fetch) for _ in range(2)]
        store.is_open.set()
        copies = {one.result(SOON_S) for one in asked}
    assert copies == {tmp_path / "cache" / "files" / model_files.digest_of(directory)}
    assert {fetch()} == copies
    assert store.downloads == 1
    assert len(list((tmp_path / "cache").glob("incoming-*"))) == 0


def test_a_fetch_in_vain_is_in_vain_for_all_who_wait_for_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks then begins anew."""
    store = Store(directory, error=OSError("503"))
    stores.use(monkeypatch, store)
    store.is_open.clear()
    cache = ModelCache(tmp_path / "cache")
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(cache.fetch, "m", "1", "models:/m-1") for _ in range(2)]
        wait_for(lambda: store.downloads == 1)
        time.sleep(0.05)
        store.is_open.set()
        assert all("503" in str(one.exception(SOON_S)) for one in asked)
    assert store.downloads == 1
    store.error = None
    cache.fetch("m", "1", "models:/m-1")
    assert store.downloads == 2


def test_who_waits_for_a_fetch_waits_no_longer_than_for_mlflow(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's thread hangs on another's for ever."""
    monkeypatch.setattr(tracking, "OVERALL_TIMEOUT_S", 0.05)
    store = Store(directory)
    stores.use(monkeypatch, store)
    store.is_open.clear()
    cache = ModelCache(tmp_path / "cache")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.fetch, "m", "1", "models:/m-1")
        wait_for(lambda: store.downloads == 1)
        with pytest.raises(MlflowUnreachableError, match="still being fetched"):
            cache.fetch("m", "1", "models:/m-1")
        store.is_open.set()
        first.result(SOON_S)


def test_a_fetch_that_hangs_is_waited_for_no_more_one_day(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is begun, which the end of the first one doesn't disturb."""
    monkeypatch.setattr(model_cache, "STALE_S", 0.05)
    store, other = Store(directory), Store(directory)
    stores.use(monkeypatch, store)
    store.is_open.clear()
    cache = ModelCache(tmp_path / "cache")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.fetch, "m", "1", "models:/m-1")
        wait_for(lambda: store.downloads == 1)
        time.sleep(0.1)
        stores.use(monkeypatch, other)
        other.is_open.clear()
        second = threads.submit(cache.fetch, "m", "1", "models:/m-1")
        wait_for(lambda: other.downloads == 1)
        store.is_open.set()
        copy = first.result(SOON_S)
        assert len(model_cache._under_way) == 1
        other.is_open.set()
        assert second.result(SOON_S) == copy
    assert not model_cache._under_way


def test_the_cache_is_its_owners_alone(tmp_path: Path) -> None:
    """Others can neither read nor change what is served."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o777)
    ModelCache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_cache_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """They could change the models in it."""
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(ModelError, match="belongs to user 65534"):
        ModelCache(tmp_path)


class NoRun:
    """A client of a server that doesn't show a run."""

    def __init__(self, error_code: int) -> None:
        self.error_code = error_code

    def get_run(self, run_id: str) -> Any:
        """Raise what MLflow's client raises."""
        raise MlflowException("no", error_code=self.error_code)


def test_a_version_whose_run_is_gone_has_no_metrics() -> None:
    """It is served on; a server that fails otherwise is out of reach."""
    assert registry.metrics_of(NoRun(RESOURCE_DOES_NOT_EXIST), "r") == {}
    with pytest.raises(MlflowUnreachableError):
        registry.metrics_of(NoRun(INTERNAL_ERROR), "r")


class Registered:
    """A client of a registry with one version, whose run has these metrics."""

    def __init__(self, tags: dict[str, str], metrics: dict[str, float] | None = None) -> None:
        tag_list = [
            ModelVersionTag(*tag)  # type: ignore[no-untyped-call]
            for tag in tags.items()
        ]
        self.found = ModelVersion("m", "3", 0, source="models:/m-1", run_id="r", tags=tag_list)
        self.metrics = metrics or {}

    def get_run(self, run_id: str) -> Any:
        """Return what is asked of the run."""
        return SimpleNamespace(data=SimpleNamespace(metrics=self.metrics))


def test_metrics_are_as_many_as_can_be_shown() -> None:
    """Every replica is told of them, and `/model` shows them."""
    metrics = {f"m{number:04d}": 1.0 for number in reversed(range(1_000))} | {"a" * 251: 1.0}
    found = registry.metrics_of(Registered({}, metrics), "r")
    assert list(found) == [f"m{number:04d}" for number in range(100)]
    metrics = {"a" * 250: 1.0, "b" * 251: 1.0}
    assert list(registry.metrics_of(Registered({}, metrics), "r")) == ["a" * 250]


@pytest.mark.parametrize("value", ["1.5", "3", '"a"', "true", "null", "NaN"])
def test_what_training_recorded_is_one_value(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Of any kind that a model predicts; null, where training had no finite number."""
    stores.use(monkeypatch, Store(directory))
    client = Registered({names.TAG_EXAMPLE_PREDICTION: f"[{value}]"})
    version = registry.fetch(client, client.found, Settings(cache_dir=tmp_path / "cache"))
    assert json.dumps(version.expected) == f"[{value}]"


@pytest.mark.parametrize(
    "tag", ["", "x", "[" * 4_900, "[]", "[1, 2]", "[[1]]", '[{"a": 1}]', "{}", "1", "null"]
)
def test_a_record_of_training_that_is_none_is_refused(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    """Whoever can write tags wrote it: it would never be what the model predicts."""
    stores.use(monkeypatch, Store(directory))
    client = Registered({names.TAG_EXAMPLE_PREDICTION: tag})
    with pytest.raises(UnservableModelError, match="is no JSON list of one value"):
        registry.fetch(client, client.found, Settings(cache_dir=tmp_path / "cache"))


def lengthen(file: Path, size: int) -> None:
    """Make a file so long that it has nothing to say."""
    with file.open("a") as content:
        content.truncate(size)


def test_an_export_file_that_is_too_long_is_not_read(directory: Path) -> None:
    """Nothing says whose it is."""
    (directory / names.EXPORT_FILE).touch()
    lengthen(directory / names.EXPORT_FILE, registry.MOST_EXPORT_BYTES + 1)
    with pytest.raises(UnservableModelError, match=r"has 1048577 bytes, more than .*make export"):
        registry.resolve(local(directory))


def test_an_mlmodel_that_is_too_long_is_not_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller reads it, too, which no limit of a child's protects."""
    read: list[Any] = []
    monkeypatch.setattr(model_files, "read", lambda *args: read.append(args))
    lengthen(directory / "MLmodel", registry.MOST_MLMODEL_BYTES + 1)
    settings = local(directory)
    version = registry.resolve(settings)
    for use in (registry.load, registry.copy_of):
        with pytest.raises(UnservableModelError, match="MLmodel is longer than 16777216 bytes"):
            use(version, settings)
    assert read == []


def test_files_changed_since_the_version_was_chosen_are_not_served(directory: Path) -> None:
    """The digest is checked again by whoever loads."""
    settings = local(directory)
    version = registry.resolve(settings)
    registry.load(version, settings)
    (directory / "requirements.txt").write_text("changed")
    with pytest.raises(UnservableModelError, match="changed"):
        registry.load(version, settings)


def test_an_exported_directory_keeps_its_version_and_notices_a_change(directory: Path) -> None:
    """The export's own facts name the version, run and digest."""
    digest = model_files.digest_of(directory)
    facts = {"name": "m", "version": "3", "run_id": "r", "digest": digest, "metrics": {"r2": 0.5}}
    (directory / names.EXPORT_FILE).write_text(json.dumps(facts))
    version = registry.resolve(local(directory))
    assert (version.name, version.version, version.digest) == ("m", "3", digest)
    (directory / names.EXPORT_FILE).write_text(json.dumps({**facts, "digest": "0" * 64}))
    with pytest.raises(UnservableModelError, match="changed since they were exported"):
        registry.resolve(local(directory))
