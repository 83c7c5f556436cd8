"""A version's files are fetched from MLflow's own server or a store, and only if they fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import FileInfo
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

from contract.tracking import MlflowUnreachableError
from serve_app.model_errors import UnservableModelError
from serve_app.models import download
from tests.unit.serve_app.models import stores
from tests.unit.serve_app.models.stores import Store

SERVER = "http://mlflow.example:5000/mlflow"
OWN = "mlflow-artifacts:/1/models/m-1/artifacts"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with two files."""
    directory = tmp_path / "stored"
    directory.mkdir()
    for name in ("MLmodel", "model.skops"):
        (directory / name).write_bytes(b"x" * 60)
    return Store(directory)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory."""
    target = tmp_path / "target"
    target.mkdir()
    return target


def locate(monkeypatch: pytest.MonkeyPatch, places: dict[str, str]) -> None:
    """Let MLflow say where each of its own addresses leads."""
    for kind in (ModelsArtifactRepository, RunsArtifactRepository):
        monkeypatch.setattr(kind, "get_underlying_uri", staticmethod(places.__getitem__))


@pytest.mark.parametrize(
    "place",
    [
        OWN,
        "mlflow-artifacts://mlflow.example:5000/1/models/m-1",
        "http://mlflow.example:5000/api/2.0/mlflow-artifacts/artifacts/1",
        "http://MLFLOW.example:5000/mlflow/api/2.0/mlflow-artifacts/artifacts/1",
        "s3://bucket/1/models/m-1",
        "gs://bucket/1",
        "abfss://container@account.dfs.core.windows.net/1",
        "r2://bucket@account.r2.cloudflarestorage.com/1",
        "b2://bucket@s3.us-west-004.backblazeb2.com/1",
        "wasbs://container@account.blob.core.windows.net/1",
    ],
)
def test_what_lies_at_the_server_or_in_a_store_is_fetched(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path, place: str
) -> None:
    """From the very address that was looked at."""
    locate(monkeypatch, {"models:/m/3": place})
    stores.use(monkeypatch, store, SERVER)
    assert download.download("m", "3", target) == target
    assert {file.name for file in target.iterdir()} == {"MLmodel", "model.skops"}
    assert store.places == [place]


@pytest.mark.parametrize("source", ["models:/m-1", "models:/other/7", "runs:/0a1b/model"])
def test_what_mlflow_itself_names_is_followed(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path, source: str
) -> None:
    """To where it leads in the end, which is looked at."""
    locate(monkeypatch, {"models:/m/3": source, source: OWN})
    stores.use(monkeypatch, store, SERVER)
    download.download("m", "3", target)
    assert store.places == [OWN]
    locate(monkeypatch, {"models:/m/3": source, source: "http://evil.example/x"})
    with pytest.raises(UnservableModelError, match=r"lies at http://evil\.example/x"):
        download.download("m", "3", target)
    assert store.places == [OWN]


@pytest.mark.parametrize(
    "place",
    [
        "http://evil.example/mlflow-artifacts/artifacts/x",
        "https://evil.example/mlflow-artifacts/artifacts/x",
        "HTTP://evil.example:5000/mlflow-artifacts/artifacts/x",
        "http://mlflow.example/mlflow-artifacts/artifacts/x",
        "http://mlflow.example:5001/mlflow-artifacts/artifacts/x",
        "https://mlflow.example:5000/mlflow-artifacts/artifacts/x",
        "http://mlflow.example:5000@evil.example/mlflow-artifacts/artifacts/x",
        "http://evil.example\\@mlflow.example:5000/mlflow-artifacts/artifacts/x",
        " http://evil.example/mlflow-artifacts/artifacts/x",
        "http:///mlflow-artifacts/artifacts/x",
        "mlflow-artifacts://evil.example:5000/x",
        "mlflow-artifacts://mlflow.example/x",
        "ftp://evil.example/x",
        "sftp://mlflow.example:5000/x",
        "hdfs://evil.example:8020/x",
        "viewfs://evil.example/x",
        "abfss://container@account.dfs.core.windows.net.evil.example/1",
        "abfss://container@account.dfs.core.windows.net@evil.example/1",
        "abfss://container@evil.example\\.core.windows.net/1",
        "r2://bucket@evil.example/1",
        "b2://bucket@evil.example/1",
        "file:///etc",
        "FILE:///etc",
        "file:etc",
        "/etc",
        "etc",
        "x:/etc",
        "",
        "models:/m/3",
    ],
)
def test_no_other_host_is_asked_and_no_file_of_this_node_is_taken(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path, place: str
) -> None:
    """A version may name any address, and MLflow's client would tell its password there."""
    locate(monkeypatch, {"models:/m/3": place})
    stores.use(monkeypatch, store, SERVER)
    with pytest.raises(UnservableModelError, match="register a model that was logged to that"):
        download.download("m", "3", target)
    assert store.places == []


