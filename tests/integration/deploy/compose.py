"""The compose files, with the tags that compose adds to YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
PRODUCTION = ROOT / "deploy" / "compose.production.yml"


class _Loader(yaml.SafeLoader):
    """Reads `!reset`, which takes away what an earlier file says, as None."""


_Loader.add_constructor("!reset", lambda loader, node: None)


def read(file: Path) -> dict[str, Any]:
    """Return the content of a compose file."""
    content: dict[str, Any] = yaml.load(file.read_text(), _Loader)
    return content


def services(file: Path) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file."""
    found: dict[str, dict[str, Any]] = read(file)["services"]
    return found
