"""MLflow or a directory: which version is served, its verified local copy, the loaded model."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, ValidationError

from contract import manifest, names, strict, tracking
from serve_app.model_errors import ModelError, NoSuchModelError, UnservableModelError
from serve_app.models import model_files, signed
from serve_app.models.model import Model
from serve_app.models.model_cache import ModelCache
from serve_app.models.served import ServedVersion
from serve_app.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LOCAL_VERSION = "local"
_REGISTERED = "models:/"

MOST_EXPORT_BYTES: Final = 2**20
MOST_MLMODEL_BYTES: Final = 2**24
MOST_METRICS: Final = 100
LONGEST_METRIC_NAME: Final = 250
"""Characters; MLflow takes no longer ones."""


class Exported(strict.Strict):
    """What an exported directory says of the version that it was exported from."""

    name: str
    version: str
    run_id: str | None = None
    digest: str
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=True)]] = Field(default_factory=dict)


def resolve(settings: Settings) -> ServedVersion:
    """Resolve the champion, or the local directory, to an exact version; fetch it on this node.

    Raises NoSuchModelError, UnservableModelError, and MlflowUnreachableError within 25 s.
    """
    if settings.model_served == "local":
        return _resolve_directory(settings)
    return tracking.in_time(lambda: _resolve_champion(settings))


def _resolve_champion(settings: Settings) -> ServedVersion:
    client = tracking.connect(settings.mlflow_tracking_uri)
    return fetch(client, champion(client, settings.model_name), settings)


def fetch(client: Any, found: ModelVersion, settings: Settings) -> ServedVersion:
    """Return a registered version, its verified copy on this node.

    Raises MlflowUnreachableError, ModelError.
    """
    cache = _cache(settings, found.name, str(found.version), found.run_id)
    copy = cache.fetch(found.name, str(found.version), str(found.source))
    return ServedVersion(
        name=found.name,
        version=str(found.version),
        run_id=found.run_id,
        source=f"{_REGISTERED}{found.name}/{found.version}",
        digest=copy.name,
        metrics=metrics_of(client, found.run_id) if found.run_id else {},
        expected=_expected(found.tags.get(names.TAG_EXAMPLE_PREDICTION)),
    )


def _expected(tag: str | None) -> Any:
    """Return what training recorded of the example: a list of one value."""
    if tag is None:
        return None
    try:
        expected = json.loads(tag)
    except (ValueError, RecursionError):
        expected = None
    match expected:
        case [str() | int() | float() | None]:  # a truth value is an int
            return expected
    raise UnservableModelError(
        f"the tag {names.TAG_EXAMPLE_PREDICTION} is no JSON list of one value: {tag[:100]!r}"
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
                "train one with `python -m train`, name one with `python -m train promote`, or set "
                "MODEL_NAME"
            ) from error
        raise tracking.MlflowUnreachableError(f"MLflow did not name a champion: {error}") from error
    return found


def metrics_of(client: Any, run_id: str) -> dict[str, float]:
    """Return a run's metrics, by name, and of too many the first.

    A run that was deleted for good has none, its model serves on.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        found = sorted(client.get_run(run_id).data.metrics.items())
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise tracking.MlflowUnreachableError(
            f"MLflow did not show run {run_id}: {error}"
        ) from error
    named = [metric for metric in found if len(metric[0]) <= LONGEST_METRIC_NAME]
    return dict(named[:MOST_METRICS])


def load(version: ServedVersion, settings: Settings) -> Model:
    """Return the model of an exact version, from this node's copy, fetched if it isn't there.

    Raises ModelError if the files aren't the version's or can't be served, MlflowUnreachableError
    if they can't be fetched.
    """
    directory = copy_of(version, settings)
    return model_files.read(directory, settings.extra_trusted_types, version.expected)


def copy_of(version: ServedVersion, settings: Settings) -> Path:
    """Return the directory with an exact version's files, which are as they were when chosen.

    Where public keys are set, they are those that training signed. Raises as `load` does.
    """
    if version.source.startswith(_REGISTERED):
        directory = _copy(version, settings)
        digest = directory.name
    else:
        directory = Path(version.source)
        files = model_files.files_of(directory)
        signed.check_of_directory(settings, directory, version.run_id)(directory, files)
        digest = manifest.digest_of(files)
    if digest != version.digest:
        raise UnservableModelError(
            f"{directory}: the files of version {version.version} have changed since it was chosen"
        )
    mlmodel = directory / model_files.MLMODEL
    if mlmodel.is_file() and mlmodel.stat().st_size > MOST_MLMODEL_BYTES:
        raise UnservableModelError(f"{mlmodel} is longer than {MOST_MLMODEL_BYTES} bytes")
    return directory


def _cache(settings: Settings, name: str, version: str, run_id: str | None) -> ModelCache:
    check = signed.check_of_version(settings, name, version, run_id)
    return ModelCache(settings.cache_dir, check)


def _copy(version: ServedVersion, settings: Settings) -> Path:
    """Return this node's copy of a registered version, fetched if there's none that will do."""
    cache = _cache(settings, version.name, version.version, version.run_id)

    def fetch() -> Path:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        client = tracking.connect(settings.mlflow_tracking_uri)
        try:
            source = client.get_model_version(version.name, version.version).source
        except MlflowException as error:
            raise tracking.MlflowUnreachableError(
                f"MLflow did not show version {version.version} of {version.name!r}: {error}"
            ) from error
        return cache.fetch(version.name, version.version, str(source))

    try:
        copy = cache.get(version.digest)
    except UnservableModelError:  # it may have been signed since
        with suppress(tracking.MlflowUnreachableError):
            return tracking.in_time(fetch)
        raise
    return copy or tracking.in_time(fetch)


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
    copy = _cache(settings, version.name, version.version, version.run_id).get(version.digest)
    if copy is None:
        raise ModelError(
            f"the copy of {version.source} in {settings.cache_dir} was changed or deleted: "
            "try again, or set MODEL_CACHE_DIR"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        fresh = Path(scratch) / "model"
        shutil.copytree(copy, fresh)
        facts = {key: getattr(version, key) for key in Exported.model_fields}
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
    files = model_files.files_of(directory)
    digest = manifest.digest_of(files)
    exported = _exported(directory)
    run_id = exported.run_id if exported is not None else None
    signed.check_of_directory(settings, directory, run_id)(directory, files)
    if exported is None:
        return ServedVersion(settings.model_name, LOCAL_VERSION, None, str(directory), digest)
    if exported.digest != digest:
        raise UnservableModelError(f"{directory}: the files have changed since they were exported")
    return ServedVersion(
        name=exported.name,
        version=exported.version,
        run_id=exported.run_id,
        source=str(directory),
        digest=digest,
        metrics=exported.metrics,
    )


def _exported(directory: Path) -> Exported | None:
    file = directory / names.EXPORT_FILE
    if not file.is_file():
        return None
    try:
        return Exported.model_validate_json(signed.read(file, MOST_EXPORT_BYTES))
    except (OSError, UnservableModelError, ValidationError) as error:
        reason = strict.explain(error) if isinstance(error, ValidationError) else error
        raise UnservableModelError(
            f"{file}: {reason}: write the directory again with `make export`"
        ) from error
