"""How far apart a model's predictions lie: pure."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

MIN_VALUES: Final = 100
"""Values from which the spread is taken: so many that one of them is no more than a tail."""

MOST_VALUES: Final = 1_000
"""Values that are kept, drawn from all that came with equal chances (Vitter's algorithm R)."""

TAIL: Final = 0.02
"""Share of the values on either side that may be anything at all."""


class Spread:
    """The standard deviation of what a champion predicts, as it is seen, without its tails.

    Clients choose the records, and one absurd value must not make everything else look alike. So
    values beyond the 2nd and 98th percentile count as these. If nearly all are alike, the others
    count by their median distance.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._kept: npt.NDArray[np.float64] = np.empty(MOST_VALUES)
        self._count = 0
        self._random = np.random.default_rng(seed)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count the finite ones of these numbers in."""
        found = values.astype(np.float64)
        found = found[np.isfinite(found)]
        seen = self._count + np.arange(len(found))
        places = np.where(seen < MOST_VALUES, seen, self._random.integers(0, seen + 1))
        is_kept = places < MOST_VALUES
        self._kept[places[is_kept]] = found[is_kept]
        self._count += len(found)

    @property
    def deviation(self) -> float | None:
        """The standard deviation; None while it can't be told."""
        if self._count < MIN_VALUES:
            return None
        kept = np.sort(self._kept[: self._count])
        beyond = int(np.ceil(TAIL * len(kept)))
        low, high = kept[beyond], kept[-1 - beyond]
        with np.errstate(over="ignore", invalid="ignore"):
            found = kept.clip(low, high).std(ddof=1) if low < high else _of_others(kept)
        return float(found) if np.isfinite(found) else None


def _of_others(ordered: npt.NDArray[np.float64]) -> float:
    """Return the standard deviation of values that are one in the middle, and rarely another."""
    distances = np.abs(ordered - ordered[len(ordered) // 2])
    others = distances[distances > 0]
    if not len(others):
        return 0.0
    return float(np.median(others) * np.sqrt(len(others) / len(ordered)))
