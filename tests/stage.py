"""A running system with API keys, for tests that move its versions under traffic."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import requests
from mlflow import MlflowClient

from contract import names
from serve_app.access import keys as api_keys
from tests import models, odd_models, running, secrecy, traffic
from tests.mlflow_relay import Relay
from tests.odd_models import Line
from tests.running import Running
from tests.signed_models import Keys
from tests.traffic import Task, Traffic

ROWS = np.full((3, 1), 0.5)
WEIGHTS = (0.0, 0.05, 0.25, 1.0)
TOLERANCE = {"fail_above": 0.001, "pass_below": 0.04}
"""Twice the default, which halves the traffic that a step takes."""
LOAD_TIMEOUT_S = 20.0
CLOSED_SENDERS = 32
READY_S = 60.0
PER_S = 450.0
CALM_PER_S = 150.0
"""Where nothing is decided by the number of requests."""

POLL_S = 0.5
"""How often the registry is asked in tests: a quarter of the default."""
FOLLOW_S = 10.0
"""Within which a champion that was moved by hand takes the traffic, as the docs promise."""

SOONER_S = FOLLOW_S - (2.0 - POLL_S)
"""The same, with the default of 2 s between two looks counted in."""

Config = dict[str, Any]


@dataclass
class Stage:
    """A service with a registry behind a relay, and what its versions are to answer."""

    service: Running
    client: MlflowClient
    relay: Relay
    name: str
    slopes: dict[str, float] = field(default_factory=dict)
    keys: Keys | None = None
    """What versions are signed with, before they are spoiled."""

    def add(
        self,
        estimator: Line,
        change: Callable[[Path], None] = lambda directory: None,
        column: str = "x",
        tags: dict[str, str] | None = None,
    ) -> str:
        """Register a version without an alias; `change` spoils its files before."""
        version = register(self.client, self.name, estimator, change, column, tags, self.keys)
        self.slopes[version] = estimator.slope
        return version

    def name_as(self, alias: str, version: str) -> None:
        """Move an alias by hand, by the request that MLflow's page sends."""
        answer = requests.post(
            f"{self.client.tracking_uri}/ajax-api/2.0/mlflow/registered-models/alias",
            json={"name": self.name, "alias": alias, "version": version},
            timeout=running.ASK_TIMEOUT_S,
        )
        answer.raise_for_status()

    def alias(self, alias: str) -> str | None:
        """The version that an alias names."""
        found = self.client.get_registered_model(self.name).aliases.get(alias)
        return None if found is None else str(found)

    def tags(self, version: str) -> dict[str, str]:
        """A version's tags."""
        return dict(self.client.get_model_version(self.name, version).tags)

    def standing(self) -> dict[str, Any]:
        """What the service says of its rollout."""
        answer = self.service.get("/admin/rollout")
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    def await_standing(
        self, is_so: Callable[[dict[str, Any]], bool], deadline_s: float
    ) -> dict[str, Any]:
        """Return what the service says once it is so; raise with its last words if it never is."""
        last: dict[str, Any] = {}

        def look() -> bool:
            last.clear()
            last.update(self.standing())
            return is_so(last)

        try:
            running.wait_for(look, deadline_s)
        except TimeoutError as error:
            raise TimeoutError(f"not so after {deadline_s:g} s: {last}") from error
        return last

    def await_champion(self, version: str, deadline_s: float = FOLLOW_S) -> None:
        """Return when a version takes the traffic."""
        self.await_standing(lambda standing: standing["champion"] == version, deadline_s)

    def await_end(self, version: str, deadline_s: float = 90.0) -> dict[str, Any]:
        """Return how a challenger's rollout ended, once it has and MLflow knows."""

        def has_ended(standing: dict[str, Any]) -> bool:
            last = standing["last_rollout"]
            is_over = last is not None and last["challenger"] == version
            return is_over and standing["rollout"] is None and not standing["unrecorded"]

        return dict(self.await_standing(has_ended, deadline_s)["last_rollout"])

    def capacity(self, seconds: float = 5.0) -> float:
        """Return how many requests are answered a second, at most."""
        task = Task(self.service.url, 0.0, self.slopes, closed=CLOSED_SENDERS, key=self.service.key)
        with traffic.traffic(task) as under_way:
            time.sleep(seconds)
            return under_way.stop().check().answered / seconds

    def replicas(self) -> set[str]:
        """The replicas of all deployments that run."""
        deployments = ("Ingress", "ModelWorker", "RolloutController")
        return {one["replica_id"] for name in deployments for one in self.service.replicas(name)}

    def decisions(self, version: str) -> list[dict[str, Any]]:
        """What MLflow has on record of a version's rollouts, in order."""
        return decisions(self.client, self.name, version)

    @contextmanager
    def traffic(self, per_s: float = PER_S, may_fail: Sequence[str] = ()) -> Iterator[Traffic]:
        """Steady traffic; name the versions before."""
        task = Task(
            self.service.url, per_s, self.slopes, may_fail=tuple(may_fail), key=self.service.key
        )
        with traffic.traffic(task) as under_way:
            yield under_way


