"""One training job: its steps, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import requests
from mlflow.exceptions import MlflowException

from contract import names, tracking
from train import champion as champions
from train import cluster, data, estimator, evaluate, fingerprint, gate, record
from train.errors import GateRefusedError, UnreachableError
from train.fit import Fitted, check_trusted, fit
from train.lock import PromotionLock
from train.progress import Progress
from train.promotion import ChampionMovedError, Promoter
from train.registry import Candidate, Registry
from train.settings import TrainSettings

MOST_JUDGEMENTS = 5
"""How often a candidate is judged again because another job changed the champion meanwhile."""

STEPS = 7


@dataclass(frozen=True)
class Outcome:
    """The version that the job ended with, and whether this job made it champion."""

    version: str
    promoted: bool
    message: str


def run(settings: TrainSettings, environ: Mapping[str, str], progress: Progress) -> Outcome:
    """Train, judge, record, and promote if the gate lets it pass.

    Raises a TrainError: for settings and data before anything is written, GateRefusedError with
    the run kept and nothing registered, UnreachableError if MLflow or Ray fail.
    """
    started_ms = int(time.time() * 1000)
    with progress.step("data") as step:
        estimator.build(settings)
        dataset = data.load(settings)
        step.note = f"{len(dataset.train.rows)} rows to train on, {len(dataset.test.rows)} held out"
    with _mlflow_failures():
        with progress.step("registry") as step:
            promoter = open_promoter(settings.model_name, environ)
            mark = fingerprint.compute(settings, dataset)
            known = promoter.registry.find(mark)
            step.note = f"champion {promoter.registry.champion() or 'none'}"
        if known is not None and promoter.was_promoted(known):
            return _unchanged(promoter.registry, known.version)
        fitted = _fit(settings, dataset, progress)
        with cluster.connect(settings.deadlines.ray_connect_s):
            evaluation, scores = _evaluate(settings, dataset, fitted, progress)
            result = record.Result(
                settings,
                dataset,
                fitted,
                evaluation,
                scores,
                fingerprint=mark,
                started_ms=started_ms,
            )
            return _judge_and_promote(promoter, result, progress)


def open_promoter(model_name: str, environ: Mapping[str, str]) -> Promoter:
    """Return the promoter of a model. Raises UnreachableError if MLflow does not answer."""
    try:
        client = tracking.connect(tracking.tracking_uri(environ))
    except tracking.MlflowUnreachableError as error:
        raise UnreachableError(str(error)) from error
    return Promoter(Registry(client, model_name), PromotionLock(client, model_name))


def promote(model_name: str, version: str, reason: str, environ: Mapping[str, str]) -> Outcome:
    """Make a version champion by hand."""
    with _mlflow_failures():
        moved = open_promoter(model_name, environ).promote_version(version, reason)
    said = "is champion now" if moved else "was champion already: nothing changed"
    return Outcome(version, moved, f"{model_name} version {version} {said}")


def roll_back(model_name: str, reason: str, environ: Mapping[str, str]) -> Outcome:
    """Make the previous champion champion again."""
    with _mlflow_failures():
        version = open_promoter(model_name, environ).roll_back(reason)
    return Outcome(version, True, f"{model_name} version {version} is champion again")


def _unchanged(registry: Registry, version: str) -> Outcome:
    """The same job has been promoted before, and maybe rolled back since: that is respected."""
    champion = registry.champion()
    said = f"nothing changed since {registry.model_name} version {version} was trained"
    if champion == version:
        return Outcome(version, False, f"{said}, and it is champion: nothing registered")
    return Outcome(
        version,
        False,
        f"{said}; version {champion} is champion now, and stays it: nothing registered. To bring "
        f"it back: python -m train promote --version {version} --reason TEXT",
    )


def _fit(settings: TrainSettings, dataset: data.Dataset, progress: Progress) -> Fitted:
    with progress.step("fit") as step:
        train = dataset.train
        fitted = fit(settings, train.features, train.target, on_epoch=step.advance)
        check_trusted(fitted.model, settings.extra_trusted_types)
        step.note = settings.estimator.path.rpartition(".")[2]
        if fitted.losses:
            step.note += (
                f", {len(fitted.losses)} {fitted.round_name}s, loss {fitted.losses[-1]:.6g}"
            )
    for text in fitted.warnings:
        progress.say(f"warning: {text}")
    return fitted


def _evaluate(
    settings: TrainSettings, dataset: data.Dataset, fitted: Fitted, progress: Progress
) -> tuple[evaluate.Evaluation, dict[str, tuple[float, ...]]]:
    test, folds = dataset.test, settings.cross_validation.folds
    with progress.step("evaluate") as step:
        evaluation = evaluate.evaluate(fitted.model, test.features, test.target, settings.task)
        scores: dict[str, tuple[float, ...]] = {}
        if folds:
            with cluster.workers(folds, settings.deadlines.compute_s):
                scores = evaluate.cross_validate(settings, dataset.train)
        step.note = f"{_metrics(evaluation)}; {folds} folds"
    return evaluation, scores


def _metrics(evaluation: evaluate.Evaluation) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in evaluation.metrics.items())


def _judge_and_promote(promoter: Promoter, result: record.Result, progress: Progress) -> Outcome:
    client = promoter.registry.client
    with progress.step("gate") as step:
        champion, decision = _judge(promoter.registry.champion(), result)
        step.note = _word(decision)
    with progress.step("record") as step:
        logged = record.log(client, result, decision, champion)
        step.note = f"run {logged.run_id}"
    with progress.step("promote") as step:
        for _ in range(MOST_JUDGEMENTS):
            if not decision.passed:
                raise GateRefusedError(_refusal(decision, logged.run_id))
            candidate = Candidate(
                run_id=logged.run_id,
                model_id=logged.model_id,
                fingerprint=result.fingerprint,
                tags=record.version_tags(result, decision),
                description=f"{_metrics(result.evaluation)} on held-out rows; {_word(decision)}",
            )
            reason = f"passed the gate in run {logged.run_id}"
            try:
                version, moved = promoter.promote_candidate(
                    candidate, decision.champion_version, reason
                )
            except ChampionMovedError:
                champion, decision = _judge(promoter.registry.champion(), result)
                record.log_decision(client, logged.run_id, result, decision)
                continue
            client.set_tag(logged.run_id, names.TAG_VERSION, version)
            step.note = f"version {version}"
            return _promoted(promoter.registry.model_name, version, moved)
    raise UnreachableError(
        f"the champion changed {MOST_JUDGEMENTS} times while this job was judged: run it again"
    )


def _judge(
    champion_version: str | None, result: record.Result
) -> tuple[gate.Champion | None, gate.Decision]:
    settings, dataset = result.settings, result.dataset
    champion = champions.predict(champion_version, settings, dataset) if champion_version else None
    chunks = -(-settings.gate.resamples // gate.CHUNK_RESAMPLES)
    with ExitStack() as stack:
        if champion is not None and champion.predictions is not None:
            stack.enter_context(cluster.workers(chunks, settings.deadlines.compute_s))
        decision = gate.judge(
            gate.Candidate(result.evaluation.metrics, result.evaluation.predictions),
            champion,
            dataset.test.target,
            settings.policy,
            error="squared" if settings.task == "regression" else "zero_one",
            seed=settings.seed,
        )
    return champion, decision


def _word(decision: gate.Decision) -> str:
    """The last reason is the comparison; a refusal ends the job with all that counted, anyway."""
    if not decision.passed:
        return "refused"
    return f"passed; {decision.reasons[-1].removeprefix('pass: ')}"


def _promoted(model_name: str, version: str, moved: bool) -> Outcome:
    if moved:
        return Outcome(version, True, f"{model_name} version {version} is champion now")
    said = "was made champion by an earlier job of the same data, settings and code"
    return Outcome(version, False, f"{model_name} version {version} {said}")


def _refusal(decision: gate.Decision, run_id: str) -> str:
    refused = (text for text in decision.reasons if text.startswith("refuse: "))
    reasons = "; ".join(text.removeprefix("refuse: ") for text in refused)
    return f"the gate refused the model: {reasons} (run {run_id} keeps it, nothing was registered)"


@contextmanager
def _mlflow_failures() -> Iterator[None]:
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnreachableError(f"MLflow failed while the job ran: {reason}") from error
