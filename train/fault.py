"""Where the bad values of a column stand, in words."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def where(values: pd.Series, is_bad: NDArray[np.bool_]) -> str:
    """Name the column, the source's number of the first bad row, and how many more there are.

    `values` is indexed by the source's row numbers; `is_bad` has at least one True.
    """
    positions = np.flatnonzero(is_bad)
    place = f"column {values.name!r}, row {values.index[positions[0]]}"
    more = len(positions) - 1
    if not more:
        return place
    return f"{place} (and {more:,} more row{'s' if more > 1 else ''})"
