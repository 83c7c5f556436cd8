"""Without lines of our own (`dispatch.lines: false`, or Ray's TLS): rows go by Serve's calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from serve_app.settings import Limits
from tests import models
from tests.integration.serving.conftest import Serve
from tests.running import Running

pytestmark = pytest.mark.system  # what `make test` serves has lines

NOTES = pd.DataFrame({"size": np.arange(30.0), "note": ["good", "bad", "none"] * 10})
ESTIMATOR = make_pipeline(
    make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["note"]), remainder="passthrough"
    ),
    LinearRegression(),
).fit(NOTES, 3 * NOTES["size"] + (NOTES["note"] == "good"))


def without_lines(config: dict[str, Any]) -> None:
    """Serve's slower calls."""
    config["applications"][0]["args"]["dispatch"] = {"lines": False}


@pytest.fixture(scope="module")
def service(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A model of records with a text."""
    directory = models.write_frame(tmp_path_factory.mktemp("notes") / "model", ESTIMATOR, NOTES)
    return serve(directory, without_lines)


@pytest.mark.parametrize("records", [1, 5000])
def test_records_are_answered_as_the_estimator_does(service: Running, records: int) -> None:
    """One, and more than fit into one call."""
    rows = pd.concat([NOTES] * (records // len(NOTES) + 1))[:records]
    answer = service.post("/batch", {"X": rows.to_dict("records")})
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["result"], ESTIMATOR.predict(rows))


@pytest.mark.parametrize("texts", [1, 100, 4096])
def test_a_body_as_large_as_may_be_is_answered(service: Running, texts: int) -> None:
    """All of it goes in one call, as the bound of rows counts eight bytes for a text."""
    room = Limits().max_body_bytes - 100
    note = "x" * (room // texts - 40)
    answer = service.post("/batch", {"X": [{"size": 1.0, "note": note}] * texts})
    assert answer.status_code == 200, answer.text
    expected = ESTIMATOR.predict(pd.DataFrame({"size": [1.0], "note": [note]}))
    np.testing.assert_allclose(answer.json()["result"], np.repeat(expected, texts))
