"""The gate: may this candidate replace the champion? A pure function, with every reason.

The comparison is a paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapters 13 and 16): both models are judged on the same held-out rows, the rows are drawn
again with replacement, and each draw gives one relative change of the error,
(champion error - candidate error) / champion error. The percentile interval of these changes,
not the two errors alone, is held against the margin.

Where hardly a label is wrong, draws of these rows alone know nothing of the errors that both models
would make elsewhere. So two rows are added to them, one that each model alone gets wrong (Bonett
and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on
paired data, Journal of Educational and Behavioral Statistics 37, 2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import joblib
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from contract.strict import Strict

CHUNK_RESAMPLES = 1_000
"""Resamples for one seed. Fixed, so that the result doesn't depend on the number of workers."""

BLOCK_DRAWS = 1_000_000
"""Row numbers drawn at once, which bounds the memory of a chunk."""

ERROR_WORDS = {"squared": "mean squared error", "zero_one": "share of wrong labels"}

Floats = NDArray[np.float64]


class Policy(Strict):
    """What a candidate must reach; `minimum` None stands for the task's own default."""

    minimum: dict[str, float] | None = None
    maximum: dict[str, float] = Field(default_factory=dict)
    margin: float = Field(default=0.10, ge=0)
    inconclusive: Literal["refuse", "accept"] = "refuse"
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)


@dataclass(frozen=True)
class Candidate:
    """Metrics by name, and one prediction for each held-out row."""

    metrics: Mapping[str, float]
    predictions: NDArray[Any]


