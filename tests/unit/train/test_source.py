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


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("y,a,y\n1,2,3\n", "column 'y' stands twice; rename one"),
        ("y,a\n1,2,5\n3,4,6\n", "rows hold more values than the header has names"),
        (",y,a\n0,1,2\n1,3,4\n", "column 1 has no name; name it, or write the file without it"),
        ("y,a,\n1,2,\n", "column 3 has no name"),
    ],
)
def test_columns_that_pandas_would_name_or_shift_are_refused(
    tmp_path: Path, content: str, text: str
) -> None:
    """A repeated target would be a feature, a value too many would shift all others by one."""
    file = tmp_path / "rows.csv"
    file.write_text(content)
    with pytest.raises(BadDataError) as caught:
        read(str(file), None, 10)
    assert str(caught.value).startswith(str(file))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["9007199254740997", "9007199254740993"], [9007199254740997, 9007199254740993]),
        (["1.0", "0.0", "2"], [1, 0, 2]),
        (["+1", "-1", " 1"], [1, -1, 1]),
        (["True", " false"], [True, False]),
        (["007", "7", "8"], ["007", "7", "8"]),
        (["1", "one"], ["1", "one"]),
        (["1.5", "x"], ["1.5", "x"]),
    ],
)
def test_labels_in_csv_are_numbers_only_if_all_are_plainly_so(
    tmp_path: Path, texts: list[str], labels: list[object]
) -> None:
    """What isn't is text as it stands, so no two labels become one."""
    file = tmp_path / "rows.csv"
    file.write_text("y,a\n" + "".join(f"{text},1\n" for text in texts))
    assert read(str(file), None, 10, labels="y")["y"].tolist() == labels


def test_an_index_with_a_name_is_a_column(tmp_path: Path) -> None:
    """Parquet keeps the index of a table as a column, which is there to be named."""
    file = tmp_path / "rows.parquet"
    TABLE.set_index("b").to_parquet(file)
    assert read(str(file), None, 10).columns.tolist() == ["b", "a"]
    TABLE[::-1].to_parquet(file)
    assert read(str(file), None, 10).columns.tolist() == ["a", "b"]


def test_commas_at_the_ends_of_rows_shift_nothing(tmp_path: Path) -> None:
    """Some programs write them; the first column is no index then."""
    file = tmp_path / "rows.csv"
    file.write_text("y,a\n1,2,\n3,4,\n")
    assert read(str(file), None, 10).to_dict("list") == {"y": [1, 3], "a": [2, 4]}
