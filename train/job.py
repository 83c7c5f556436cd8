"""One training job: its steps, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import requests
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from contract import names, tracking
from contract.lock import PromotionLock
from contract.promotion import (
    ChampionMovedError,
    NoPreviousChampionError,
    Placement,
    Promoter,
)
from contract.registry import Candidate, NoSuchVersionError, Registry
from contract.signing import KEY_FILE_VARIABLE
from contract.standing import Standing, standing
from train import champion as champions
from train import cluster, data, estimator, evaluate, fingerprint, gate, record, signing
from train.errors import BadSettingsError, GateRefusedError, UnreachableError
from train.fit import Fitted, check_trusted, fit
from train.progress import Progress
from train.settings import TrainSettings

MOST_JUDGEMENTS = 5
"""How often a candidate is judged again because another job changed the champion meanwhile."""

STEPS = 7

ROLLOUT_DECIDES = (
    "the rollout decides whether it becomes champion (python -m serve_app rollout status)"
)


@dataclass(frozen=True)
class Outcome:
    """The version that a command ended with, and whether it moved an alias to it."""

    version: str
    moved: bool
    message: str


def run(settings: TrainSettings, environ: Mapping[str, str], progress: Progress) -> Outcome:
    """Train, judge, record, and promote if the gate lets it pass, or leave that to a rollout.

    Raises a TrainError: for settings and data before anything is written, GateRefusedError with
    the run kept and nothing registered, UnreachableError if MLflow or Ray fail.
    """
    started_ms = int(time.time() * 1000)
    with progress.step("data") as step:
        signer = signing.signer(environ)
        estimator.build(settings)
        dataset = data.load(settings)
        step.note = f"{len(dataset.train.rows)} rows to train on, {len(dataset.test.rows)} held out"
    with _registry_failures():
        with progress.step("registry") as step:
            promoter = open_promoter(settings.model_name, environ)
            mark = fingerprint.compute(settings, dataset)
            known = promoter.registry.find(mark)
            step.note = f"champion {promoter.registry.champion() or 'none'}"
        if known is not None and (settled := _settled(promoter.registry, known)):
            return settled
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
            return _judge_and_promote(promoter, result, signer, progress)


def open_promoter(model_name: str, environ: Mapping[str, str]) -> Promoter:
    """Return the promoter of a model. Raises MlflowUnreachableError."""
    client = tracking.connect(tracking.tracking_uri(environ))
    return Promoter(Registry(client, model_name), PromotionLock(client, model_name))


def promote(model_name: str, version: str, reason: str, environ: Mapping[str, str]) -> Outcome:
    """Make a version champion by hand. Raises BadSettingsError, UnreachableError."""
    with _registry_failures():
        moved = open_promoter(model_name, environ).promote_version(version, reason)
    said = "is champion now" if moved else "was champion already: nothing changed"
    return Outcome(version, moved, f"{model_name} version {version} {said}")


def roll_back(model_name: str, reason: str, environ: Mapping[str, str]) -> Outcome:
    """Make the previous champion champion again. Raises BadSettingsError, UnreachableError."""
    with _registry_failures():
        version = open_promoter(model_name, environ).roll_back(reason)
    return Outcome(version, True, f"{model_name} version {version} is champion again")


def sign(model_name: str, version: str, environ: Mapping[str, str]) -> Outcome:
    """Sign what MLflow holds of a version now. Raises BadSettingsError, UnreachableError."""
    if (signer := signing.signer(environ)) is None:
        raise BadSettingsError(
            f"no key to sign with: name its file by {KEY_FILE_VARIABLE}, or make one with "
            "`python -m train signing-key`"
        )
    with _registry_failures():
        registry = open_promoter(model_name, environ).registry
        signing.sign_version(registry.client, registry.get(version), signer)
    return Outcome(version, False, f"{model_name} version {version} is signed now")


def _settled(registry: Registry, known: ModelVersion) -> Outcome | None:
    """Return how it ends if the same job has come to its end before, and maybe been rolled back.

    That is respected. None if its version is registered and nothing more.
    """
    version, registered = str(known.version), registry.registered()
    where = standing(version, known.tags, registered)
    if where == "unfinished":
        return None
    said = f"nothing changed since {registry.model_name} version {version} was trained"
    return Outcome(version, False, said + _stays(where, known, registered.champion))


def _stays(where: Standing, known: ModelVersion, champion: str | None) -> str:
    """Say what a version is, that nothing was registered, and what can be done about it."""
    by_hand = f"python -m train promote --version {known.version} --reason TEXT"
    if champion == str(known.version):
        return ", and it is champion: nothing registered"
    if where == "challenger":
        return f", and it is challenger: nothing registered; {ROLLOUT_DECIDES}"
    if where == "aborted":
        return (
            f"; its rollout was aborted ({_why_aborted(known)}), and that stands: nothing "
            f"registered. To make it champion all the same: {by_hand}"
        )
    now = f"version {champion} is champion now, and stays it" if champion else "no champion now"
    return f"; {now}: nothing registered. To bring it back: {by_hand}"


def _why_aborted(version: ModelVersion) -> str:
    reasons = version.tags.get(names.TAG_ROLLOUT_REASONS, "").splitlines()
    return reasons[0] if reasons else "no reason on record"


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


def _judge_and_promote(
    promoter: Promoter, result: record.Result, signer: signing.Signer | None, progress: Progress
) -> Outcome:
    client = promoter.registry.client
    with progress.step("gate") as step:
        champion, decision = _judge(promoter.registry, result)
        step.note = _word(decision)
    with progress.step("record") as step:
        logged = record.log(client, result, decision, champion, signer)
        step.note = f"run {logged.run_id}" + (", signed" if signer and decision.passed else "")
    with progress.step("promote") as step:
        for _ in range(MOST_JUDGEMENTS):
            if not decision.passed:
                raise GateRefusedError(_refusal(decision, logged.run_id))
            candidate = Candidate(
                run_id=logged.run_id,
                model_id=logged.model_id,
                fingerprint=result.fingerprint,
                tags=record.model_tags(result),
                judgement=record.decision_tags(decision),
                description=f"{_metrics(result.evaluation)} on held-out rows; {_word(decision)}",
            )
            reason = f"passed the gate in run {logged.run_id}"
            try:
                placed = promoter.promote_candidate(candidate, decision.champion_version, reason)
            except ChampionMovedError:
                champion, decision = _judge(promoter.registry, result)
                record.log_decision(client, logged.run_id, result, decision, champion)
                continue
            client.set_tag(logged.run_id, names.TAG_VERSION, placed.version)
            step.note = f"version {placed.version}"
            return _placed(promoter.registry, placed)
    raise UnreachableError(
        f"the champion changed {MOST_JUDGEMENTS} times while this job was judged: run it again"
    )


def _judge(registry: Registry, result: record.Result) -> tuple[gate.Champion | None, gate.Decision]:
    settings, dataset = result.settings, result.dataset
    version = registry.champion()
    champion = champions.predict(registry, version, settings, dataset) if version else None
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


def _placed(registry: Registry, placed: Placement) -> Outcome:
    version = placed.version
    name = f"{registry.model_name} version {version}"
    if placed.moved and placed.standing == "challenger":
        return Outcome(version, True, f"{name} is challenger now: {ROLLOUT_DECIDES}")
    if placed.moved:
        return Outcome(version, True, f"{name} is champion now")
    earlier = "by an earlier job of the same data, settings and code"
    if placed.standing == "aborted":
        why = _why_aborted(registry.get(version))
        said = f"was registered {earlier}, and its rollout was aborted ({why})"
    elif placed.standing == "challenger":
        said = f"was made challenger {earlier}: {ROLLOUT_DECIDES}"
    else:
        said = f"was made champion {earlier}"
    return Outcome(version, False, f"{name} {said}")


def _refusal(decision: gate.Decision, run_id: str) -> str:
    refused = (text for text in decision.reasons if text.startswith("refuse: "))
    reasons = "; ".join(text.removeprefix("refuse: ") for text in refused)
    return f"the gate refused the model: {reasons} (run {run_id} keeps it, nothing was registered)"


@contextmanager
def _registry_failures() -> Iterator[None]:
    """Turn what MLflow and the contract raise into errors that own an exit code."""
    try:
        yield
    except (NoSuchVersionError, NoPreviousChampionError) as error:
        raise BadSettingsError(str(error)) from error
    except tracking.MlflowUnreachableError as error:
        raise UnreachableError(str(error)) from error
    except (MlflowException, requests.RequestException) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnreachableError(f"MLflow failed while the job ran: {reason}") from error
