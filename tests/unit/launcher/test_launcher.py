"""The launcher's decisions: ports, environment, config, and what it says before it starts."""

import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from contract import strict
from contract.signing import KEY_FILE_VARIABLE
from launcher import (
    environment,
    mlflow_server,
    ports,
    preflight,
    processes,
    ray_head,
    serving,
    state,
    stop,
    training,
)
from launcher.errors import LaunchError, SettingError, UnreachableError
from launcher.layout import Layout, here

ROOT = Path(__file__).parents[3]


@pytest.fixture
def chosen(free_ports: dict[str, str]) -> ports.Ports:
    """Ports of a run."""
    return ports.choose(free_ports, needs_mlflow=True)


def test_no_two_parts_share_a_port(chosen: ports.Ports) -> None:
    """Every port is free and used once."""
    numbers = list(asdict(chosen).values())
    assert len(set(numbers)) == len(numbers)
    assert all(map(ports.is_free, numbers))


def test_a_taken_port_is_named_with_the_way_out(free_ports: dict[str, str]) -> None:
    """The message names the port and the variable that moves it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(free_ports["PORT"])))
        taken.listen()
        with pytest.raises(SettingError, match=rf"port {free_ports['PORT']} is taken.*set PORT"):
            ports.choose(free_ports, needs_mlflow=True)


def test_mlflows_port_may_be_taken_where_none_is_started(free_ports: dict[str, str]) -> None:
    """With an MLflow server of one's own, 5000 is nobody's business."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(free_ports["MLFLOW_PORT"])))
        taken.listen()
        ports.choose(free_ports, needs_mlflow=False)


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "8000.5"])
def test_a_port_that_is_none_is_refused(free_ports: dict[str, str], text: str) -> None:
    """The message repeats the value."""
    with pytest.raises(SettingError, match="PORT="):
        ports.choose({**free_ports, "PORT": text}, needs_mlflow=True)


def test_one_port_for_two_parts_is_refused(free_ports: dict[str, str]) -> None:
    """PORT and MLFLOW_PORT must differ."""
    same = {**free_ports, "MLFLOW_PORT": free_ports["PORT"]}
    with pytest.raises(SettingError, match="used twice"):
        ports.choose(same, needs_mlflow=True)


def test_too_old_a_python_and_a_missing_tool_are_one_line_each(tmp_path: Path) -> None:
    """Both say what to install."""
    with pytest.raises(SettingError, match=r"Python 3\.10 is too old: install"):
        preflight.check_python((3, 10))
    with pytest.raises(SettingError, match=r"'serve' is missing .*make install"):
        preflight.tool("serve", tmp_path)


def test_ray_gets_the_file_the_ports_and_what_the_caller_set(chosen: ports.Ports) -> None:
    """serve.env is the base; the caller's values win over it; ports are always this run's."""
    caller = {"PATH": "/bin", "RAY_SERVE_HAPROXY_NBTHREAD": "4", "RAY_ADDRESS": "elsewhere:1"}
    environ = environment.of_cluster(
        here({}), chosen, caller, mlflow_uri="http://m:1", scratch=Path("/tmp/x")
    )
    assert environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environ["RAY_SERVE_HAPROXY_NBTHREAD"] == "4"
    assert environ["RAY_SERVE_HAPROXY_STATS_PORT"] == str(chosen.haproxy_stats)
    assert environ["RAY_SERVE_HAPROXY_METRICS_PORT"] == str(chosen.haproxy_metrics)
    assert environ["PYTHONPATH"] == str(ROOT)
    assert environ["RAY_AUTH_MODE"] == "token"
    assert environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environ["MLFLOW_TRACKING_URI"] == "http://m:1"
    assert "RAY_ADDRESS" not in environ


def test_what_a_scraper_and_a_model_need_is_the_callers(chosen: ports.Ports) -> None:
    """The port of HAProxy's metrics, and where types of a model are imported from."""
    caller = {"RAY_SERVE_HAPROXY_METRICS_PORT": "9101", "PYTHONPATH": "/my/types"}
    environ = environment.of_cluster(
        here({}), chosen, caller, mlflow_uri=None, scratch=Path("/tmp/x")
    )
    assert environ["RAY_SERVE_HAPROXY_METRICS_PORT"] == "9101"
    assert environ["PYTHONPATH"] == f"{ROOT}:/my/types"


@pytest.mark.parametrize(("ignored", "code"), [(False, 129), (True, 0)])
def test_a_hang_up_ends_a_command_unless_it_was_told_to_live_on(ignored: bool, code: int) -> None:
    """As any program under `nohup`, which ignores the signal before it starts it."""
    start = "signal.signal(signal.SIGHUP, signal.SIG_IGN)" if ignored else "pass"
    text = f"""
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
{start}
from launcher import signals
signals.arm()
try:
    os.kill(os.getpid(), signal.SIGHUP)
except signals.Stopped as stopped:
    sys.exit(stopped.exit_code)
signals.disarm()
os.kill(os.getpid(), signal.SIGHUP)
"""
    assert subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=False).returncode == code


