"""A classifier of records with a column of each kind, which fails for some that fit its signature.

It raises for a city that it hasn't seen, and gives no finite probabilities for a huge income.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

CITIES = ["Oslo", "Rome", "São Paulo"]
GOOD: dict[str, Any] = {"income": 0.05, "visits": 3, "is_new": True, "city": "Rome"}
UNSEEN: dict[str, Any] = {**GOOD, "city": "Atlantis"}
HUGE: dict[str, Any] = {**GOOD, "income": 1e308}
LABELS = ("never", "often", "rarely")


def frame(count: int, seed: int = 0) -> pd.DataFrame:
    """Records as pandas has them."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "income": random.uniform(0, 0.1, count),
            "visits": random.integers(0, 50, count),
            "is_new": random.choice([False, True], count),
            "city": random.choice(CITIES, count),
        }
    )


def estimator() -> Any:
    """The fitted pipeline."""
    rows = frame(400)
    score = (
        600 * rows["income"] + rows["visits"] + 9 * rows["is_new"] - 5 * (rows["city"] == "Rome")
    )
    labels = np.select([score < 35, score < 70], ["never", "rarely"], "often")
    columns = make_column_transformer(
        (OneHotEncoder(), ["city"]), (StandardScaler(), ["visits"]), remainder="passthrough"
    )
    return make_pipeline(columns, LogisticRegression(C=1e3, max_iter=5000)).fit(rows, labels)
