"""Rows that may be trained on: read, checked, split and digested before anything is fitted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from train import fault, source, split
from train.errors import BadDataError
from train.settings import Task, TimeSplit, TrainSettings

Matrix = NDArray[np.float64]

_LABELS_END = 2**63
"""Labels are 64-bit integers, below this in size."""


@dataclass(frozen=True)
class Part:
    """Some rows of the source: their numbers (from 0), features (rows x features), targets."""

    rows: split.Rows
    features: Matrix
    target: NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """Checked data; `frame` is the whole source, for models that use other columns."""

    frame: pd.DataFrame
    feature_names: tuple[str, ...]
    target_name: str
    train: Part
    test: Part

    @property
    def digest(self) -> str:
        """SHA-256 over names and values of all that a model is fitted and judged on."""
        digest = hashlib.sha256(json.dumps([self.feature_names, self.target_name]).encode())
        for part in (self.train, self.test):
            digest.update(part.features.tobytes())
            digest.update(json.dumps(part.target.tolist()).encode())
        return digest.hexdigest()

    def table(self, part: Part) -> pd.DataFrame:
        """Return a part as named columns, target last, indexed by source row."""
        table = pd.DataFrame(part.features, columns=list(self.feature_names), index=part.rows)
        table[self.target_name] = part.target
        return table.rename_axis("row")


def load(settings: TrainSettings) -> Dataset:
    """Return the data that the settings name, checked and split.

    Raises BadDataError with column and row (numbered from 0, without the header) for data that
    must not be trained on.
    """
    data = settings.data
    labelled = data.target if settings.task == "classification" else None
    frame = source.read(data.source, data.format, settings.deadlines.read_s, labelled)
    names = _feature_names(frame, settings)
    if frame.empty:
        raise BadDataError(f"{data.source}: too few rows: it has columns, but no row")
    target = _target(frame, data.target, settings.task)
    features = numbers(frame, names)
    labels = pd.Series(target) if settings.task == "classification" else None
    train_rows, test_rows = split.split(frame, settings.split, labels, settings.seed)
    dataset = Dataset(
        frame=frame,
        feature_names=names,
        target_name=data.target,
        train=Part(train_rows, features[train_rows], target[train_rows]),
        test=Part(test_rows, features[test_rows], target[test_rows]),
    )
    _check_sizes(dataset, settings)
    _check_target_varies(dataset)
    _check_parts_are_disjoint(dataset)
    return dataset


def numbers(frame: pd.DataFrame, columns: tuple[str, ...]) -> Matrix:
    """Return columns as float64, rows x columns; the frame's index numbers the source's rows.

    Raises BadDataError at the first value that is no finite number.
    """
    matrix = np.empty((len(frame), len(columns)))
    for position, column in enumerate(columns):
        matrix[:, position] = _number_column(frame, column)
    return matrix


def _number_column(frame: pd.DataFrame, column: str) -> Matrix:
    values = frame[column]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_complex_dtype(values):
        raise BadDataError(_describe_text(values))
    floats = values.to_numpy(dtype=np.float64, na_value=np.nan)
    for kind, is_bad in (("missing (NaN)", np.isnan(floats)), ("infinite", np.isinf(floats))):
        if is_bad.any():
            raise BadDataError(
                f"{fault.where(values, is_bad)}: the value is {kind}; fill or drop it"
            )
    return floats


def _describe_text(values: pd.Series) -> str:
    """Point at the first value that is no number; all may look like numbers, in a text column."""
    is_number = pd.to_numeric(values.astype("str"), errors="coerce").notna()
    is_bad = (~is_number & values.notna()).to_numpy(dtype=np.bool_)
    if not is_bad.any():
        is_bad = np.ones(len(values), dtype=np.bool_)
    return (
        f"{fault.where(values, is_bad)}: {values.iloc[int(is_bad.argmax())]!r} is not a number "
        f"(the column's type is {values.dtype}); encode it as numbers or leave it out of the model"
    )


def _feature_names(frame: pd.DataFrame, settings: TrainSettings) -> tuple[str, ...]:
    data = settings.data
    columns = [str(column) for column in frame.columns]
    frame.columns = pd.Index(columns)
    if data.target not in columns:
        raise BadDataError(f"data.target: no column {data.target!r}; there are {columns}")
    if data.features == "all":
        kept_out = {data.target}
        if isinstance(settings.split, TimeSplit):
            kept_out.add(settings.split.column)
        names = tuple(name for name in columns if name not in kept_out)
    else:
        names = data.features
    if not names:
        raise BadDataError(f"{data.source} has no column beside the target {data.target!r}")
    for name in names:
        if name not in columns:
            raise BadDataError(f"data.features: no column {name!r}; there are {columns}")
        if name == data.target or names.count(name) > 1:
            raise BadDataError(f"data.features: {name!r} is the target, or named twice")
    return names


def _target(frame: pd.DataFrame, column: str, task: Task) -> NDArray[Any]:
    values = frame[column]
    if values.isna().any():
        place = fault.where(values, values.isna().to_numpy())
        raise BadDataError(
            f"{place}: the target is missing; drop the row (in CSV words such as NA and None "
            "are missing values: if that is a label, spell it otherwise)"
        )
    return _number_column(frame, column) if task == "regression" else _labels(values)


def _labels(values: pd.Series) -> NDArray[Any]:
    """Return class labels: whole numbers (truth values too) as int64, anything else as text."""
    if not pd.api.types.is_numeric_dtype(values):
        return np.asarray(values.astype("str").to_list(), dtype=np.str_)
    if pd.api.types.is_integer_dtype(values) and int(values.max()) < _LABELS_END:
        return values.to_numpy(dtype=np.int64)
    floats = values.to_numpy(dtype=np.float64)
    is_bad = ~(np.abs(floats) < _LABELS_END) | (floats != np.round(floats))
    if is_bad.any():
        value = values.iloc[int(is_bad.argmax())]
        raise BadDataError(
            f"{fault.where(values, is_bad)}: {value} is no label; "
            "labels are whole numbers of 64 bits or text (set task: regression for numbers)"
        )
    return floats.astype(np.int64)


def _check_sizes(dataset: Dataset, settings: TrainSettings) -> None:
    data, folds = settings.data, settings.cross_validation.folds
    for name, part, least in (
        ("train on", dataset.train, max(data.minimum_train_rows, folds)),
        ("hold out", dataset.test, data.minimum_test_rows),
    ):
        if len(part.rows) < least:
            raise BadDataError(
                f"{data.source}: too few rows: {len(part.rows)} to {name}, at least {least} needed "
                f"({len(dataset.frame)} rows in all)"
            )
    if settings.task == "classification":
        _check_labels(dataset, folds)


def _check_labels(dataset: Dataset, folds: int) -> None:
    labels, counts = np.unique(dataset.train.target, return_counts=True)
    if counts.min() < folds:
        label, count = labels[counts.argmin()], counts.min()
        raise BadDataError(
            f"column {dataset.target_name!r}: label {str(label)!r} stands in {count} rows to train "
            f"on, fewer than the {folds} folds of cross-validation; set fewer folds, or drop it"
        )


def _check_target_varies(dataset: Dataset) -> None:
    for name, part in (("train on", dataset.train), ("hold out", dataset.test)):
        if (part.target == part.target[0]).all():
            raise BadDataError(
                f"column {dataset.target_name!r}: the target is constant: every row to {name}, "
                f"from row {part.rows[0]} on, holds {part.target[0].item()!r}"
            )


def _check_parts_are_disjoint(dataset: Dataset) -> None:
    """Refuse a held-out row that equals a training row in every column of the source."""
    kinds = dataset.frame.dtypes
    # Cells may hold lists and the like, which can't be hashed; their text can.
    whole = dataset.frame.astype(dict.fromkeys(kinds.index[kinds == np.object_], "str"))
    hashes = pd.util.hash_pandas_object(whole, index=False).to_numpy()
    first_row = dict(zip(hashes[dataset.train.rows][::-1], dataset.train.rows[::-1], strict=True))
    for row in dataset.test.rows:
        twin = first_row.get(hashes[row])
        if twin is not None and whole.iloc[row].equals(whole.iloc[twin]):
            more = np.isin(hashes[dataset.test.rows], hashes[dataset.train.rows]).sum() - 1
            others = f" (and so do {more:,} more held-out rows)" if more else ""
            raise BadDataError(
                f"row {row} (held out) repeats row {twin} (trained on) in every column{others}: "
                "the test would be rehearsed; drop the duplicates or choose another split"
            )
