"""A version's files, fetched only from where MLflow's client may ask, and no more than fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from contract import tracking
from serve_app.model_errors import UnservableModelError

MOST_BYTES: Final = 8 * 2**30
"""Of all files of a version."""

DEEPEST: Final = 50
"""Folders in one another."""

MOST_FILES: Final = 10_000
"""And folders, of a version."""

ALLOWED_VARIABLE: Final = "MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES"
"""MLflow's own, by which its server is told the same."""

_MOST_HOPS: Final = 5
"""From a version to a model, or a run, to where the files lie."""

_WEB: Final = ("http", "https")
_PROXIED: Final = "mlflow-artifacts"
_NOWHERE: Final = ("", "file", "models", "runs")
"""Paths of this node; and what still isn't found after so many hops."""

_CLOUDS: Final = {
    "abfss": (
        ".core.windows.net",
        ".core.usgovcloudapi.net",
        ".core.chinacloudapi.cn",
        ".dfs.fabric.microsoft.com",
    ),
    "b2": (".backblazeb2.com",),
    "r2": (".r2.cloudflarestorage.com",),
}
"""Domains of the clouds whose addresses name a host."""


def download(name: str, version: str, target: Path) -> Path:
    """Fetch the files of a registered version into an empty directory; return where they are.

    Raises UnservableModelError for those that must not be fetched, MlflowUnreachableError for those
    that can't be.
    """
    from mlflow.store.artifact import artifact_repository_registry as stores  # noqa: PLC0415  # slow

    what = f"version {version} of {name!r}"
    try:
        store: Any = stores.get_artifact_repository(_place(name, version, what))
        _check_size(what, _size_told(store, what))
        fetched = Path(store.download_artifacts("", dst_path=str(target)))
    except UnservableModelError:
        raise
    except Exception as error:
        raise tracking.MlflowUnreachableError(f"{what} could not be fetched: {error}") from error
    _check_size(what, sum(file.lstat().st_size for file in fetched.rglob("*")))
    return fetched


def _place(name: str, version: str, what: str) -> str:
    """Return the address that a version's files are fetched from, found as MLflow's client does.

    That would send its password to any web address, and copy any file of this node. Raises
    UnservableModelError, and what MLflow raises.
    """
    import mlflow  # noqa: PLC0415  # slow to import
    from mlflow.store.artifact import models_artifact_repo, runs_artifact_repo  # noqa: PLC0415

    place, server = f"models:/{name}/{version}", mlflow.get_tracking_uri()
    if urlsplit(server).scheme not in _WEB:
        return place
    resolve: dict[str, Callable[[str], str]] = {
        "models": models_artifact_repo.ModelsArtifactRepository.get_underlying_uri,
        "runs": runs_artifact_repo.RunsArtifactRepository.get_underlying_uri,
    }
    for _ in range(_MOST_HOPS):
        if (scheme := _scheme(place)) in resolve:
            place = resolve[scheme](place)
    if not _may_be_asked(place, server):
        raise UnservableModelError(
            f"{what} lies at {tracking.without_password(place)}, which is no address of the MLflow "
            f"server's, {server}, nor of a cloud's: register a model that was logged to that "
            f"server, or allow the scheme by {ALLOWED_VARIABLE}, as for an artifact server"
        )
    return place


def _may_be_asked(place: str, server: str) -> bool:
    """Whether an address is a cloud's, such as s3, the server's own, or of an allowed scheme."""
    from mlflow import environment_variables  # noqa: PLC0415
    from mlflow.store.artifact.host_policy import host_addressed_uri_targets  # noqa: PLC0415

    scheme = _scheme(place)
    variable: Any = environment_variables.MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES
    if scheme in variable.get():
        return True
    targets = host_addressed_uri_targets(place)
    if targets is None:
        return scheme not in _NOWHERE
    if scheme in _CLOUDS:
        return all(kind == scheme and host.endswith(_CLOUDS[scheme]) for kind, host, _ in targets)
    is_encrypted_alike = scheme in (_PROXIED, urlsplit(server).scheme)
    return is_encrypted_alike and not targets.isdisjoint(host_addressed_uri_targets(server) or ())


def _scheme(place: str) -> str:
    """Return what MLflow chooses a store by, which isn't always what stands before the colon."""
    from mlflow.utils.uri import get_uri_scheme  # noqa: PLC0415

    scheme: str = get_uri_scheme(place)  # type: ignore[no-untyped-call]
    return scheme


def _size_told(store: Any, what: str) -> int:
    """Return how many bytes a store says there are. Raises UnservableModelError."""
    size, files, folders = 0, 0, [""]
    while folders:
        folder = folders.pop()
        if folder.count("/") >= DEEPEST:
            raise UnservableModelError(f"{what} has more than {DEEPEST} folders in one another")
        for found in store.list_artifacts(folder):
            size += max(0, found.file_size or 0)
            files += 1
            if files > MOST_FILES:
                raise UnservableModelError(f"{what} has more than {MOST_FILES} files and folders")
            if found.is_dir and found.path not in (".", folder):  # some stores name it, too
                folders.append(found.path)
    return size


def _check_size(what: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UnservableModelError(f"{what} has {size} bytes, more than {MOST_BYTES}")
