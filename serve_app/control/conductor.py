"""Follows the aliases in MLflow and walks a challenger through its rollout, one table at a time.

Nothing here knows Ray or HTTP, and MLflow only as a `Tracker`: whatever that does, a verdict is
applied at once, and told to MLflow when it answers. Runs on one event loop; two tasks drive it,
`poll` (which waits for MLflow) and `tick` (which never waits).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from contract import names
from contract.tracking import MlflowUnreachableError
from serve_app.control import record, recorder
from serve_app.control.board import Board
from serve_app.control.fleet import Fleet, Leases, Report
from serve_app.control.labels import Label, Labels, LabelState
from serve_app.control.port import ChampionMovedError, RejectedError, Seen, Tracker
from serve_app.control.preparation import Preparations, Rehearse
from serve_app.control.recorder import Recorder
from serve_app.control.refusals import Refusals
from serve_app.model_errors import ModelError, NotNowError, UnservableModelError
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.rollouts import rollout
from serve_app.rollouts.evidence import Evidence
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.rollout import (
    CommandError,
    Decision,
    State,
    advanced,
    at_weight,
    begun_anew,
    decide,
)
from serve_app.routing import ANSWERS, STATUS_UNKNOWN, Published, Table, Write, window_of

logger = logging.getLogger("ray.serve")

LOAD_TIMEOUT_S: Final = 60.0
"""Longest that all workers may take to load a version before it is refused."""

INGRESS_LEASE_S: Final = 30.0
"""An ingress that hasn't asked for this long no longer counts; it asks every 20 s at least."""

REPORTED_S: Final = 5.0
"""Within this time every worker that runs has reported to a new controller."""


@dataclass(frozen=True)
class Orders:
    """What workers are told to hold."""

    needed: tuple[ServedVersion, ...]
    """Versions that requests are or may be sent to: a worker without them isn't ready."""
    wanted: tuple[ServedVersion, ...] = ()
    """Versions that would be sent requests once every worker holds them."""


