"""A whole system as people start it, for tests: started, asked over HTTP, stopped, and checked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from launcher.stop import DRAIN_S

ROOT = Path(__file__).parent.parent
LAUNCHER = (sys.executable, "-m", "launcher", "run", "--train", "train_config.yaml")
READY_LINE = "Ctrl-C stops everything."
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv*", "var", ".*_cache", ".hypothesis", "*.egg-info"
)
START_TIMEOUT_S = 240.0
FIRST_START_S = 600.0
"""The longest start if what it needs must be installed first."""
STOP_TIMEOUT_S = 30.0
"""After the requests under way have ended."""
ASK_TIMEOUT_S = 10.0
MANY_PROCESSES = 8


@dataclass
class Running:
    """A system that was started in `root`; its launcher is `process`'s process or descendant."""

    root: Path
    process: subprocess.Popen[bytes]
    log: Path
    environ: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://127.0.0.1:{self.environ['PORT']}"

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow answers."""
        return f"http://127.0.0.1:{self.environ['MLFLOW_PORT']}"

    @property
    def dashboard(self) -> str:
        """Where Ray's dashboard answers."""
        return f"http://127.0.0.1:{self.environ['RAY_DASHBOARD_PORT']}"

    @property
    def token(self) -> str:
        """Ray's token."""
        return (self.root / "var" / "ray_token").read_text().strip()

    @property
    def state(self) -> dict[str, Any]:
        """What the launcher recorded of the run."""
        content: dict[str, Any] = json.loads((self.root / "var" / "run.json").read_text())
        return content

    @property
    def key(self) -> str:
        """The API key that tests of this system use; empty if it asks for none."""
        return self.environ.get("ENDEAVOUR_API_KEY", "")

    def post(self, route: str, body: Any, **options: Any) -> requests.Response:
        """Send JSON."""
        options = {"timeout": ASK_TIMEOUT_S, "headers": {"x-api-key": self.key}, **options}
        return requests.post(f"{self.url}{route}", json=body, **options)

    def get(self, route: str) -> requests.Response:
        """Ask for a route."""
        headers = {"x-api-key": self.key}
        return requests.get(f"{self.url}{route}", headers=headers, timeout=ASK_TIMEOUT_S)

    def has_started(self) -> bool:
        """Whether MLflow, Ray and their own processes are there, though maybe none answers."""
        try:
            return len(self.processes()) > MANY_PROCESSES
        except (OSError, psutil.Error):
            return False

    def is_ready(self) -> bool:
        """Whether a prediction passes."""
        try:
            return self.get("/health/ready").ok
        except requests.RequestException:
            return False

    def output(self) -> str:
        """What the launcher has printed so far."""
        return self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Every process that was started, directly or not."""
        launcher = psutil.Process(self.state["launcher"]["pid"])
        return [launcher, *launcher.children(recursive=True)]

    def applications(self) -> dict[str, str]:
        """The status of each Serve application by its name."""
        return {name: one["status"] for name, one in self._serve().items()}

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """The replicas of a deployment that run, as Ray's dashboard describes them."""
        replicas: list[dict[str, Any]]
        replicas = self._serve()["endeavour"]["deployments"][deployment]["replicas"]
        return [replica for replica in replicas if replica["state"] == "RUNNING"]

    def options(self, deployment: str) -> dict[str, Any]:
        """The options of a deployment that are in force."""
        options: dict[str, Any]
        options = self._serve()["endeavour"]["deployments"][deployment]["deployment_config"]
        return options

    def _serve(self) -> dict[str, Any]:
        answer = requests.get(
            f"{self.dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=ASK_TIMEOUT_S,
        )
        answer.raise_for_status()
        applications: dict[str, Any] = answer.json()["applications"]
        return applications

    def apply(self, config: dict[str, Any]) -> None:
        """Give Serve this config, as `serve deploy` does; what it changes takes its time."""
        answer = requests.put(
            f"{self.dashboard}/api/serve/applications/",
            json=config,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=ASK_TIMEOUT_S,
        )
        answer.raise_for_status()

    def interrupt(self, signal_number: int = signal.SIGINT) -> Stopped:
        """Signal as the terminal does (the whole group), wait, and say what is left."""
        started = self.processes()
        listening = listening_ports(started)
        began = time.monotonic()
        os.killpg(self.process.pid, signal_number)
        self.process.wait(DRAIN_S + STOP_TIMEOUT_S)
        took_s = time.monotonic() - began
        left = [process for process in started if is_alive(process)]
        return Stopped(took_s, self.process.returncode, left, still_held(listening))


