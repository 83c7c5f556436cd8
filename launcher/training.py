"""Training as a Ray job: `ray job submit`, its output, and the job's own exit code."""

import json
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from launcher import preflight, ray_head
from launcher.errors import UnreachableError

_TIMEOUT_S: Final = 10.0
_NOT_UPLOADED: Final = ["/.git", "/.venv", "/var"]


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted to, and the file with the token for it."""

    dashboard: str
    token_file: Path

    @property
    def token(self) -> str:
        """Ray's token. Raises UnreachableError if there's none to be read."""
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise UnreachableError(
                f"{self.token_file}: no token for Ray: {error.strerror}; set RAY_AUTH_TOKEN_PATH"
            ) from error


def run(cluster: Cluster, root: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Submit `python -m train` with `arguments`, show its output, return the job's exit code.

    Raises UnreachableError if the cluster doesn't answer.
    """
    if not ray_head.answers(cluster.dashboard, cluster.token):
        raise UnreachableError(
            f"no Ray cluster takes jobs at {cluster.dashboard}: "
            "start one with `make run`, or set RAY_API_SERVER_ADDRESS"
        )
    job = f"train-{uuid.uuid4().hex[:12]}"
    variables = {"GIT_COMMIT": _commit(root, environ)}
    runtime_env = {"env_vars": variables, "excludes": _NOT_UPLOADED}
    command = [
        preflight.tool("ray"),
        "job",
        "submit",
        "--log-color=false",
        f"--address={cluster.dashboard}",
        f"--submission-id={job}",
        f"--working-dir={root}",
        f"--runtime-env-json={json.dumps(runtime_env)}",
        "--",
        "python",
        "-m",
        "train",
        *arguments,
    ]
    inherited = {name: value for name, value in environ.items() if name != "RAY_ADDRESS"}
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token_file)}
    completed = subprocess.run(command, env={**inherited, **own}, cwd=root, check=False)
    return 0 if completed.returncode == 0 else exit_code(cluster, job, completed.returncode)


def exit_code(cluster: Cluster, job: str, otherwise: int) -> int:
    """Return the job's own exit code from its details, or `otherwise` if it has none."""
    try:
        answer = requests.get(
            f"{cluster.dashboard}/api/jobs/{job}",
            headers=ray_head.bearer(cluster.token),
            timeout=_TIMEOUT_S,
        )
        code = answer.json().get("driver_exit_code")
    except (requests.RequestException, ValueError) as error:
        raise UnreachableError(
            f"the Ray cluster at {cluster.dashboard} went away: {error}"
        ) from error
    return code if isinstance(code, int) else otherwise


def _commit(root: Path, environ: Mapping[str, str]) -> str:
    """Return the commit that is checked out: the job's copy of the code has no history."""
    if commit := environ.get("GIT_COMMIT"):
        return commit
    try:
        completed = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return completed.stdout.strip() or "unknown"
