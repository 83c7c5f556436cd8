"""Follows the aliases in MLflow and walks a challenger through its rollout, one table at a time.

Nothing here knows Ray or HTTP, and MLflow only as a `Tracker`: whatever that does, a verdict is
applied at once, and told to MLflow when it answers. Runs on one event loop; two tasks drive it,
`poll` (which waits for MLflow) and `tick` (which never waits).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from contract import names
from contract.tracking import MlflowUnreachableError
from serve_app.control.board import Board
from serve_app.control.fleet import Fleet, Report
from serve_app.control.labels import Label, Labels, LabelState
from serve_app.model_errors import ModelError, UnservableModelError
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.rollouts import rollout
from serve_app.rollouts.evidence import Evidence
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.rollout import CommandError, Decision, State, advanced, decide
from serve_app.routing import STATUS_UNKNOWN, Published, Table, Write

logger = logging.getLogger("ray.serve")

PREPARE_S: Final = 60.0
"""Longest that all workers may take to load a version before it is refused."""

FETCHES: Final = 3
"""How often a version is fetched in vain, with MLflow answering, before it is refused."""

REPORTED_S: Final = 5.0
"""Within this time every worker that runs has reported to a new controller."""

_LOOK_AGAIN_S: Final = 0.1


@dataclass(frozen=True)
class Seen:
    """What MLflow says at one moment: versions by alias, and the rollout that it knows of."""

    champion: str | None
    challenger: str | None
    rollout: State | None = None


class ChampionMovedError(Exception):
    """The champion is no longer the one that the challenger was compared with."""


class Tracker(Protocol):
    """MLflow; each method blocks for a bounded time and raises MlflowUnreachableError."""

    def look(self) -> Seen:
        """Return the aliases and the rollout under way."""

    def resolve(self, version: str) -> tuple[ServedVersion, Path]:
        """Return a version and its verified copy on this node. Raises ModelError too."""

    def write(self, write: Write) -> None:
        """Record something; doing it twice is as good as once."""

    def promote(self, version: str, judged_against: str, reason: str) -> None:
        """Move the alias `champion`. Raises ChampionMovedError."""


Rehearse = Callable[[ServedVersion, Path], Awaitable[ServedModel]]
"""(version, its copy) -> what clients need to know of it; raises UnservableModelError."""


@dataclass(frozen=True)
class Orders:
    """What workers are told to hold."""

    needed: tuple[ServedVersion, ...]
    """Versions that requests are or may be sent to: a worker without them isn't ready."""
    wanted: tuple[ServedVersion, ...] = ()
    """Versions that would be sent requests once every worker holds them."""


