"""A report of an ingress, for tests."""

import numpy as np

from serve_app.metrics.counts import Counts, Report, UnderWay
from serve_app.models.predictions import Predictions


def report(answered: int) -> Report:
    """Return what an ingress says that has answered so many requests, each in 20 ms."""
    counts = Counts()
    requests = counts.of("7").requests_of("/stream", "champion")
    for _ in range(answered):
        requests.answered(1, 0.02)
        counts.of("7").calls.add(Predictions(np.zeros(1), {}, 0.001, 1))
    requests.refused(422)
    counts.not_let_in.refused(401)
    return Report(counts, {"single": UnderWay(2, 300)}, 1.5)
