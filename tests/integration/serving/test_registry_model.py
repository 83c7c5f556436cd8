"""The registry's champion, when it is there and when it isn't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from serve_app.model_errors import ModelError, NoSuchModelError
from serve_app.models import registry
from serve_app.settings import Settings
from tests.models import register


def settings(mlflow_server: str, cache: Path, name: str) -> Settings:
    """Settings that serve a champion."""
    return Settings(model_name=name, mlflow_tracking_uri=mlflow_server, cache_dir=cache)


def test_the_alias_is_resolved_to_an_exact_version_once(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """What was resolved stays what it was when the alias moves on."""
    chosen = settings(mlflow_server, tmp_path / "cache", "resolve-once")
    register(client, "resolve-once", 2.0)
    first = registry.resolve(chosen)
    register(client, "resolve-once", 3.0)
    assert (first.version, first.metrics["test_r2"]) == ("1", 2.0)
    model = registry.load(first, chosen)
    np.testing.assert_allclose(model.predict(np.array([[1.0]])).values, [2.0])
    assert registry.resolve(chosen).version == "2"


def test_a_node_without_a_copy_fetches_the_exact_version(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """A replica on another node loads what the builder chose, not what the alias says now."""
    register(client, "other-node", 2.0)
    version = registry.resolve(settings(mlflow_server, tmp_path / "one", "other-node"))
    register(client, "other-node", 3.0)
    model = registry.load(version, settings(mlflow_server, tmp_path / "two", "other-node"))
    np.testing.assert_allclose(model.predict(np.array([[1.0]])).values, [2.0])


def test_a_cached_version_needs_no_server(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """Loading what is there asks nobody."""
    register(client, "cached", 2.0)
    version = registry.resolve(settings(mlflow_server, tmp_path, "cached"))
    registry.load(version, settings("http://127.0.0.1:9", tmp_path, "cached"))


def test_a_copy_that_was_changed_is_fetched_again(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """By whoever resolves, loads or exports next."""
    register(client, "damaged", 2.0)
    chosen = settings(mlflow_server, tmp_path / "cache", "damaged")
    version = registry.resolve(chosen)
    copy = tmp_path / "cache" / "files" / version.digest

    (copy / "MLmodel").write_text("changed")
    assert registry.resolve(chosen) == version
    (copy / "MLmodel").write_text("changed")
    np.testing.assert_allclose(
        registry.load(version, chosen).predict(np.array([[1.0]])).values, [2.0]
    )
    (copy / "MLmodel").write_text("changed")
    registry.export(chosen, tmp_path / "model")
    assert registry.resolve(
        Settings(model_served="local", model_dir=tmp_path / "model")
    ).digest == (version.digest)


def test_an_export_serves_the_same_model_as_the_registry(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """The directory carries version, digest and metrics; a second export replaces it."""
    register(client, "exported", 2.0)
    chosen = settings(mlflow_server, tmp_path / "cache", "exported")
    directory = tmp_path / "out" / "model"
    registry.export(chosen, directory)
    register(client, "exported", 3.0)
    exported = registry.export(chosen, directory)
    local = registry.resolve(Settings(model_served="local", model_dir=directory))
    assert (local.version, local.digest) == ("2", exported.digest)
    assert local.metrics == exported.metrics
    assert [entry.name for entry in directory.parent.iterdir()] == ["model"]


def test_an_export_never_replaces_what_is_no_model(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """A folder with other files is left alone."""
    register(client, "careful", 2.0)
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ModelError, match="not empty"):
        registry.export(settings(mlflow_server, tmp_path / "cache", "careful"), tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_no_champion_says_how_to_get_one(mlflow_server: str, tmp_path: Path) -> None:
    """Neither an unknown model nor one without the alias is a crash."""
    with pytest.raises(NoSuchModelError, match="train one with `python -m train`"):
        registry.resolve(settings(mlflow_server, tmp_path, "never-registered"))
