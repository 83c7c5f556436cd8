"""Candidates without a job, and promoters of them over a real MLflow server."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from mlflow import MlflowClient

from contract import names
from contract.lock import PromotionLock
from contract.promotion import Promoter
from contract.registry import Candidate, Registry
from contract.standing import Promotion, moves

EXPERIMENT = "candidates"


def each_write(count: int) -> pytest.MarkDecorator:
    """A test for each of so many writes; all but the last by `test-system`."""
    last = count - 1
    numbers = [*(pytest.param(at, marks=pytest.mark.system) for at in range(last)), last]
    return pytest.mark.parametrize("writes", numbers)


def promoter(client: MlflowClient, model_name: str, **lock: float) -> Promoter:
    """Return a promoter of one model."""
    return Promoter(Registry(client, model_name), PromotionLock(client, model_name, **lock))


def candidate(client: MlflowClient, fingerprint: str) -> Candidate:
    """Log an empty model in a run of its own, as far as the registry can tell a real one."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    run = client.create_run(number)
    model = client.create_logged_model(number, name="model", source_run_id=run.info.run_id)
    return Candidate(
        run.info.run_id,
        model.model_id,
        fingerprint,
        tags={names.TAG_EXAMPLE_PREDICTION: json.dumps([run.info.run_id])},
        judgement={names.TAG_DECISION: "passed"},
    )


def tags_by_version(client: MlflowClient, model_name: str) -> dict[str, dict[str, str]]:
    """Return the tags of each version by its number."""
    found = client.search_model_versions(f"name = '{model_name}'")
    return {str(version.version): dict(version.tags) for version in found}


def record(client: MlflowClient, model_name: str) -> list[Promotion]:
    """Return every move on record, oldest first; both versions of a move must tell the same."""
    told: dict[int, Promotion] = {}
    for tags in tags_by_version(client, model_name).values():
        for move in moves(tags):
            assert told.setdefault(move.number, move) == move
    return [told[number] for number in sorted(told)]


def assert_record_agrees(client: MlflowClient, model_name: str) -> None:
    """The moves follow on one another, and the last one is what the aliases say.

    Moves that were cut off, and made by a later one, don't count.
    """
    told = [move for move in record(client, model_name) if move.state != "abandoned"]
    assert all(move.state == "done" for move in told)
    assert told[0].from_version is None
    for earlier, later in pairwise(told):
        assert later.from_version == earlier.to_version
    expected = {names.CHAMPION: told[-1].to_version}
    if told[-1].from_version is not None:
        expected[names.PREVIOUS] = told[-1].from_version
    aliases = Registry(client, model_name).aliases()
    aliases.pop(names.CHALLENGER, None)
    assert aliases == expected


def dying(made: Promoter, writes: int) -> Promoter:
    """Return the promoter in a process that dies when it has written so often."""
    cut_off = CutOffClient(made.registry.client, writes)
    return replace(made, registry=Registry(cut_off, made.registry.model_name))  # type: ignore[arg-type]


@dataclass
class CutOffClient:
    """A client whose process dies at the n-th write; reads go through."""

    client: MlflowClient
    writes_left: int

    def __getattr__(self, name: str) -> Any:
        """Return the real method, counted if it writes."""
        method = getattr(self.client, name)
        writes = name.startswith(("set_", "create_registered", "create_model", "delete_registered"))
        if not writes:
            return method

        def write(*arguments: Any, **options: Any) -> Any:
            if self.writes_left == 0:
                raise ConnectionAbortedError("the process died here")
            self.writes_left -= 1
            return method(*arguments, **options)

        return write
