"""MLflow or a directory: which version is served, its verified local copy, the loaded model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract import names, tracking
from serve_app import model_files
from serve_app.model import Model
from serve_app.model_errors import ModelError, NoSuchModelError, UnservableModelError
from serve_app.served import ServedVersion
from serve_app.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LOCAL_VERSION = "local"


def resolve(settings: Settings) -> ServedVersion:
    """Resolve the champion, or the local directory, to an exact version; fetch it on this node.

    Raises MlflowUnreachableError, NoSuchModelError, UnservableModelError.
    """
    if settings.model_served == "local":
        return _resolve_directory(settings)
    client = tracking.connect(settings.mlflow_tracking_uri)
    found = champion(client, settings.model_name)
    copy = _fetch(found.name, found.version, str(found.source), settings.cache_dir)
    return ServedVersion(
        name=found.name,
        version=str(found.version),
        run_id=found.run_id,
        source=f"models:/{found.name}/{found.version}",
        digest=model_files.digest_of(copy),
        metrics=dict(client.get_run(found.run_id).data.metrics) if found.run_id else {},
    )


def champion(client: Any, name: str) -> ModelVersion:
    """Return the registry's champion of `name`. Raises NoSuchModelError if there is none."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  # slow to import

    try:
        found: ModelVersion = client.get_model_version_by_alias(name, names.CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise NoSuchModelError(
                f"the registry has no version of {name!r} with the alias {names.CHAMPION!r}: "
                "train one with `make train`, or set MODEL_NAME"
            ) from error
        raise tracking.MlflowUnreachableError(f"MLflow did not name a champion: {error}") from error
    return found


def load(version: ServedVersion, settings: Settings) -> Model:
    """Return the model of an exact version, from this node's copy, fetched if it isn't there.

    Raises ModelError if the copy's digest isn't the version's, MlflowUnreachableError if it can't
    be fetched.
    """
    if version.source.startswith("models:/"):
        directory = _cached(version.digest, settings.cache_dir)
        if directory is None:
            client = tracking.connect(settings.mlflow_tracking_uri)
            found = client.get_model_version(version.name, version.version)
            directory = _fetch(version.name, version.version, str(found.source), settings.cache_dir)
    else:
        directory = Path(version.source)
    if model_files.digest_of(directory) != version.digest:
        raise UnservableModelError(
            f"{directory}: the files of version {version.version} have changed since it was chosen"
        )
    return model_files.read(directory, settings.extra_trusted_types)


def export(settings: Settings, directory: Path) -> ServedVersion:
    """Write the champion into `directory` for `MODEL_SERVED=local`; replaces what is there."""
    if settings.model_served != "mlflow":
        raise ModelError("export reads the registry: unset MODEL_SERVED=local")
    if (
        directory.exists()
        and not (directory / model_files.MLMODEL).is_file()
        and any(directory.iterdir())
    ):
        raise ModelError(f"{directory} is not empty and holds no model: choose another directory")
    version = resolve(settings)
    copy = _cached(version.digest, settings.cache_dir)
    if copy is None:
        raise ModelError(f"the copy of {version.source} is gone from {settings.cache_dir}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        fresh = Path(scratch) / "model"
        shutil.copytree(copy, fresh)
        facts = {key: getattr(version, key) for key in ("name", "version", "run_id", "digest")}
        facts["metrics"] = dict(version.metrics)
        (fresh / names.EXPORT_FILE).write_text(json.dumps(facts, indent=2) + "\n")
        if directory.exists():
            directory.rename(Path(scratch) / "replaced")
        fresh.rename(directory)
    return version


def _resolve_directory(settings: Settings) -> ServedVersion:
    directory = settings.model_dir.expanduser().absolute()
    if not (directory / model_files.MLMODEL).is_file():
        raise NoSuchModelError(
            f"{directory} holds no model: write one with `make export`, or set MODEL_DIR"
        )
    facts: dict[str, Any] = {}
    if (directory / names.EXPORT_FILE).is_file():
        facts = json.loads((directory / names.EXPORT_FILE).read_text())
    digest = model_files.digest_of(directory)
    if facts.get("digest", digest) != digest:
        raise UnservableModelError(f"{directory}: the files have changed since they were exported")
    return ServedVersion(
        name=facts.get("name", settings.model_name),
        version=facts.get("version", LOCAL_VERSION),
        run_id=facts.get("run_id"),
        source=str(directory),
        digest=digest,
        metrics=facts.get("metrics", {}),
    )


def _fetch(name: str, version: str, source: str, cache_dir: Path) -> Path:
    """Return a complete local copy of a version; a half-written one never gets this name."""
    key = hashlib.sha256(f"{name}\0{version}\0{source}".encode()).hexdigest()[:32]
    link = cache_dir / "versions" / key
    if link.is_dir():
        return link.resolve()
    import mlflow.artifacts  # noqa: PLC0415  # slow to import
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    (cache_dir / "versions").mkdir(parents=True, exist_ok=True)
    (cache_dir / "files").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix="incoming-") as scratch:
        target = Path(scratch) / "model"
        target.mkdir()
        try:
            fetched = mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{name}/{version}", dst_path=str(target)
            )
        except (MlflowException, OSError) as error:
            raise tracking.MlflowUnreachableError(
                f"version {version} of {name!r} could not be fetched: {error}"
            ) from error
        copy = cache_dir / "files" / model_files.digest_of(Path(fetched))
        if not copy.is_dir():
            try:
                os.replace(fetched, copy)  # noqa: PTH105  # atomic: whole or not at all
            except OSError:
                if not copy.is_dir():  # another process of this node was quicker: the same files
                    raise
        pointer = Path(scratch) / "pointer"
        pointer.symlink_to(copy.absolute())
        os.replace(pointer, link)  # noqa: PTH105
    return copy


def _cached(digest: str, cache_dir: Path) -> Path | None:
    copy = cache_dir / "files" / digest
    return copy if copy.is_dir() else None
