"""What `/model` says of a table."""

import numpy as np
import orjson

from serve_app.description import describe
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.records.signature import Column, Signature
from serve_app.rollouts.rollout import State
from serve_app.routing import Published, Table


def model_of(version: str, **metrics: float) -> ServedModel:
    """A version with one feature."""
    served = ServedVersion("m", version, f"run{version}", f"models:/m/{version}", "ab", metrics)
    return ServedModel(served, Signature((Column("x", "double"),)), np.ones((1, 1)), None)


ROLLOUT = State(7, "1", "2", 1, 0.0)
TABLE = Table(
    9, model_of("1", r2=0.4), model_of("2"), 0.05, 0.2, previous=model_of("8"), rollout=ROLLOUT
)


def test_a_champion_alone_takes_all() -> None:
    """Nothing is said of a rollout."""
    said = describe(Published(Table(9, model_of("1", r2=0.4))))
    (one,) = said["versions"]
    assert (one["version"], one["role"], one["weight"]) == ("1", "champion", 1.0)
    assert (said["name"], said["champion"], said["challenger"]) == ("m", "1", None)
    assert (said["previous"], said["weight"], said["rollout"]) == (None, 0.0, None)
    assert said["metrics"] == {"r2": 0.4}
    assert [column["name"] for column in said["signature"]] == ["x"]


def test_a_rollout_is_shown_with_its_weights() -> None:
    """They add up to one; facts of the model are the champion's."""
    said = describe(Published(TABLE, status={"rollout": ROLLOUT.to_json(), "waiting": "3"}))
    found = [(one["version"], one["role"], one["weight"]) for one in said["versions"]]
    assert found == [("1", "champion", 0.95), ("2", "challenger", 0.05)]
    assert (said["run_id"], said["challenger"], said["previous"]) == ("run1", "2", "8")
    assert (said["rollout"]["step"], said["waiting"]) == (1, "3")


def test_all_of_it_is_json_and_no_secret_is_in_it() -> None:
    """Numbers that JSON doesn't have, too; how workers are reached is nobody's business."""
    table = Table(9, model_of("1", loss=float("nan")))
    text = orjson.dumps(describe(Published(table, (("host", 1, "a-secret"),))))
    assert orjson.loads(text)["metrics"] == {"loss": None}
    assert b"a-secret" not in text
