"""Every status that the documentation promises, over real HTTP, with the next request served."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests import customers
from tests.customers import GOOD, HUGE, UNSEEN
from tests.integration.serving.conftest import Serve
from tests.running import Running

JSON = "application/json"
PROBLEM = "application/problem+json"
ANSWER_TIMEOUT_S = 30.0
MAX_BODY_BYTES = 16 * 2**20
IN_FLIGHT_BYTES = 32 * 2**20
"""What sockets and HAProxy may hold of a body that is no longer read."""


@pytest.fixture(scope="module")
def service(serve: Serve, customers_directory: Path) -> Running:
    """A classifier of records with a column of each kind."""
    return serve(customers_directory)


@dataclass
class Answered:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


def send(
    service: Running,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> Answered:
    """Send a request with exactly these headers, and its length."""
    connection = HTTPConnection("127.0.0.1", int(service.environ["PORT"]), timeout=ANSWER_TIMEOUT_S)
    try:
        with contextlib.suppress(ConnectionError):  # of a body that is refused before it is read
            connection.request(
                method, path, body, {"content-type": JSON} if headers is None else headers
            )
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answered(answer.status, named, answer.read())
    finally:
        connection.close()


def check_problem(answered: Answered, status: int, code: str) -> dict[str, Any]:
    """Check what every error has, and return its document."""
    assert (answered.status, answered.headers["content-type"]) == (status, PROBLEM)
    assert len(answered.headers["x-request-id"]) == 36
    assert not re.search(rb'Traceback|File \\"|\.py\b', answered.body)
    document: dict[str, Any] = answered.document
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:endeavour:problem:{code}"
    assert document["title"]
    assert document["detail"]
    return document


def check_the_next_is_served(service: Running) -> None:
    """A good request after a bad one has its answer."""
    answered = send(service, "/stream", x(GOOD))
    assert answered.status == 200
    assert answered.document["result"] in customers.LABELS


def x(value: Any) -> bytes:
    """A body."""
    return json.dumps({"X": value}).encode()


def raw(text: str) -> bytes:
    """A body with a record whose income is written like this."""
    return x({**GOOD, "income": "@"}).replace(b'"@"', text.encode())


@dataclass(frozen=True)
class Case:
    """A request, and the error that it must have."""

    name: str
    status: int
    code: str
    body: bytes
    path: str = "/stream"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    method: str = "POST"
    errors: tuple[Any, ...] = ()
    """Index and field of each fault, if the answer must list them."""


def malformed(name: str, body: bytes) -> Case:
    """A body that isn't JSON as it should be."""
    return Case(name, 400, "malformed_json", body)


def unfit(name: str, record: Any, fault: str | None = None) -> Case:
    """A record that doesn't fit; `fault` is the field."""
    return Case(name, 422, "invalid_records", x(record), errors=((0, fault),))


def unfit_raw(name: str, body: bytes, fault: str) -> Case:
    """A record that doesn't fit, as bytes."""
    return Case(name, 422, "invalid_records", body, errors=((0, fault),))


def unsupported(name: str, headers: dict[str, str]) -> Case:
    """A good body, said to be something else."""
    return Case(name, 415, "unsupported_media_type", x(GOOD), headers=headers)


TYPED = {"content-type": JSON}
WITHOUT_CITY = {name: value for name, value in GOOD.items() if name != "city"}
ROW = list(GOOD.values())

