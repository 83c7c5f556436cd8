"""`serve run`, its copy of the config with this run's ports, and the deployment's status."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

import requests
import yaml

from contract import strict
from launcher import console, preflight, processes
from launcher.errors import LaunchError
from launcher.layout import Layout
from launcher.ports import Ports
from launcher.processes import Child
from launcher.ray_head import bearer
from serve_app import settings

_TIMEOUT_S = 5.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_HTTP: Final = "http_options"
_WILDCARDS: Final = ("0.0.0.0", "::")
_LOOPBACK: Final = "127.0.0.1"
_SCALARS: Final = (str, int, float)
_IMPORT_PATH: Final = "serve_app.app:build"
_WITHOUT: Final = {
    "proxy_location": "EveryNode",
    "route_prefix": "/",
    "import_path": _IMPORT_PATH,
}
"""What holds under --reload without the file; to leave that out changes nothing."""


def address_of(config: Mapping[str, Any], port: int) -> str:
    """Return where this machine reaches the service: on loopback, unless it has another host."""
    host = _host_of(config)
    if host in _WILDCARDS:
        host = _LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_on_loopback(config: Mapping[str, Any]) -> bool:
    """Whether the service listens on loopback, be it among others."""
    return _host_of(config) in (*_WILDCARDS, _LOOPBACK, "localhost")


def _host_of(config: Mapping[str, Any]) -> str:
    return str((config.get("http_options") or {}).get("host") or _WILDCARDS[0])


def config_with_ports(config: Mapping[str, Any], ports: Ports) -> dict[str, Any]:
    """Return a Serve config with the ports of this run."""
    http = {**(config.get("http_options") or {}), "port": ports.http}
    grpc = {**(config.get("grpc_options") or {}), "port": ports.fallback_grpc}
    return {**config, "http_options": http, "grpc_options": grpc}


def start(layout: Layout, ports: Ports, environ: Mapping[str, str]) -> Child:
    """Write the copy of the config and start `serve run` with it."""
    config = strict.read_yaml(layout.root / "serve_config.yaml")
    layout.serve_config.write_text(yaml.safe_dump(config_with_ports(config, ports)))
    command = [preflight.tool("serve"), "run", str(layout.serve_config)]
    return processes.start(
        "serve run", command, environ=environ, log=layout.logs / "serve.log", cwd=layout.root
    )


def start_reloading(layout: Layout, ports: Ports, environ: Mapping[str, str]) -> Child:
    """Start `serve run --reload`, which watches serve_app/ and deploys again on a change.

    With a config file Serve ignores --reload, so the application is named by its import path and
    gets the config's scalar `args`; the rest of the file is not used, which is said. Serve itself
    is started before, as only `serve start` takes host and port.
    """
    config = strict.read_yaml(layout.root / "serve_config.yaml")
    if unused := left_out(config):
        what = "serve_config.yaml, as Serve takes no file with --reload"
        console.say(f"   not used of {what}: {', '.join(unused)}")
    args = settings.args_of(config).items()
    arguments = [f"{name}={value}" for name, value in args if isinstance(value, _SCALARS)]
    serve = shlex.quote(preflight.tool("serve"))
    first = f"{serve} start --http-host {shlex.quote(_host_of(config))} --http-port {ports.http}"
    then = f"exec {serve} run --reload --app-dir serve_app {_IMPORT_PATH}"
    script = f"{first} && {then} {shlex.join(arguments)}"
    return processes.start(
        "serve run --reload",
        ["/bin/sh", "-c", script],
        environ=environ,
        log=layout.logs / "serve.log",
        cwd=layout.root,
    )


def left_out(config: Mapping[str, Any]) -> list[str]:
    """Return what a Serve config sets and `start_reloading` does not hand on."""
    application, *others = config.get("applications") or [{}]
    http, args = config.get("http_options") or {}, settings.args_of(config)
    found = [
        *((name, one) for name, one in config.items() if name not in ("applications", _HTTP)),
        *((f"{_HTTP}.{name}", one) for name, one in http.items() if name not in ("host", "port")),
        *((f"args.{name}", one) for name, one in args.items() if not isinstance(one, _SCALARS)),
        *((name, one) for name, one in application.items() if name not in ("args", "name")),
        ("all applications but the first", others or None),
    ]
    return [name for name, one in found if one is not None and one != _WITHOUT.get(name)]


def is_running(dashboard: str, token: str) -> bool:
    """Whether every application runs.

    Raises LaunchError with the reason in one line if a deployment has failed.
    """
    try:
        answer = requests.get(
            f"{dashboard}/api/serve/applications/", headers=bearer(token), timeout=_TIMEOUT_S
        )
        answer.raise_for_status()
        applications = answer.json().get("applications") or {}
    except (requests.RequestException, ValueError):
        return False
    for name, application in applications.items():
        if application.get("status") in _FAILED:
            raise LaunchError(f"the application {name!r} was not deployed: {reason(application)}")
    return bool(applications) and all(
        application.get("status") == "RUNNING" for application in applications.values()
    )


def reason(application: Mapping[str, Any]) -> str:
    """Return the line that says why, out of Serve's message with its traceback."""
    texts = [str(application.get("message") or "")]
    texts += [
        str(deployment.get("message") or "")
        for deployment in (application.get("deployments") or {}).values()
    ]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line and not line.startswith("File ")]
    if errors:
        return errors[-1].split("Error: ", 1)[1]
    return lines[-1] if lines else "no reason was given"


def answers(address: str) -> bool:
    """Whether a real prediction passes through ingress and worker."""
    try:
        return _asked(f"{address}/health/ready").ok
    except requests.RequestException:
        return False


def example(address: str) -> str:
    """Return a record, as JSON, that the served model takes: its own example, or just a number."""
    try:
        facts = _asked(f"{address}/model").json()
        columns, record = facts["signature"], facts["example"]
    except (requests.RequestException, ValueError, LookupError, TypeError):
        return "0.2"
    if [column["type"] for column in columns] == ["double"]:
        return "0.2"
    return json.dumps(record).replace("'", r"\u0027")  # it stands between such quotes


def _asked(url: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False  # the service may have another address than loopback: no proxy
        return session.get(url, timeout=_TIMEOUT_S)
