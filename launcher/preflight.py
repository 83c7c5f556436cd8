"""What must hold before anything starts; each failure is one clear line."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from launcher.errors import SettingError

OLDEST_PYTHON: Final = (3, 11)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Raise SettingError if Python is too old."""
    if version < OLDEST_PYTHON:
        raise SettingError(
            f"Python {version[0]}.{version[1]} is too old: "
            f"install Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer"
        )


def tool(name: str, bin_folder: Path | None = None) -> str:
    """Return the path of a command that belongs to this Python environment.

    Raises SettingError if it isn't installed there.
    """
    folder = bin_folder or Path(sys.executable).parent
    found = shutil.which(name, path=str(folder))
    if found is None:
        raise SettingError(
            f"the command {name!r} is missing from {folder}: run `make install`, "
            "or `pip install -e .` in your own environment"
        )
    return found


def check_tools(names: Sequence[str]) -> None:
    """Raise SettingError if one of the commands is missing."""
    for name in names:
        tool(name)