@dataclass(frozen=True)
class Stopped:
    """How a system ended, and what it left behind."""

    took_s: float
    code: int
    processes_left: list[psutil.Process]
    ports_held: list[int]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that only waits to be collected doesn't."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listening_ports(processes: Sequence[psutil.Process]) -> set[int]:
    """The TCP ports on which these processes listen."""
    found: set[int] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            connections = process.net_connections("tcp")
            found |= {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}
    return found


def still_held(ports: set[int]) -> list[int]:
    """Those of the ports on which anybody listens."""
    connections = psutil.net_connections("tcp")
    return sorted(
        {
            one.laddr.port
            for one in connections
            if one.laddr and one.status == psutil.CONN_LISTEN and one.laddr.port in ports
        }
    )


def copy_project(target: Path) -> Path:
    """A clean copy of the project: what a fresh clone holds, uncommitted changes included.

    With its bytecode, or all processes of a start would compile the same files at once.
    """
    shutil.copytree(ROOT, target, ignore=NOT_COPIED)
    return target


def lock_sum() -> str:
    """What the Makefile calls an installation of the lock as it is now."""
    lock = (ROOT / "requirements.lock").read_bytes()
    said = subprocess.run(["cksum"], input=lock, capture_output=True, check=True)
    return said.stdout.decode().replace(" ", "").strip()


def environ(free_port: Callable[[], int], **changes: str) -> dict[str, str]:
    """The environment of a system with free ports, and nothing of the caller's own settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "MLFLOW_", "MODEL_", "ENDEAVOUR_")) and name != "PYTHONPATH"
    }
    return {**kept, **ports(free_port), **changes}


def ports(free_port: Callable[[], int]) -> dict[str, str]:
    """The three ports that people use, all free."""
    return {name: str(free_port()) for name in ("PORT", "MLFLOW_PORT", "RAY_DASHBOARD_PORT")}


def launch(root: Path, environ: Mapping[str, str], command: Sequence[str] = ()) -> Running:
    """Begin to start a system, and return at once."""
    log = root / "launcher.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*(command or LAUNCHER)],
            cwd=root,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(root, process, log, environ)


def await_start(running: Running, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return when a system says that it answers.

    Raises RuntimeError with its output if it ends before that, TimeoutError if it takes too long.
    """
    process = running.process
    wait_for(lambda: READY_LINE in running.output() or process.poll() is not None, timeout_s)
    if process.poll() is not None:
        raise RuntimeError(f"ended with {process.returncode}:\n{running.output()}")


def stop(running: Running) -> None:
    """End a system at once, however it is, with everything that it has started.

    How a system ends in order is what `interrupt` is for.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.process.pid, signal.SIGSTOP)
    with contextlib.suppress(FileNotFoundError):
        state = running.state
        end_tree(state["launcher"]["pid"])
        shutil.rmtree(state["scratch"], ignore_errors=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait(STOP_TIMEOUT_S)


def end_tree(pid: int) -> None:
    """Kill a process, if it runs, and all that it started; halted first, so that none escapes."""
    halted: set[psutil.Process] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        while found := {root, *root.children(recursive=True)} - halted:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            halted |= found
    for process in halted:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not any(map(is_alive, halted)), STOP_TIMEOUT_S)


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for Ray's session with a path short enough for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="edv-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def system(
    root: Path,
    environ: Mapping[str, str],
    command: Sequence[str] = (),
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Running]:
    """A system that runs inside the `with` block."""
    with up(launch(root, environ, command), timeout_s) as running:
        yield running


@contextlib.contextmanager
def up(launched: Running, timeout_s: float = START_TIMEOUT_S) -> Iterator[Running]:
    """Let a system that may still be starting run inside the `with` block."""
    try:
        await_start(launched, timeout_s)
        yield launched
    finally:
        stop(launched)


def change_config(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a copy's serve_config.yaml."""
    file = root / "serve_config.yaml"
    config = yaml.safe_load(file.read_text())
    change(config)
    file.write_text(yaml.safe_dump(config))


def wait_for(is_so: Callable[[], bool], deadline_s: float, every_s: float = 0.2) -> None:
    """Return when it is so; raise TimeoutError if that takes too long."""
    until = time.monotonic() + deadline_s
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"not so after {deadline_s:g} s")
        time.sleep(every_s)
