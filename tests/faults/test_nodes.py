"""A cluster of two nodes, of which one is lost with all that ran on it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import preflight
from tests import running
from tests.faults.conftest import SLOPE, System, start
from tests.integration.serving.conftest import deploy
from tests.odd_models import Moody
from tests.running import Running
from tests.traffic import report

JOINED_S = 30.0
GONE_S = 20.0
MOST_LOST = 10
"""Requests that the lost node's ingress may have had under way."""


def spread(config: dict[str, Any], nodes: int) -> None:
    """Let each of so many nodes have one ingress and one worker; HAProxy is on the head alone.

    All nodes are on one machine, where two of them would want the same port.
    """
    config["proxy_location"] = "HeadOnly"
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] in ("Ingress", "ModelWorker"):
            deployment.pop("autoscaling_config", None)
            deployment.update(num_replicas=nodes, max_replicas_per_node=1)


@contextmanager
def node(service: Running, free_port: Callable[[], int]) -> Iterator[psutil.Process]:
    """A worker node of the system's cluster; its raylet."""
    head = next(one for one in service.processes() if one.name() == "raylet")
    names = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
    command = [preflight.tool("ray"), "start", "--block", "--disable-usage-stats"]
    command += [f"--address={service.state['ray_address']}", "--node-ip-address=127.0.0.1"]
    command += [f"--{name}-port={free_port()}" for name in (*names, "metrics-export")]
    command += ["--num-cpus=2", "--min-worker-port=0", "--max-worker-port=0"]
    with (service.root / "node.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=head.environ(),
            cwd=service.root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield raylet_of(process.pid)
    finally:
        running.end_tree(process.pid)
        process.wait(10)


def raylet_of(pid: int) -> psutil.Process:
    """The raylet that `ray start` with this process id has started, once it is there."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        children = psutil.Process(pid).children(recursive=True)
        found[:] = [one for one in children if one.name() == "raylet"]
        return bool(found)

    running.wait_for(is_there, JOINED_S)
    return found[0]


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_lost_node_costs_what_its_ingress_had(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """The other node goes on."""
    with (
        start(tmp_path, free_port, Moody(SLOPE, 0.002), partial(spread, nodes=1)) as service,
        node(service, free_port) as raylet,
    ):
        running.change_config(service.root, partial(spread, nodes=2))
        deploy(service)
        nodes = {one["node_id"] for one in service.replicas("ModelWorker")}
        assert len(nodes) == 2
        with System(service).traffic() as under_way:
            time.sleep(2.0)
            killed_at = time.monotonic()
            raylet.kill()
            time.sleep(GONE_S)
            ledger = report("a node lost", under_way.stop())
        print(f"lost, in seconds after: {[due - killed_at for due in ledger.lost_due]}")
        assert ledger.lost_count <= MOST_LOST, ledger.lost
        assert ledger.answered + ledger.lost_count == ledger.sent