def decisions(client: MlflowClient, name: str, version: str) -> list[dict[str, Any]]:
    """What MLflow has on record of a version's rollouts, in order."""
    found = client.get_model_version(name, version).tags.items()
    tags = sorted(found, key=lambda tag: (len(tag[0]), tag[0]))
    return [json.loads(text) for key, text in tags if key.startswith(names.TAG_ROLLOUT_DECISION)]


def register(
    client: MlflowClient,
    name: str,
    estimator: Line,
    change: Callable[[Path], None] = lambda directory: None,
    column: str = "x",
    tags: dict[str, str] | None = None,
    keys: Keys | None = None,
) -> str:
    """Register an estimator as it is, or signed and spoiled."""

    def prepare(directory: Path, run_id: str) -> None:
        if keys is not None:
            keys.sign(directory, name, run_id)
        change(directory)

    with tempfile.TemporaryDirectory() as folder, odd_models.behaving():
        directory = models.write(
            Path(folder) / "model", estimator.fit(ROWS), ROWS, [column], odd_models.TRUSTED
        )
        return models.register_directory(client, name, directory, tags, prepare)


def with_rollouts(**policy: Any) -> Callable[[Config], None]:
    """Return a change of serve_config.yaml: short steps, and types that go wrong."""

    def change(config: Config) -> None:
        steps = [{"weight": weight, "min_s": 1, "min_requests": 50} for weight in WEIGHTS]
        config["applications"][0]["args"].update(
            {
                "extra_trusted_types": odd_models.TRUSTED,
                "load_timeout_s": LOAD_TIMEOUT_S,
                "alias_poll_s": POLL_S,
                "rollout": {
                    "steps": steps,
                    "shadow": 1.0,
                    "errors": TOLERANCE,
                    "missing": TOLERANCE,
                    **policy,
                },
            }
        )

    return change


def launch(
    root: Path,
    environ: Mapping[str, str],
    uri: str,
    relay: Relay,
    name: str,
    first: Line,
    change: Callable[[Config], None],
    signed_with: Keys | None = None,
    *,
    has_api_keys: bool = True,
) -> Stage:
    """Register `first` as champion, begin to start a system that serves it, and return at once."""
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(tracking_uri=uri)
    version = register(client, name, first, keys=signed_with)
    client.set_registered_model_alias(name, names.CHAMPION, version)
    running.copy_project(root)
    running.change_config(root, change)
    own = {**environ, "MLFLOW_TRACKING_URI": relay.uri, "MODEL_NAME": name}
    if has_api_keys:
        key, sent = api_keys.create("predict,feedback,admin,metrics")
        own |= {
            "ENDEAVOUR_ENV": "production",
            "ENDEAVOUR_API_KEYS": str(key),
            "ENDEAVOUR_API_KEY": sent,
        }
    if signed_with is not None:
        own["ENDEAVOUR_SIGNING_PUBLIC_KEYS"] = str(signed_with.public)
    service = running.launch(root, own)
    return Stage(service, client, relay, name, {version: first.slope}, signed_with)


@contextmanager
def up(launched: Stage) -> Iterator[Stage]:
    """Let a stage that may still be starting run inside the `with` block; look for secrets then."""
    with running.up(launched.service) as service:
        yield launched
        running.wait_for(service.is_ready, READY_S)
        client, name = launched.client, launched.name
        registered = client.get_registered_model(name)
        versions = client.search_model_versions(f"name = '{name}'")
        tags = (str(registered.tags), *(str(one.tags) for one in versions))
        secrecy.check(service, *tags)
