"""This node's copies of model versions: whole or not there at all, and checked at every use."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from contract import tracking
from serve_app.models import model_files
from serve_app.models.private import own


class ModelCache:
    """Copies under `directory`, which belongs to this user alone.

    Raises ModelError if it belongs to somebody else, who could change what is served.
    """

    def __init__(self, directory: Path) -> None:
        self._files = directory / "files"
        self._versions = directory / "versions"
        self._directory = directory
        own(directory)

    def get(self, digest: str) -> Path | None:
        """Return the copy with this digest; one that has been changed is deleted."""
        copy = self._files / digest
        if not copy.is_dir():
            return None
        if model_files.digest_of(copy) == digest:
            return copy
        self._delete(copy)
        return None

    def fetch(self, name: str, version: str, source: str) -> Path:
        """Return the copy of a registered version, fetched from MLflow if it isn't there.

        Its name is its digest. Raises MlflowUnreachableError, UnservableModelError.
        """
        key = hashlib.sha256(f"{name}\0{version}\0{source}".encode()).hexdigest()[:32]
        link = self._versions / key
        if link.is_symlink() and (copy := self.get(link.readlink().name)) is not None:
            return copy
        self._versions.mkdir(exist_ok=True)
        self._files.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="incoming-") as scratch:
            copy = self._keep(_download(name, version, Path(scratch)))
            pointer = Path(scratch) / "pointer"
            pointer.symlink_to(copy.absolute())
            os.replace(pointer, link)  # noqa: PTH105  # atomic: whole or not at all
        return copy

    def _keep(self, fetched: Path) -> Path:
        """Move what was fetched to the place that its digest names."""
        digest = model_files.digest_of(fetched)
        copy = self._files / digest
        if self.get(digest) is None:
            try:
                os.replace(fetched, copy)  # noqa: PTH105
            except OSError:
                if not copy.is_dir():  # another process of this node was quicker: the same files
                    raise
        return copy

    def _delete(self, copy: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="deleted-") as scratch:
            shutil.move(copy, scratch)  # out of its place at once, not file by file


def _download(name: str, version: str, scratch: Path) -> Path:
    import mlflow.artifacts  # noqa: PLC0415  # slow to import
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    target = scratch / "model"
    target.mkdir()
    try:
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{name}/{version}", dst_path=str(target)
            )
        )
    except (MlflowException, OSError) as error:
        raise tracking.MlflowUnreachableError(
            f"version {version} of {name!r} could not be fetched: {error}"
        ) from error
