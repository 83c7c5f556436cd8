"""A client is answered by one version through a rollout, and by the champion after it."""

import asyncio
from collections import Counter
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from serve_app.errors import NotReadyError
from serve_app.http.answers import REQUEST_ID
from serve_app.http.guard import KEY_ID
from serve_app.http.routes import Application, application
from serve_app.http.switch import Switch
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from serve_app.routing import CHALLENGER, CHAMPION, Published, Role, Table
from tests.services import service

SALT, OTHER_SALT = b"one rollout", b"another"
CLIENTS = 1000


async def first_column(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """Give back what was sent."""
    return Predictions(rows[:, 0])


def model(version: str) -> ServedModel:
    """One version of the model."""
    served = ServedVersion("m", version, None, f"models:/m/{version}", "ab" * 32)
    return ServedModel(served, Signature((Column("x", "double"),)), np.zeros((1, 1)), None)


def routes(version: str, role: Role, **changes: Any) -> Application:
    """The routes of one version in a role."""
    return application(service(model(version), first_column, role=role, **changes))


ONE, TWO = routes("1", CHAMPION), routes("2", CHALLENGER)


def switch(weight: float, salt: bytes = SALT) -> Switch:
    """A switch between versions 1 and 2."""
    turned = Switch(ONE)
    turned.turn(ONE, TWO, salt, weight)
    return turned


def scope_of(
    client: str = "", request_id: str = "", path: str = "/stream", key_id: str = ""
) -> Scope:
    """A prediction request as `Front` and `Guard` pass it on."""
    headers = [(b"x-client-id", client.encode())] if client else []
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": headers}
    if request_id:
        scope[REQUEST_ID] = request_id.encode()
    if key_id:
        scope[KEY_ID] = key_id.encode()
    return scope


def version(turned: Switch, scope: Scope) -> str:
    """Which version answers."""
    endpoint = turned.endpoint(scope)
    return {ONE.endpoint(scope): "1", TWO.endpoint(scope): "2"}[endpoint]


def challengers(turned: Switch) -> set[str]:
    """The clients that the challenger answers."""
    clients = [f"client-{number}" for number in range(CLIENTS)]
    return {client for client in clients if version(turned, scope_of(client)) == "2"}


def test_a_client_stays_with_its_version() -> None:
    """Whatever the request, and whichever process answers it."""
    for number in range(50):
        scopes = [scope_of(f"client-{number}", f"request-{again}") for again in range(5)]
        assert len({version(switch(0.5), scope) for scope in scopes}) == 1


def test_without_a_name_a_client_is_known_by_its_api_key() -> None:
    """And by its name, if it sends one: many people may share a key."""
    for number in range(50):
        requests = [f"request-{again}" for again in range(20)]
        by_key = {
            version(switch(0.5), scope_of("", one, key_id=f"key-{number}")) for one in requests
        }
        assert len(by_key) == 1
        name = f"client-{number}"
        named = version(switch(0.5), scope_of(name))
        assert {version(switch(0.5), scope_of(name, key_id=key)) for key in requests} == {named}


def test_who_is_in_stays_in_as_the_weight_grows() -> None:
    """About as many clients as the weight says, from none to all."""
    before: set[str] = set()
    for weight in (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0):
        now = challengers(switch(weight))
        assert before <= now
        assert len(now) == pytest.approx(weight * CLIENTS, abs=60)
        before = now
    assert len(before) == CLIENTS


def test_the_next_rollout_begins_with_others() -> None:
    """Else the same clients would try out every version."""
    one, other = challengers(switch(0.1)), challengers(switch(0.1, OTHER_SALT))
    assert len(one & other) < len(one) / 2


def test_a_client_without_a_name_is_new_with_each_request() -> None:
    """Its request id decides; an empty name is none."""
    turned = switch(0.5)
    nameless = [scope_of(request_id=f"request-{number}") for number in range(CLIENTS)]
    found = Counter(version(turned, scope) for scope in nameless)
    assert found["2"] == pytest.approx(CLIENTS / 2, abs=60)
    for scope in nameless[:50]:
        named = {**scope, "headers": [(b"x-client-id", b"")]}
        assert version(turned, named) == version(turned, scope)


def test_all_are_back_with_the_champion_at_once() -> None:
    """Be the challenger gone, or its weight nothing."""
    turned = switch(1.0)
    assert challengers(turned)
    turned.turn(ONE, TWO, SALT, 0.0)
    assert not challengers(turned)
    assert turned.endpoint(scope_of("a", path="/v2/models/m/versions/2/infer")) is None
    turned.turn(ONE, TWO, SALT, 1.0)
    turned.turn(ONE, None, SALT, 1.0)
    assert not challengers(turned)


def test_a_new_champion_answers_all() -> None:
    """It is the challenger of before."""
    turned = switch(0.5)
    turned.turn(TWO, None, SALT, 0.0)
    assert len(challengers(turned)) == CLIENTS


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_path_that_names_a_version_gets_that_one(number: str) -> None:
    """Whoever the client is."""
    path = f"/v2/models/m/versions/{number}/infer"
    for client in range(50):
        assert version(switch(0.5), scope_of(f"client-{client}", path=path)) == number


def ask(weight: float, path: str, prefix: str = "") -> httpx2.Response:
    """GET a page of a service whose challenger, version 2, has this weight and no worker."""

    async def no_worker() -> None:
        raise NotReadyError("no worker")

    table = Table(1, model("1"), model("2"), weight)
    challenger = routes("2", CHALLENGER, check=no_worker, published=lambda: Published(table))
    champion = routes("1", CHAMPION, published=lambda: Published(table))
    turned = Switch(champion)
    turned.turn(champion, challenger, SALT, weight)
    return TestClient(turned, root_path=prefix).get(f"{prefix}/v2/models/m{path}")


@pytest.mark.parametrize("prefix", ["", "/m"])
@pytest.mark.parametrize(
    ("weight", "path", "status"),
    [
        (0.01, "/versions/2", 200),
        (0.01, "/versions/2/ready", 503),
        (0.01, "/versions/2/infer", 405),
        (0.01, "/versions/1/ready", 200),
        (0.01, "/ready", 200),
        (0.01, "/versions/22", 404),
        (0.01, "/versions/9/ready", 404),
        (1.0, "/versions/1/ready", 200),
        (0.0, "/versions/2", 404),
        (0.0, "/versions/2/ready", 404),
    ],
)
def test_pages_of_a_version_are_answered_by_that_one(
    prefix: str, weight: float, path: str, status: int
) -> None:
    """If it takes traffic; a shadow is not there."""
    assert ask(weight, path, prefix).status_code == status


@pytest.mark.parametrize(("weight", "versions"), [(0.0, ["1"]), (0.01, ["1", "2"])])
def test_the_model_names_the_versions_that_take_traffic(weight: float, versions: list[str]) -> None:
    """Each of which can be asked by its name."""
    assert ask(weight, "").json()["versions"] == versions
    for number in versions:
        assert ask(weight, f"/versions/{number}").json()["versions"] == versions


def test_what_is_no_prediction_is_not_answered_at_once() -> None:
    """Nor is a version that there isn't."""
    turned = switch(1.0)
    assert turned.endpoint(scope_of("a", path="/model")) is None
    assert turned.endpoint(scope_of("a", path="/v2/models/m/versions/9/infer")) is None


def test_a_prediction_says_who_made_it() -> None:
    """In its headers; pages are the champion's."""
    client = TestClient(switch(1.0))
    answer = client.post("/stream", json={"X": 3.0})
    assert answer.json() == {"result": 3.0}
    assert answer.headers["x-model-version"] == "2"
    assert answer.headers["x-model-role"] == "challenger"
    assert client.get("/model").headers["x-model-version"] == "1"


def test_a_request_ends_with_the_version_that_it_began_with() -> None:
    """The switch was turned while its body came in."""

    async def scenario() -> None:
        turned = switch(1.0)
        sent: list[Message] = []

        async def receive() -> Message:
            turned.turn(ONE, None, SALT, 0.0)
            return {"type": "http.request", "body": b'{"X": 3}'}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {**scope_of("a"), "query_string": b""}
        scope["headers"].append((b"content-type", b"application/json"))
        await turned(scope, receive, send)
        assert (b"x-model-version", b"2") in sent[0]["headers"]

    asyncio.run(scenario())
