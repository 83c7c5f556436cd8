"""This node's copies of model versions: whole or not there at all, and checked at every use."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Final

from contract import manifest, names, tracking
from serve_app.model_errors import UnservableModelError
from serve_app.models import model_files
from serve_app.models.download import download
from serve_app.models.private import own
from serve_app.models.signed import Check, anything_goes

STALE_S: Final = 3600.0
_INCOMING: Final = "incoming-"
_DELETED: Final = "deleted-"


class ModelCache:
    """Copies under `directory`, which belongs to this user alone.

    `check` raises for files that must not be served, before they become a copy and at every use of
    one. Raises ModelError if the directory belongs to somebody else, who could change the copies.
    """

    def __init__(self, directory: Path, check: Check = anything_goes) -> None:
        self._files = directory / "files"
        self._versions = directory / "versions"
        self._directory = directory
        self._check = check
        own(directory)

    def get(self, digest: str) -> Path | None:
        """Return the copy with this digest; one that has been changed is deleted.

        Raises what the check raises.
        """
        copy = self._files / digest
        files = self._unchanged(copy, digest)
        if files is None:
            return None
        self._check(copy, files)
        return copy

    def fetch(self, name: str, version: str, source: str) -> Path:
        """Return the copy of a registered version, fetched from MLflow if it isn't there.

        Its name is its digest. Whoever asks while it is fetched in this process waits for that: one
        that takes longer than anybody waits is fetched once, and found by who asks next. Raises
        MlflowUnreachableError, ModelError.
        """
        key = hashlib.sha256(f"{name}\0{version}\0{source}".encode()).hexdigest()[:32]
        link = self._versions / key
        return _joined((link, self._check), lambda: self._fetched(name, version, link))

    def _fetched(self, name: str, version: str, link: Path) -> Path:
        if link.is_symlink():
            with suppress(UnservableModelError):  # it may have been signed since
                if (copy := self.get(link.readlink().name)) is not None:
                    return copy
        self._versions.mkdir(exist_ok=True)
        self._files.mkdir(exist_ok=True)
        self._sweep()
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=_INCOMING) as scratch:
            target = Path(scratch) / "model"
            target.mkdir()
            copy = self._keep(download(name, version, target))
            pointer = Path(scratch) / "pointer"
            pointer.symlink_to(copy.absolute())
            os.replace(pointer, link)  # noqa: PTH105  # atomic: whole or not at all
        return copy

    def _keep(self, fetched: Path) -> Path:
        """Move what was fetched to the place that its digest names."""
        files = model_files.files_of(fetched)
        self._check(fetched, files)
        digest = manifest.digest_of(files)
        copy = self._files / digest
        if self._unchanged(copy, digest) is None:
            try:
                os.replace(fetched, copy)  # noqa: PTH105
                return copy
            except OSError:
                if not copy.is_dir():  # another process of this node was quicker: the same files
                    raise
        for name in (names.MANIFEST_FILE, names.SIGNATURE_FILE):
            if (fetched / name).is_file():
                os.replace(fetched / name, copy / name)  # noqa: PTH105  # signed anew since
        return copy

    def _unchanged(self, copy: Path, digest: str) -> dict[str, str] | None:
        """Return the files of a copy, or None, with nothing left of it, if they aren't its own."""
        if not copy.is_dir():
            return None
        with suppress(UnservableModelError):
            files = model_files.files_of(copy)
            if manifest.digest_of(files) == digest:
                return files
        self._delete(copy)
        return None

    def _sweep(self) -> None:
        """Delete what was left half-written by a crash, long ago: nobody works on it any more."""
        long_ago = time.time() - STALE_S
        for prefix in (_INCOMING, _DELETED):
            for left in self._directory.glob(f"{prefix}*"):
                with suppress(OSError):
                    # A folder's own time is not that of the files below it, which may still grow.
                    if max(one.stat().st_mtime for one in (left, *left.rglob("*"))) < long_ago:
                        shutil.rmtree(left)

    def _delete(self, copy: Path) -> None:
        with (
            tempfile.TemporaryDirectory(dir=self._directory, prefix=_DELETED) as scratch,
            suppress(FileNotFoundError),  # another process has found it, too
        ):
            shutil.move(copy, scratch)  # out of its place at once, not file by file


_under_way: dict[tuple[Path, Check], tuple[float, futures.Future[Path]]] = {}
"""When a fetch began, and what becomes of it."""

_lock = threading.Lock()


def _joined(key: tuple[Path, Check], fetch: Callable[[], Path]) -> Path:
    """Return what `fetch` does, or what a call with the same key does that is under way.

    One that hangs is joined no more after `STALE_S`. Raises what `fetch` raises,
    MlflowUnreachableError if it is under way for too long.
    """
    mine: futures.Future[Path] = futures.Future()
    now = time.monotonic()
    with _lock:
        begun, first = _under_way.get(key, (now, mine))
        if now - begun > STALE_S:
            begun, first = now, mine
        _under_way[key] = begun, first
    if first is not mine:
        futures.wait([first], tracking.OVERALL_TIMEOUT_S)
        if not first.done():
            raise tracking.MlflowUnreachableError("the version's files are still being fetched")
        return first.result()
    try:
        mine.set_result(fetch())
    except BaseException as error:  # noqa: BLE001  # whoever waits raises it
        mine.set_exception(error)
    finally:
        with _lock:
            if _under_way.get(key) == (now, mine):
                del _under_way[key]
    return mine.result()