def test_an_artifact_server_of_its_own_can_be_allowed(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path
) -> None:
    """By MLflow's own variable; no other scheme is with it."""
    monkeypatch.setenv(download.ALLOWED_VARIABLE, "http,sftp")
    places = [
        "http://artifacts.example:5500/api/2.0/mlflow-artifacts/artifacts/1",
        "sftp://artifacts.example/1",
    ]
    stores.use(monkeypatch, store, SERVER)
    for place in places:
        locate(monkeypatch, {"models:/m/3": place})
        download.download("m", "3", target)
    assert store.places == places
    for other in ("https://artifacts.example/1", "file:///etc"):
        locate(monkeypatch, {"models:/m/3": other})
        with pytest.raises(UnservableModelError, match="register a model that was logged to that"):
            download.download("m", "3", target)


def test_an_address_that_is_none_cannot_be_fetched(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path
) -> None:
    """Half of an IPv6 one."""
    locate(monkeypatch, {"models:/m/3": "http://[evil"})
    stores.use(monkeypatch, store, SERVER)
    with pytest.raises(MlflowUnreachableError):
        download.download("m", "3", target)
    assert store.places == []


def test_a_password_in_an_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path
) -> None:
    """The reason is, and goes into a tag."""
    locate(monkeypatch, {"models:/m/3": "http://somebody:s3cret@evil.example/x"})
    stores.use(monkeypatch, store, SERVER)
    with pytest.raises(UnservableModelError) as refused:
        download.download("m", "3", target)
    assert "s3cret" not in str(refused.value)


def test_a_registry_of_this_machine_may_have_its_files_here(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path
) -> None:
    """There is no server that others write to, and no password."""
    stores.use(monkeypatch, store, "sqlite:///mlflow.db")
    download.download("m", "3", target)
    assert store.places == ["models:/m/3"]


@pytest.mark.parametrize(("tells_sizes", "downloads"), [(True, 0), (False, 1)])
def test_a_version_that_is_too_large_is_refused(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path, tells_sizes: bool, downloads: int
) -> None:
    """Before it is fetched, where its store tells how large it is."""
    stores.use(monkeypatch, store)
    store.tells_sizes = tells_sizes
    monkeypatch.setattr(download, "MOST_BYTES", 120)
    download.download("m", "3", target)
    store.downloads = 0
    monkeypatch.setattr(download, "MOST_BYTES", 119)
    with pytest.raises(UnservableModelError, match="version 3 of 'm' has 120 bytes, more than 119"):
        download.download("m", "3", target)
    assert store.downloads == downloads


class Endless(Store):
    """Each folder has one more."""

    def list_artifacts(self, path: str) -> list[FileInfo]:
        """Return a folder."""
        return [FileInfo(f"{path}/a" if path else "a", True, None)]


def test_folders_in_one_another_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch, target: Path
) -> None:
    """What copies and deletes them goes into each by a call of its own."""
    store = Endless(target)
    stores.use(monkeypatch, store)
    with pytest.raises(UnservableModelError, match="more than 50 folders in one another"):
        download.download("m", "3", target)
    assert store.downloads == 0


class Crowded(Store):
    """A folder with more in it than anybody wants to list, of a size that makes room."""

    def list_artifacts(self, path: str) -> Iterator[FileInfo]:  # type: ignore[override]
        """Return one file after the other."""
        return (FileInfo(str(number), False, -(2**40)) for number in itertools.count())


def test_files_come_to_an_end(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    """However many a store tells of."""
    store = Crowded(target)
    stores.use(monkeypatch, store)
    with pytest.raises(UnservableModelError, match="more than 10000 files and folders"):
        download.download("m", "3", target)
    assert store.downloads == 0


def test_no_size_makes_room_for_another(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path
) -> None:
    """A store may say anything."""
    stores.use(monkeypatch, store)
    found = store.list_artifacts("")
    lies = [*found, FileInfo("none", False, -(2**40))]
    monkeypatch.setattr(store, "list_artifacts", lambda path: [] if path else lies)
    monkeypatch.setattr(download, "MOST_BYTES", 119)
    with pytest.raises(UnservableModelError, match="has 120 bytes, more than 119"):
        download.download("m", "3", target)
    assert store.downloads == 0


class LibraryError(Exception):
    """As the libraries of stores raise their own."""


def test_what_a_store_raises_is_no_fault_of_the_versions(
    monkeypatch: pytest.MonkeyPatch, store: Store, target: Path
) -> None:
    """It is tried again, as when MLflow fails."""
    stores.use(monkeypatch, store)
    store.error = LibraryError("503 Slow Down")
    with pytest.raises(MlflowUnreachableError, match="could not be fetched: 503 Slow Down"):
        download.download("m", "3", target)
