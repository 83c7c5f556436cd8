"""Where keys are kept: a file, an environment variable, or both; followed while a service runs."""

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from contract.strict import SettingsError
from serve_app.access import keys
from serve_app.access.keys import ApiKey, Keyring

logger = logging.getLogger("ray.serve")

VARIABLE: Final = "ENDEAVOUR_API_KEYS"
"""Holds keys themselves: their digests, as in a file, between semicolons or a line each."""

FILE_VARIABLE: Final = "ENDEAVOUR_API_KEYS_FILE"
"""Names the file."""

DEFAULT_FILE: Final = Path("var/api_keys")
"""The file that `keys` writes and `make run` reads, unless the variable names another."""

NO_KEYS: Final = (
    "no API keys are set: make one with `python -m serve_app keys create`, and name its file by "
    f"{FILE_VARIABLE}"
)
"""What is said, or refused, of a service that asks nobody for a key."""

Stamp = tuple[int, int, int] | None
"""None: there's no such file, or it can't be seen."""

_OWNER_ONLY: Final = 0o600
_HEADER: Final = "# id, SHA-256 of the secret, scopes, requests a second; see docs/security.md\n"


class KeySource:
    """The keys of a service; None for a service that asks for none."""

    def __init__(self, file: Path | None, environ: Mapping[str, str]) -> None:
        self._file = file
        self._text = environ.get(VARIABLE, "")
        self._read_as: Stamp = None
        """The state of the file that the keys are of."""
        self._failed_as: Stamp | Literal["never"] = "never"
        """The state of the file that was complained of last."""
        self.is_on = file is not None or bool(self._text.strip())
        """Whether keys are asked for; with an empty file nobody is let in."""
        self.keyring = self._read()

    def refresh(self) -> None:
        """Read the file again if it has changed; one that can't be read changes nothing."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp == self._read_as:
            return
        try:
            self.keyring = self._read()
            logger.info("%d API keys are in force", len(self.keyring))
        except SettingsError as error:  # tried again the next time: it may have been the moment
            if stamp != self._failed_as:
                logger.error("the API keys stay as they were: %s", error)
            self._failed_as = stamp

    def _read(self) -> Keyring:
        stamp = None if self._file is None else _stamp(self._file)
        found = keys.parse(self._text.replace(";", "\n"), VARIABLE)
        if self._file is not None:
            found += read(self._file)
        keyring = keys.unique(found, str(self._file or VARIABLE))
        self._read_as, self._failed_as = stamp, "never"
        return keyring


def read(file: Path) -> list[ApiKey]:
    """Return the keys in a file. Raises SettingsError."""
    try:
        return keys.parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{file} can't be read ({error}): make it with `python -m serve_app keys create`, "
            f"or correct {FILE_VARIABLE}"
        ) from error


def add(file: Path, key: ApiKey) -> None:
    """Add a key. Raises SettingsError."""
    with _changing(file) as lines:
        lines.append(f"{key}\n")


def remove(file: Path, key_id: str) -> None:
    """Remove a key. Raises SettingsError if it isn't there."""
    read(file)  # it must be readable, and exist
    with _changing(file) as lines:
        kept = [line for line in lines if line.split()[:1] != [key_id]]
        if len(kept) == len(lines):
            raise SettingsError(f"{file} has no key {key_id}: see `python -m serve_app keys list`")
        lines[:] = kept


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[str]]:
    """Give the file's lines, and write them back, whole or not at all, one change at a time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{file}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = file.read_text(encoding="utf-8") if file.exists() else _HEADER
            lines = text.splitlines(keepends=True)
            if lines and not lines[-1].endswith("\n"):
                lines[-1] += "\n"
            yield lines
            _replace(file, "".join(lines))
    except OSError as error:
        raise SettingsError(f"{file} can't be written: {error}") from error


def _replace(file: Path, text: str) -> None:
    keys.unique(keys.parse(text, str(file)), str(file))
    handle, fresh = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as output:
            output.write(text)
            output.flush()
            os.fsync(output.fileno())
        if file.exists():  # it stays as it is for those who read it
            status = file.stat()
            os.chown(fresh, status.st_uid, status.st_gid)
            Path(fresh).chmod(stat.S_IMODE(status.st_mode))
        else:
            Path(fresh).chmod(_OWNER_ONLY)
        Path(fresh).replace(file)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _stamp(file: Path) -> Stamp:
    """Return what changes with the file: a mounted secret is another inode behind a link."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def chosen(environ: Mapping[str, str]) -> Path:
    """Return the file that the command line works on."""
    return Path(environ.get(FILE_VARIABLE) or DEFAULT_FILE)