def test_a_training_job_is_told_where_the_signing_key_is() -> None:
    """By its absolute path, and only if there's one: the job runs in another folder."""
    caller = {"GIT_COMMIT": "abc", "OTHER": "x"}
    assert training.variables_of_job(ROOT, caller) == {"GIT_COMMIT": "abc"}
    told = training.variables_of_job(ROOT, {**caller, KEY_FILE_VARIABLE: "var/key.pem"})
    assert told == {
        "GIT_COMMIT": "abc",
        KEY_FILE_VARIABLE: str(Path("var/key.pem").absolute()),
    }


def test_serve_starts_haproxy_by_our_own_file(chosen: ports.Ports) -> None:
    """It can be run, and a binary that the caller names goes before it."""

    def binary(caller: dict[str, str]) -> str:
        scratch = Path("/tmp/x")
        environ = environment.of_cluster(here({}), chosen, caller, mlflow_uri=None, scratch=scratch)
        return environ["RAY_SERVE_HAPROXY_BINARY_PATH"]

    assert os.access(binary({}), os.X_OK)
    assert binary({"RAY_SERVE_HAPROXY_BINARY_PATH": "/bin/haproxy"}) == "/bin/haproxy"


def test_a_job_is_told_a_path_to_who_it_is_and_no_password() -> None:
    """Ray's dashboard shows what a job is told."""
    caller = {
        "GIT_COMMIT": "abc",
        "MLFLOW_TRAINING_CREDENTIALS_FILE": "/run/secrets/mlflow_training",
        "MLFLOW_TRACKING_PASSWORD": "secret",
    }
    assert training.variables_of_job(ROOT, caller) == {
        "GIT_COMMIT": "abc",
        "MLFLOW_CREDENTIALS_FILE": "/run/secrets/mlflow_training",
    }


@pytest.mark.parametrize(("host", "dashboard"), [("127.0.0.1",) * 2, ("10.0.0.7", "0.0.0.0")])
def test_the_dashboard_stays_on_loopback_unless_told(
    chosen: ports.Ports, host: str, dashboard: str
) -> None:
    """`make run` shows it to this machine only; `--network` is for containers."""
    words = ray_head.command(chosen, host, Path("/tmp/x"))
    assert words[words.index("--dashboard-host") + 1] == dashboard


def test_a_line_of_the_environment_file_that_is_none_is_named(tmp_path: Path) -> None:
    """File and line number stand in the message."""
    file = tmp_path / "serve.env"
    file.write_text("# comment\nA=1=2\nno value\n")
    with pytest.raises(SettingError, match=r"serve\.env:3"):
        environment.of_file(file)


