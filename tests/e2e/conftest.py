"""One system, started by `make run` in a clean copy, for all end-to-end tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import running
from tests.running import Running

FIRST_START_S = 600.0


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy, without .venv and without var."""
    return running.copy_project(tmp_path_factory.mktemp("clone") / "project")


@pytest.fixture(scope="session")
def environ(free_port: Callable[[], int]) -> dict[str, str]:
    """Free ports, and the plain environment."""
    return running.environ(free_port)


@pytest.fixture(scope="session")
def first(clone: Path, environ: dict[str, str]) -> Iterator[Running]:
    """The first `make run`: installs, trains, serves. The last test of test_make_run.py ends it."""
    with running.system(clone, environ, ["make", "run"], start_timeout_s=FIRST_START_S) as started:
        yield started
