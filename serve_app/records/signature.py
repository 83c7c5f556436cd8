"""The model's signature, read from its `MLmodel` file without importing MLflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serve_app.model_errors import UnservableModelError

NUMERIC_TYPES: Final = frozenset({"double", "float", "long", "integer"})
INTEGER_TYPES: Final = frozenset({"long", "integer"})
TYPES: Final = NUMERIC_TYPES | {"boolean", "string"}


@dataclass(frozen=True)
class Column:
    """A named input column and its MLflow type."""

    name: str
    type: str

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers fit."""
        return self.type in INTEGER_TYPES

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers, and not text or truth values."""
        return self.type in NUMERIC_TYPES


@dataclass(frozen=True)
class Signature:
    """The input columns, in the order in which the estimator takes them."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def is_numeric(self) -> bool:
        """Whether every column holds numbers, so that rows are a plain matrix."""
        return all(column.is_numeric for column in self.columns)


def from_mlmodel(mlmodel: Mapping[str, Any]) -> Signature:
    """Return the signature that an `MLmodel` mapping holds.

    Raises UnservableModelError if there is none, or if it has unnamed columns or types that are
    not served.
    """
    try:
        specs = json.loads(mlmodel["signature"]["inputs"])
        columns = tuple(Column(str(spec["name"]), str(spec["type"])) for spec in specs)
    except (KeyError, TypeError, ValueError) as error:
        raise UnservableModelError(
            "the model has no signature with named columns: log it with `signature=`"
        ) from error
    if not columns:
        raise UnservableModelError("the model's signature has no input columns")
    for column in columns:
        if column.type not in TYPES:
            raise UnservableModelError(
                f"column {column.name!r} is of type {column.type}: "
                f"only {', '.join(sorted(TYPES))} are served"
            )
    return Signature(columns)