def test_haproxys_sockets_fit_into_a_path(chosen: ports.Ports) -> None:
    """HAProxy takes 97 bytes; Serve adds a folder of 56 characters, HAProxy a suffix."""
    scratch = Path("/tmp/edv-12345678")
    environ = environment.of_cluster(here({}), chosen, {}, mlflow_uri=None, scratch=scratch)
    socket_path = Path(environ["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert len(str(socket_path.parent / ("n" * 56) / socket_path.name)) < 90


def test_the_configs_copy_differs_in_ports_only(chosen: ports.Ports) -> None:
    """Everything else of serve_config.yaml is kept."""
    config = strict.read_yaml(ROOT / "serve_config.yaml")
    copy = serving.config_with_ports(config, chosen)
    assert copy["http_options"]["port"] == chosen.http
    assert copy["http_options"]["host"] == config["http_options"]["host"]
    assert copy["applications"] == config["applications"]


def test_a_failed_deployments_reason_is_one_line() -> None:
    """Serve's message is a traceback; people get its last error."""
    message = (
        "Traceback (most recent call last):\n"
        '  File "app.py", line 1, in build\n'
        "serve_app.app.CannotStartError: no champion: train one\n"
    )
    assert serving.reason({"message": message}) == "no champion: train one"
    assert serving.reason({"message": "", "deployments": {}}) == "no reason was given"


def test_a_run_is_read_back_and_told_from_a_later_process(tmp_path: Path) -> None:
    """The start time tells a process from another with the same number."""
    file = tmp_path / "run.json"
    me = state.ProcessId.of(psutil.Process())
    run = state.Run(me, "http://a", None, "r", "d", str(tmp_path), (me,))
    run.save(file)
    assert state.running(file) == run
    replace(run, launcher=replace(me, started="1@another")).save(file)
    assert state.running(file) is None
    file.write_text("{")
    assert state.read(file) is None


def test_the_token_is_for_this_user_only(tmp_path: Path) -> None:
    """Made once, kept, and not readable by others."""
    layout = Layout(tmp_path, tmp_path / "var" / "ray_token")
    layout.make()
    token = layout.token.read_text()
    layout.make()
    assert layout.token.read_text() == token
    assert len(token) == 64
    assert layout.token.stat().st_mode & 0o077 == 0


def test_a_part_that_ends_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    """The error has the code and the end of the log."""
    command = [sys.executable, "-c", "print('last words'); raise SystemExit(3)"]
    child = processes.start(
        "part", command, environ=os.environ, log=tmp_path / "part.log", cwd=tmp_path
    )
    child.process.wait(20)
    with pytest.raises(LaunchError, match=r"(?s)part ended by itself with code 3.*last words"):
        processes.check_alive([child])


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """A process that doesn't end when asked is ended."""
    script = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "stubborn.log"
    child = processes.start(
        "stubborn", [sys.executable, "-c", script], environ=os.environ, log=log, cwd=tmp_path
    )
    while "ready" not in log.read_text():
        assert not child.has_ended
    assert processes.end([psutil.Process(child.process.pid)], deadline_s=2.0) == []
    child.process.wait(5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a process others' orphans")
def test_orphans_that_have_ended_are_collected_and_children_are_not(tmp_path: Path) -> None:
    """What was adopted is no zombie for long; the exit code of a child is still its Popen's."""
    script = (
        "import os, subprocess, sys, psutil\n"
        "from pathlib import Path\n"
        "from launcher import processes\n"
        "processes.adopt_orphans()\n"
        "sleep = 'import time; time.sleep(0.3)'\n"
        "leave = f'import subprocess, sys; subprocess.Popen([sys.executable, \"-c\", {sleep!r}])'\n"
        "subprocess.run([sys.executable, '-c', leave], check=True)\n"
        "[orphan] = processes.descendants()\n"
        "while orphan.status() != psutil.STATUS_ZOMBIE: pass\n"
        "processes.reap_orphans()\n"
        "assert not orphan.is_running()\n"
        "code = [sys.executable, '-c', 'raise SystemExit(3)']\n"
        "here = Path(sys.argv[1])\n"
        "child = processes.start('c', code, environ=os.environ, log=here / 'log', cwd=here)\n"
        "while psutil.Process(child.process.pid).status() != psutil.STATUS_ZOMBIE: pass\n"
        "processes.reap_orphans([child])\n"
        "assert child.process.poll() == 3\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT, timeout=60)


def test_stop_ends_what_a_killed_launcher_left(tmp_path: Path) -> None:
    """Recorded processes are ended, the scratch folder goes, and the run is forgotten."""
    layout = Layout(tmp_path, tmp_path / "var" / "ray_token")
    layout.make()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = processes.start(
        "orphan", command, environ=os.environ, log=tmp_path / "log", cwd=tmp_path
    )
    gone = state.ProcessId(child.process.pid, "1@another")
    orphan = state.ProcessId.of(psutil.Process(child.process.pid))
    state.Run(gone, "http://a", None, "r", "d", str(scratch), (orphan,)).save(layout.state)
    stop.stop(layout)
    child.process.wait(5)
    assert not scratch.exists()
    assert not layout.state.exists()


def test_one_run_holds_a_folder_at_a_time(tmp_path: Path) -> None:
    """The second is refused; after the first has ended there is room again."""
    layout = Layout(tmp_path, tmp_path / "var" / "ray_token")
    layout.make()
    with layout.lock(), pytest.raises(SettingError, match="make stop"), layout.lock():
        pass
    with layout.lock():
        pass


@pytest.mark.parametrize("uri", ["sqlite:///m.db", "file:///m", "m"])
def test_an_address_that_is_no_server_is_refused_without_its_password(uri: str) -> None:
    """The launcher asks MLflow over HTTP."""
    with pytest.raises(SettingError, match="is no MLflow server"):
        mlflow_server.check_address(uri)
    with pytest.raises(UnreachableError) as caught:
        mlflow_server.check_address("http://user:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_make_never_replaces_what_is_no_virtual_environment(tmp_path: Path, kind: str) -> None:
    """VENV naming somebody's folder is an error, and the folder is left alone."""
    precious = tmp_path / "precious"
    if kind == "folder":
        precious.mkdir()
        (precious / "data").write_text("x")
    else:
        precious.write_text("x")
    completed = subprocess.run(
        ["make", "install", f"VENV={precious}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == 2
    assert "is no virtual environment" in completed.stderr
    assert precious.exists()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "is missing: install Python 3.11"),
        (
            'exec python3 -c "import sys; sys.version_info = (3, 10); exec(sys.argv[2])" "$@"',
            "3.10",
        ),
    ],
)
def test_make_names_a_missing_or_old_python(tmp_path: Path, script: str | None, says: str) -> None:
    """One line, before anything is made."""
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    completed = subprocess.run(
        ["make", "--silent", "run", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == 2
    assert says in completed.stderr
    assert not (tmp_path / "venv").exists()
