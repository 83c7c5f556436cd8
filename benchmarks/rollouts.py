"""Simulate rollouts by the thousand: `python -m benchmarks.rollouts [--runs N] [--quick]`.

Writes the tables of docs/rollouts.md: how often a version as good as the champion is aborted, how
often and how early a worse one, and what fixed thresholds do on the same traffic.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import track

from benchmarks.rollout_runs import Check, Fixed, Run, Scenario, ours, run
from launcher import console
from serve_app.rollouts.policy import Policy

DOC: Final = Path(__file__).parents[1] / "docs" / "rollouts.md"
BEGIN: Final = "<!-- simulated: begin -->\n"
END: Final = "<!-- simulated: end -->\n"
SEED: Final = 4
RUNS: Final = 400
QUICK_RUNS: Final = 5
RATES: Final = (5, 50, 500, 5000)
WORSE_ERRORS: Final = (0.005, 0.01, 0.02, 0.05, 0.20)

GOOD_HEAD: Final = """\
| as good as the champion | requests/s | failed | past the deadline | minutes to promotion, \
median (95th percentile) | fixed, strict: aborted | fixed, lax: aborted |
|---|---:|---:|---:|---:|---:|---:|
"""
BAD_HEAD: Final = """\
| worse than the champion | requests/s | failed | past the deadline | stopped at, 95th percentile \
| live requests until then, median (95th percentile) | seconds until then, median \
| fixed, strict: aborted (live, median) | fixed, lax: aborted (live, median) |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def good() -> list[Scenario]:
    """Versions as good as the champion."""
    scenarios = [
        Scenario(f"{base:.1%} errors in both", rate, base)
        for base in (0.0, 0.001, 0.01)
        for rate in RATES
    ]
    drifting = "1% errors in both, swinging by 90%"
    scenarios += [Scenario(drifting, rate, 0.01, drifts=True) for rate in RATES]
    return [
        *scenarios,
        Scenario("0.1% errors in both, 10% labelled", labelled_share=0.1),
        Scenario("one client's requests, 0.1% of all, always fail", failing_client=0.001),
        Scenario("one client's requests, 5% of all, always fail", failing_client=0.05),
    ]


