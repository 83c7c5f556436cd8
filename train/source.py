"""Where rows come from: CSV or Parquet at any fsspec URL, or a set that scikit-learn carries."""

import io
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO, Final, Literal

import fsspec
import pandas as pd
from pandas.errors import ParserWarning
from sklearn import datasets

from train import deadline
from train.errors import BadDataError

BUILTIN_SCHEME = "sklearn://"
BUILTIN: dict[str, Callable[..., object]] = {
    "breast_cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
}
SUFFIXES: dict[str, Literal["csv", "parquet"]] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}

_PLAIN_NUMBER: Final = r"[+-]?(?:(?:[1-9][0-9]*|0)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|inf)"
_TRUTH: Final = {"True": True, "TRUE": True, "true": True} | dict.fromkeys(
    ("False", "FALSE", "false"), False
)


def read(
    source: str,
    file_format: Literal["csv", "parquet"] | None,
    wait_s: float,
    labels: str | None = None,
) -> pd.DataFrame:
    """Return the rows at `source`, numbered from 0. Raises BadDataError if they can't be read.

    `labels` names the column of class labels, if there is one. CSV says of no value what type it
    has: labels are numbers or truth values if all are plainly written so, else text as it stands.
    """
    if source.startswith(BUILTIN_SCHEME):
        return _builtin(source)
    file_format = file_format or _format_by_suffix(source)
    try:
        with deadline.limit(wait_s), fsspec.open(source, "rb") as file:
            return _csv(file, labels) if file_format == "csv" else _parquet(file)
    except deadline.DeadlineExceededError as error:
        raise BadDataError(f"{source}: reading it took longer than {wait_s:g} s") from error
    except FileNotFoundError as error:
        raise BadDataError(f"{source}: no such file; correct data.source") from error
    except _OddTableError as error:
        raise BadDataError(f"{source}: {error}") from error
    except Exception as error:  # each file system and format has errors of its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadDataError(f"{source}: can't be read as {file_format} ({reason})") from error


class _OddTableError(Exception):
    """What is wrong with the columns of a file."""


def _csv(file: IO[bytes], labels: str | None) -> pd.DataFrame:
    content = io.BytesIO(file.read())
    _check_header(pd.read_csv(content, header=None, nrows=1, dtype="str", keep_default_na=False))
    content.seek(0)
    with warnings.catch_warnings():
        # It would leave out, with a warning, what stands in rows beyond the header's columns; left
        # to itself it would take the first column for an index, and move all others by one.
        warnings.simplefilter("error", ParserWarning)
        try:
            dtype = {} if labels is None else {labels: "str"}
            frame = pd.read_csv(content, dtype=dtype, index_col=False)
        except ParserWarning as error:
            raise _OddTableError(
                "rows hold more values than the header has names; name every column"
            ) from error
    if labels in frame.columns:
        frame[labels] = _typed(frame[labels])
    return frame


def _check_header(header: pd.DataFrame) -> None:
    """Refuse what pandas would give a name of its own: no name, or one that stands twice."""
    names = [str(name) for name in header.iloc[0]]
    for number, name in enumerate(names, start=1):
        if not name:
            raise _OddTableError(
                f"column {number} has no name; name it, or write the file without it "
                "(pandas: to_csv(index=False))"
            )
        if names.index(name) != number - 1:
            raise _OddTableError(f"column {name!r} stands twice; rename one")


def _typed(values: pd.Series) -> pd.Series:
    texts = values.str.strip()
    present = texts.dropna()
    if present.str.fullmatch(_PLAIN_NUMBER).all():
        return pd.to_numeric(texts)
    return texts.map(_TRUTH) if present.isin(_TRUTH).all() else values


def _parquet(file: IO[bytes]) -> pd.DataFrame:
    frame = pd.read_parquet(file)
    named = [name for name in frame.index.names if name is not None]
    # An index with a name is a column of the file like any other.
    return frame.reset_index(level=named).reset_index(drop=True)


def _builtin(source: str) -> pd.DataFrame:
    name = source.removeprefix(BUILTIN_SCHEME)
    if name not in BUILTIN:
        raise BadDataError(f"{source}: no such built-in set; there are {', '.join(BUILTIN)}")
    frame: pd.DataFrame = BUILTIN[name](as_frame=True).frame  # type: ignore[attr-defined]
    return frame


def _format_by_suffix(source: str) -> Literal["csv", "parquet"]:
    suffix = PurePosixPath(source.partition("?")[0]).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadDataError(
            f"{source}: the format can't be told from {suffix or 'a name without suffix'!r}; "
            "set data.format to csv or parquet"
        )
    return SUFFIXES[suffix]
