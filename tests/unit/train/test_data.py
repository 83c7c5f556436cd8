"""Data is checked before anything is fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from train.data import load
from train.errors import BadDataError
from train.settings import TrainSettings

MakeSettings = Callable[..., TrainSettings]
CLASSIFY = {
    "task": "classification",
    "estimator": {"path": "sklearn.linear_model.LogisticRegression"},
}


def refusal(make_settings: MakeSettings, table: pd.DataFrame, **sections: Any) -> str:
    """Return what the check says of a table that must be refused."""
    with pytest.raises(BadDataError) as caught:
        load(make_settings(table, **sections))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_good_data_is_split_in_feature_order(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Features come as float64 in the order of the settings, with the source's row numbers."""
    dataset = load(make_settings(table, data={"features": ["b", "a"]}))
    assert dataset.feature_names == ("b", "a")
    assert dataset.train.features.dtype == np.float64
    np.testing.assert_array_equal(dataset.test.rows, np.arange(45, 60))
    np.testing.assert_array_equal(dataset.test.features, table[["b", "a"]].to_numpy()[45:])


def test_all_features_are_every_column_but_target_and_time(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """`all` keeps the target and the column of a time split out."""
    split = {"by": "time", "column": "day", "test_size": 15}
    settings = make_settings(table.drop(columns="kind"), data={"features": "all"}, split=split)
    assert load(settings).feature_names == ("a", "b")


def test_missing_target_column_is_named(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """The message lists the columns that there are."""
    text = refusal(make_settings, table.drop(columns="y"))
    assert text == "data.target: no column 'y'; there are ['a', 'b', 'day', 'kind']"


def test_unknown_feature_is_named(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """A feature that the source lacks is refused."""
    assert "no column 'c'" in refusal(make_settings, table, data={"features": ["a", "c"]})


@pytest.mark.parametrize("features", [["a", "y"], ["a", "a"]])
def test_target_or_repeated_feature_is_refused(
    table: pd.DataFrame, make_settings: MakeSettings, features: list[str]
) -> None:
    """The target may not predict itself, and a feature counts once."""
    assert "named twice" in refusal(make_settings, table, data={"features": features})


def test_empty_target_is_refused_with_its_row(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Column and row of the first missing target are told, and how many more there are."""
    table.loc[17, "y"] = np.nan
    assert "column 'y', row 17: the target is missing" in refusal(make_settings, table)
    table.loc[30, "y"] = np.nan
    assert "row 17 (and 1 more row): the target is missing" in refusal(make_settings, table)
    table.loc[[31, 32], "y"] = np.nan
    assert "row 17 (and 3 more rows): the target is missing" in refusal(make_settings, table)


def test_source_without_rows_is_refused(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """A header alone is nothing to train on."""
    assert "too few rows" in refusal(make_settings, table.head(0))


@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "missing (NaN)"), (np.inf, "infinite"), (-np.inf, "infinite")]
)
def test_non_finite_feature_is_refused_with_its_row(
    table: pd.DataFrame, make_settings: MakeSettings, value: float, kind: str
) -> None:
    """Column and row of the first NaN or infinity are told."""
    table.loc[23, "b"] = value
    assert f"column 'b', row 23: the value is {kind}" in refusal(make_settings, table)


def test_infinite_target_is_refused(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """A regression's target must be finite."""
    table.loc[4, "y"] = np.inf
    assert "column 'y', row 4: the value is infinite" in refusal(make_settings, table)


def test_text_where_a_number_is_needed_is_refused_with_its_row(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """The first value that is no number is shown."""
    table["a"] = [f"{value}" for value in table["a"]]
    table.loc[41, "a"] = "unknown"
    text = refusal(make_settings, table)
    assert "column 'a', row 41: 'unknown' is not a number" in text


def test_numbers_written_as_text_are_refused(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """A text column is not guessed to be numbers."""
    table["a"] = [f"{value:.0f}" for value in table["a"]]
    assert "column 'a', row 0 (and 59 more rows)" in refusal(make_settings, table)


def test_constant_target_is_refused(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """There's nothing to learn from a target that never changes."""
    table["y"] = 4.5
    assert "column 'y': the target is constant" in refusal(make_settings, table)


@pytest.mark.parametrize(("rows", "part"), [(30, "train on"), (60, "hold out")])
def test_too_few_rows_are_refused(
    table: pd.DataFrame, make_settings: MakeSettings, rows: int, part: str
) -> None:
    """Both parts need their minimum of rows."""
    size = 15 if rows == 30 else 3
    text = refusal(make_settings, table.head(rows), split={"by": "last", "test_size": size})
    assert "too few rows" in text
    assert part in text


def test_row_in_both_parts_is_refused_with_both_numbers(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """A held-out row that was trained on would make the test a rehearsal."""
    table.loc[50] = table.loc[7]
    assert "row 50 (held out) repeats row 7 (trained on)" in refusal(make_settings, table)
    table.loc[[51, 55]] = table.loc[[7, 8]].to_numpy()
    assert "(and so do 2 more held-out rows)" in refusal(make_settings, table)


def test_rows_are_compared_before_features_are_selected(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Rows alike in the chosen feature and the target, but not elsewhere, are different rows."""
    table.loc[50, ["a", "y"]] = table.loc[7, ["a", "y"]]
    assert len(load(make_settings(table, data={"features": ["a"]})).test.rows) == 15


def test_rows_with_gaps_in_unused_columns_still_count_as_repeated(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """An empty cell equals an empty cell."""
    table.loc[7, "kind"] = None
    table.loc[50] = table.loc[7]
    assert "row 50" in refusal(make_settings, table)


def test_time_split_holds_out_the_latest_whole_days(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Rows of one moment stay together, whatever their order in the source."""
    shuffled = table.sample(frac=1, random_state=1).reset_index(drop=True)
    split = {"by": "time", "column": "day", "test_size": 15}
    dataset = load(make_settings(shuffled, split=split))
    days = shuffled["day"].to_numpy()
    assert len(dataset.test.rows) == 16
    assert days[dataset.train.rows].max() < days[dataset.test.rows].min()


def test_time_that_is_no_date_is_refused_with_its_row(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """The first value that can't be ordered is shown."""
    table.loc[9, "day"] = "yesterday"
    split = {"by": "time", "column": "day", "test_size": 15}
    text = refusal(make_settings, table, split=split)
    assert "column 'day', row 9: 'yesterday' is neither a number nor an ISO 8601 date" in text


def test_random_split_depends_on_the_seed_alone(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """The same seed holds out the same rows; another seed holds out others."""
    split = {"by": "random", "test_size": 0.25}
    first, again, other = (
        load(make_settings(table, split=split, seed=seed)).test.rows for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert len(first) == 15
    assert set(first) != set(other)


def test_text_labels_keep_their_shares_in_a_random_split(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Classification takes text labels, and draws each label alike."""
    split = {"by": "random", "test_size": 0.25}
    dataset = load(make_settings(table, data={"target": "kind"}, split=split, **CLASSIFY))
    assert dataset.train.target.dtype.kind == "U"
    shares = [(part.target == "high").mean() for part in (dataset.train, dataset.test)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_labels_that_are_fractions_are_refused(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """A number with a fraction is no label, and the way out is told."""
    text = refusal(make_settings, table, **CLASSIFY)
    assert "column 'y', row 0" in text
    assert "task: regression" in text


def test_whole_numbers_of_64_bits_are_labels_as_they_are(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Not by way of floats, which have 53 bits; larger numbers are refused."""
    large = np.where(table["a"] > 5, 2**53 + 1, 2**53 + 3)
    split = {"by": "random", "test_size": 0.25}
    dataset = load(make_settings(table.assign(y=large), split=split, **CLASSIFY))
    assert set(dataset.train.target.tolist()) == {2**53 + 1, 2**53 + 3}
    larger = table.assign(y=large.astype(np.uint64) + np.uint64(2**63))
    text = refusal(make_settings, larger, split=split, **CLASSIFY)
    assert f"column 'y', row 0 (and 59 more rows): {larger['y'].iloc[0]} is no label" in text


def test_label_rarer_than_the_folds_is_refused(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Every fold needs every label."""
    table.loc[3, "kind"] = "rare"
    text = refusal(make_settings, table, data={"target": "kind"}, **CLASSIFY)
    assert "label 'rare' stands in 1 rows" in text


def test_digest_follows_the_values_used_and_nothing_else(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """A changed cell changes the digest; an unused column doesn't."""
    before = load(make_settings(table)).digest
    assert load(make_settings(table.assign(kind="other"))).digest == before
    changed = table.assign(a=table["a"] + 1e-12 * (table.index == 2))
    assert load(make_settings(changed)).digest != before
