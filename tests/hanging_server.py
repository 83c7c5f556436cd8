"""A server that says it is well and then hangs, and what `serve_app check` makes of it."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests import running

Ended = tuple[subprocess.CompletedProcess[str], float]
"""A command that has ended, and the seconds since it had first asked the server."""


class _Hanging(http.server.BaseHTTPRequestHandler):
    """Says that it is well, and answers nothing else."""

    def do_GET(self) -> None:
        """Answer `/health`; let everything else wait until the server ends."""
        assert isinstance(self.server, _HangingServer)
        self.server.asked_at.append(time.monotonic())
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
        else:
            self.server.ended.wait(60)

    do_POST = do_GET  # noqa: N815


class _HangingServer(http.server.ThreadingHTTPServer):
    """A server that hangs until it is ended."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hanging)
        self.ended = threading.Event()
        self.asked_at: list[float] = []


def check_a_server_that_hangs(cache: Path) -> Ended:
    """Run `serve_app check` with an MLflow that is well, and answers nothing else."""
    with _HangingServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        completed = subprocess.run(
            [sys.executable, "-m", "serve_app", "check"],
            cwd=running.ROOT,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
                "MODEL_CACHE_DIR": str(cache),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=80,
        )
        took_s = time.monotonic() - server.asked_at[0]
        server.ended.set()
        server.shutdown()
    return completed, took_s
