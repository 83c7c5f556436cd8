"""What can go wrong in a training job; each class owns the exit code that says so."""

from typing import ClassVar


class TrainError(Exception):
    """A failure that was foreseen: its message is one line that says the way out."""

    exit_code: ClassVar[int] = 1


class BadSettingsError(TrainError):
    """Settings, or a version named by hand, that can't be used."""

    exit_code = 2


class BadDataError(TrainError):
    """Data that can't be read or must not be trained on."""

    exit_code = 2


class GateRefusedError(TrainError):
    """The gate refused the candidate; the message holds its reasons."""

    exit_code = 3


class UnreachableError(TrainError):
    """MLflow or Ray gave no answer, or had no room, within the deadline."""

    exit_code = 4
