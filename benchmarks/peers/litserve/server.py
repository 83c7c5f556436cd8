"""LitServe with its batching: up to 64 waiting requests are one call of the model."""

import os
from pathlib import Path

import litserve
import numpy as np
import skops.io

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"


class Diabetes(litserve.LitAPI):
    def setup(self, device):
        self.model = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))

    def decode_request(self, request):
        record = request["X"]
        return np.asarray(record, dtype=np.float64).reshape(-1, 1), isinstance(record, list)

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        rows = [rows for rows, _ in inputs]
        ends = np.cumsum([len(one) for one in rows])[:-1]
        results = np.split(self.model.predict(np.concatenate(rows)), ends)
        return [(result, is_batch) for result, (_, is_batch) in zip(results, inputs, strict=True)]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        result, is_batch = output
        return {"result": result.tolist() if is_batch else float(result[0])}


if __name__ == "__main__":
    server = litserve.LitServer(
        Diabetes(max_batch_size=64), accelerator="cpu", devices=1, workers_per_device=1
    )
    server.run(
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        generate_client_file=False,
        log_level="warning",
    )
