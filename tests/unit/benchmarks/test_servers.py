"""The peers' folders, and the order in which servers are measured."""

from __future__ import annotations

import re

import pytest

from benchmarks import servers
from benchmarks.servers import Peer

PEERS = servers.peers()
NAMES = ["endeavour", "starlette", "flask", "mosec"]


def test_every_peer_that_the_floors_name_is_there() -> None:
    wanted = {
        "starlette",
        "flask",
        "mlflow",
        "litserve",
        "bentoml",
        "mosec",
        "mlserver",
        "ray_docs",
    }
    assert wanted == set(PEERS)


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_a_peer_has_exact_versions_and_names_no_index(peer: Peer) -> None:
    """Where packages are fetched from is the user's choice."""
    lines = [line for line in peer.requirements.read_text().splitlines() if line]
    required = [line for line in lines if not line.startswith("#")]
    assert required
    for line in required:
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,_-]+\])?==[A-Za-z0-9.+!]+", line), line
    names = [re.split(r"[\[=]", line)[0].lower() for line in required]
    assert peer.definition.package in names
    assert "scikit-learn" in names


def test_this_service_is_measured_right_before_starlette_in_every_round() -> None:
    """Both get the same rates in the open loop."""
    for number in range(1, 8):
        order = servers.order(NAMES, number)
        assert sorted(order) == sorted(NAMES)
        assert order.index("starlette") == order.index("endeavour") + 1


def test_rounds_begin_with_different_servers() -> None:
    assert {servers.order(NAMES, number)[0] for number in (1, 2, 3)} == {
        "endeavour",
        "flask",
        "mosec",
    }
