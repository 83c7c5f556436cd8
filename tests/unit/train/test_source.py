"""Rows come from CSV or Parquet, from anywhere that fsspec reaches."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pandas as pd
import pytest

from train.errors import BadDataError
from train.source import BUILTIN, read

TABLE = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.PQ"])
def test_format_follows_the_suffix(tmp_path: Path, name: str) -> None:
    """CSV and Parquet are told by their suffix, in either case."""
    file = tmp_path / name
    TABLE.to_csv(file, index=False) if file.suffix == ".csv" else TABLE.to_parquet(file)
    pd.testing.assert_frame_equal(read(str(file), None, 10), TABLE)


def test_format_given_goes_before_the_suffix(tmp_path: Path) -> None:
    """A file of any name can be read when its format is told."""
    file = tmp_path / "rows.data"
    TABLE.to_csv(file, index=False)
    assert len(read(str(file), "csv", 10)) == 2
    with pytest.raises(BadDataError, match=r"set data\.format to csv or parquet"):
        read(str(file), None, 10)


def test_url_of_another_file_system_is_read() -> None:
    """Any fsspec URL will do."""
    with fsspec.open("memory://rows.csv", "w") as file:
        TABLE.to_csv(file, index=False)
    assert read("memory://rows.csv", None, 10)["a"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_sets_need_no_file(name: str) -> None:
    """scikit-learn's own sets have a column `target`."""
    assert "target" in read(f"sklearn://{name}", None, 10).columns


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("sklearn://nothing", "no such built-in set; there are breast_cancer, diabetes"),
        ("missing/rows.csv", "no such file; correct data.source"),
        ("nosuch://bucket/rows.csv", "can't be read as csv (ValueError: Protocol not known"),
    ],
)
def test_source_that_is_not_there_is_refused(source: str, text: str) -> None:
    """Each fault has one line that names the source."""
    with pytest.raises(BadDataError) as caught:
        read(source, None, 10)
    assert str(caught.value).startswith(source)
    assert text in str(caught.value)


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    """A CSV file called Parquet is an error, not a traceback."""
    file = tmp_path / "rows.parquet"
    TABLE.to_csv(file, index=False)
    with pytest.raises(BadDataError, match="can't be read as parquet"):
        read(str(file), None, 10)
