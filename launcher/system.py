"""The whole system on one machine: started in order, watched, and ended without a trace."""

from __future__ import annotations

import itertools
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from contract import names, strict, tracking
from launcher import (
    console,
    draining,
    environment,
    housekeeping,
    mlflow_server,
    ports,
    preflight,
    processes,
    ray_head,
    serving,
    signals,
    state,
    stop,
    training,
)
from launcher.errors import LaunchError, SettingError, UnreachableError
from launcher.layout import Layout
from launcher.processes import Child
from serve_app import settings
from serve_app.access.key_file import NO_KEYS, KeySource
from serve_app.control import memory

LOOPBACK: Final = "127.0.0.1"
START_DEADLINE_S: Final = 90.0
CHECK_DEADLINE_S: Final = 60.0
DEPLOY_DEADLINE_S: Final = 180.0
_POLL_S: Final = 0.2
_WATCH_S: Final = 1.0
_LOOKS_PER_NOTE: Final = 5
"""Every process of the machine is looked at to find ours: too much for once a second."""


@dataclass(frozen=True)
class Options:
    """How this run differs from the plain one."""

    trains_by: str | None = None
    """The config to train a first model by, if the registry has no champion."""
    reloads: bool = False
    """Deploy again on every change of the code."""
    opens_to_network: bool = False
    """In a container: Ray's head and MLflow bind all of its interfaces, not only loopback."""


