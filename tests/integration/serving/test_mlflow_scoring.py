"""MLflow's scoring protocol beside `mlflow models serve`, and Arrow streams, over real Serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from tests import running
from tests.houses import CITIES, ESTIMATOR, HOUSES, houses
from tests.integration.serving.conftest import Serve
from tests.running import Running

pytestmark = pytest.mark.timeout(600)  # two servers start

MLFLOW_START_TIMEOUT_S = 90.0
JSON = "application/json"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def service(serve: Serve, houses_directory: Path) -> Running:
    """Our own service of the model."""
    return serve(houses_directory)


@pytest.fixture(scope="module")
def mlflow_url(
    houses_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
) -> Iterator[str]:
    """Where `mlflow models serve` answers with the same model."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", str(houses_directory), "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path_factory.mktemp("mlflow") / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        running.wait_for(lambda: answers(url) or process.poll() is not None, MLFLOW_START_TIMEOUT_S)
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        running.end_tree(process.pid)
        process.wait()


def answers(url: str) -> bool:
    """Whether `/ping` does."""
    try:
        return requests.get(f"{url}/ping", timeout=5).ok
    except requests.RequestException:
        return False


def predictions(
    url: str, content: str | bytes, content_type: str = JSON
) -> npt.NDArray[np.float64] | None:
    """What is answered at `/invocations`; None if the body is refused."""
    answer = requests.post(
        f"{url}/invocations",
        data=content.encode() if isinstance(content, str) else content,
        headers={"content-type": content_type},
        timeout=30,
    )
    assert answer.status_code < 500, answer.text
    if not answer.ok:
        return None
    document = answer.json()
    assert list(document) == ["predictions"]
    return np.array(document["predictions"])


def plain(frame: pd.DataFrame) -> Any:
    """A frame's columns as JSON has them."""
    return json.loads(json.dumps(frame.to_dict("list")))


