"""Proxies that the environment names, and what never goes to one."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

_LOOPBACK: Final = ("127.0.0.1", "localhost")


def keep_loopback_off(environ: MutableMapping[str, str] = os.environ) -> None:
    """Keep requests to this very machine away from a proxy that the environment names."""
    lower, upper = environ.get("no_proxy"), environ.get("NO_PROXY")
    for name, text in (("no_proxy", lower or upper), ("NO_PROXY", upper or lower)):
        listed = [one.strip() for one in (text or "").split(",") if one.strip()]
        if listed != ["*"]:
            listed += [one for one in _LOOPBACK if one not in listed]
        environ[name] = ",".join(listed)
