"""What the routes need of a model, for tests of the routes: no workers, no controller."""

from typing import Any

from serve_app.control.labels import Label, LabelState
from serve_app.http.body import Limits
from serve_app.http.endpoint import Predict
from serve_app.http.gate import Gate
from serve_app.http.routes import Service
from serve_app.metrics.counts import VersionCounts
from serve_app.models.served import ServedModel
from serve_app.routing import CHAMPION, Published, Table

LIMITS = Limits(max_body_bytes=1000, body_timeout_s=5.0)


async def all_well() -> None:
    """A worker that answers."""


async def no_metrics(accepted: str) -> tuple[bytes, str]:
    """Nothing was counted."""
    return b"", "text/plain"


class Commands:
    """Notes the commands that come through."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    async def __call__(self, action: str, reason: str) -> None:
        """Note one."""
        self.given.append((action, reason))


class Labelled:
    """Takes all labels."""

    def __init__(self) -> None:
        self.given: list[Label] = []

    async def __call__(self, label: Label) -> LabelState:
        """Take one."""
        self.given.append(label)
        return "accepted"


def service(model: ServedModel, predict: Predict, **changes: Any) -> Service:
    """A champion with nothing beside it."""
    published = Published(Table(1, model))
    defaults: dict[str, Any] = {
        "role": CHAMPION,
        "check": all_well,
        "limits": LIMITS,
        "singles": Gate(100, 2**30),
        "batches": Gate(100, 2**30),
        "max_batch_records": 100,
        "asks_for_keys": False,
        "published": lambda: published,
        "command": Commands(),
        "label": Labelled(),
        "remember": lambda request_id, question, size: None,
        "counts": VersionCounts(),
        "metrics": no_metrics,
    }
    return Service(model=model, predict=predict, **{**defaults, **changes})
