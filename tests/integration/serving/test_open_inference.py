"""The Open Inference Protocol v2, asked by Triton's own client over real Serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests import models
from tests.integration.serving.conftest import Serve
from tests.running import Running

NAMES = ["a", "b", "c", "d"]
MODEL = "diabetes"
DATA, TARGET = make_classification(
    n_samples=2000, n_features=4, n_informative=3, n_redundant=0, random_state=0
)
LABELS = np.where(TARGET == 1, "sí", "no")
CLASSIFIER = LogisticRegression().fit(DATA, LABELS)


@pytest.fixture(scope="module")
def service(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A classifier of four numbers, under the default name."""
    folder = tmp_path_factory.mktemp("classifier")
    return serve(models.write(folder / "model", CLASSIFIER, DATA, NAMES))


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[Any]:
    """Triton's client."""
    with triton.InferenceServerClient(service.url.removeprefix("http://"), concurrency=4) as made:
        yield made


def tensor(name: str, values: npt.NDArray[Any], is_binary: bool = True) -> Any:
    """An input; binary unless told otherwise, as Triton's client has it."""
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values, binary_data=is_binary)


def wanted(name: str, is_binary: bool = True) -> Any:
    """An output."""
    return triton.InferRequestedOutput(name, binary_data=is_binary)


def test_the_client_finds_server_and_model_alive_and_ready(client: Any) -> None:
    """With and without the version."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "local")
    assert not client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


def test_metadata_are_enough_to_ask(client: Any) -> None:
    """A request made of nothing but them is answered, with what they promise."""
    metadata = client.get_model_metadata(MODEL, "local")
    assert [one["name"] for one in metadata["inputs"]] == NAMES
    inputs = []
    for column, one in enumerate(metadata["inputs"]):
        shape = [3 if size == -1 else size for size in one["shape"]]
        inputs.append(triton.InferInput(one["name"], shape, one["datatype"]))
        inputs[-1].set_data_from_numpy(DATA[:3, column].copy())
    outputs = [wanted(one["name"]) for one in metadata["outputs"]]
    result = client.infer(MODEL, inputs, outputs=outputs)
    for one in metadata["outputs"]:
        assert result.get_output(one["name"])["datatype"] == one["datatype"]
        assert result.get_output(one["name"])["shape"] == [3, *one["shape"][1:]]


@pytest.mark.parametrize("version", ["", "local"])
@pytest.mark.parametrize("records", [1, 2000])
def test_labels_are_those_of_the_estimator(client: Any, records: int, version: str) -> None:
    """Bytes in and bytes out, by default; from all columns in one tensor."""
    rows = DATA[:records]
    result = client.infer(MODEL, [tensor("rows", rows)], version, request_id="42")
    labels = [label.decode() for label in result.as_numpy("predict")]
    assert labels == CLASSIFIER.predict(rows).tolist()
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", MODEL, "local")


@pytest.mark.parametrize("bytes_in", [True, False])
@pytest.mark.parametrize("bytes_out", [True, False])
def test_probabilities_are_those_of_the_estimator(
    client: Any, bytes_in: bool, bytes_out: bool
) -> None:
    """From a tensor for each column, in any order, in JSON and as bytes."""
    inputs = [
        tensor(name, DATA[:50, column : column + 1], bytes_in)
        for column, name in reversed(list(enumerate(NAMES)))
    ]
    outputs = [wanted("predict_proba", bytes_out), wanted("predict", not bytes_out)]
    result = client.infer(MODEL, inputs, outputs=outputs)
    expected = CLASSIFIER.predict_proba(DATA[:50])
    np.testing.assert_allclose(result.as_numpy("predict_proba"), expected, rtol=1e-12)
    assert len(result.as_numpy("predict")) == 50


def test_numbers_of_other_types_are_taken(client: Any) -> None:
    """As the model would take them."""
    whole = np.arange(-4, 4).reshape(2, 4)
    for dtype in (np.float16, np.float32, np.int8, np.int16, np.int32, np.int64):
        rows = whole.astype(dtype)
        result = client.infer(MODEL, [tensor("rows", rows)], outputs=[wanted("predict_proba")])
        expected = CLASSIFIER.predict_proba(whole)
        np.testing.assert_allclose(result.as_numpy("predict_proba"), expected, rtol=1e-12)


def test_requests_side_by_side_get_their_own_answers(client: Any) -> None:
    """Each of many that are under way at once."""
    outputs = [wanted("predict_proba")]
    pending = [
        client.async_infer(MODEL, [tensor("rows", DATA[at : at + 3])], outputs=outputs)
        for at in range(100)
    ]
    for at, one in enumerate(pending):
        expected = CLASSIFIER.predict_proba(DATA[at : at + 3])
        np.testing.assert_allclose(one.get_result().as_numpy("predict_proba"), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "values", "output", "status", "message"),
    [
        ("other", DATA[:1], "predict", "404", "version 'local' of 'diabetes' is served here"),
        (MODEL, DATA[:1, :3], "predict", "422", r"or one tensor of numbers of shape \[n, 4\]"),
        (MODEL, DATA[:1] * np.nan, "predict", "422", "record 0, field 'rows': must be a finite"),
        (MODEL, DATA[:1], "transform", "422", "this model has predict and predict_proba"),
    ],
)
def test_errors_say_what_is_wrong_and_the_next_request_is_served(
    client: Any, model: str, values: npt.NDArray[Any], output: str, status: str, message: str
) -> None:
    """Where Triton's client looks for it."""
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(model, [tensor("rows", values)], outputs=[wanted(output)])
    assert caught.value.status() == status
    assert client.infer(MODEL, [tensor("rows", DATA[:1])]).as_numpy("predict").shape == (1,)


def test_the_answers_are_those_of_the_services_own_protocol(service: Running, client: Any) -> None:
    """One model behind both."""
    own = service.post("/batch", {"X": DATA[:20].tolist()}).json()["result"]
    labels = client.infer(MODEL, [tensor("rows", DATA[:20])]).as_numpy("predict")
    assert [label.decode() for label in labels] == own
