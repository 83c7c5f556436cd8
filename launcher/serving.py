"""`serve run`, its copy of the config with this run's ports, and the deployment's status."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import requests
import yaml

from contract import strict
from launcher import preflight, processes
from launcher.errors import LaunchError
from launcher.layout import Layout
from launcher.ports import Ports
from launcher.processes import Child
from launcher.ray_head import bearer
from serve_app import settings

_TIMEOUT_S = 5.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


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
    gets the config's scalar `args`; the rest of the file is not used. Serve itself is started
    before, as only `serve start` takes a port.
    """
    config = strict.read_yaml(layout.root / "serve_config.yaml")
    args = settings.args_of(config).items()
    arguments = [f"{name}={value}" for name, value in args if isinstance(value, str | int | float)]
    serve = shlex.quote(preflight.tool("serve"))
    host = (config.get("http_options") or {}).get("host", "0.0.0.0")
    first = f"{serve} start --http-host {shlex.quote(host)} --http-port {ports.http}"
    then = f"exec {serve} run --reload --app-dir serve_app serve_app.app:build"
    script = f"{first} && {then} {shlex.join(arguments)}"
    return processes.start(
        "serve run --reload",
        ["/bin/sh", "-c", script],
        environ=environ,
        log=layout.logs / "serve.log",
        cwd=layout.root,
    )


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
        return requests.get(f"{address}/health/ready", timeout=_TIMEOUT_S).ok
    except requests.RequestException:
        return False


def example(address: str) -> str:
    """Return a record, as JSON, that the served model takes: its own example, or just a number."""
    try:
        facts = requests.get(f"{address}/model", timeout=_TIMEOUT_S).json()
        columns, record = facts["signature"], facts["example"]
    except (requests.RequestException, ValueError, LookupError, TypeError):
        return "0.2"
    if [column["type"] for column in columns] == ["double"]:
        return "0.2"
    return json.dumps(record).replace("'", r"\u0027")  # it stands between such quotes
