"""Versions change on a cluster of two nodes, of which one has no controller and no HAProxy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contract import names
from tests import mlflow_relay, running, stage
from tests.faults.test_nodes import node, spread
from tests.integration.rollouts.conftest import PAUSE_S
from tests.integration.serving.conftest import deploy
from tests.odd_models import Line, Shifted
from tests.traffic import report


@pytest.mark.system
@pytest.mark.timeout(600)
def test_versions_change_on_a_second_node(
    tmp_path: Path, mlflow_server: str, free_port: Callable[[], int]
) -> None:
    """A swap, a rollout and a rollback lose nothing. Both nodes, on one machine, share a cache."""

    def change(config: dict[str, Any]) -> None:
        stage.with_rollouts()(config)
        spread(config, nodes=1)

    with (
        mlflow_relay.relay(mlflow_server) as relay,
        stage.up(
            stage.launch(
                tmp_path / "project",
                running.environ(free_port),
                mlflow_server,
                relay,
                "cluster",
                Line(1.0, PAUSE_S),
                change,
            )
        ) as staged,
        node(staged.service, free_port),
    ):
        running.change_config(staged.service.root, partial(spread, nodes=2))
        deploy(staged.service)
        assert len({one["node_id"] for one in staged.service.replicas("ModelWorker")}) == 2
        replicas = staged.replicas()
        by_hand, good = (staged.add(Line(slope, PAUSE_S)) for slope in (2.0, 2.002))
        bad = staged.add(Shifted(2.0, PAUSE_S))
        with staged.traffic(per_s=200.0) as traffic:
            staged.name_as(names.CHAMPION, by_hand)
            staged.await_champion(by_hand)
            staged.name_as(names.CHALLENGER, good)
            assert staged.await_end(good)["outcome"] == names.PROMOTED
            staged.name_as(names.CHALLENGER, bad)
            assert staged.await_end(bad)["outcome"] == names.ABORTED
            ledger = report("versions change on two nodes", traffic.stop()).check()
        assert {key.split()[0] for key in ledger.right} >= {by_hand, good}
        assert ledger.touched(bad) == 0
        assert staged.replicas() == replicas
