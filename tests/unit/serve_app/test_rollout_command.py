"""What the command line says of a rollout, and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from serve_app.__main__ import main
from serve_app.description import rollout_of
from serve_app.rollout_command import written
from serve_app.rollouts.rollout import State
from serve_app.routing import STATUS_UNKNOWN, Published, Table
from tests.unit.serve_app.control.stage import model_of

NOW = 1_000.0
STATE = State(7, "1", "2", 2, NOW - 41)
VERDICT = {"metric": "errors", "outcome": "pass", "reason": "errors: none", "numbers": {}}
UNDER_WAY = Published(
    Table(5, model_of("1"), model_of("2"), 0.05, 0.2, model_of("9"), rollout=STATE),
    status={
        **STATUS_UNKNOWN,
        "mlflow": "answers",
        "rollout": {
            **STATE.to_json(),
            "steps": [0.0, 0.01, 0.05, 1.0],
            "evidence": {},
            "reasons": ["41 s of at least 60 s have passed", "errors: none"],
            "verdicts": [VERDICT],
        },
    },
)


def test_a_rollout_is_drawn_with_what_it_waits_for() -> None:
    """Weight, step, time, verdicts, and what is still open."""
    assert written(rollout_of(UNDER_WAY), NOW).splitlines() == [
        "champion: version 1",
        "previous: version 9, warm",
        "challenger: version 2, running",
        "  [##............................] 5% of the clients, step 3 of 4, for 41 s",
        "  pass         errors: none",
        "  waits        41 s of at least 60 s have passed",
    ]


def test_a_paused_rollout_stands_still() -> None:
    """Its time is that of the pause."""
    rollout = {**UNDER_WAY.status["rollout"], "paused_at": NOW - 11}
    paused = replace(UNDER_WAY, status={**UNDER_WAY.status, "rollout": rollout})
    text = written(rollout_of(paused), NOW)
    assert "version 2, paused" in text
    assert "for 30 s" in text


def test_without_a_rollout_the_rest_is_said() -> None:
    """Refusals, the last rollout, what waits, and whether MLflow answers."""
    last = {"challenger": "2", "outcome": "aborted", "at": "then", "reasons": ["errors: many"]}
    status = {
        **STATUS_UNKNOWN,
        "mlflow": "does not answer: refused",
        "last_rollout": last,
        "refused": {"3": "it crashed"},
        "unrecorded": 2,
    }
    table = Table(5, model_of("1"), is_from_cache=True)
    assert written(rollout_of(Published(table, status=status)), NOW).splitlines() == [
        "champion: version 1",
        "MLflow has not confirmed the champion: it is what was served last",
        "MLflow: does not answer: refused",
        "not yet recorded in MLflow: 2 entries",
        "no rollout is under way",
        "refused: version 3: it crashed",
        "last rollout: version 2 aborted, then",
        "  errors: many",
    ]


def test_nobody_there_is_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    """With the way out."""
    assert main(["rollout", "status", "--url", "http://127.0.0.1:9"]) == 4
    assert "name it with --url or ENDEAVOUR_URL" in capsys.readouterr().err


HOSTILE = "a\x1b[2J\nb\x9bc"


def answering(monkeypatch: pytest.MonkeyPatch, status_code: int, content: object) -> None:
    """Let a service answer so."""
    answer = requests.Response()
    answer.status_code = status_code
    answer._content = json.dumps(content, ensure_ascii=False).encode()
    monkeypatch.setattr(requests, "request", lambda *args, **kwargs: answer)


def test_what_models_say_of_themselves_does_nothing_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any form, and all of it can be read."""
    status = {**STATUS_UNKNOWN, "refused": {"3": HOSTILE}}
    standing = rollout_of(Published(Table(5, model_of("1")), status=status))
    answering(monkeypatch, 200, standing)
    assert main(["rollout", "status"]) == 0
    assert "refused: version 3: a?[2J b?c\n" in capsys.readouterr().out
    assert main(["rollout", "status", "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said) == standing
    assert said.strip().isprintable()
    answering(monkeypatch, 503, {"detail": HOSTILE})
    assert main(["rollout", "status"]) == 1
    assert "a?[2J b?c" in capsys.readouterr().err


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str | None]]]:
    """A proxy's address, and the API keys that it was shown."""
    seen: list[str | None] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["x-api-key"])
            self.send_error(502)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_key_for_a_service_on_this_machine_goes_to_no_proxy(
    proxy: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A proxy would read it, and could not reach the service anyway."""
    address, seen = proxy
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("ENDEAVOUR_API_KEY", "id.secret")
    assert main(["rollout", "status", "--url", f"http://{host}:9"]) == 4
    assert seen == []


FOREIGN = {
    "no JSON": b"<html>welcome</html>",
    "nothing": b"",
    "a list": b"[]",
    "a text": b'"up"',
    "another object": b'{"status": "ok"}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["promote"]])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_another_application_on_the_port_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    content: bytes,
) -> None:
    """It says what answers, and how to name the service."""
    answer = requests.Response()
    answer.status_code, answer._content = 200, content
    answer.headers["content-type"] = "text/html\x1b[2J"
    monkeypatch.setattr(requests, "request", lambda *args, **kwargs: answer)
    assert main(["rollout", *command, "--url", "http://127.0.0.1:9"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line == (
        "error: what answers at http://127.0.0.1:9 is not this service (200, text/html?[2J): "
        "name the service with --url or ENDEAVOUR_URL"
    )


def test_what_the_service_takes_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It repeats the action."""
    answering(monkeypatch, 202, {"action": "pause"})
    assert main(["rollout", "pause"]) == 0
    assert "pause: the controller does it" in capsys.readouterr().out
