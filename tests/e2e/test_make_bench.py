"""`make bench` measures, reports, and leaves nothing running."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import running


@pytest.mark.system
@pytest.mark.timeout(700)
def test_a_peer_is_installed_measured_and_stopped(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """In its own environment, in a clean copy; its figures don't pass for the project's own."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, VENV=sys.prefix)
    report = root / "benchmarks" / "RESULTS.md"
    before = report.read_bytes() if report.exists() else b""
    subprocess.run(["make", "bench-packages"], cwd=root, env=environ, check=True, timeout=200)
    completed = subprocess.run(
        ["make", "bench", "BENCH=--quick --only starlette"],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    found = json.loads((root / "var" / "bench" / "results.json").read_text())
    assert {one["server"] for one in found["measurements"]} == {"starlette"}
    assert all(one["requests"] > 0 and not one["errors"] for one in found["measurements"])
    assert "Starlette" in (root / "var" / "bench" / "RESULTS.md").read_text()
    assert report.read_bytes() == before if before else not report.exists()
    python = str(root / "benchmarks" / ".venvs")
    assert not [one for one in psutil.process_iter(["exe", "cmdline"]) if python in str(one.info)]
