"""mosec: a web server in Rust, and Python workers that get batches from it."""

import os
from pathlib import Path

import numpy as np
import skops.io
from mosec import Runtime, Server, Worker

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"


class Stream(Worker):
    def __init__(self):
        self.model = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))

    def forward(self, data):
        rows = np.array([one["X"] for one in data], dtype=np.float64).reshape(-1, 1)
        return [{"result": result} for result in self.model.predict(rows).tolist()]


class Batch(Stream):
    def forward(self, data):
        rows = [np.array(one["X"], dtype=np.float64).reshape(-1, 1) for one in data]
        ends = np.cumsum([len(one) for one in rows])[:-1]
        results = np.split(self.model.predict(np.concatenate(rows)), ends)
        return [{"result": result.tolist()} for result in results]


if __name__ == "__main__":
    server = Server()
    server.register_runtime(
        {
            "/stream": [Runtime(Stream, max_batch_size=64, max_wait_time=1)],
            "/batch": [Runtime(Batch, max_batch_size=64, max_wait_time=1)],
        }
    )
    server.run()
