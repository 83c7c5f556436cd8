"""Closed loop: `wrk` keeps a number of connections busy and counts what comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.asks import Ask
from benchmarks.errors import BenchError, ServerError

SCRIPT: Final = Path(__file__).parent / "post.lua"
_MARK: Final = "FIGURES "
_ERRORS: Final = ("connect", "read", "write", "status", "timeout")
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Load:
    """What a load has measured."""

    per_s: float
    requests: int
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def path() -> str:
    """Return where wrk is. Raises BenchError if it isn't installed."""
    found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is missing: `make bench-packages` installs it (Debian, as root)")
    return found


def version() -> str:
    """Return wrk's version; it prints it with its usage, and exits with 1."""
    completed = subprocess.run([path(), "--version"], capture_output=True, text=True, check=False)
    words = completed.stdout.split()
    return words[1] if len(words) > 1 else "unknown"


def run(address: str, ask: Ask, connections: int, seconds: float, folder: Path) -> Load:
    """Send `ask` on so many connections, each one request after the other.

    Raises ServerError if wrk gives no figures.
    """
    body = folder / "body"
    body.write_bytes(ask.body)
    headers = "".join(f"{name}: {value}\n" for name, value in ask.headers.items())
    completed = subprocess.run(
        [
            path(),
            "--threads=1",
            f"--connections={connections}",
            # wrk takes whole seconds only.
            f"--duration={max(1, round(seconds))}s",
            f"--timeout={_PATIENCE_S:g}s",
            f"--script={SCRIPT}",
            address + ask.path,
        ],
        env={**os.environ, "BENCH_BODY": str(body), "BENCH_HEADERS": headers},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 2 * _PATIENCE_S,
    )
    return parse(completed.stdout, completed.stderr)


def parse(output: str, complaints: str = "") -> Load:
    """Read the line that `post.lua` prints. Raises ServerError if there is none, or no answer."""
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise ServerError(f"wrk gave no figures: {complaints.strip() or output.strip()}")
    figures = json.loads(lines[-1].removeprefix(_MARK))
    if not figures["requests"]:
        raise ServerError("not one answer while the load lasted")
    return Load(
        per_s=figures["requests"] / (figures["duration_us"] / 1e6),
        requests=figures["requests"],
        errors=sum(figures[name] for name in _ERRORS),
        **{f"{name}_ms": figures[f"{name}_us"] / 1e3 for name in ("p50", "p90", "p99", "max")},
    )
