"""What makes two training jobs the same: data, settings, code and libraries."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from train.data import Dataset
from train.settings import TrainSettings

LIBRARIES = ("numpy", "scikit-learn", "skops")
"""Those that decide on the weights, or on how they are written."""

ROOT = Path(__file__).parent.parent


def compute(settings: TrainSettings, dataset: Dataset) -> str:
    """Return the SHA-256 by which a version is found again. Deadlines don't count."""
    facts = {
        "data": dataset.digest,
        "settings": settings.model_dump(mode="json", exclude={"deadlines"}),
        "libraries": library_versions(),
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide on the weights."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def commit(environ: Mapping[str, str] = os.environ) -> str:
    """Return the commit of this code: git's, else `GIT_COMMIT`, else `unknown`."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return environ.get("GIT_COMMIT") or "unknown"
    return done.stdout.strip()


def _code_digest() -> str:
    digest = hashlib.sha256()
    for package in ("contract", "train"):
        for file in sorted((ROOT / package).glob("*.py")):
            digest.update(f"{package}/{file.name}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
