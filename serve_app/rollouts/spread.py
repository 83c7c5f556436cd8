"""How far apart a model's predictions lie: pure."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

MIN_VALUES: Final = 30
"""Values from which the spread is taken."""

MOST_VALUES: Final = 1_000
"""Values that are kept, drawn from all that came with equal chances (Vitter's algorithm R)."""

TAIL: Final = 0.05
"""Share of the values on either side that may be anything at all."""

NORMAL_WIDTH: Final = 3.28970725390294
"""Distance of a normal distribution's 95th percentile from its 5th, in standard deviations."""


class Spread:
    """The standard deviation of what a champion predicts, as it is seen.

    It is that of the normal distribution with the same 5th and 95th percentile: clients choose the
    records, and one absurd value must not make everything else look alike.
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
        kept = self._kept[: self._count]
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = np.quantile(kept, (TAIL, 1 - TAIL))
            # Of values that are nearly all the same, the others are what there is to go by.
            found = float((high - low) / NORMAL_WIDTH if high > low else kept.std(ddof=1))
        return found if np.isfinite(found) else None
