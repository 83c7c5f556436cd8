"""A Ray head on loopback: every port moved to a free one, token authentication on."""

from collections.abc import Mapping
from pathlib import Path

import requests

from launcher import preflight, processes
from launcher.layout import Layout
from launcher.ports import Ports
from launcher.processes import Child

_TIMEOUT_S = 5.0


def start(
    layout: Layout, ports: Ports, host: str, environ: Mapping[str, str], scratch: Path
) -> Child:
    """Start the head node; `scratch` is short, as Ray keeps its sockets there."""
    return processes.start(
        "Ray",
        command(ports, host, scratch),
        environ=environ,
        log=layout.logs / "ray.log",
        cwd=layout.root,
    )


def command(ports: Ports, host: str, scratch: Path) -> list[str]:
    """Return what starts the head; its dashboard is on loopback if `host` is."""
    options = {
        "--node-ip-address": host,
        "--port": ports.gcs,
        "--dashboard-host": "127.0.0.1" if host == "127.0.0.1" else "0.0.0.0",
        "--dashboard-port": ports.dashboard,
        "--ray-client-server-port": ports.ray_client,
        "--node-manager-port": ports.node_manager,
        "--object-manager-port": ports.object_manager,
        "--dashboard-agent-listen-port": ports.dashboard_agent_http,
        "--dashboard-agent-grpc-port": ports.dashboard_agent_grpc,
        "--runtime-env-agent-port": ports.runtime_env_agent,
        "--metrics-export-port": ports.metrics_export,
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        "--temp-dir": scratch / "ray",
    }
    words = [preflight.tool("ray"), "start", "--head", "--block", "--disable-usage-stats"]
    return words + [text for name, value in options.items() for text in (name, str(value))]


def answers(dashboard: str, token: str) -> bool:
    """Whether the head's dashboard takes jobs."""
    try:
        return requests.get(f"{dashboard}/api/jobs/", headers=bearer(token), timeout=_TIMEOUT_S).ok
    except requests.RequestException:
        return False


def bearer(token: str) -> dict[str, str]:
    """Return the header that Ray's HTTP interfaces ask for."""
    return {"Authorization": f"Bearer {token.strip()}"}
