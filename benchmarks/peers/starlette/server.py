"""One uvicorn process with the model inside: no queue, no batching, no checks beyond JSON."""

import os
from pathlib import Path

import numpy as np
import orjson
import skops.io
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"
MODEL = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))


def answer(document: object) -> Response:
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


async def stream(request: Request) -> Response:
    record = orjson.loads(await request.body())["X"]
    rows = np.asarray(record, dtype=np.float64).reshape(1, -1)
    return answer({"result": MODEL.predict(rows)[0]})


async def batch(request: Request) -> Response:
    records = orjson.loads(await request.body())["X"]
    rows = np.asarray(records, dtype=np.float64).reshape(len(records), -1)
    return answer({"result": MODEL.predict(rows)})


app = Starlette(
    routes=[
        Route("/stream", stream, methods=["POST"]),
        Route("/batch", batch, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
