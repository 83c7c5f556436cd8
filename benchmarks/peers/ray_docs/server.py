"""Ray Serve as its documentation lays it out: an ingress, and a worker with `@serve.batch`."""

import os
import signal
from pathlib import Path

import numpy as np
import ray
import skops.io
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

# By default a replica takes five requests at a time, fewer than @serve.batch joins: Serve warns of
# that, and whoever finds no place backs off for up to a second.
ONGOING = 100

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"


@serve.deployment(max_ongoing_requests=ONGOING)
class Model:
    def __init__(self):
        self.model = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))

    @serve.batch
    async def __call__(self, records: list) -> list:
        rows = [np.asarray(record, dtype=np.float64).reshape(-1, 1) for record in records]
        ends = np.cumsum([len(one) for one in rows])[:-1]
        results = np.split(self.model.predict(np.concatenate(rows)), ends)
        return [
            result.tolist() if isinstance(record, list) else float(result[0])
            for record, result in zip(records, results, strict=True)
        ]


@serve.deployment(max_ongoing_requests=ONGOING)
class Ingress:
    def __init__(self, model: DeploymentHandle):
        self.model = model

    async def __call__(self, request: Request) -> dict:
        body = await request.json()
        return {"result": await self.model.remote(body["X"])}


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": os.environ["HOST"], "port": int(os.environ["PORT"])})
    serve.run(Ingress.bind(Model.bind()))
    signal.pause()
