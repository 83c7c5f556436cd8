"""The files of a model's directory and their digests; anything but plain files is refused."""

import hashlib
from pathlib import Path
from typing import Final

from contract import names

BESIDE: Final = frozenset(
    {names.EXPORT_FILE, names.MANIFEST_FILE, names.SIGNATURE_FILE, "registered_model_meta"}
)
"""What training, MLflow or the export write beside the model; nothing of it is read as a model."""


class OddFileError(Exception):
    """Something in a model's directory is no file of the model's own."""


def list_files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file's content, by its path inside the directory.

    What is written beside the model is left out. Raises OddFileError for a symbolic link that
    leads out of the directory or to no file, and for what is neither file nor directory.
    """
    root = directory.resolve()
    found = {}
    for file in sorted(directory.rglob("*")):
        if file.is_symlink() and not _target(file).is_relative_to(root):
            raise OddFileError(f"{file} is a link that leads out of the model's directory")
        if file.is_dir() and not file.is_symlink():
            continue
        if not file.is_file():
            raise OddFileError(f"{file} is neither a file nor a directory")
        if (name := file.relative_to(directory).as_posix()) not in BESIDE:
            with file.open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError) as error:
        raise OddFileError(f"{link} is a link that leads nowhere: {error}") from error
