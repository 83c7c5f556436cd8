"""A slow classifier under load: labels, probabilities, and workers that follow the load."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import requests
from sklearn.datasets import make_classification
from sklearn.neighbors import KNeighborsClassifier

from tests import models, running
from tests.integration.serving.conftest import Serve
from tests.running import Running

NAMES = ["a", "b", "c", "d"]
DATA, TARGET = make_classification(
    n_samples=20_000, n_features=4, n_informative=3, n_redundant=0, random_state=0
)
LABELS = np.where(TARGET == 1, "yes", "no")


def short_delays(config: dict[str, Any]) -> None:
    """One to two workers, within seconds."""
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == "ModelWorker":
            deployment["autoscaling_config"].update(
                min_replicas=1,
                max_replicas=2,
                look_back_period_s=4,
                upscale_delay_s=1,
                downscale_delay_s=3,
            )


pytestmark = pytest.mark.system  # half a minute of load, on a system that isn't shared


@pytest.fixture(scope="module")
def classifier() -> KNeighborsClassifier:
    """A classifier that takes its time: every row against 20,000 others."""
    return KNeighborsClassifier(n_neighbors=25, algorithm="brute").fit(DATA, LABELS)


@pytest.fixture(scope="module")
def service(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory, classifier: KNeighborsClassifier
) -> Running:
    """A service with short autoscaling delays."""
    folder = tmp_path_factory.mktemp("classifier")
    return serve(models.write(folder / "model", classifier, DATA, NAMES), short_delays)


def named(row: Any) -> dict[str, float]:
    """A record as an object of named columns."""
    return dict(zip(NAMES, row.tolist(), strict=True))


def test_result_is_the_label(service: Running, classifier: KNeighborsClassifier) -> None:
    """Lists and named columns give the labels that the estimator gives."""
    expected = classifier.predict(DATA[:6]).tolist()
    one = service.post("/stream", {"X": named(DATA[0])})
    assert one.json() == {"result": expected[0]}
    assert one.headers["x-model-version"] == "local"  # no registry has given it a number
    records = [DATA[0].tolist(), *(named(row) for row in DATA[1:6])]
    assert service.post("/batch", {"X": records}).json() == {"result": expected}


def test_probabilities_are_given_by_label(
    service: Running, classifier: KNeighborsClassifier
) -> None:
    """`proba=true` names each class."""
    no, yes = classifier.predict_proba(DATA[:1])[0]
    answer = service.post("/stream?proba=true", {"X": DATA[0].tolist()}).json()
    assert answer == {"result": pytest.approx({"no": no, "yes": yes})}
    many = service.post("/batch?proba=true", {"X": DATA[:3].tolist()}).json()["result"]
    assert [set(one) for one in many] == [{"no", "yes"}] * 3


def test_workers_follow_the_load_and_no_request_is_lost(
    service: Running, classifier: KNeighborsClassifier
) -> None:
    """One worker becomes two under load, and one again after it."""
    assert len(service.replicas("ModelWorker")) == 1
    rows = DATA[:400]
    expected = classifier.predict(rows).tolist()
    stop = threading.Event()
    statuses: list[int] = []
    wrong: list[Any] = []

    def ask() -> None:
        session = requests.Session()
        while not stop.is_set():
            answer = session.post(f"{service.url}/batch", json={"X": rows.tolist()}, timeout=60)
            statuses.append(answer.status_code)
            if answer.ok and answer.json()["result"] != expected:
                wrong.append(answer.json())

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        running.wait_for(lambda: len(service.replicas("ModelWorker")) == 2, 60)
    finally:
        light = threading.Timer(3.0, stop.set)
        light.start()
        for asker in askers:
            asker.join(90)

    def one_again() -> bool:
        answer = service.post("/stream", {"X": rows[0].tolist()})
        statuses.append(answer.status_code)
        return len(service.replicas("ModelWorker")) == 1

    running.wait_for(one_again, 90)
    assert set(statuses) == {200}
    assert not wrong
