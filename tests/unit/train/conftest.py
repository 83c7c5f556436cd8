"""Small tables and settings to train on, without network, Ray or MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from train.settings import TrainSettings

ROWS = 60

MakeSettings = Callable[..., TrainSettings]


@pytest.fixture
def table() -> pd.DataFrame:
    """Sixty rows of two features, a day, a class, and a target that follows the features."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(5, 2, ROWS), generator.normal(-1, 4, ROWS)
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "day": [f"2026-01-{1 + row // 2:02d}" for row in range(ROWS)],
            "kind": np.where(a > 5, "high", "low"),
            "y": 3 * a - 2 * b + 10 + generator.normal(0, 0.1, ROWS),
        }
    )


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings of a regression of `y` on `a` and `b` over a table; keywords replace sections."""

    def make(table: pd.DataFrame, **sections: Any) -> TrainSettings:
        source = tmp_path / "table.parquet"
        table.to_parquet(source)
        data = {"source": str(source), "target": "y", "features": ["a", "b"]}
        values: dict[str, Any] = {
            "split": {"by": "last", "test_size": 15},
            "estimator": {"path": "sklearn.linear_model.LinearRegression"},
            "cross_validation": {"folds": 3},
            **sections,
            "data": data | sections.get("data", {}),
        }
        return TrainSettings.model_validate(values)

    return make