@dataclass(frozen=True)
class Champion:
    """The version that takes the traffic, and its predictions for the same rows.

    `obstacle` says why it could not predict them; there are no predictions then.
    """

    version: str
    predictions: NDArray[Any] | None
    obstacle: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Errors of both models on the same rows, and the interval of the relative change."""

    error: str
    rows: int
    champion_error: float
    candidate_error: float
    change: float
    low: float
    high: float
    confidence: float
    resamples: int


@dataclass(frozen=True)
class Decision:
    """Whether the candidate passes, and why: one reason for each check that was made."""

    passed: bool
    reasons: tuple[str, ...]
    champion_version: str | None
    comparison: Comparison | None


def judge(
    candidate: Candidate,
    champion: Champion | None,
    actual: NDArray[Any],
    policy: Policy,
    *,
    error: Literal["squared", "zero_one"],
    seed: int,
) -> Decision:
    """Decide on the candidate by absolute thresholds, then against the champion if there is one.

    `actual` holds the true value of each held-out row, in the order of the predictions. The
    bootstrap runs over whatever joblib backend is active, and gives the same result over each.
    """
    checks = [_predictions_fit(candidate.predictions, actual)]
    checks += _thresholds(candidate.metrics, policy)
    comparison = None
    if champion is None:
        checks.append((True, "no champion yet: the absolute thresholds alone decide"))
    elif not checks[0][0]:
        checks.append((False, f"not compared with champion version {champion.version}"))
    else:
        check, comparison = _against(champion, candidate, actual, policy, error=error, seed=seed)
        checks.append(check)
    return Decision(
        passed=all(passed for passed, _ in checks),
        reasons=tuple(f"{'pass' if passed else 'refuse'}: {text}" for passed, text in checks),
        champion_version=champion.version if champion else None,
        comparison=comparison,
    )


_Check = tuple[bool, str]


def _predictions_fit(predictions: NDArray[Any], actual: NDArray[Any]) -> _Check:
    if len(predictions) != len(actual):
        return False, f"{len(predictions)} predictions for {len(actual)} held-out rows"
    if bad := _non_finite(predictions):
        return False, f"{bad} of {len(actual)} predictions are NaN or infinite"
    return True, f"{len(actual)} held-out rows predicted, all finite"


def _thresholds(metrics: Mapping[str, float], policy: Policy) -> list[_Check]:
    bounds = [(name, bound, True) for name, bound in (policy.minimum or {}).items()]
    bounds += [(name, bound, False) for name, bound in policy.maximum.items()]
    return [_threshold(name, metrics.get(name), bound, low) for name, bound, low in bounds]


def _threshold(name: str, value: float | None, bound: float, is_minimum: bool) -> _Check:
    wanted = f"{'at least' if is_minimum else 'at most'} {bound:g}"
    if value is None or not math.isfinite(value):
        return False, f"{name} could not be measured ({value}), wanted {wanted}"
    reached = value >= bound if is_minimum else value <= bound
    return reached, f"{name} is {value:.6g}, wanted {wanted}"


def _against(
    champion: Champion,
    candidate: Candidate,
    actual: NDArray[Any],
    policy: Policy,
    *,
    error: str,
    seed: int,
) -> tuple[_Check, Comparison | None]:
    who = f"champion version {champion.version}"
    if champion.predictions is None:
        return (False, f"can't be compared with {who}: {champion.obstacle}"), None
    if len(champion.predictions) != len(actual):
        count = len(champion.predictions)
        return (False, f"{who} gave {count} predictions for {len(actual)} held-out rows"), None
    if bad := _non_finite(champion.predictions):
        text = f"{who} gives NaN or infinity for {bad} of {len(actual)} rows: any finite model wins"
        return (True, text), None
    comparison = compare(
        row_errors(candidate.predictions, actual, error),
        row_errors(champion.predictions, actual, error),
        policy,
        error=error,
        seed=seed,
    )
    return _verdict(comparison, policy, who), comparison


def _verdict(comparison: Comparison, policy: Policy, who: str) -> _Check:
    c = comparison
    facts = (
        f"against {who} on the same {c.rows} rows: {ERROR_WORDS[c.error]} {c.candidate_error:.6g} "
        f"against {c.champion_error:.6g}, change {c.change:+.2%}, "
        f"{c.confidence:.0%} interval {c.low:+.2%} to {c.high:+.2%}"
    )
    bound = f"{-policy.margin:+.2%}"
    if c.low >= -policy.margin:
        return True, f"{facts}: all of it above {bound}, no worse by more than the margin"
    if c.high < -policy.margin:
        return False, f"{facts}: all of it below {bound}, worse by more than the margin"
    text = f"{facts}: {bound} lies inside, inconclusive, and gate.inconclusive is"
    return policy.inconclusive == "accept", f"{text} {policy.inconclusive}"


def compare(
    candidate_errors: Floats, champion_errors: Floats, policy: Policy, *, error: str, seed: int
) -> Comparison:
    """Return the bootstrap interval of the relative change; both arrays hold one error a row.

    The interval of wrong labels is that of two rows more, see above; all else is of these rows.
    """
    drawn_from = candidate_errors, champion_errors
    if error == "zero_one":
        drawn_from = np.append(candidate_errors, (1, 0)), np.append(champion_errors, (0, 1))
    changes = _bootstrap(*drawn_from, policy.resamples, seed)
    tail = (1 - policy.confidence) / 2
    # No interpolation: a change may be minus infinity, and between infinities it would give NaN.
    low, high = np.quantile(changes, [tail, 1 - tail], method="inverted_cdf")
    means = candidate_errors.mean(), champion_errors.mean()
    return Comparison(
        error=error,
        rows=len(candidate_errors),
        champion_error=float(means[1]),
        candidate_error=float(means[0]),
        change=float(_relative_change(np.array([means[0]]), np.array([means[1]]))[0]),
        low=float(low),
        high=float(high),
        confidence=policy.confidence,
        resamples=policy.resamples,
    )


def row_errors(predictions: NDArray[Any], actual: NDArray[Any], error: str) -> Floats:
    """Return the squared error of each row, or 1 for each wrong label and 0 for each right one."""
    if error == "zero_one":
        return np.asarray(predictions != actual, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.square(predictions.astype(np.float64) - actual.astype(np.float64))


def _bootstrap(candidate: Floats, champion: Floats, resamples: int, seed: int) -> Floats:
    sizes = [CHUNK_RESAMPLES] * (resamples // CHUNK_RESAMPLES)
    sizes += [resamples % CHUNK_RESAMPLES] if resamples % CHUNK_RESAMPLES else []
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    chunks = joblib.Parallel()(
        joblib.delayed(_resample)(candidate, champion, size, chunk_seed)
        for size, chunk_seed in zip(sizes, seeds, strict=True)
    )
    return np.concatenate(chunks)


def _resample(
    candidate: Floats, champion: Floats, resamples: int, seed: np.random.SeedSequence
) -> Floats:
    generator = np.random.default_rng(seed)
    rows = len(candidate)
    block = max(1, BLOCK_DRAWS // rows)
    changes = []
    for start in range(0, resamples, block):
        shape = (min(block, resamples - start), rows)
        drawn = generator.integers(0, rows, size=shape)
        # One draw of rows for both models: the comparison is paired.
        changes.append(
            _relative_change(candidate[drawn].mean(axis=1), champion[drawn].mean(axis=1))
        )
    return np.concatenate(changes)


def _relative_change(candidate: Floats, champion: Floats) -> Floats:
    """Return (champion - candidate) / champion, and its limits where the champion has no error.

    A candidate without error is then no change; any error at all is infinitely worse.
    """
    perfect = champion == 0
    with np.errstate(over="ignore", invalid="ignore"):
        change = (champion - candidate) / np.where(perfect, 1.0, champion)
    limits = np.where(candidate == 0, 0.0, -np.inf)
    change = np.where(perfect, limits, change)
    # Errors so large that they overflow can't be told apart: that never counts for a candidate.
    return np.asarray(np.where(np.isnan(change), -np.inf, change), dtype=np.float64)


def _non_finite(predictions: NDArray[Any]) -> int:
    if not np.issubdtype(predictions.dtype, np.number):
        return 0
    return int(np.count_nonzero(~np.isfinite(predictions)))
