"""What a call to a worker asks for, beside its rows."""

from typing import NamedTuple


class Ask(NamedTuple):
    """Predictions of one version."""

    version: str
    wants_probabilities: bool = False
    is_retry: bool = False
    """Whether a worker was lost with it: it may hang the model."""
    is_shadow: bool = False
    """Whether nobody waits for the answer: a worker that is busy has better things to do."""


class VersionNotHeldError(Exception):
    """A call asks for a version that this worker doesn't hold, or not yet."""


class BusyError(Exception):
    """A shadow's call came while the worker had others."""