CASES = [
    malformed("empty body", b""),
    malformed("blank body", b" \n"),
    malformed("broken JSON", b'{"X": 1'),
    malformed("trailing bytes", x(GOOD) + b"]"),
    malformed("a second document", x(GOOD) * 2),
    malformed("invalid UTF-8", raw('"\xff"').replace(b"\xc3\xbf", b"\xff")),
    malformed("UTF-16", x(GOOD).decode().encode("utf-16")),
    malformed("byte-order mark", b"\xef\xbb\xbf" + x(GOOD)),
    malformed("half a surrogate pair", x({**GOOD, "city": "\ud800"})),
    malformed("duplicate X", x(GOOD)[:-1] + b"," + x(GOOD)[1:]),
    malformed("duplicate column", raw('1, "income": 1')),
    malformed("duplicate column by an escape", raw('1, "incom\\u0065": 1')),
    malformed("NaN", raw("NaN")),
    malformed("Infinity", raw("Infinity")),
    malformed("-Infinity", raw("-Infinity")),
    malformed("hexadecimal", raw("0x10")),
    malformed("comment", raw("1 /* one */")),
    malformed("nested 300 deep", raw("[" * 300 + "]" * 300)),
    malformed("nested 500,000 deep", raw("[" * 500_000 + "]" * 500_000)),
    malformed("a chain of openings", b'{"X":' * 100_000),
    unfit("missing field", WITHOUT_CITY, "city"),
    unfit("unknown field", {**GOOD, "town": "Rome"}, "town"),
    unfit("true for a number", {**GOOD, "income": True}, "income"),
    unfit("text for a number", {**GOOD, "income": "1.5"}, "income"),
    unfit("null for a number", {**GOOD, "income": None}, "income"),
    unfit("list for a number", {**GOOD, "income": [1]}, "income"),
    unfit("object for a number", {**GOOD, "income": {"a": 1}}, "income"),
    unfit("half for a whole number", {**GOOD, "visits": 1.5}, "visits"),
    unfit("float for a whole number", {**GOOD, "visits": 3.0}, "visits"),
    unfit("2**70 for a whole number", {**GOOD, "visits": 2**70}, "visits"),
    unfit("2**63 for a whole number", {**GOOD, "visits": 2**63}, "visits"),
    unfit("number for a truth value", {**GOOD, "is_new": 1}, "is_new"),
    unfit("number for text", {**GOOD, "city": 5}, "city"),
    unfit("null for text", {**GOOD, "city": None}, "city"),
    unfit_raw("1e309", raw("1e309"), "income"),
    unfit_raw("a number of 400 digits", raw("9" * 400), "income"),
    unfit_raw("a number of 5,000 digits", raw("9" * 5000), "income"),
    unfit("short list", ROW[:3]),
    unfit("long list", [*ROW, 1]),
    unfit("number for a record", 5),
    unfit("null for a record", None),
    unfit("text for a record", "Rome"),
    Case("no X", 422, "invalid_records", b"{}"),
    Case("another key than X", 422, "invalid_records", b'{"x": 1}'),
    Case("a key beside X", 422, "invalid_records", b'{"X": 1, "Y": 1}'),
    Case("list for the body", 422, "invalid_records", b"[1]"),
    Case("empty batch", 422, "invalid_records", x([]), "/batch"),
    Case("object for a batch", 422, "invalid_records", x(GOOD), "/batch"),
    Case("number for a batch", 422, "invalid_records", x(1), "/batch"),
    Case(
        "ragged batch",
        422,
        "invalid_records",
        x([ROW, ROW[:3], GOOD, [*ROW, 1]]),
        "/batch",
        errors=((1, None), (3, None)),
    ),
    Case(
        "bad records among good ones",
        422,
        "invalid_records",
        x([GOOD, None, ROW, {**GOOD, "visits": "1"}, GOOD]),
        "/batch",
        errors=((1, None), (3, "visits")),
    ),
    Case(
        "more bad records than are listed",
        422,
        "invalid_records",
        x([GOOD, *[None] * 50]),
        "/batch",
        errors=tuple((at, None) for at in range(1, 21)),
    ),
    Case(
        "a record that the model raises for",
        422,
        "unpredictable_records",
        x(UNSEEN),
        errors=((0, None),),
    ),
    Case(
        "records of a batch that it raises for",
        422,
        "unpredictable_records",
        x([GOOD, UNSEEN, GOOD, UNSEEN]),
        "/batch",
        errors=((1, None), (3, None)),
    ),
    Case(
        "a record without finite probabilities",
        422,
        "unpredictable_records",
        x([GOOD, HUGE]),
        "/batch?proba=true",
        errors=((1, None),),
    ),
    Case("a record too many", 413, "too_large", x([0] * 100_001), "/batch"),
    Case(
        "a record too many, with partial", 413, "too_large", x([0] * 100_001), "/batch?partial=true"
    ),
    Case("too many values", 413, "too_large", x([[]] * 1_200_000), "/batch"),
    Case("too many values for one record", 413, "too_large", x([0] * 1_000_000)),
    Case("a byte too many", 413, "too_large", b" " * (MAX_BODY_BYTES + 1)),
    unsupported("no content type", {}),
    unsupported("an empty content type", {"content-type": ""}),
    unsupported("another content type", {"content-type": "text/plain"}),
    unsupported("a form", {"content-type": "application/x-www-form-urlencoded"}),
    unsupported("another charset", {"content-type": f"{JSON}; charset=latin-1"}),
    Case(
        "gzip",
        415,
        "unsupported_media_type",
        gzip.compress(x(GOOD)),
        headers={**TYPED, "content-encoding": "gzip"},
    ),
    Case(
        "an unknown encoding",
        415,
        "unsupported_media_type",
        x(GOOD),
        headers={**TYPED, "content-encoding": "zip"},
    ),
    Case(
        "accepts no JSON", 406, "not_acceptable", x(GOOD), headers={**TYPED, "accept": "text/html"}
    ),
    Case(
        "odd bytes in accept", 406, "not_acceptable", x(GOOD), headers={**TYPED, "accept": "\xff"}
    ),
    Case("refuses all", 406, "not_acceptable", x(GOOD), headers={**TYPED, "accept": "*/*;q=0"}),
    Case("proba neither true nor false", 400, "invalid_parameter", x(GOOD), "/stream?proba=1"),
    Case(
        "partial neither true nor false", 400, "invalid_parameter", x([GOOD]), "/batch?partial=yes"
    ),
    Case("GET of a prediction", 405, "method_not_allowed", b"", "/stream", {}, "GET"),
    Case("PUT of a batch", 405, "method_not_allowed", x([GOOD]), "/batch", method="PUT"),
    Case("POST of a page", 405, "method_not_allowed", x(GOOD), "/health"),
    Case("a rare method", 405, "method_not_allowed", b"", "/stream", {}, "PROPFIND"),
    Case("no such path", 404, "not_found", x(GOOD), "/predict"),
    Case("a slash too many", 404, "not_found", x(GOOD), "/stream/"),
    Case("two slashes", 404, "not_found", x(GOOD), "//stream"),
    Case("a path out", 404, "not_found", b"", "/../etc/passwd", {}, "GET"),
    Case("odd bytes in a path", 404, "not_found", b"", "/%ff%00%0d%0a", {}, "GET"),
    Case("a long path", 404, "not_found", b"", "/" + "x" * 5000, {}, "GET"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_has_its_status_and_the_next_request_is_served(
    service: Running, case: Case
) -> None:
    """A problem document with a stable code and an id; faults with their records."""
    answered = send(service, case.path, case.body, case.headers, case.method)
    document = check_problem(answered, case.status, case.code)
    if case.errors:
        found = [(fault["index"], fault.get("field")) for fault in document["errors"]]
        assert found == list(case.errors)
        assert all(fault["reason"] for fault in document["errors"])
    assert len(answered.body) < 8000
    check_the_next_is_served(service)


def test_an_error_leaves_the_connection_to_the_next_request(service: Running) -> None:
    """Also if the body was refused before it was read, so that its rest has to be passed over."""
    connection = HTTPConnection("127.0.0.1", int(service.environ["PORT"]), timeout=ANSWER_TIMEOUT_S)
    try:
        for case in CASES:
            if len(case.body) < MAX_BODY_BYTES:
                connection.request(case.method, case.path, case.body, case.headers)
                answer = connection.getresponse()
                assert (case.name, answer.status) == (case.name, case.status)
                answer.read()
                connected = connection.sock
                connection.request("POST", "/stream", x(GOOD), TYPED)
                answer = connection.getresponse()
                assert (case.name, answer.status) == (case.name, 200)
                assert connection.sock is connected
                assert json.loads(answer.read())["result"] in customers.LABELS
    finally:
        connection.close()


def test_the_clients_own_id_comes_back(service: Running) -> None:
    """With an error, with an answer, and from a route that isn't for predictions."""
    own = {**TYPED, "x-request-id": "order 66/a"}
    for path, body, status in [
        ("/stream", x(GOOD), 200),
        ("/stream", b"{", 400),
        ("/batch", x([]), 422),
        ("/nothing", b"", 404),
    ]:
        answered = send(service, path, body, own)
        assert (answered.status, answered.headers["x-request-id"]) == (status, "order 66/a")


def test_partial_answers_what_can_be_answered(service: Running) -> None:
    """Null, index and reason for records that don't fit, and for those that the model fails for."""
    sent = [GOOD, None, UNSEEN, ROW, {**GOOD, "visits": 1.5}]
    answered = send(service, "/batch?partial=true", x(sent))
    assert answered.status == 200
    result, errors = answered.document["result"], answered.document["errors"]
    assert [one is None for one in result] == [False, True, True, False, True]
    assert result[0] == result[3]
    assert [(one["index"], one.get("field")) for one in errors] == [
        (1, None),
        (2, None),
        (4, "visits"),
    ]
    assert "ValueError" in errors[1]["reason"]
    shares = send(service, "/batch?partial=true&proba=true", x([HUGE, GOOD])).document
    assert shares["result"][0] is None
    assert set(shares["result"][1]) == set(customers.LABELS)
    assert "no finite number" in shares["errors"][0]["reason"]


def test_partial_names_bad_records_in_every_part_of_a_large_batch(service: Running) -> None:
    """Parts that go to other workers have their results, whatever befell the first."""
    sent = [ROW] * 10_000
    bad = [3, 5_000, 9_999]
    for at in bad:
        sent[at] = list(UNSEEN.values())
    document = send(service, "/batch?partial=true", x(sent)).document
    assert [at for at, one in enumerate(document["result"]) if one is None] == bad
    assert [one["index"] for one in document["errors"]] == bad
    assert len(set(document["result"])) == 2


def test_answers_are_those_of_the_pipeline_on_a_frame(service: Running) -> None:
    """One record and many, lists and objects, labels and probabilities."""
    pipeline, frame = customers.estimator(), customers.frame(200, seed=1)
    sent: list[Any] = [
        {"income": row.income, "visits": row.visits, "is_new": row.is_new, "city": row.city}
        for row in frame.itertuples()
    ]
    lists = [list(one.values()) for one in sent]
    labels, shares = pipeline.predict(frame).tolist(), pipeline.predict_proba(frame)
    for many in (sent, lists, [*sent[:99], *lists[99:]]):
        assert send(service, "/batch", x(many)).document["result"] == labels
    assert send(service, "/stream", x(sent[0])).document["result"] == labels[0]
    found = send(service, "/batch?proba=true", x(sent)).document["result"]
    assert [list(one) for one in found] == [list(customers.LABELS)] * 200
    assert [list(one.values()) for one in found] == pytest.approx(shares)
    one = send(service, "/stream?proba=true", x(lists[7])).document["result"]
    assert list(one.values()) == pytest.approx(shares[7])


def test_an_endless_body_is_cut_off_early(service: Running) -> None:
    """413 while the client still sends, long before it would run out."""
    head = (
        b"POST /batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", int(service.environ["PORT"])), 5) as client:
        client.sendall(head)
        client.settimeout(0.01)
        received = b""
        while b"\r\n\r\n" not in received and sent < 2 * 2**30:
            try:
                sent += client.send(chunk)
            except TimeoutError:
                pass
            except ConnectionError:
                break
            received += receive_what_there_is(client)
        client.settimeout(ANSWER_TIMEOUT_S)
        while b"too_large" not in received:
            more = client.recv(65536)
            assert more, received
            received += more
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in received
    assert sent < MAX_BODY_BYTES + IN_FLIGHT_BYTES
    check_the_next_is_served(service)


def receive_what_there_is(client: socket.socket) -> bytes:
    """What has arrived by now."""
    try:
        return client.recv(65536, socket.MSG_DONTWAIT)
    except (BlockingIOError, TimeoutError):
        return b""


HEAD = b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

# What docs/serving.md says that HAProxy and uvicorn answer by themselves.
NOT_OURS = {
    "no HTTP": (b"\x16\x03\x01\x02\x00hello\r\n\r\n", 400),
    "a request line without a version": (b"GET /health\r\n\r\n", 400),
    "a blank in the path": (b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a host that is none": (b"GET /health HTTP/1.1\r\nhost: [\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
    "a header without a colon": (b"GET /health HTTP/1.1\r\nhost: x\r\nodd one\r\n\r\n", 400),
    "a NUL in a header": (b"GET /health HTTP/1.1\r\nhost: x\r\na: b\0\r\n\r\n", 400),
    "a control character in a header": (b"GET /health HTTP/1.1\r\nhost: x\r\na: \1\r\n\r\n", 400),
    "16 KB of headers": (b"GET /health HTTP/1.1\r\na: " + b"b" * 2**14 + b"\r\n\r\n", 400),
    "more than 100 headers": (b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 102 + b"\r\n", 400),
    "a length that is no number": (HEAD + b"content-length: x\r\n\r\n", 400),
    "a length below 0": (HEAD + b"content-length: -1\r\n\r\n", 400),
    "two lengths": (HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
    "a length of 23 digits": (HEAD + b"content-length: %d\r\n\r\n" % 10**22, 400),
    "a chunk without its size": (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "an unknown transfer encoding": (HEAD + b"transfer-encoding: br\r\n\r\n", 400),
    "a packed transfer encoding": (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n", 422),
    "a method that HTTP doesn't know": (b"BREW /stream HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a path without a slash": (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_not_http_never_reaches_the_service(service: Running, name: str) -> None:
    """A 4xx in other words than ours, and no harm done."""
    request, status = NOT_OURS[name]
    with socket.create_connection(("127.0.0.1", int(service.environ["PORT"])), 10) as client:
        client.sendall(request)
        received = client.recv(65536)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    check_the_next_is_served(service)
