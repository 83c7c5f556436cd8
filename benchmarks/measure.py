"""The measurement: rounds over the servers, each alone on the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from benchmarks import results, running, servers
from benchmarks.errors import ServerError
from benchmarks.loads import Lengths, Loads, Under
from benchmarks.model import BOOSTING, LINEAR, Model
from benchmarks.results import Failure, Results
from benchmarks.running import Running, Setup
from benchmarks.servers import OURS, STARLETTE, Peer
from launcher import console

WORKERS: Final = (1, 2)


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    names: tuple[str, ...]
    """Servers, in the order of the tables."""
    rounds: int
    variant_rounds: int
    """Rounds in which workers and models are varied."""
    lengths: Lengths


class Bench:
    """Runs a plan and adds what it finds to `found`; `keep` is called after each server."""

    def __init__(
        self,
        plan: Plan,
        found: Results,
        peers: dict[str, Peer],
        models: dict[str, Model],
        keep: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._found = found
        self._peers = peers
        self._models = models
        self._keep = keep

    def run(self) -> None:
        """Measure everything that the plan names."""
        for number in range(1, self._plan.rounds + 1):
            capacity_per_s: float | None = None
            for name in servers.order(self._plan.names, number):
                capacity_per_s = self._as_shipped(number, name, capacity_per_s)
            if number <= self._plan.variant_rounds:
                self._vary(number)

    def _as_shipped(self, number: int, name: str, capacity_per_s: float | None) -> float | None:
        """Measure one server with the linear model; return this service's capacity if known."""
        capacity = capacity_per_s

        def measure(loads: Loads) -> None:
            nonlocal capacity
            per_s = loads.closed_loop()
            if name == OURS:
                capacity = loads.open_capacity(per_s)
            if name in (OURS, STARLETTE):
                if capacity:
                    loads.open_loop(capacity)
                loads.sweep()

        self._visit(number, name, Setup(), LINEAR, measure)
        return capacity

    def _vary(self, number: int) -> None:
        """One and two workers, and a tree ensemble beside the linear model."""
        if OURS in self._plan.names:
            for model in (LINEAR, BOOSTING):
                for workers in WORKERS:
                    self._visit(number, OURS, Setup(workers), model, _closed_loop)
        if STARLETTE in self._plan.names:
            self._visit(number, STARLETTE, Setup(), BOOSTING, _closed_loop)

    def _visit(
        self,
        number: int,
        name: str,
        setup: Setup,
        model_name: str,
        measure: Callable[[Loads], None],
    ) -> None:
        """Start a server, measure it, stop it; one that fails doesn't stop the others."""
        is_usual = (setup.name, model_name) == (results.SHIPPED, LINEAR)
        shown = name if is_usual else f"{name} ({setup.name}, {model_name})"
        console.say(f"round {number} of {self._plan.rounds}: {shown}")
        began = time.monotonic()

        def fail(reason: str) -> None:
            console.complain(reason)
            self._found.failures.append(Failure(number, shown, reason))

        try:
            with self._start(name, self._models[model_name], setup) as server:
                under = Under(number, setup.name, model_name)
                model, lengths = self._models[model_name], self._plan.lengths
                add = self._found.measurements.append
                loads = Loads(server, model, under, lengths, add, fail)
                loads.warm_up()
                measure(loads)
        except ServerError as error:
            fail(str(error))
        console.say(f"   {time.monotonic() - began:.0f} s in all")
        self._keep()

    def _start(self, name: str, model: Model, setup: Setup) -> AbstractContextManager[Running]:
        if name == OURS:
            return running.endeavour(model, setup)
        return running.peer(self._peers[name], model)


def _closed_loop(loads: Loads) -> None:
    loads.closed_loop()