class Conductor:
    """Decides on tables and shows them on boards."""

    def __init__(
        self,
        table: Table,
        policy: Policy,
        tracker: Tracker,
        rehearse: Rehearse,
        keep: Callable[[Table], None] = lambda table: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._policy = policy
        self._tracker = tracker
        self._rehearse = rehearse
        self._keep = keep
        self._clock = clock
        self._fleet = Fleet()
        self._silent_until = 0.0
        self._wanted: dict[str, ServedVersion] = {}
        self._refused: dict[str, str] = {}
        self._failed_fetches: dict[str, int] = {}
        self._waiting: str | None = None
        self._mlflow = STATUS_UNKNOWN["mlflow"]
        self._evidence = Evidence()
        self._labels = Labels()
        self._decision: Decision | None = None
        self._last: dict[str, Any] | None = None
        # Held while aliases are read and followed, and while they are moved: what was read before
        # a move says nothing after it. Aborting never waits for it.
        self._aliases = asyncio.Lock()
        self._promotion: asyncio.Task[None] | None = None
        self.published = Board(self._publication())
        self.orders = Board(self._orders())

    @property
    def table(self) -> Table:
        """The present table."""
        return self._table

    # What replicas say

    def adopt(self, table: Table) -> None:
        """Take over a newer table than our own, which a replica got from whoever was here before.

        Workers report anew to this controller: until all have had the time to, ingresses aren't
        told of those that have, or they would leave the others.
        """
        self._silent_until = max(self._silent_until, self._clock() + REPORTED_S)
        if table.epoch > self._table.epoch:
            logger.info("took over the table of epoch %d from a replica", table.epoch)
            self._table = table
            self._evidence = Evidence()
            self._show()

    def report(self, worker: str, report: Report) -> None:
        """Note what a worker holds."""
        if self._fleet.note(worker, report, self._clock()):
            self._show()

    def observe(self, window: tuple[int, int], evidence: Evidence) -> None:
        """Add what an ingress has counted in a step; of one that is over, only quality counts."""
        present = window_of(self._table)
        if window == present:
            self._evidence += evidence
        elif present is not None and window[0] == present[0]:
            self._evidence += evidence.at_next_step()

    def label(self, label: Label) -> LabelState:
        """Take a true value from a client, and say what becomes of it."""
        if self._table.rollout is None:
            return "unused"
        return "accepted" if self._labels.add(label) else "duplicate"

    def labels_since(self, number: int) -> tuple[int, list[Label]]:
        """Return the true values that came since, as `Labels.since`; asked by ingresses."""
        return self._labels.since(number)

    # What MLflow says

    async def poll(self) -> None:
        """Tell MLflow what it doesn't know yet, read the aliases, and follow them."""
        async with self._aliases:
            try:
                await self._record()
                seen = await asyncio.to_thread(self._tracker.look)
                self._note_mlflow("answers")
                await self._follow(seen)
            except MlflowUnreachableError as error:
                self._note_mlflow(f"does not answer: {error}")

    def _note_mlflow(self, state: str) -> None:
        if state != self._mlflow:
            self._mlflow = state
            self._show()

    async def _record(self) -> None:
        """Do the writes that wait, oldest first."""
        done = 0
        try:
            for write in self._table.unrecorded:
                await asyncio.to_thread(self._tracker.write, write)
                done += 1
        finally:
            if done:
                self._publish(unrecorded=self._table.unrecorded[done:])

    async def _follow(self, seen: Seen) -> None:
        for version in self._refused.keys() - {seen.champion, seen.challenger}:
            del self._refused[version]  # whoever names it again wants it tried again
        if self._table.unrecorded:
            return  # what was seen is older than what was decided meanwhile
        if seen.champion is not None and seen.champion != self._table.champion.version.version:
            await self._follow_champion(seen.champion)
        if not self._table.unrecorded:
            await self._follow_challenger(seen)

    async def _follow_champion(self, version: str) -> None:
        state = self._table.rollout
        if state is not None and version == state.challenger:
            self._finish(state, "it was made champion")
            return
        model = await self._prepared(version)
        if model is None:
            return
        reason = f"the champion was moved by hand to version {version}"
        writes: tuple[Write, ...] = ()
        if (state := self._table.rollout) is not None:
            writes = self._ending(state, names.ABORTED, (reason,))
        logger.info("champion is version %s now, after %s", version, self._champion)
        self._publish(
            writes,
            champion=model,
            previous=self._table.champion,
            challenger=None,
            weight=0.0,
            shadow=0.0,
            rollout=None,
        )

    async def _follow_challenger(self, seen: Seen) -> None:
        state, version = self._table.rollout, seen.challenger
        if state is not None:
            self._waiting = version if version != state.challenger else None
            if version is None:
                self._abort(("the alias challenger was removed in MLflow",))
            return
        self._waiting = None
        if version is None or version == self._champion or not self._policy.enabled:
            return
        model = await self._prepared(version)
        if model is not None:
            self._begin(model, seen.rollout)
        elif version in self._refused and self._table.rollout is None:
            reason = f"it can't be served: {self._refused[version]}"
            self._publish((Write("end_rollout", version, names.ABORTED, reason),))

    @property
    def _champion(self) -> str:
        return self._table.champion.version.version

    async def _prepared(self, version: str) -> ServedModel | None:
        """Return a version that every worker holds; None, and why in `_refused`, if it can't be."""
        if version in self._refused:
            return None
        known = {model.version.version: model for model in self._table.held}
        if version in known:
            return known[version]
        try:
            served, copy = await asyncio.to_thread(self._tracker.resolve, version)
        except MlflowUnreachableError as error:
            failed = self._failed_fetches[version] = self._failed_fetches.get(version, 0) + 1
            if failed >= FETCHES:
                del self._failed_fetches[version]
                self._refuse(version, str(error))
            return None
        except ModelError as error:
            self._refuse(version, str(error))
            return None
        self._failed_fetches.pop(version, None)
        try:
            model = await self._rehearse(served, copy)
            self._check_interface(model)
            await self._load_everywhere(served)
        except ModelError as error:
            self._wanted.pop(version, None)
            self._refuse(version, str(error))
            return None
        return model

    def _check_interface(self, model: ServedModel) -> None:
        if model.interface != self._table.champion.interface:
            raise UnservableModelError(
                "its signature or the kind of its answers is not that of version "
                f"{self._champion}, which clients use: serve it under another model name, or "
                "start anew with it as champion"
            )

    async def _load_everywhere(self, version: ServedVersion) -> None:
        """Return once every worker holds a version. Raises UnservableModelError."""
        self._wanted[version.version] = version
        self._show()
        give_up = self._clock() + PREPARE_S
        while not self._fleet.holds(version.version):
            if reason := self._fleet.failure(version.version):
                raise UnservableModelError(f"a worker could not load it: {reason}")
            if self._clock() > give_up:
                raise UnservableModelError(f"not loaded by every worker within {PREPARE_S:g} s")
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _refuse(self, version: str, reason: str) -> None:
        logger.warning("version %s is not served: %s", version, reason)
        self._refused[version] = reason
        self._publish((Write("version_tag", version, names.TAG_REFUSED, reason),))

    # The rollout

    def tick(self) -> None:
        """Forget workers that are silent, and decide on the rollout by what has been seen."""
        self._fleet.expire(self._clock())
        self._show()
        state = self._table.rollout
        if state is None or self._promotion is not None:
            return
        decision = decide(self._policy, state, self._evidence, self._clock())
        self._decision = decision
        if decision.action == "abort":
            self._abort(decision.reasons)
        elif decision.action == "advance":
            self._advance(decision)
        elif decision.action == "promote":
            self._start_promotion("; ".join(decision.reasons))
        else:
            self._show()

    def _begin(self, model: ServedModel, known: State | None) -> None:
        """Start a rollout, or go on with the one that MLflow knows of."""
        version, now = model.version.version, self._clock()
        if known is not None and (known.challenger, known.champion) == (version, self._champion):
            last = len(self._policy.steps) - 1
            state = replace(known, step=min(known.step, last), step_began=now)
        else:
            state = State(self._next_epoch(), self._champion, version, 0, now)
        self._evidence, self._labels = Evidence(), Labels()
        logger.info("rollout of version %s begins", version)
        step = self._policy.steps[state.step]
        self._publish(
            self._step_record(state, "begin", ("the alias challenger names it",)),
            challenger=model,
            weight=step.weight,
            shadow=self._policy.shadow,
            rollout=state,
        )

    def _advance(self, decision: Decision) -> None:
        state = self._table.rollout
        assert state is not None
        state = advanced(state, self._clock())
        self._evidence = self._evidence.at_next_step()
        weight = self._policy.steps[state.step].weight
        logger.info("version %s gets %g of the requests", state.challenger, weight)
        self._publish(
            self._step_record(state, "advance", decision.reasons, decision),
            weight=weight,
            rollout=state,
        )

    def command(self, action: str, reason: str) -> None:
        """Do what a person wants: pause, resume, promote, abort. Raises CommandError."""
        state, now = self._table.rollout, self._clock()
        if action in ("pause", "resume"):
            changed = (rollout.pause if action == "pause" else rollout.resume)(state, now)
            self._publish(self._step_record(changed, action, (reason,)), rollout=changed)
        elif action == "promote":
            self._start_promotion(rollout.promote(state, reason).reasons[0])
        elif action == "abort":
            self._abort(rollout.abort(state, reason).reasons)
        else:
            raise CommandError(f"no action {action!r}: pause, resume, promote or abort")

    def _start_promotion(self, reason: str) -> None:
        state = self._table.rollout
        if state is not None and self._promotion is None:
            self._promotion = asyncio.create_task(self._promote(state, reason))
            self._promotion.add_done_callback(self._promoted)

    def _promoted(self, task: asyncio.Task[None]) -> None:
        self._promotion = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the promotion failed", exc_info=error)

    async def _promote(self, state: State, reason: str) -> None:
        """Move the alias first, then the traffic: the alias is what everything restarts from."""
        async with self._aliases:
            if (under_way := self._table.rollout) is None or under_way.number != state.number:
                return
            try:
                await asyncio.to_thread(
                    self._tracker.promote, state.challenger, state.champion, reason
                )
            except MlflowUnreachableError as error:
                self._note_mlflow(f"does not answer: {error}")  # asked again at the next tick
                return
            except ChampionMovedError:
                self._abort(("the champion was moved by hand meanwhile",))
                return
            self._finish(state, reason)

    def _finish(self, state: State, reason: str) -> None:
        """The challenger is champion: it takes all traffic."""
        challenger = self._table.challenger
        if challenger is None:
            return
        logger.info("version %s is champion now: %s", state.challenger, reason)
        self._publish(
            self._ending(state, names.PROMOTED, (reason,)),
            champion=challenger,
            previous=self._table.champion,
            challenger=None,
            weight=0.0,
            shadow=0.0,
            rollout=None,
        )

    def _abort(self, reasons: tuple[str, ...]) -> None:
        state = self._table.rollout
        if state is None:
            return
        logger.warning("rollout of version %s aborted: %s", state.challenger, "; ".join(reasons))
        self._publish(
            self._ending(state, names.ABORTED, reasons),
            challenger=None,
            weight=0.0,
            shadow=0.0,
            rollout=None,
        )

    # What is recorded

    def _ending(self, state: State, outcome: str, reasons: tuple[str, ...]) -> tuple[Write, ...]:
        self._last = {
            "challenger": state.challenger,
            "outcome": outcome,
            "at": self._now_text(),
            "reasons": list(reasons),
        }
        return (
            self._decided(state, outcome, reasons, self._decision),
            Write("end_rollout", state.challenger, outcome, "\n".join(reasons)),
            Write("model_tag", key=names.TAG_ROLLOUT_STATE, value=""),
        )

    def _step_record(
        self,
        state: State,
        action: str,
        reasons: tuple[str, ...],
        decision: Decision | None = None,
    ) -> tuple[Write, ...]:
        return (
            self._decided(state, action, reasons, decision),
            Write("model_tag", key=names.TAG_ROLLOUT_STATE, value=json.dumps(state.to_json())),
        )

    def _decided(
        self, state: State, action: str, reasons: tuple[str, ...], decision: Decision | None
    ) -> Write:
        record = {
            "at": self._now_text(),
            "action": action,
            "champion": state.champion,
            "step": state.step,
            "weight": self._table.weight,
            "reasons": reasons,
            "verdicts": [asdict(verdict) for verdict in decision.verdicts] if decision else [],
            "evidence": self._evidence.to_json(),
        }
        key = f"{names.TAG_ROLLOUT_DECISION}.{self._next_epoch()}"
        return Write("version_tag", state.challenger, key, json.dumps(record))

    def _now_text(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

    # What is shown

    def _next_epoch(self) -> int:
        return max(self._table.epoch + 1, int(self._clock() * 1000))

    def _publish(self, writes: tuple[Write, ...] = (), **changes: Any) -> None:
        unrecorded = changes.pop("unrecorded", self._table.unrecorded) + writes
        table = replace(self._table, epoch=self._next_epoch(), unrecorded=unrecorded, **changes)
        self._table = table
        for model in table.held:
            self._wanted.pop(model.version.version, None)
        if table.rollout is None:
            self._decision = None
        try:
            self._keep(table)
        except (OSError, ModelError) as error:
            logger.warning("this node can't remember what it serves: %s", error)
        self._show()

    def _show(self) -> None:
        if (published := self._publication()) != self.published.value:
            self.published.put(published)
        if (orders := self._orders()) != self.orders.value:
            self.orders.put(orders)

    def _orders(self) -> Orders:
        needed = tuple(model.version for model in self._table.held)
        return Orders(needed, tuple(self._wanted.values()))

    def _publication(self) -> Published:
        held = [model.version.version for model in self._table.held]
        is_silent = self._clock() < self._silent_until
        workers = () if is_silent else self._fleet.addresses(held)
        return Published(self._table, workers, self.status())

    def status(self) -> dict[str, Any]:
        """Return what people want to know beside who serves what, as JSON."""
        state, decision = self._table.rollout, self._decision
        rollout: dict[str, Any] | None = None
        if state is not None:
            rollout = {
                **state.to_json(),
                "steps": [step.weight for step in self._policy.steps],
                "evidence": self._evidence.to_json(),
                "reasons": list(decision.reasons) if decision else [],
                "verdicts": [asdict(verdict) for verdict in decision.verdicts] if decision else [],
            }
        return {
            "rollout": rollout,
            "last_rollout": self._last,
            "waiting": self._waiting,
            "refused": dict(self._refused),
            "mlflow": self._mlflow,
            "unrecorded": len(self._table.unrecorded),
        }


def window_of(table: Table) -> tuple[int, int] | None:
    """Return which step of which rollout a table belongs to; None if there's no rollout."""
    return (table.rollout.number, table.rollout.step) if table.rollout is not None else None
