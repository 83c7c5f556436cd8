"""The record in the command that `make run` prints."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from launcher import serving


@contextmanager
def model(facts: Any) -> Iterator[str]:
    """The address of a service that says this of its model."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(facts).encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def column(name: str, kind: str) -> dict[str, str]:
    """A column of a signature."""
    return {"name": name, "type": kind}


@pytest.mark.parametrize(
    ("facts", "record"),
    [
        ({"signature": [column("bmi", "double")], "example": {"bmi": 0.061}}, "0.2"),
        ({"signature": [column("age", "long")], "example": {"age": 5}}, '{"age": 5}'),
        (
            {"signature": [column("a", "double")] * 2, "example": {"a": 0.5, "b": "it's"}},
            '{"a": 0.5, "b": "it\\u0027s"}',
        ),
        ({}, "0.2"),
        ([], "0.2"),
    ],
)
def test_the_record_is_one_that_the_model_takes(facts: Any, record: str) -> None:
    """A plain number for one feature, else the model's own example, fit for a shell's quotes."""
    with model(facts) as address:
        assert serving.example(address) == record


def test_a_service_that_does_not_answer_has_a_record_too() -> None:
    """The welcome is printed in any case."""
    assert serving.example("http://127.0.0.1:1") == "0.2"
