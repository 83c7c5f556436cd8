"""The image serves its model with no MLflow anywhere, and leaves nothing behind.

The workflow `test.yml` does the same with a container engine, on every push.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import pytest
import requests
import skops.io

from contract import names
from contract.model_types import TRUSTED_TYPES
from tests.e2e.conftest import ServedImage
from tests.e2e.container import Image
from tests.running import Running

pytestmark = pytest.mark.system

Predict = Callable[..., list[float]]


@pytest.fixture(scope="module")
def service(served_image: ServedImage) -> Running:
    """What the image runs: MODEL_SERVED=local. The last test ends it."""
    return served_image.service


@pytest.fixture(scope="module")
def expected(image: Image) -> Predict:
    """What the image's model gives, read without serving."""
    file = image.serve.app / "model" / names.MODEL_FILE
    model = skops.io.load(file, trusted=list(TRUSTED_TYPES))

    def predict(*values: float) -> list[float]:
        result: list[float] = model.predict(np.array(values)[:, np.newaxis]).tolist()
        return result

    return predict


def test_stream_and_batch_answer_as_the_model_does(service: Running, expected: Predict) -> None:
    """One record and many, order kept, version named."""
    one = service.post("/stream", {"X": 0.2})
    assert one.status_code == 200
    np.testing.assert_allclose(one.json()["result"], expected(0.2)[0])
    assert 338 < one.json()["result"] < 343
    assert list(one.json()) == ["result"]
    assert one.headers["x-model-version"] == "1"  # as it was exported
    many = service.post("/batch", {"X": [0.2, 0.5, -0.1]})
    np.testing.assert_allclose(many.json()["result"], expected(0.2, 0.5, -0.1))


def test_the_health_routes_answer(service: Running, image: Image) -> None:
    """`/health` as the original had it; ready after a real prediction; so the image is healthy."""
    assert service.get("/health").text == "Ok"
    assert service.get("/health/live").status_code == 200
    assert service.get("/health/ready").status_code == 200
    assert image.health_code(service.environ) == 0


def test_no_mlflow_server_runs(service: Running) -> None:
    """The directory is all that local mode needs."""
    with pytest.raises(requests.ConnectionError):
        requests.get(service.mlflow_uri, timeout=5)
    assert not [p for p in service.processes() if "mlflow" in " ".join(p.cmdline()).split()]


def test_sigterm_ends_the_image_which_has_written_to_var_only(
    service: Running, image: Image, served_image: ServedImage
) -> None:
    """Exit code 0, no process, no port; after all the tests above."""
    stopped = service.interrupt(signal.SIGTERM)
    assert (stopped.code, stopped.processes_left, stopped.ports_held) == (0, [], [])
    assert image.health_code(service.environ) == 1
    assert image.files() == served_image.files
