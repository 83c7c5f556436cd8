"""What is served, as facts that are cheap to send to every replica."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.models.model import Model
from serve_app.records.rows import Rows
from serve_app.records.signature import Signature


@dataclass(frozen=True)
class ServedVersion:
    """An exact version: what replicas are told instead of an alias."""

    name: str
    version: str
    run_id: str | None
    source: str
    """`models:/<name>/<version>`, or the path of a local directory."""
    digest: str
    """SHA-256 over the names and contents of the model's files."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    expected: Any = None
    """What training recorded that the model predicts for its example, as JSON; None if nothing."""


@dataclass(frozen=True)
class ServedModel:
    """An exact version and what its clients need to know of it."""

    version: ServedVersion
    signature: Signature
    example: Rows = field(compare=False)
    """A record that the model is known to take, shape (1, features)."""
    classes: tuple[str, ...] | None
    """Labels of a classifier that gives probabilities, in their order; None otherwise."""
    labels: tuple[Any, ...] | None = None
    """All that a classifier predicts, as JSON has it; None for a model that predicts numbers."""
    result_type: str = "f"
    """Kind of numpy's dtype that the model predicts for its example."""

    @property
    def interface(self) -> tuple[Any, ...]:
        """What clients rely on: versions with another one can't answer the same requests."""
        has_probabilities = self.classes is not None
        is_classifier = self.labels is not None
        return (self.signature, has_probabilities, is_classifier, self.result_type)


def describe(version: ServedVersion, model: Model) -> ServedModel:
    """Return what a version's clients need to know of it, by asking its model."""
    return ServedModel(
        version,
        model.signature,
        model.example,
        model.classes,
        model.labels,
        model.predict(model.example).values.dtype.kind,
    )
