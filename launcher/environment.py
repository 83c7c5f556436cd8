"""The environment that Ray, Serve and MLflow are started with."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from launcher import haproxy
from launcher.errors import SettingError
from launcher.layout import Layout
from launcher.ports import Ports
from serve_app.access.key_file import FILE_VARIABLE

LEAVING_S: Final = 2
"""How long a replica that stops is still reachable for HAProxies that have not heard of it."""
REPLACED_S: Final = 60
"""How long a HAProxy that another has replaced has for its requests: Serve replaces it whenever an
ingress comes or goes. Longer than a request may take (`limits` as shipped: 10 s for its body, and
then 30 s); Ray's own 120 s keep the port of an ingress that has left from others for longer."""


def of_file(file: Path) -> dict[str, str]:
    """Return the NAME=value lines of `serve.env`. Raises SettingError for any other line."""
    if not file.is_file():
        raise SettingError(f"{file} is missing: it holds the environment of Ray and Serve")
    values: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise SettingError(f"{file}:{number}: must be NAME=value, got {text!r}")
        values[name] = value
    return values


def api_keys(layout: Layout) -> dict[str, str]:
    """Return what names the keys' file, once there's one in the usual place."""
    return {FILE_VARIABLE: str(layout.api_keys)} if layout.api_keys.is_file() else {}


def of_cluster(
    layout: Layout,
    ports: Ports,
    environ: Mapping[str, str],
    *,
    mlflow_uri: str | None,
    scratch: Path,
) -> dict[str, str]:
    """Return the environment of `ray start`: what the caller has set wins over `serve.env`."""
    own = {
        "RAY_AUTH_TOKEN_PATH": str(layout.token),
        # What the parts leave in the temporary folder goes with the run.
        "TMPDIR": str(scratch),
        "MODEL_CACHE_DIR": str(layout.model_cache),
        "MPLCONFIGDIR": str(layout.var / "matplotlib"),
        haproxy.BINARY_VARIABLE: str(layout.root / "launcher" / "haproxy.py"),
        # On one machine nobody else drains this node; clusters keep their periods.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(LEAVING_S),
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(LEAVING_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(REPLACED_S),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
    }
    moved = {
        # Ray has no options for these two; unmoved they are 44227 and 44217 for every cluster.
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.ingress_http_first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.ingress_http_last),
    }
    result = {
        **of_file(layout.root / "serve.env"),
        **own,
        **api_keys(layout),
        **environ,
        **moved,
    }
    result["PATH"] = os.pathsep.join([str(_bin_folder()), environ.get("PATH", os.defpath)])
    paths = [str(layout.root), environ.get("PYTHONPATH", "")]
    result["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    result["PYTHONUNBUFFERED"] = "1"
    if mlflow_uri is not None:
        result["MLFLOW_TRACKING_URI"] = mlflow_uri
    result.pop("RAY_ADDRESS", None)
    return result


def _bin_folder() -> Path:
    return Path(sys.executable).parent
