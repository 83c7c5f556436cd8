"""`make soak`, for two minutes instead of an hour."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.running import ROOT


@pytest.mark.system
@pytest.mark.timeout(600)
def test_random_faults_cost_no_more_than_they_may() -> None:
    """It says so at its end, with exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", "--minutes", "2", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "passed"
