"""The report, from made-up results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import picture, report, results
from benchmarks.results import BATCH_1000, CLOSED, STREAM_64, Results, by_rows, open_loop
from tests.unit.benchmarks.results_made import TITLES, empty, measurement


def full() -> Results:
    """Two rounds of every table."""
    found = empty()
    add = found.measurements.append
    for number in (1, 2):
        for name in TITLES:
            for case in CLOSED:
                add(measurement(name, case, round=number, per_s=1000.0 * number))
        for name in ("endeavour", "starlette"):
            add(measurement(name, open_loop(50), round=number, wanted_per_s=500.0))
            for rows in (1, 1000):
                add(measurement(name, by_rows("JSON list", rows), round=number, rows=rows))
        add(measurement("endeavour", STREAM_64, round=number, setup="1 worker"))
        add(measurement("starlette", STREAM_64, round=number, model="boosting"))
    return found


def test_results_read_back_are_those_that_were_written(tmp_path: Path) -> None:
    full().write(tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == full()


def test_the_report_has_every_server_with_median_and_spread() -> None:
    text = report.write(full())
    assert all(title in text for title in TITLES.values())
    assert "1,500 (1,000 to 2,000)" in text
    for title in (
        "Floors",
        "Closed loop",
        "Latency",
        "CPU time",
        "Rows per",
        "Workers",
        "Versions",
    ):
        assert f"## {title}" in text


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    text = report.write(full())
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 8
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1, lines[0]


def test_a_run_that_is_not_whole_says_so() -> None:
    found = empty()
    found.facts = replace(found.facts, is_whole=False)
    assert "Not a whole measurement" in report.write(found)


def test_cpu_time_is_told_for_a_million_records() -> None:
    one = measurement("endeavour", BATCH_1000, requests=2_000, rows=1_000, cpu_s=3.0)
    assert one.cpu_s_per_million == 1.5


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    picture.draw(full(), tmp_path)
    for name in (report.RELATIVE_PICTURE, report.ROWS_PICTURE):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["endeavour", "starlette", "flask"])
def test_a_run_of_one_server_has_a_report_too(tmp_path: Path, name: str) -> None:
    found = full()
    found.facts = replace(found.facts, titles={name: TITLES[name]})
    found.measurements = [one for one in found.measurements if one.server == name]
    picture.draw(found, tmp_path)
    assert f"{TITLES[name]}" in report.write(found)
