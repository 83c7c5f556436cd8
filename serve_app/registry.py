"""MLflow or a directory: which version is served, its verified local copy, the loaded model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import skops.io
import yaml

from contract import model_types, names, tracking
from serve_app import signature
from serve_app.model import Model
from serve_app.model_errors import ModelError, NoSuchModelError, UnservableModelError
from serve_app.records import Rows
from serve_app.served import ServedVersion
from serve_app.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LOCAL_VERSION = "local"
_MLMODEL = "MLmodel"
_MLFLOW_SKLEARN = "mlflow.sklearn"


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
        digest=digest_of(copy),
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
    if digest_of(directory) != version.digest:
        raise UnservableModelError(
            f"{directory}: the files of version {version.version} have changed since it was chosen"
        )
    return read(directory, settings.extra_trusted_types)


def read(directory: Path, extra_trusted_types: tuple[str, ...] = ()) -> Model:
    """Read a model directory without pickle and without running code that it carries.

    Raises UnservableModelError for anything but a skops file of the scikit-learn flavor with a
    signature and with types on our list.
    """
    mlmodel = _mlmodel(directory)
    file = directory / _model_file(mlmodel)
    try:
        if unknown := model_types.untrusted_types(file, extra_trusted_types):
            raise UnservableModelError(
                f"{file.name} holds types that are not on the list: {', '.join(unknown)}; "
                "allow them by name with `extra_trusted_types` if you trust their code"
            )
        trusted = [*model_types.TRUSTED_TYPES, *extra_trusted_types]
        estimator = skops.io.load(file, trusted=trusted)
    except ModelError:
        raise
    except Exception as error:
        raise UnservableModelError(f"{file}: not a readable skops file: {error}") from error
    columns = signature.from_mlmodel(mlmodel)
    return Model(estimator, columns, _example(directory, mlmodel, columns))


def digest_of(directory: Path) -> str:
    """Return SHA-256 over the relative names and contents of all files in a model directory.

    Files that MLflow or the export write beside the model are left out.
    """
    digest = hashlib.sha256()
    beside = {names.EXPORT_FILE, "registered_model_meta"}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and file.name not in beside:
            content = file.read_bytes()
            digest.update(f"{file.relative_to(directory).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def export(settings: Settings, directory: Path) -> ServedVersion:
    """Write the champion into `directory` for `MODEL_SERVED=local`; replaces what is there."""
    if settings.model_served != "mlflow":
        raise ModelError("export reads the registry: unset MODEL_SERVED=local")
    if directory.exists() and not (directory / _MLMODEL).is_file() and any(directory.iterdir()):
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
    if not (directory / _MLMODEL).is_file():
        raise NoSuchModelError(
            f"{directory} holds no model: write one with `make export`, or set MODEL_DIR"
        )
    facts: dict[str, Any] = {}
    if (directory / names.EXPORT_FILE).is_file():
        facts = json.loads((directory / names.EXPORT_FILE).read_text())
    digest = digest_of(directory)
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
        copy = cache_dir / "files" / digest_of(Path(fetched))
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


def _mlmodel(directory: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((directory / _MLMODEL).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnservableModelError(f"{directory}: no readable {_MLMODEL}: {error}") from error
    if not isinstance(content, dict):
        raise UnservableModelError(f"{directory}: {_MLMODEL} holds no mapping")
    return content


def _model_file(mlmodel: Mapping[str, Any]) -> str:
    flavors = mlmodel.get("flavors")
    flavors = flavors if isinstance(flavors, dict) else {}
    sklearn, pyfunc = flavors.get("sklearn"), flavors.get("python_function")
    if not isinstance(sklearn, dict) or sklearn.get("serialization_format") != "skops":
        raise UnservableModelError(
            "only the scikit-learn flavor in skops format is served: "
            "log the model with serialization_format='skops'"
        )
    for flavor in (sklearn, pyfunc or {}):
        if flavor.get("code"):
            raise UnservableModelError("the model carries code of its own, which is not run here")
    if pyfunc and pyfunc.get("loader_module") != _MLFLOW_SKLEARN:
        raise UnservableModelError(
            f"the model asks for the loader {pyfunc.get('loader_module')!r}, which is not run here"
        )
    file = str(sklearn.get("pickled_model"))
    if Path(file).name != file:
        raise UnservableModelError(f"the model file {file!r} is not in the model's directory")
    return file


def _example(directory: Path, mlmodel: Mapping[str, Any], columns: signature.Signature) -> Rows:
    """Return the first row of the model's input example, or zeros if it has none."""
    zeros = np.zeros((1, len(columns.columns)))
    info = mlmodel.get("saved_input_example_info")
    if not isinstance(info, dict):
        return zeros
    try:
        document = json.loads((directory / str(info["artifact_path"])).read_text())
        row = dict(zip(document["columns"], document["data"][0], strict=True))
        return np.array([[float(row[name]) for name in columns.names]])
    except (OSError, KeyError, IndexError, TypeError, ValueError):
        return zeros
