"""Every port that MLflow, Ray, Serve and HAProxy take, so that copies run side by side."""

import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from launcher.errors import SettingError

# Below the range from which the system hands out ports by itself (32768 and up on Linux), so that
# nothing takes a port between our probe and the moment when Ray binds it.
_INTERNAL_RANGE: Final = range(20_000, 29_900)
_MAX_PORT: Final = 65_535
_INGRESS_PORTS: Final = 50
"""Ports kept free, from the first one on, for Serve's directly reached ingress replicas."""


@dataclass(frozen=True)
class Ports:
    """The three ports that people use, and those that only the parts use among themselves."""

    http: int
    mlflow: int
    dashboard: int
    gcs: int
    ray_client: int
    node_manager: int
    object_manager: int
    dashboard_agent_http: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    metrics_export: int
    dashboard_metrics: int
    autoscaler_metrics: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback_http: int
    fallback_grpc: int
    ingress_http_first: int

    @property
    def ingress_http_last(self) -> int:
        """The last of the ports for Serve's directly reached ingress replicas."""
        return self.ingress_http_first + _INGRESS_PORTS - 1


PUBLIC: Final = {"http": "PORT", "mlflow": "MLFLOW_PORT", "dashboard": "RAY_DASHBOARD_PORT"}
DEFAULTS: Final = {"http": 8000, "mlflow": 5000, "dashboard": 8265}


def choose(environ: Mapping[str, str], *, needs_mlflow: bool) -> Ports:
    """Return the public ports as the environment says, and free ones for everything else.

    Raises SettingError if a public port is taken or is no port.
    """
    public = {name: _from_environment(environ, name) for name in PUBLIC}
    for name, port in public.items():
        if list(public.values()).count(port) > 1:
            raise SettingError(f"{PUBLIC[name]}={port} is used twice: give each a port of its own")
        if (name != "mlflow" or needs_mlflow) and not is_free(port):
            raise SettingError(
                f"port {port} is taken: stop what listens there, or set {PUBLIC[name]} "
                f"to a free port, for example {PUBLIC[name]}={_free(set(public.values()))}"
            )
    taken = set(public.values())
    internal: dict[str, int] = {}
    for field in fields(Ports):
        if field.name not in public and field.name != "ingress_http_first":
            internal[field.name] = _free(taken)
            taken.add(internal[field.name])
    first = _free_block(taken, _INGRESS_PORTS)
    return Ports(**public, **internal, ingress_http_first=first)


def is_free(port: int) -> bool:
    """Whether nothing listens on `port` of any interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _from_environment(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(PUBLIC[name]) or str(DEFAULTS[name])
    if not text.isdecimal() or not 0 < int(text) <= _MAX_PORT:
        raise SettingError(f"{PUBLIC[name]}={text!r} is no port: give a number from 1 to 65535")
    return int(text)


def _free(taken: set[int]) -> int:
    return _free_block(taken, 1)


def _free_block(taken: set[int], size: int) -> int:
    for first in random.SystemRandom().sample(_INTERNAL_RANGE, 1000):
        block = range(first, first + size)
        if taken.isdisjoint(block) and all(map(is_free, block)):
            return first
    raise SettingError(f"no {size} free ports in a row from {_INTERNAL_RANGE[0]} on")
