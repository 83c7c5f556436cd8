"""Where rows come from: CSV or Parquet at any fsspec URL, or a set that scikit-learn carries."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Literal

import fsspec
import pandas as pd
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


def read(source: str, file_format: Literal["csv", "parquet"] | None, wait_s: float) -> pd.DataFrame:
    """Return the rows at `source`, numbered from 0. Raises BadDataError if they can't be read."""
    if source.startswith(BUILTIN_SCHEME):
        return _builtin(source)
    file_format = file_format or _format_by_suffix(source)
    try:
        with deadline.limit(wait_s), fsspec.open(source, "rb") as file:
            frame = pd.read_csv(file) if file_format == "csv" else pd.read_parquet(file)
    except deadline.DeadlineExceededError as error:
        raise BadDataError(f"{source}: reading it took longer than {wait_s:g} s") from error
    except FileNotFoundError as error:
        raise BadDataError(f"{source}: no such file; correct data.source") from error
    except Exception as error:  # each file system and format has errors of its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadDataError(f"{source}: can't be read as {file_format} ({reason})") from error
    return frame.reset_index(drop=True)


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
