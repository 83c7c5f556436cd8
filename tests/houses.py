"""A regression of records with a column of each kind that MLflow's protocol has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tests import models

CITIES = ["Oslo", "Rome", "São Paulo"]
RANDOM = np.random.default_rng(0)


def houses(count: int) -> pd.DataFrame:
    """Records with a column of each kind."""
    return pd.DataFrame(
        {
            "size": RANDOM.uniform(20, 200, count),
            "slope": RANDOM.normal(size=count).astype(np.float32),
            "rooms": RANDOM.integers(1, 9, count),
            "floor": RANDOM.integers(-1, 9, count).astype(np.int32),
            "is_new": RANDOM.choice([False, True], count),
            "city": RANDOM.choice(CITIES, count),
        }
    )


HOUSES = houses(1000)
ESTIMATOR = make_pipeline(
    make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough"),
    LinearRegression(),
).fit(HOUSES, 7 * HOUSES["size"] + HOUSES["slope"] + RANDOM.normal(size=len(HOUSES)))


def write(directory: Path) -> Path:
    """Write the model."""
    return models.write_frame(directory, ESTIMATOR, HOUSES)