def _newly_named(seen: Seen, before: Seen) -> set[str]:
    """Return the versions that somebody has made champion or challenger since."""
    pairs = ((seen.champion, before.champion), (seen.challenger, before.challenger))
    return {now for now, then in pairs if now is not None and now != then}


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
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        self._table = table
        self._policy = policy
        self._tracker = tracker
        self._keep = keep
        self._clock = clock
        self._fleet = Fleet()
        self._ingresses = Leases(INGRESS_LEASE_S)
        self._silent_until = 0.0
        self._preparations = Preparations(
            tracker.resolve, rehearse, self._fleet, self._show, clock, load_timeout_s
        )
        self._refusals = Refusals(clock)
        self._recorder = Recorder(tracker)
        self._seen = Seen(None, None)
        self._unended: set[str] = set()
        """Challengers whose rollout has ended, which MLflow doesn't take."""
        self._last_ended = 0
        """The number of the last rollout that has ended here."""
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
        self._attempted: int | None = None
        """The rollout whose challenger MLflow may hold for the champion, or make it yet."""
        self._ordered: tuple[int, str] | None = None
        """The rollout that a person wants promoted, and why; asked for until MLflow answers."""
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
            state = table.rollout
            if state is not None:
                state = begun_anew(at_weight(self._policy, state, table.weight), self._clock())
            self._table = replace(table, rollout=state)
            self._evidence, self._decision = Evidence(), None
            self.remember()
            self._show()

    def note_ingress(self, ingress: str) -> None:
        """Count an ingress that asks."""
        self._ingresses.renew(ingress, self._clock())
        self._show()

    def report(self, worker: str, report: Report) -> None:
        """Note what a worker holds; one that holds nothing isn't ready, and may never be."""
        if report.held and self._fleet.note(worker, report, self._clock()):
            self._show()
        state = self._table.rollout
        if state is not None and state.challenger in report.overdue:
            self._abort(("time: a prediction has not ended by its deadline",))

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

    def labels_since(self, number: int | None) -> tuple[int, list[Label]]:
        """Return the true values that came since, as `Labels.since`; asked by ingresses."""
        return self._labels.since(number)

    # What MLflow says

    async def poll(self) -> None:
        """Tell MLflow what it doesn't know yet, read the aliases, and follow them."""
        async with self._aliases:
            try:
                seen = await asyncio.to_thread(self._tracker.look)
                self._note_mlflow(ANSWERS)
                if self._table.unrecorded:
                    await self._record()
                    seen = await asyncio.to_thread(self._tracker.look)
                await self._follow(seen)
            except MlflowUnreachableError as error:
                self._note_mlflow(f"does not answer: {error}")
            except RejectedError as error:
                self._note_mlflow(f"refuses: {error}")

    def _note_mlflow(self, state: str) -> None:
        if state != self._mlflow:
            self._mlflow = state
            self._show()

    async def _record(self) -> None:
        """Do the writes that wait, oldest first."""
        done: list[Write] = []
        try:
            async for write, is_made in self._recorder.settled(self._table.unrecorded):
                done.append(write)
                if not is_made:
                    self._let_go(write)
        finally:
            if done:
                self._publish(unrecorded=record.without(done, self._table.unrecorded))

    def _let_go(self, write: Write) -> None:
        """Leave it at that: MLflow goes on naming a challenger of which it wasn't told the end."""
        if write.kind == "end_rollout" and write.key == names.ABORTED:
            reason = f"its rollout was aborted, which MLflow has not taken: {write.value}"
            self._refusals.refuse(write.version, reason, for_good=True)
            self._unended.add(write.version)

    async def _follow(self, seen: Seen) -> None:
        aliased = (seen.champion, seen.challenger, seen.previous)
        named = {one for one in aliased if one is not None}
        self._preparations.keep(named)
        self._refusals.keep(named)
        self._unended &= named
        for version in _newly_named(seen, self._seen):
            if version == seen.champion or version not in self._unended:
                self._refusals.try_again(version)
        self._seen = seen
        if self._table.is_from_cache and seen.champion == self._champion:
            self._publish(is_from_cache=False)
        if self._table.unrecorded:
            return  # what was seen is older than what was decided meanwhile
        if seen.champion is not None and seen.champion != self._champion:
            await self._follow_champion(seen.champion)
            is_coming = seen.champion not in (self._champion, *self._refusals)
            if is_coming and self._table.rollout is None:
                return  # a challenger must be compared with that one
        if not self._table.unrecorded:
            await self._follow_challenger(seen)
        if seen.challenger is None and seen.previous is not None:
            await self._warm(seen.previous)

    async def _follow_champion(self, version: str) -> None:
        state = self._table.rollout
        if state is not None and version == state.challenger:
            self._finish(state, "it was made champion")
            return
        model = await self._prepared(version)
        if model is None or self._table.unrecorded or version == self._champion:
            return  # not ready, or something was decided or taken over meanwhile
        reason = f"the champion was moved by hand to version {version}"
        writes = self._accepted(version)
        if (state := self._table.rollout) is not None:
            writes += self._ending(state, names.ABORTED, (reason,))
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
        if self._table.rollout is not None or version == self._champion:
            return  # a table was taken over meanwhile
        if model is not None and not self._table.unrecorded:
            self._begin(model, seen.rollout, seen.weight)
        elif self._refusals.is_for_good(version) and version not in self._unended:
            reason = f"it can't be served: {self._refusals.reasons[version]}"
            self._ended(version, names.ABORTED, (reason,))
            self._publish((record.end(version, names.ABORTED, (reason,)),))

    async def _warm(self, previous: str) -> None:
        """Load what the way back leads to, as a start knows of the champion alone."""
        if self._table.previous is not None or previous == self._champion:
            return
        model = await self._prepared(previous)
        is_wanted = self._table.previous is None and self._table.rollout is None
        if model is not None and is_wanted and previous != self._champion:
            self._publish(self._accepted(previous), previous=model)

    @property
    def _champion(self) -> str:
        return self._table.champion.version.version

    async def _prepared(self, version: str) -> ServedModel | None:
        """Return a version that every worker holds; None while it isn't ready, or is refused."""
        if not self._refusals.is_to_be_tried(version):
            return None
        known = {model.version.version: model for model in self._table.held}
        if version in known:
            return known[version]
        try:
            return await self._preparations.result(version, self._check_interface)
        except (MlflowUnreachableError, RejectedError) as error:  # MLflow has just answered
            if self._refusals.is_last_fetch(version):
                self._refuse(version, str(error), for_good=isinstance(error, RejectedError))
        except ModelError as error:
            self._refuse(version, str(error), for_good=not isinstance(error, NotNowError))
        except Exception as error:
            logger.exception("version %s could not be prepared", version)
            self._refuse(version, f"{type(error).__name__}: {error}")
        return None

    def _check_interface(self, model: ServedModel) -> None:
        if model.interface != self._table.champion.interface:
            raise UnservableModelError(
                "its signature or the kind of its answers is not that of version "
                f"{self._champion}, which clients use: serve it under another model name, or "
                "start anew with it as champion"
            )

    def _refuse(self, version: str, reason: str, *, for_good: bool = True) -> None:
        is_new = self._refusals.refuse(version, reason, for_good=for_good)
        reason = self._refusals.reasons[version]
        logger.warning("version %s is not served: %s", version, reason)
        if is_new:
            self._publish((record.refusal(version, reason),))

    def _accepted(self, version: str) -> tuple[Write, ...]:
        """Return the entry that a version is served after all, if it was refused before."""
        return (record.refusal(version, ""),) if self._refusals.forget(version) else ()

    # The rollout

    def tick(self) -> None:
        """Forget workers that are silent, and decide on the rollout by what has been seen."""
        self._fleet.expire(self._clock())
        self._ingresses.expire(self._clock())
        self._show()
        state = self._table.rollout
        if state is None:
            return
        decision = decide(self._policy, state, self._evidence, self._clock())
        self._decision = decision
        if decision.action == "abort":
            self._abort(decision.reasons)
        elif self._promotion is not None:
            self._show()
        elif self._ordered is not None and self._ordered[0] == state.number:
            self._start_promotion(self._ordered[1])
        elif decision.action == "advance":
            self._advance(decision)
        elif decision.action == "promote":
            self._start_promotion("; ".join(decision.reasons))
        else:
            self._show()

    def _begin(self, model: ServedModel, known: State | None, weight: float | None) -> None:
        """Start a rollout, or go on with the one that MLflow knows of, which had that weight."""
        version, now = model.version.version, self._clock()
        state = State(self._next_epoch(), self._champion, version, 0, now)
        if (
            known is not None
            and known.number > self._last_ended
            and (known.challenger, known.champion) == (version, self._champion)
        ):
            state = begun_anew(at_weight(self._policy, known, weight), now)
        self._evidence, self._labels = Evidence(), Labels()
        logger.info("rollout of version %s begins", version)
        step = self._policy.steps[state.step]
        reasons = ("the alias challenger names it",)
        self._publish(
            self._accepted(version)
            + record.step(state, "begin", reasons, self._moment(step.weight)),
            challenger=model,
            weight=step.weight,
            shadow=self._policy.shadow,
            rollout=state,
        )

    def _advance(self, decision: Decision) -> None:
        state = self._table.rollout
        assert state is not None
        state = advanced(state, self._clock())
        weight = self._policy.steps[state.step].weight
        entries = record.step(state, "advance", decision.reasons, self._moment(weight), decision)
        self._evidence = self._evidence.at_next_step()
        logger.info("version %s gets %g of the requests", state.challenger, weight)
        self._publish(entries, weight=weight, rollout=state)

    def command(self, action: str, reason: str) -> None:
        """Do what a person wants: pause, resume, promote, abort. Raises CommandError."""
        state, now = self._table.rollout, self._clock()
        if action in ("pause", "resume"):
            changed = (rollout.pause if action == "pause" else rollout.resume)(state, now)
            self._publish(record.step(changed, action, (reason,), self._moment()), rollout=changed)
        elif action == "promote":
            ordered = rollout.promote(state, reason).reasons[0]
            self._ordered = (state.number, ordered) if state is not None else None
            self._start_promotion(ordered)
        elif action == "abort":
            self._abort(rollout.abort(state, reason).reasons)
        else:
            raise CommandError(f"no action {action!r}: pause, resume, promote or abort")

    def _start_promotion(self, reason: str) -> None:
        state = self._table.rollout
        if state is not None and self._promotion is None:
            loop = asyncio.get_running_loop()
            self._promotion = loop.create_task(
                self._promote(state, reason), context=contextvars.Context()
            )
            self._promotion.add_done_callback(self._promoted)

    def _promoted(self, task: asyncio.Task[None]) -> None:
        self._promotion = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the promotion failed", exc_info=error)

    async def _promote(self, state: State, reason: str) -> None:
        """Move the alias first, then the traffic: the alias is what everything restarts from."""
        async with self._aliases:
            try:
                await self._record()  # MLflow must know of the rollout that ends
                under_way = self._table.rollout
                if under_way is None or under_way.number != state.number:
                    return  # aborted meanwhile
                self._attempted = state.number
                await asyncio.to_thread(
                    self._tracker.promote, state.challenger, self._named_champion(state), reason
                )
            except MlflowUnreachableError as error:
                self._note_mlflow(f"does not answer: {error}")  # asked again at the next tick
                return
            except (RejectedError, ChampionMovedError) as error:
                self._attempted = None  # nothing was moved
                why = str(error)
                if isinstance(error, RejectedError):
                    why = f"MLflow has refused the promotion: {why}"
                self._abort((why,))
                return
            self._finish(state, reason)

    def _named_champion(self, state: State) -> str:
        """Return whom the challenger is to replace in MLflow: maybe one that can't be served."""
        named = self._seen.champion
        return named if named is not None and named in self._refusals else state.champion

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
        writes = self._ending(state, names.ABORTED, reasons)
        if self._attempted == state.number:
            writes += (record.taking_back(state),)
        self._publish(
            writes,
            challenger=None,
            weight=0.0,
            shadow=0.0,
            rollout=None,
        )

    def _moment(self, weight: float | None = None) -> record.Moment:
        at = self._table.weight if weight is None else weight
        return record.Moment(self._clock(), self._next_epoch(), at, self._evidence)

    def _ended(self, version: str, outcome: str, reasons: tuple[str, ...]) -> None:
        """Keep what people are told of the last rollout."""
        self._last = {
            "challenger": version,
            "outcome": outcome,
            "at": record.time_text(self._clock()),
            "reasons": list(reasons),
        }

    def _ending(self, state: State, outcome: str, reasons: tuple[str, ...]) -> tuple[Write, ...]:
        self._ended(state.challenger, outcome, reasons)
        self._last_ended = max(self._last_ended, state.number)
        return record.ending(state, outcome, reasons, self._moment(), self._decision)

    # What is shown

    def remember(self) -> None:
        """Keep the present table on this node, for a start without MLflow."""
        try:
            self._keep(self._table)
        except (OSError, ModelError) as error:
            logger.warning("this node can't remember what it serves: %s", error)

    def _next_epoch(self) -> int:
        return max(self._table.epoch + 1, int(self._clock() * 1000))

    def _publish(self, writes: tuple[Write, ...] = (), **changes: Any) -> None:
        unrecorded, let_go = recorder.newest(
            changes.pop("unrecorded", self._table.unrecorded) + writes
        )
        for write in let_go:
            self._let_go(write)
        table = replace(self._table, epoch=self._next_epoch(), unrecorded=unrecorded, **changes)
        self._table = table
        self._preparations.settle(model.version.version for model in table.held)
        if table.rollout is None:
            self._decision = None
        self.remember()
        self._show()

    def _show(self) -> None:
        if (published := self._publication()) != self.published.value:
            self.published.put(published)
        if (orders := self._orders()) != self.orders.value:
            self.orders.put(orders)

    def _orders(self) -> Orders:
        needed = tuple(model.version for model in self._table.held)
        return Orders(needed, self._preparations.wanted)

    def _publication(self) -> Published:
        held = [model.version.version for model in self._table.held]
        is_silent = self._clock() < self._silent_until
        workers = () if is_silent else self._fleet.addresses(held)
        return Published(self._table, workers, self.status(), max(1, len(self._ingresses)))

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
            "refused": self._refusals.reasons,
            "mlflow": self._mlflow,
            "unrecorded": len(self._table.unrecorded),
        }
