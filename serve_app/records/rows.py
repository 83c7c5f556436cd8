"""Records as one array, whatever their columns hold.

A signature of numbers only gives a float64 matrix, shape (records, features). Any other gives a
structured array, shape (records,), with a field for each column of its own type, text as str
objects. Both are sliced and joined alike, so nothing between client and model asks which it is.
In both, numbers of a `float` column are what 32-bit floats hold.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serve_app.records.signature import Column, Signature

Rows = npt.NDArray[Any]

_FIELDS: Final = {
    "double": "f8",
    "float": "f4",
    "long": "i8",
    "integer": "i4",
    "boolean": "?",
    "string": "O",
}


def empty(signature: Signature, records: int) -> Rows:
    """Return rows of that many records, not yet filled."""
    if signature.is_numeric:
        return np.empty((records, len(signature.columns)), dtype=np.float64)
    return np.empty(records, dtype=[(one.name, _FIELDS[one.type]) for one in signature.columns])


def column(rows: Rows, at: int) -> npt.NDArray[Any]:
    """Return a view of the column with that position in the signature, shape (records,)."""
    if rows.dtype.names is None:
        view: npt.NDArray[Any] = rows[:, at]
        return view
    return rows[rows.dtype.names[at]]


def singles(signature: Signature) -> list[int]:
    """Return the positions of the columns of 32-bit floats."""
    return [at for at, one in enumerate(signature.columns) if one.type == "float"]


def round_singles(rows: Rows, at: list[int]) -> None:
    """Round these columns of a matrix to 32-bit floats, in place."""
    rows[:, at] = rows[:, at].astype(np.float32)


def frame(rows: Rows, columns: tuple[Column, ...]) -> Any:
    """Return structured rows as a DataFrame, which is what estimators of mixed columns take."""
    import pandas as pd  # noqa: PLC0415  # slow to import, and only such models need it

    return pd.DataFrame({one.name: rows[one.name] for one in columns})
