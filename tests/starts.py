"""Starts that take long, or mostly wait: done beside the tests that don't need them."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import requests

from tests import running

READY_S = 120.0
SLOPE = 2.0
X = 1.5
REGISTER = f"""
import sys, mlflow
from tests import models
mlflow.set_tracking_uri(sys.argv[1])
models.register(mlflow.MlflowClient(sys.argv[1]), sys.argv[2], {SLOPE})
"""
"""Done in a process of its own: MLflow's functions are for one thread, and another runs tests."""

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


def serve_run(root: Path, environ: Mapping[str, str]) -> tuple[requests.Response, str]:
    """Run `serve run serve_config.yaml`; return what it answers for X, and what it says."""
    subprocess.run(
        [sys.executable, "-c", REGISTER, environ["MLFLOW_TRACKING_URI"], environ["MODEL_NAME"]],
        cwd=root,
        env=dict(environ),
        check=True,
        timeout=READY_S,
    )
    port = int(environ["PORT"])
    running.change_config(root, lambda config: config["http_options"].update(port=port))
    log = root / "serve.log"
    with running.ray_folder() as folder, log.open("wb") as output:
        process = subprocess.Popen(
            ["serve", "run", "serve_config.yaml"],
            cwd=root,
            env={**environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        service = running.Running(root, process, log, environ)
        try:
            running.wait_for(service.is_ready, READY_S)
            return service.post("/stream", {"X": X}), log.read_text()
        finally:
            running.end_tree(process.pid)
            process.wait()
