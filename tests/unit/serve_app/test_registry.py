"""Models are read without pickle and without code of their own, or not at all."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import yaml
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import FunctionTransformer

from contract import names
from serve_app import model_files, registry
from serve_app.model_errors import NoSuchModelError, UnservableModelError
from serve_app.settings import Settings
from tests import models

ROWS = np.random.default_rng(0).normal(size=(10, 2))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A linear model of two columns, y = a + 2b."""
    estimator = LinearRegression().fit(ROWS, ROWS @ [1.0, 2.0])
    return models.write(tmp_path / "model", estimator, ROWS, ["a", "b"])


def change(directory: Path, path: list[str], value: Any) -> None:
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


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["flavors", "sklearn", "serialization_format"], "cloudpickle", "skops"),
        (["flavors", "sklearn", "code"], "code", "code of its own"),
        (["flavors", "python_function", "code"], "code", "code of its own"),
        (["flavors", "python_function", "loader_module"], "evil", "loader"),
        (["flavors", "sklearn", "pickled_model"], "../elsewhere.skops", "not in the model"),
        (["flavors"], {"xgboost": {}}, "skops"),
        (["signature"], None, "signature"),
        (["signature", "inputs"], '[{"type": "tensor"}]', "named columns"),
        (["signature", "inputs"], '[{"type": "string", "name": "a"}]', "of type string"),
    ],
)
def test_what_would_run_code_or_cannot_be_checked_is_refused(
    directory: Path, path: list[str], value: Any, says: str
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


def test_a_directory_without_a_model_says_how_to_get_one(tmp_path: Path) -> None:
    """`make export` is the way out."""
    with pytest.raises(NoSuchModelError, match="make export"):
        registry.resolve(local(tmp_path))


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
