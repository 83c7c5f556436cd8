"""A virtual environment for each peer, made on first use from its `requirements.txt`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.errors import ServerError
from benchmarks.servers import Peer

FOLDER: Final = Path(__file__).parent / ".venvs"
_STAMP: Final = ".installed"
_INSTALL_S: Final = 1800.0
_VERSION_OF: Final = (
    "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
)


def ensure(peer: Peer) -> Path:
    """Return the folder with the peer's commands, after installing what is missing.

    Raises ServerError if that fails.
    """
    folder = FOLDER / peer.name
    stamp = folder / _STAMP
    wanted = _digest(peer.requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        python = str(folder / "bin" / "python")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], peer)
        install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        _run([python, *install, "-r", str(peer.requirements)], peer)
        stamp.write_text(wanted)
    return folder / "bin"


def version(peer: Peer) -> str:
    """Return the version of the peer's package in its environment."""
    python = str(FOLDER / peer.name / "bin" / "python")
    return _run([python, "-c", _VERSION_OF, peer.definition.package], peer).strip()


def _digest(requirements: Path) -> str:
    content = [requirements.read_text(), sys.version]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _run(command: list[str], peer: Peer) -> str:
    completed = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_INSTALL_S
    )
    if completed.returncode != 0:
        raise ServerError(f"the environment of {peer.name} was not made:\n{completed.stderr}")
    return completed.stdout
