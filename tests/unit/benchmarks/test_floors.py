"""What the table of floors says of results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import floors
from benchmarks.floors import THROUGHPUT
from benchmarks.results import BATCH_1000, STREAM_1, STREAM_64, Failure, Results, open_loop
from tests.unit.benchmarks.results_made import empty, measurement

PEERS = ("starlette", "flask", "litserve", "bentoml", "mlflow", "mosec", "ray_docs")


def just_met() -> Results:
    """Three rounds in which every floor is met exactly."""
    results = empty()
    wanted = {(case, peer): floor for case, peer, floor in THROUGHPUT}
    for number in (1, 2, 3):
        for case in (STREAM_64, BATCH_1000):
            results.measurements.append(measurement("endeavour", case, round=number))
            for peer in PEERS:
                per_s = 1000.0 / wanted.get((case, peer), 1.0)
                results.measurements.append(measurement(peer, case, round=number, per_s=per_s))
        for server, p50_ms in (("endeavour", 1.0), ("starlette", 0.125), ("ray_docs", 7.0)):
            results.measurements.append(measurement(server, STREAM_1, round=number, p50_ms=p50_ms))
        results.measurements.append(
            measurement("endeavour", open_loop(50), round=number, p50_ms=1.0, p99_ms=4.0)
        )
    return results


def row(results: Results, text: str) -> floors.Floor:
    """The one line of the table whose name holds `text`."""
    (found,) = [line for line in floors.check(results) if text in line.row]
    return found


def worse(results: Results, server: str, case: str, rounds: set[int], **values: float) -> Results:
    """The same results, with some figures changed in some rounds."""
    results.measurements = [
        replace(one, **values)  # type: ignore[arg-type]
        if (one.server, one.case) == (server, case) and one.round in rounds
        else one
        for one in results.measurements
    ]
    return results


def test_a_floor_that_is_just_reached_is_met() -> None:
    """All fifteen: eleven rates, two p50, the tail, the errors."""
    table = floors.check(just_met())
    assert len(table) == 15
    assert [line.row for line in table if line.met is not True] == []


@pytest.mark.parametrize(("case", "peer", "wanted"), THROUGHPUT)
def test_a_rate_below_its_floor_in_most_rounds_is_missed(
    case: str, peer: str, wanted: float
) -> None:
    """That line, and no other."""
    results = worse(just_met(), peer, case, {1, 2}, per_s=1000.0 / wanted * 1.01)
    missed = [line for line in floors.check(results) if line.met is False]
    assert len(missed) == 1
    assert missed[0].wanted == f"at least {wanted:g}x"


def test_one_bad_round_of_three_misses_nothing() -> None:
    """The median counts."""
    results = worse(just_met(), "endeavour", STREAM_64, {2}, per_s=10.0)
    assert all(line.met for line in floors.check(results))


def test_ratios_are_formed_within_a_round() -> None:
    """A round in which the machine was slow for both changes nothing."""
    results = just_met()
    results.measurements = [
        replace(one, per_s=one.per_s / 10) if one.round == 3 else one
        for one in results.measurements
    ]
    assert all(line.met for line in floors.check(results))


def test_a_p50_may_be_eight_times_that_of_starlette_and_no_more() -> None:
    slow = worse(just_met(), "endeavour", STREAM_1, {1, 2, 3}, p50_ms=1.01)
    assert row(slow, "p50 by Starlette").met is False
    assert row(slow, "documented layout by ours").met is False


def test_a_long_tail_at_half_of_capacity_is_missed() -> None:
    results = worse(just_met(), "endeavour", open_loop(50), {1, 2}, p99_ms=4.1)
    assert row(results, "p99 by p50").met is False


def test_a_single_error_in_any_load_of_this_service_is_a_miss() -> None:
    results = just_met()
    results.measurements.append(
        measurement("endeavour", "Arrow stream, 10 rows", errors=1, setup="2 workers")
    )
    assert row(results, "errors").met is False


def test_errors_of_a_peer_are_no_miss() -> None:
    results = just_met()
    results.measurements.append(measurement("mosec", "any", errors=7))
    assert row(results, "errors").met is True


def test_a_service_that_could_not_be_measured_in_a_round_is_a_miss() -> None:
    results = just_met()
    results.failures.append(Failure(2, "endeavour", "ended by itself"))
    assert row(results, "errors").met is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    table = floors.check(empty(titles={}))
    assert {(line.measured, line.met) for line in table} == {("not measured", None)}