def bad() -> list[Scenario]:
    """Versions worse than the champion, which fails 0.1% of requests."""
    scenarios = [
        Scenario(f"errors +{more:.1%}", rate, more_errors=more)
        for more in WORSE_ERRORS
        for rate in RATES
    ]
    scenarios += [
        Scenario(f"missing +{more:.1%}", more_missing=more) for more in (0.005, 0.01, 0.05)
    ]
    scenarios += [
        Scenario(f"{times:g} times slower", rate, times_slower=times)
        for times in (1.2, 1.5, 2.0, 3.0)
        for rate in (5, 50)
    ]
    scenarios += [
        Scenario(f"{share:.0%} of records shifted by {by:g} sd", shifted_by=by, shifted_share=share)
        for share, by in ((1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (0.3, 0.5), (0.3, 1.0))
    ]
    return scenarios + [
        Scenario(
            f"worse for {worse:.0%} of labels, {share:.0%} labelled",
            rate,
            labelled_share=share,
            worse_share=worse,
        )
        for worse in (0.55, 0.6, 0.7)
        for share in (0.01, 0.10)
        for rate in (50, 500)
    ]


@dataclass(frozen=True)
class Measured:
    """A scenario's runs by this service's decision, and by fixed thresholds."""

    scenario: Scenario
    ours: list[Run]
    strict: list[Run]
    lax: list[Run]


def measure(job: tuple[int, Scenario, int]) -> Measured:
    """Walk a scenario's runs three times over: (its number, itself, runs)."""
    number, scenario, runs = job
    policy = Policy()

    def walk(check: Callable[[], Check]) -> list[Run]:
        return [run(scenario, policy, check(), (SEED, number, one)) for one in range(runs)]

    return Measured(
        scenario,
        walk(lambda: ours(policy)),
        walk(lambda: Fixed(policy, lambda tolerance: tolerance.fail_above)),
        walk(lambda: Fixed(policy, lambda tolerance: tolerance.pass_below)),
    )


def share(runs: Sequence[Run], *outcomes: str) -> str:
    """The share of runs with one of these outcomes, in percent."""
    return f"{sum(one.outcome in outcomes for one in runs) / len(runs):.1%}"


def spread(values: Iterable[float]) -> str:
    """The median, and the 95th percentile in brackets."""
    found = list(values)
    if not found:
        return "-"
    middle, high = np.quantile(found, [0.5, 0.95], method="inverted_cdf")
    return f"{middle:,.0f} ({high:,.0f})"


def line(found: Measured, *cells: str) -> str:
    """A line of either table: what both begin with, then its own cells."""
    scenario = found.scenario
    judged = share(found.ours, "failed"), share(found.ours, "deadline")
    return (
        "| " + " | ".join([scenario.name, f"{scenario.requests_per_s:g}", *judged, *cells]) + " |\n"
    )


def good_line(found: Measured) -> str:
    """A line of the first table."""
    minutes = [one.seconds / 60 for one in found.ours if one.outcome == "promoted"]
    return line(
        found,
        spread(minutes),
        share(found.strict, "failed", "deadline"),
        share(found.lax, "failed", "deadline"),
    )


def bad_line(found: Measured) -> str:
    """A line of the second table."""
    policy = Policy()
    stopped = [one for one in found.ours if one.outcome != "promoted"]
    where = "-"
    if stopped:
        step = int(np.quantile([one.step for one in stopped], 0.95, method="inverted_cdf"))
        where = f"{policy.steps[step].weight:.0%}" if policy.steps[step].weight else "shadow"
    return line(
        found,
        where,
        spread(one.live for one in stopped),
        f"{np.median([one.seconds for one in stopped]):,.0f}" if stopped else "-",
        fixed_cell(found.strict),
        fixed_cell(found.lax),
    )


def fixed_cell(runs: Sequence[Run]) -> str:
    """The share that fixed thresholds abort, and the live requests until then."""
    live = [one.live for one in runs if one.outcome != "promoted"]
    return share(runs, "failed", "deadline") + (f" ({np.median(live):,.0f})" if live else "")


def tables(runs: int, only: str = "") -> str:
    """Simulate all scenarios whose names hold `only`, and return both tables."""
    count = len(good())
    jobs = [(number, one, runs) for number, one in enumerate(good() + bad()) if only in one.name]
    with ProcessPoolExecutor() as pool:
        found = list(track(pool.map(measure, jobs), "rollouts", total=len(jobs)))
    lines = [good_line(one) for job, one in zip(jobs, found, strict=True) if job[0] < count]
    others = [bad_line(one) for job, one in zip(jobs, found, strict=True) if job[0] >= count]
    head = f"`python -m benchmarks.rollouts --runs {runs}`: {runs} rollouts a line.\n\n"
    return head + GOOD_HEAD + "".join(lines) + "\n" + BAD_HEAD + "".join(others)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollouts",
        description="Simulate rollouts, and write the tables of docs/rollouts.md.",
        epilog="With --quick or --only the tables are only printed.",
    )
    parser.add_argument("--runs", type=_positive, help=f"rollouts for each line ({RUNS})")
    parser.add_argument(
        "--quick", action="store_true", help=f"see that it works: {QUICK_RUNS} runs"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="lines whose names hold this")
    options = parser.parse_args(arguments)
    written = tables(options.runs or (QUICK_RUNS if options.quick else RUNS), options.only)
    if options.quick or options.only:
        console.say(written)
        return 0
    before, _, rest = DOC.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{BEGIN}{written}{END}{after}")
    console.say(f"written: {DOC}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
