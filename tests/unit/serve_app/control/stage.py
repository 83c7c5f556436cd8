"""A conductor with everything around it in memory: MLflow, the workers, the clock."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contract import names
from contract.tracking import MlflowUnreachableError
from serve_app.control import record
from serve_app.control.conductor import Conductor
from serve_app.control.fleet import Report
from serve_app.control.port import ChampionMovedError, Seen
from serve_app.model_errors import UnservableModelError
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.records.signature import Column, Signature
from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from serve_app.rollouts.policy import Policy, Step
from serve_app.routing import Table, Write, window_of

BEGAN = 1_000_000.0
MIN_S = 10.0
POLICY = Policy(
    steps=(
        Step(weight=0.0, min_s=MIN_S, min_requests=100),
        Step(weight=0.25, min_s=MIN_S, min_requests=100),
        Step(weight=1.0, min_s=MIN_S, min_requests=100),
    ),
    shadow=0.5,
    max_step_s=1000.0,
)
GOOD = Evidence(Arm(10_000), Arm(5_000), 0, Pairs(2_000, 100), Pairs(2_000, 10))
BAD = Evidence(Arm(10_000), Arm(5_000, errors=2_500.0), 0, Pairs(2_000, 100), Pairs(2_000, 10))
ALL = frozenset("123456789")
HANG_LIMIT_S = 10.0


def version_of(number: str) -> ServedVersion:
    """A version by its number."""
    return ServedVersion("m", number, None, f"models:/m/{number}", "ab" * 32)


def model_of(number: str, column: str = "x") -> ServedModel:
    """A version with one feature."""
    signature = Signature((Column(column, "double"),))
    return ServedModel(version_of(number), signature, np.zeros((1, 1)), None)


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def go_on(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass
class FakeMlflow:
    """A `Tracker` over dictionaries, as far as one model's aliases and tags go."""

    aliases: dict[str, str] = field(default_factory=lambda: {names.CHAMPION: "1"})
    model_tags: dict[str, str] = field(default_factory=dict)
    version_tags: dict[str, dict[str, str]] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    promotions: list[tuple[str, str, str]] = field(default_factory=list)
    unresolved: dict[str, Exception] = field(default_factory=dict)
    """What resolving these versions raises."""
    resolved: int = 0
    """How often a version was asked for."""
    failing: tuple[str, ...] = ()
    """The methods that fail as if MLflow were down."""
    gate: threading.Event | None = None
    """If there's one, each method waits for it."""
    entered: threading.Event = field(default_factory=threading.Event)
    """Set once a method waits."""

    def look(self) -> Seen:
        """Return the aliases and the rollout under way."""
        self._answer("look")
        state, weight = record.state_of(self.model_tags.get(names.TAG_ROLLOUT_STATE, ""))
        named = self.aliases.get
        challenger, previous = named(names.CHALLENGER), named(names.PREVIOUS)
        return Seen(named(names.CHAMPION), challenger, state, previous, weight)

    def resolve(self, version: str) -> tuple[ServedVersion, Path]:
        """Return a version and where its copy is."""
        self._answer("resolve")
        self.resolved += 1
        if error := self.unresolved.get(version):
            raise error
        return version_of(version), Path(version)

    def write(self, write: Write) -> None:
        """Record something."""
        self._answer("write")
        self.writes.append(write)
        if write.kind == "model_tag":
            self.model_tags[write.key] = write.value
        elif write.kind == "version_tag":
            self.tags(write.version)[write.key] = write.value
        elif write.kind == "take_back":
            if self.aliases[names.CHAMPION] == write.version:
                self.aliases[names.CHAMPION] = write.key
        else:
            self.tags(write.version)[names.TAG_ROLLOUT_OUTCOME] = write.key
            self.tags(write.version)[names.TAG_ROLLOUT_REASONS] = write.value
            self._remove_challenger(write.version)

    def promote(self, version: str, judged_against: str, reason: str) -> None:
        """Move the alias `champion`."""
        self._answer("promote")
        if self.aliases.get(names.CHAMPION) not in (version, judged_against):
            raise ChampionMovedError("the champion was moved by hand meanwhile")
        self.promotions.append((version, judged_against, reason))
        self.aliases[names.PREVIOUS] = self.aliases[names.CHAMPION]
        self.aliases[names.CHAMPION] = version
        self._remove_challenger(version)

    def tags(self, version: str) -> dict[str, str]:
        """The tags of a version."""
        return self.version_tags.setdefault(version, {})

    def decisions(self, version: str) -> list[dict[str, Any]]:
        """What is on record of a version's rollouts, in the order of its keys."""
        tags = self.tags(version).items()
        found = sorted(tag for tag in tags if tag[0].startswith(names.TAG_ROLLOUT_DECISION))
        return [json.loads(value) for _, value in found]

    def go_down(self, *methods: str) -> None:
        """Let these methods fail, or all."""
        self.failing = methods or ("look", "resolve", "write", "promote")

    def come_back(self) -> None:
        """Answer again."""
        self.failing = ()

    def hang(self) -> None:
        """Take in what is asked, and answer nothing until `let_go`."""
        self.entered.clear()
        self.gate = threading.Event()

    def let_go(self) -> None:
        """Answer all that has waited."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.set()

    def _answer(self, method: str) -> None:
        if (gate := self.gate) is not None:
            self.entered.set()
            assert gate.wait(HANG_LIMIT_S)
        if method in self.failing:
            raise MlflowUnreachableError("connection refused")

    def _remove_challenger(self, version: str) -> None:
        if self.aliases.get(names.CHALLENGER) == version:
            del self.aliases[names.CHALLENGER]


class Stage:
    """A conductor of version 1, with two workers that hold whatever is asked for."""

    def __init__(
        self, policy: Policy = POLICY, table: Table | None = None, mlflow: FakeMlflow | None = None
    ) -> None:
        self.clock = Clock()
        self.mlflow = mlflow or FakeMlflow()
        self.models: dict[str, ServedModel] = {}
        self.faults: dict[str, str] = {}
        self.rehearsed: list[str] = []
        self.kept: list[Table] = []
        self.is_disk_full = False
        self._reports: dict[str, Report] = {}
        self.conductor = Conductor(
            table or Table(1, model_of("1")),
            policy,
            self.mlflow,
            self._rehearse,
            self._keep,
            self.clock,
        )
        self.report("a")
        self.report("b")

    async def _rehearse(self, version: ServedVersion, copy: Path) -> ServedModel:
        self.rehearsed.append(version.version)
        if version.version in self.faults:
            raise UnservableModelError(self.faults[version.version])
        return self.models.get(version.version) or model_of(version.version)

    def _keep(self, table: Table) -> None:
        if self.is_disk_full:
            raise OSError("no space left on device")
        self.kept.append(table)

    def report(
        self,
        worker: str,
        held: frozenset[str] = ALL,
        failed: dict[str, str] | None = None,
        overdue: frozenset[str] = frozenset(),
        delayed: dict[str, str] | None = None,
    ) -> None:
        """Let a worker say what it holds."""
        address = (worker, 1, "secret")
        self._reports[worker] = Report(address, held, failed or {}, overdue, delayed or {})
        self.conductor.report(worker, self._reports[worker])

    def go_on(self, seconds: float) -> None:
        """Let time pass in which the workers report as before."""
        self.clock.go_on(seconds)
        for worker, report in self._reports.items():
            self.conductor.report(worker, report)

    @property
    def table(self) -> Table:
        """What ingresses were told last."""
        return self.conductor.published.value.table

    def serving(self) -> tuple[str, str | None, float]:
        """The champion, the challenger, and its weight, as ingresses were told last."""
        challenger = self.table.challenger
        return (
            self.table.champion.version.version,
            challenger.version.version if challenger is not None else None,
            self.table.weight,
        )

    def workers(self) -> list[str]:
        """The workers that ingresses were told of last."""
        return [name for name, _, _ in self.conductor.published.value.workers]

    @property
    def status(self) -> dict[str, Any]:
        """What people are told."""
        return self.conductor.status()

    async def begin(self, version: str = "2") -> None:
        """Name a challenger, and let its rollout begin."""
        self.mlflow.aliases[names.CHALLENGER] = version
        await self.conductor.poll()
        assert self.serving()[1] == version
        await self.conductor.poll()

    def observe(self, evidence: Evidence) -> None:
        """Let an ingress tell what it has seen at the present step."""
        window = window_of(self.table)
        assert window is not None
        self.conductor.observe(window, evidence)

    def pass_step(self) -> None:
        """Let a step's time pass with nothing but good to be seen, and decide."""
        self.go_on(MIN_S)
        self.observe(GOOD)
        self.conductor.tick()

    async def promoted(self) -> None:
        """Let a promotion that was started come to its end."""
        async with asyncio.timeout(HANG_LIMIT_S):
            while self.table.rollout is not None:
                await asyncio.sleep(0.001)
