"""A BentoML service with typed inputs, as its documentation writes them."""

import os
from pathlib import Path

import bentoml
import numpy as np
import skops.io

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"


@bentoml.service
class Diabetes:
    def __init__(self) -> None:
        self.model = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))

    @bentoml.api(route="/stream")
    def stream(self, X: float) -> dict[str, float]:  # noqa: N803
        return {"result": float(self.model.predict(np.array([[X]]))[0])}

    @bentoml.api(route="/batch")
    def batch(self, X: list[float]) -> dict[str, list[float]]:  # noqa: N803
        return {"result": self.model.predict(np.array(X).reshape(-1, 1)).tolist()}
