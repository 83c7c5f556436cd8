"""Whole rollouts with a simulated clock and seeded traffic: the short form of the documented table.

`python -m benchmarks.rollouts` walks thousands.
"""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest

from benchmarks import rollouts
from benchmarks.rollout_runs import Run, Scenario, ours, run
from contract.strict import Strict
from serve_app.rollouts.policy import Policy, Step, Tolerance

POLICY = Policy()
TEXT = rollouts.DOC.read_text()
RUNS = 20
MANY = 100


def walked(scenario: Scenario, policy: Policy = POLICY, runs: int = RUNS) -> list[Run]:
    """A scenario's rollouts, each with a seed of its own."""
    return [run(scenario, policy, ours(policy), (11, seed)) for seed in range(runs)]


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("no errors", base_errors=0.0),
        Scenario("few errors"),
        Scenario("errors that swing", 500, 0.01, drifts=True),
        Scenario("labels", labelled_share=0.1),
    ],
    ids=lambda scenario: scenario.name,
)
def test_a_version_as_good_as_the_champion_goes_through(scenario: Scenario) -> None:
    """At most one in twenty is aborted."""
    promoted = sum(one.outcome == "promoted" for one in walked(scenario))
    assert promoted >= 0.95 * RUNS


def test_an_identical_version_fails_in_at_most_5_percent_where_nothing_is_tolerated() -> None:
    """Without the tolerances' slack the bound itself must hold: 200 rollouts of two steps."""
    steps = (Step(weight=0.5, min_s=200), Step(weight=1.0, min_s=200))
    exact = Tolerance(fail_above=0, pass_below=0.05)
    policy = Policy(steps=steps, errors=exact, missing=exact, shadow=1.0)
    found = walked(Scenario("identical", base_errors=0.05), policy, runs=200)
    assert sum(one.outcome != "promoted" for one in found) <= 0.05 * len(found)


ONE_CLIENT = "one client's requests, 5% of all, always fail"
"""Its requests fall to one version or the other as a whole, which the docs name as no guarantee."""


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_versions_as_good_as_the_champion_are_aborted_in_at_most_5_percent() -> None:
    """A hundred rollouts for each line of the documented table but that one."""
    scenarios = [one for one in rollouts.good() if one.name != ONE_CLIENT]
    assert len(scenarios) == len(rollouts.good()) - 1
    with ProcessPoolExecutor() as pool:
        found = dict(zip(scenarios, pool.map(partial(walked, runs=MANY), scenarios), strict=True))
    aborted = {
        (scenario.name, scenario.requests_per_s): sum(one.outcome != "promoted" for one in runs)
        for scenario, runs in found.items()
    }
    print(f"\naborted of {MANY} rollouts each: {aborted}")
    assert max(aborted.values()) <= 0.05 * MANY


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("5% more errors", more_errors=0.05),
        Scenario("5% more missing", more_missing=0.05),
        Scenario("3 times slower", times_slower=3.0),
        Scenario("shifted by 1 sd", shifted_by=1.0),
        Scenario("shifted by 1 sd for 30%", shifted_by=1.0, shifted_share=0.3),
    ],
    ids=lambda scenario: scenario.name,
)
def test_a_bad_version_is_stopped_at_5_percent_or_before(scenario: Scenario) -> None:
    """By a verdict, not by the deadline."""
    found = walked(scenario)
    assert {one.outcome for one in found} == {"failed"}
    assert max(POLICY.steps[one.step].weight for one in found) <= 0.05


def test_a_version_without_traffic_is_never_promoted() -> None:
    """It is aborted at the deadline of the first step."""
    (found,) = walked(Scenario("nobody asks", requests_per_s=0.0), runs=1)
    assert (found.outcome, found.step, found.live) == ("deadline", 0, 0)


def test_the_command_prints_a_line_for_each_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    """It leaves the documentation alone unless all is simulated."""
    assert rollouts.main(["--quick", "--runs", "2", "--only", "errors +20"]) == 0
    out = capsys.readouterr().out
    for rate in rollouts.RATES:
        assert f"| errors +20.0% | {rate} | 100.0% | 0.0% | shadow | 0 (0) |" in out
    assert rollouts.DOC.read_text() == TEXT


def shown(value: object) -> str:
    """A default as the documentation writes it."""
    if isinstance(value, Tolerance):
        return f"{value.fail_above:g}, {value.pass_below:g}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else "see above"


@pytest.mark.parametrize("settings", [Policy, Step])
def test_the_documentation_has_every_setting_with_its_default(settings: type[Strict]) -> None:
    """And no other one."""
    tables = TEXT[TEXT.index("## Settings") : TEXT.index("## How well it decides")]
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", tables, re.MULTILINE))
    for name, field in settings.model_fields.items():
        expected = "required" if field.is_required() else shown(field.default)
        assert documented[name] == expected, name
    assert set(documented) == {*Policy.model_fields, *Step.model_fields}
