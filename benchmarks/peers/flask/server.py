"""The service that this project replaces, as `flask run` served it."""

import os
from pathlib import Path

import numpy as np
import skops.io
from flask import Flask, Response, jsonify, request

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"
MODEL = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))

app = Flask(__name__)


@app.route("/stream", methods=["POST"])
def stream() -> Response:
    record = request.get_json()["X"]
    return jsonify({"result": MODEL.predict(np.array(record).reshape(1, -1))[0]})


@app.route("/batch", methods=["POST"])
def batch() -> Response:
    records = request.get_json()["X"]
    rows = np.array(records).reshape(len(records), -1)
    return jsonify({"result": MODEL.predict(rows).tolist()})
