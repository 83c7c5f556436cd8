"""Training as a Ray job: `ray job submit`, its output, and the job's own exit code."""

import contextlib
import json
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from contract.signing import KEY_FILE_VARIABLE
from contract.tracking import READER_VARIABLE
from launcher import console, preflight, ray_head
from launcher.errors import LaunchError, UnreachableError

_TIMEOUT_S: Final = 5.0
_SUBMIT_S: Final = 60.0
_PATIENCE_S: Final = 20.0
_POLL_S: Final = 0.3
_NOISE: Final = ("Runtime env is setting up", "Running entrypoint for job")
_ENDED: Final = ("SUCCEEDED", "FAILED", "STOPPED")
CREDENTIALS_VARIABLE: Final = "MLFLOW_TRAINING_CREDENTIALS_FILE"
"""Names the file, in the cluster, that says who training jobs are to MLflow."""

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

    Raises UnreachableError if the cluster doesn't answer, LaunchError if it refuses the job.
    """
    if not ray_head.answers(cluster.dashboard, cluster.token):
        raise UnreachableError(
            f"no Ray cluster takes jobs at {cluster.dashboard}: "
            "start one with `make run`, or set RAY_API_SERVER_ADDRESS"
        )
    job = f"train-{uuid.uuid4().hex[:12]}"
    try:
        _submit(cluster, root, job, arguments, environ)
        console.say(f"job {job} at {cluster.dashboard}")
        return _follow(cluster, job)
    except BaseException:
        _stop(cluster, job)
        raise


def _submit(
    cluster: Cluster, root: Path, job: str, arguments: Sequence[str], environ: Mapping[str, str]
) -> None:
    runtime_env = {"env_vars": variables_of_job(root, environ), "excludes": _NOT_UPLOADED}
    command = [
        preflight.tool("ray"),
        "job",
        "submit",
        "--no-wait",
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
    try:
        completed = subprocess.run(
            command,
            env={**inherited, **own},
            cwd=root,
            check=False,
            capture_output=True,
            text=True,
            timeout=_SUBMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(
            f"{cluster.dashboard} did not take the job within {_SUBMIT_S:g} s"
        ) from error
    if completed.returncode != 0:
        raise LaunchError(f"`ray job submit` failed:\n{completed.stdout}{completed.stderr}")


def variables_of_job(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the job is told beside what the cluster's environment says.

    Of the signing key that is the file's path, never the key: Ray shows a job's environment.
    """
    variables = {"GIT_COMMIT": _commit(root, environ)}
    if file := environ.get(CREDENTIALS_VARIABLE):
        variables[READER_VARIABLE] = file
    if key := environ.get(KEY_FILE_VARIABLE):
        # The job runs in a copy of the folder, to which `var` is not uploaded.
        variables[KEY_FILE_VARIABLE] = str(Path(key).absolute())
    return variables


def _follow(cluster: Cluster, job: str) -> int:
    """Print the job's output as it comes; return its exit code when it has ended."""
    shown = 0
    while True:
        details = _ask(cluster, job)
        has_ended = details.get("status") in _ENDED
        output = str(_ask(cluster, f"{job}/logs").get("logs") or "")
        complete = len(output) if has_ended else output.rfind("\n") + 1
        for line in output[shown:complete].splitlines():
            if not any(noise in line for noise in _NOISE):
                console.say(line)
        shown = max(shown, complete)
        if has_ended:
            code = details.get("driver_exit_code")
            if isinstance(code, int):
                return code
            raise LaunchError(f"the job {job} did not run: {details.get('message')}")
        time.sleep(_POLL_S)


def _ask(cluster: Cluster, path: str) -> dict[str, Any]:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            answer = requests.get(
                f"{cluster.dashboard}/api/jobs/{path}",
                headers=ray_head.bearer(cluster.token),
                timeout=_TIMEOUT_S,
            )
            answer.raise_for_status()
            content: dict[str, Any] = answer.json()
            return content
        except (requests.RequestException, ValueError) as error:
            if time.monotonic() > until:
                raise UnreachableError(
                    f"the Ray cluster at {cluster.dashboard} went away: {error}"
                ) from error
            time.sleep(_POLL_S)


def _stop(cluster: Cluster, job: str) -> None:
    """Ask the cluster to end a job that nobody waits for any more."""
    with contextlib.suppress(requests.RequestException, UnreachableError):
        requests.post(
            f"{cluster.dashboard}/api/jobs/{job}/stop",
            headers=ray_head.bearer(cluster.token),
            timeout=_TIMEOUT_S,
        )


def _commit(root: Path, environ: Mapping[str, str]) -> str:
    """Return the commit that is checked out: the job's copy of the code has no history."""
    if commit := environ.get("GIT_COMMIT"):
        return commit
    try:
        completed = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root,
            env=dict(environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return completed.stdout.strip() or "unknown"
