"""`make dev` deploys again when the code changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import running


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_change_of_the_code_is_deployed_while_the_system_runs(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A changed answer of `/health` appears, and Ctrl-C still ends everything."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, VENV=sys.prefix)
    with running.system(root, environ, ["make", "dev"]) as service:
        assert service.get("/health").text == "Ok"
        # Serve prints this when it begins to watch.
        log = root / "var" / "logs" / "serve.log"
        running.wait_for(lambda: "is ready at" in log.read_text(), 60)
        routes = root / "serve_app" / "http" / "routes.py"
        changed = routes.read_text().replace('PlainTextResponse("Ok")', 'PlainTextResponse("Hi")')

        def is_deployed() -> bool:
            # Serve may not be watching yet when the first change is made.
            routes.write_text(changed)
            return service.is_ready() and service.get("/health").text == "Hi"

        running.wait_for(is_deployed, 120, every_s=5)
        stopped = service.interrupt()
    assert stopped.processes_left == []
    assert stopped.ports_held == []
