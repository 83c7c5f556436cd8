"""An artifact store in the place of those that MLflow's client would ask."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from mlflow.entities import FileInfo

HANG_LIMIT_S = 10.0


@dataclass
class Store:
    """What is stored is a directory's files, all in its root, with the sizes that it tells."""

    directory: Path
    is_open: Event = field(default_factory=Event)
    """A download waits for it."""
    tells_sizes: bool = True
    error: Exception | None = None
    """What a download raises."""
    places: list[str] = field(default_factory=list)
    """The addresses under which it was asked."""
    downloads: int = 0

    def __post_init__(self) -> None:
        """Let all through."""
        self.is_open.set()

    def list_artifacts(self, path: str) -> list[FileInfo]:
        """Return what lies in a folder."""
        return [
            FileInfo(file.name, file.is_dir(), file.stat().st_size if self.tells_sizes else None)
            for file in self.directory.iterdir()
        ]

    def download_artifacts(self, path: str, dst_path: str) -> str:
        """Copy all."""
        self.downloads += 1
        assert self.is_open.wait(HANG_LIMIT_S)
        if self.error is not None:
            raise self.error
        shutil.copytree(self.directory, dst_path, dirs_exist_ok=True)
        return dst_path


def use(monkeypatch: pytest.MonkeyPatch, store: Store, server: str = "sqlite://") -> None:
    """Let MLflow's client, whose server is at `server`, find this store at every address."""

    def find(place: str) -> Store:
        store.places.append(place)
        return store

    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: server)
    monkeypatch.setattr(
        "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository", find
    )