class System:
    """One run. Use `run()`; it returns when the system has been stopped."""

    def __init__(self, layout: Layout, options: Options, environ: Mapping[str, str]) -> None:
        self._layout = layout
        self._options = options
        self._environ = environ
        self._children: list[Child] = []
        self._is_mlflow_away = False

    def run(self) -> None:
        """Start everything, wait for SIGINT or SIGTERM, stop everything.

        Raises LaunchError with one line if it can't start or if a part ends by itself.
        """
        chosen = self._check()
        processes.adopt_orphans()
        with ExitStack() as stack:
            stack.enter_context(self._layout.lock())
            self._clear_away_killed_run()
            self._ports = ports.choose(self._environ, needs_mlflow=self._needs_mlflow)
            scratch = Path(tempfile.mkdtemp(prefix="edv-", dir="/tmp"))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            stack.callback(self._stop)
            try:
                self._start(chosen, scratch)
                self._watch()
            except signals.Stopped:
                console.say("")
            finally:
                signals.disarm()

    def _check(self) -> settings.Settings:
        preflight.check_python()
        preflight.check_tools(["ray", "serve", "mlflow"])
        self._layout.make()
        self._config = config = strict.read_yaml(self._layout.root / "serve_config.yaml")
        if not (self._options.opens_to_network or serving.is_on_loopback(config)):
            # Ray's node is loopback, where HAProxy would look for the ingresses.
            raise SettingError(
                "http_options.host in serve_config.yaml: without --network it must be 0.0.0.0 or "
                "127.0.0.1"
            )
        environ = {**environment.api_keys(self._layout), **self._environ}
        chosen = settings.resolve(settings.args_of(config), environ)
        self._asks_for_keys = KeySource(chosen.api_keys_file, environ).is_on
        if chosen.env == "production" and not self._asks_for_keys:
            raise SettingError(NO_KEYS)
        uri = tracking.tracking_uri(self._environ)
        self._needs_mlflow = chosen.model_served == "mlflow" and uri is None
        if chosen.model_served == "mlflow" and uri is not None:
            self._look_at_mlflow(uri, chosen)
        return chosen

    def _look_at_mlflow(self, uri: str, chosen: settings.Settings) -> None:
        """Find out whether a server of one's own answers, and if not, whether that's needed."""
        has_served = self._has_served(uri, chosen)
        try:
            mlflow_server.check_address(uri)
            if has_served:  # it may be well and answer nothing else
                mlflow_server.has_champion(uri, chosen.model_name, self._environ)
        except UnreachableError as error:
            if not has_served:
                raise
            console.say(f"{error}; starting with what was served here last")
            self._is_mlflow_away = True

    def _has_served(self, uri: str, chosen: settings.Settings) -> bool:
        """Whether the service can start without a champion, by what this node remembers."""
        cache = Path(self._environ.get("MODEL_CACHE_DIR") or self._layout.model_cache)
        update = {"cache_dir": cache, "mlflow_tracking_uri": uri}
        return memory.recall(chosen.model_copy(update=update)) is not None

    def _clear_away_killed_run(self) -> None:
        """End what a run has left whose launcher was killed; the lock says that it is gone."""
        run = state.read(self._layout.state)
        if run is not None:
            console.say("the last run here was killed: ending what it left")
            stop.stop(self._layout)

    def _start(self, chosen: settings.Settings, scratch: Path) -> None:
        layout = self._layout
        mlflow_uri = tracking.tracking_uri(self._environ)
        if self._needs_mlflow:
            mlflow_uri = f"http://{LOOPBACK}:{self._ports.mlflow}"
        environ = environment.of_cluster(
            layout, self._ports, self._environ, mlflow_uri=mlflow_uri, scratch=scratch
        )
        run = state.Run(
            launcher=state.ProcessId.of(psutil.Process()),
            address=serving.address_of(self._config, self._ports.http),
            mlflow_uri=mlflow_uri if chosen.model_served == "mlflow" else None,
            ray_address=f"{LOOPBACK}:{self._ports.gcs}",
            dashboard=f"http://{LOOPBACK}:{self._ports.dashboard}",
            scratch=str(scratch),
        )
        self._run = run
        run.save(layout.state)
        # Look at the model before anything takes its seconds, unless it is still to be trained or
        # in the registry that is started here; `build` looks at that one.
        trains = self._options.trains_by is not None and chosen.model_served == "mlflow"
        if not self._needs_mlflow and not trains:
            self._check_model(environ)
        self._start_parts(run, environ, scratch)
        if run.mlflow_uri is not None and not self._is_mlflow_away:
            self._ensure_champion(run.mlflow_uri, chosen, run.dashboard)
        self._deploy(run, environ)
        self._welcome(run)

    def _start_parts(self, run: state.Run, environ: Mapping[str, str], scratch: Path) -> None:
        """Start Ray and MLflow side by side, and wait until both answer."""
        layout, is_open = self._layout, self._options.opens_to_network
        ray = ray_head.start(layout, self._ports, _host(is_open), environ, scratch)
        self._children.append(ray)
        if self._needs_mlflow:
            host = "0.0.0.0" if is_open else LOOPBACK
            log = layout.logs / "mlflow.log"
            port = self._ports.mlflow
            self._children.append(mlflow_server.start(layout.mlflow, host, port, environ, log))
        if run.mlflow_uri is not None and not self._is_mlflow_away:
            uri = run.mlflow_uri
            with console.step(f"MLflow at {tracking.without_password(uri)}"):
                self._wait(lambda: mlflow_server.answers(uri), START_DEADLINE_S)
        token = layout.token.read_text()
        with console.step(f"Ray, dashboard at {run.dashboard}"):
            self._wait(lambda: ray_head.answers(run.dashboard, token), START_DEADLINE_S)

    def _deploy(self, run: state.Run, environ: Mapping[str, str]) -> None:
        address = f"{_host(self._options.opens_to_network)}:{self._ports.gcs}"
        environ = {**environ, "RAY_ADDRESS": address}
        start = serving.start_reloading if self._options.reloads else serving.start
        self._children.append(start(self._layout, self._ports, environ))
        token = self._layout.token.read_text()
        with console.step("the deployment"):
            self._wait(lambda: serving.is_running(run.dashboard, token), DEPLOY_DEADLINE_S)
            self._wait(lambda: serving.answers(run.address), START_DEADLINE_S)

    def _ensure_champion(self, uri: str, chosen: settings.Settings, dashboard: str) -> None:
        """Train a first model if there's no champion; without one, go on with what was served."""
        name, config = chosen.model_name, self._options.trains_by
        if mlflow_server.has_champion(uri, name, self._environ):
            return
        has_served = self._has_served(uri, chosen)
        if config is not None:
            try:
                self._train_first(config, name, dashboard)
            except LaunchError as error:
                if not has_served:
                    raise
                console.complain(str(error))
            if mlflow_server.has_champion(uri, name, self._environ):
                return
        lacks = f"the registry has no version of {name!r} with the alias {names.CHAMPION!r}"
        if has_served:
            promote = 'make promote VERSION=N REASON="why"'
            console.say(f"{lacks}: starting with what was served here last; `{promote}` names one")
        elif config is None:
            raise SettingError(
                f"{lacks}: start with `make run`, which trains one, or set MODEL_NAME"
            )
        else:
            raise SettingError(
                f"{lacks}, and training made none, as it says above: name one by "
                f"`{self._promotion(uri, config)}`, and start again"
            )

    def _promotion(self, uri: str, config: str) -> str:
        """Return the command that makes a version champion while nothing runs here."""
        own = mlflow_server.store(self._layout.mlflow)
        where = shlex.quote(own if self._needs_mlflow else tracking.without_password(uri))
        train = f"{shlex.quote(sys.executable)} -m train promote --config {shlex.quote(config)}"
        return f"MLFLOW_TRACKING_URI={where} {train} --version N --reason TEXT"

    def _train_first(self, config: str, model_name: str, dashboard: str) -> None:
        trained = strict.read_yaml(self._layout.root / config).get("model_name")
        if trained != model_name:
            raise SettingError(
                f"no champion of {model_name!r} yet, and {config} trains {trained!r}: "
                f"name a config for {model_name!r} by CONFIG, or set MODEL_NAME={trained}"
            )
        console.say(f"   no champion of {model_name!r} yet: training the first one")
        cluster = training.Cluster(dashboard, self._layout.token)
        arguments = ["--config", config]
        code = training.run(cluster, self._layout.root, arguments, self._environ)
        if code != 0:
            raise LaunchError(f"the training job ended with code {code}; its output stands above")

    def _check_model(self, environ: Mapping[str, str]) -> None:
        """Ask, in a process of its own, whether settings and model can be served."""
        with console.step("the model"):
            completed = subprocess.run(
                [sys.executable, "-m", "serve_app", "check", "--config", "serve_config.yaml"],
                cwd=self._layout.root,
                env=dict(environ),
                capture_output=True,
                text=True,
                check=False,
                timeout=CHECK_DEADLINE_S,
            )
        if completed.returncode != 0:
            lines = completed.stderr.strip().splitlines() or ["no reason was given"]
            kinds = {kind.exit_code: kind for kind in (SettingError, UnreachableError)}
            kind = kinds.get(completed.returncode, LaunchError)
            raise kind(lines[-1].removeprefix("error: "))

    def _wait(self, is_done: Callable[[], bool], deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while True:
            self._look_after()
            if is_done():
                return
            if time.monotonic() > until:
                logs = ", ".join(str(child.log) for child in self._children)
                raise LaunchError(f"not there after {deadline_s:g} s; see {logs}")
            time.sleep(_POLL_S)

    def _watch(self) -> None:
        # A look takes longer than a request; and nothing that answers is started from here on.
        housekeeping.give_way_oneself()
        for look in itertools.count():
            if look % _LOOKS_PER_NOTE:
                processes.check_alive(self._children)
            else:
                housekeeping.give_way(self._look_after())
            time.sleep(_WATCH_S)

    def _look_after(self) -> list[psutil.Process]:
        """Raise if a part has ended; note all processes for a `make stop` after our own death.

        Returns them.
        """
        processes.check_alive(self._children)
        processes.reap_orphans(self._children)
        running = processes.descendants()
        found = state.identities(running)
        if found != self._run.processes:
            self._run = replace(self._run, processes=found)
            self._run.save(self._layout.state)
        return running

    def _welcome(self, run: state.Run) -> None:
        where = run.address.removeprefix("http://").replace(LOOPBACK, "localhost")
        curl = f"""curl -H 'x-api-key: ID.SECRET' {where}/model"""
        if not self._asks_for_keys:
            console.complain(f"ANYBODY MAY ASK: {NO_KEYS}")
            record = serving.example(run.address)
            curl = f"""curl --json '{{"X": {record}}}' {where}/stream"""
        lines = [f"\nEndeavour answers at {run.address}"]
        if run.mlflow_uri:
            lines.append(f"  MLflow         {tracking.without_password(run.mlflow_uri)}")
        lines += [
            f"  Ray dashboard  {run.dashboard}  (its token: {self._layout.token})",
            f"  logs           {self._layout.logs}",
            "try it:",
            f"  {curl}",
            "Ctrl-C stops everything.",
        ]
        console.say("\n".join(lines))

    def _stop(self) -> None:
        """End the parts, Serve first; forget the run only if nothing is left."""
        if not self._children:
            self._layout.state.unlink(missing_ok=True)
            return
        self._drain()
        with console.step("stopped"):
            for child in reversed(self._children):
                if child.name.startswith("serve"):
                    processes.interrupt(child, signal.SIGINT, stop.SERVE_STOP_S)
            left = processes.end(processes.descendants(), stop.REST_STOP_S)
        if left:
            pids = ", ".join(str(one.pid) for one in left)
            console.complain(f"still running: {pids}; `make stop` tries again")
        else:
            self._layout.state.unlink(missing_ok=True)

    def _drain(self) -> None:
        """Let the requests under way be answered, for a while."""
        try:
            with console.step("drained"):
                left = draining.drain(processes.descendants, stop.DRAIN_S)
        except Exception as error:  # noqa: BLE001  # whatever it is, all else must end
            console.complain(f"the requests under way are cut off: {error!r}")
            return
        if left:
            console.complain(f"requests that were not answered in {stop.DRAIN_S:g} s: {left}")


def _host(is_open: bool) -> str:
    """Return the address of Ray's head: loopback, or the one that other containers reach."""
    if not is_open:
        return LOOPBACK
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError as error:
        raise SettingError(
            f"--network: this host's name {socket.gethostname()!r} has no address: "
            "add it to /etc/hosts"
        ) from error