def bodies(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The same records in each format: (body, content type)."""
    back = frame[frame.columns[::-1]]
    records = json.loads(back.to_json(orient="records", double_precision=15))
    documents: dict[str, Any] = {
        "split": {"dataframe_split": json.loads(back.to_json(orient="split", double_precision=15))},
        "records": {"dataframe_records": records},
        "instances of records": {"instances": records, "params": {}},
        "instances by column": {"instances": plain(back)},
        "inputs by column": {"inputs": plain(back)},
        "inputs of records": {"inputs": records},
        "one record": {"inputs": records[0]},
    }
    return {
        **{name: (json.dumps(document), JSON) for name, document in documents.items()},
        "CSV": (back.to_csv(index=False), CSV),
        "CSV of other lines": (back.to_csv(index=False, lineterminator="\r\n"), CSV),
        "CSV all quoted": (back.to_csv(index=False, quoting=1), f"{CSV}; charset=utf-8"),
    }


@pytest.mark.parametrize("name", bodies(HOUSES[:1]))
@pytest.mark.parametrize("records", [1, 500])
def test_each_format_is_answered_as_the_estimator_does(
    service: Running, name: str, records: int
) -> None:
    """Ours alone, which `make test` has time for."""
    ours = predictions(service.url, *bodies(HOUSES[:records])[name])
    assert ours is not None
    np.testing.assert_allclose(ours, ESTIMATOR.predict(HOUSES[:records])[: len(ours)], rtol=1e-6)


@pytest.mark.system
@pytest.mark.parametrize("name", bodies(HOUSES[:1]))
@pytest.mark.parametrize("records", [1, 500])
def test_both_answer_the_same_in_each_format(
    service: Running, mlflow_url: str, name: str, records: int
) -> None:
    """To the last digits."""
    ours, theirs = (
        predictions(url, *bodies(HOUSES[:records])[name]) for url in (service.url, mlflow_url)
    )
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)
ODD = st.sampled_from([None, True, 0, 1, 1.0, -0.5, 2**31, 2**40, 1e300, "1", "", "NA", "x", [1]])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "size": NUMBERS,
    "slope": NUMBERS,
    "rooms": st.integers(-(2**40), 2**40),
    "floor": st.integers(-(2**31), 2**31 - 1),
    "is_new": st.booleans(),
    "city": st.sampled_from(CITIES),
}


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, str]:
    """Records in some format, of which some values may not fit."""
    count = draw(st.integers(1, 3))
    columns = {
        name: draw(st.lists(values, min_size=count, max_size=count))
        for name, values in VALUES.items()
    }
    for _ in range(draw(st.integers(0, 1))):
        columns[draw(st.sampled_from(list(VALUES)))][0] = draw(ODD)
    names = draw(st.permutations(list(VALUES)))
    records = [{name: columns[name][at] for name in names} for at in range(count)]
    split = {"columns": names, "data": [list(record.values()) for record in records]}
    documents: dict[str, Any] = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": draw(st.sampled_from([records, columns])),
        "inputs": draw(st.sampled_from([records, columns, records[0]])),
    }
    form = draw(st.sampled_from([*documents, CSV]))
    if form == CSV:
        return pd.DataFrame(columns, dtype=object)[list(names)].to_csv(index=False), CSV
    return json.dumps({form: documents[form]}), JSON


@pytest.mark.system
@given(questions())
@settings(max_examples=150, deadline=None)
def test_what_both_answer_is_the_same(
    service: Running, mlflow_url: str, question: tuple[str, str]
) -> None:
    """Either may refuse what the other takes; neither answers another thing."""
    ours, theirs = (predictions(url, *question) for url in (service.url, mlflow_url))
    if ours is not None and theirs is not None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.system
@pytest.mark.parametrize("route", ["/ping", "/version"])
def test_both_answer_get_requests_the_same(service: Running, mlflow_url: str, route: str) -> None:
    """Body, status and type; `/health` stays our own."""
    ours, theirs = service.get(route), requests.get(f"{mlflow_url}{route}", timeout=10)
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert service.get("/health").text == "Ok"


def test_mlflows_own_client_finds_what_it_looks_for(service: Running) -> None:
    """It waits, asks, and reads the answer."""
    kind: Any = ScoringServerClient  # untyped
    client = kind("127.0.0.1", int(service.environ["PORT"]))
    client.wait_server_ready(timeout=10)
    found = client.invoke(HOUSES[:20]).get_predictions("ndarray")
    np.testing.assert_allclose(found, ESTIMATOR.predict(HOUSES[:20]))


def test_a_refusal_says_why_in_both_tongues(service: Running) -> None:
    """A problem document with MLflow's `error_code` and `message`; the next request is served."""
    answer = service.post("/invocations", {"inputs": {**plain(HOUSES[:1]), "city": [1]}})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_records")
    assert problem["errors"][0]["field"] == "city"
    assert (problem["error_code"], problem["message"]) == ("BAD_REQUEST", problem["detail"])
    assert service.post("/invocations", {"inputs": plain(HOUSES[:1])}).ok


def stream(frame: pd.DataFrame, records_per_batch: int = 10_000) -> bytes:
    """A frame as an Arrow stream."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=records_per_batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def ask(
    service: Running, content: bytes, sent: str = ARROW, accept: str = ARROW, query: str = ""
) -> requests.Response:
    """The answer of `/batch`."""
    headers = {"content-type": sent, "accept": accept}
    url = f"{service.url}/batch{query}"
    return requests.post(url, data=content, headers=headers, timeout=30)


def columns_of(answer: requests.Response) -> Any:
    """The columns of an Arrow answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_large_frame_goes_in_and_out_as_arrow(service: Running, as_dictionary: bool) -> None:
    """50,000 records in several batches, and back in order; plain or categorical strings."""
    frame = houses(50_000)
    sent = frame.astype({"city": "category"}) if as_dictionary else frame
    result = columns_of(ask(service, stream(sent))).column("result").to_numpy()
    np.testing.assert_allclose(result, ESTIMATOR.predict(frame))


@pytest.mark.parametrize("accept", [JSON, ARROW])
@pytest.mark.parametrize("sent", [JSON, ARROW])
def test_body_and_answer_may_have_different_types(service: Running, sent: str, accept: str) -> None:
    """All four ways give the same."""
    records = {"X": HOUSES[:20].to_dict("records")}
    content = stream(HOUSES[:20]) if sent == ARROW else json.dumps(records).encode()
    answer = ask(service, content, sent, accept)
    result = answer.json() if accept == JSON else columns_of(answer).to_pydict()
    assert list(result) == ["result"]
    np.testing.assert_allclose(result["result"], ESTIMATOR.predict(HOUSES[:20]))


def test_an_arrow_answer_may_be_partial(service: Running) -> None:
    """Null and a reason for each record that doesn't fit."""
    frame = HOUSES[:4].astype({"rooms": "Int64"})
    frame.loc[1, "size"] = np.inf
    frame.loc[2, "rooms"] = pd.NA
    found = columns_of(ask(service, stream(frame), query="?partial=true")).to_pydict()
    assert [value is None for value in found["result"]] == [False, True, True, False]
    assert [error is None for error in found["error"]] == [True, False, False, True]
    assert "rooms" in found["error"][2]
    refused = ask(service, stream(frame)).json()
    assert [error["index"] for error in refused["errors"]] == [1, 2]


def test_what_is_no_stream_is_refused_and_the_next_one_served(service: Running) -> None:
    """400, 413, 415 and 406, and no worse."""
    whole = stream(HOUSES[:20])
    assert ask(service, whole[:-30]).status_code == 400
    assert ask(service, b"{}").status_code == 400
    assert ask(service, stream(houses(20_000), 1)).status_code == 413
    assert ask(service, whole, sent="application/vnd.apache.arrow.file").status_code == 415
    assert ask(service, whole, accept="text/html").status_code == 406
    assert ask(service, whole).status_code == 200
