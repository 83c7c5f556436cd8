"""The names under which training and serving find each other's facts in MLflow."""

from typing import Final

MODEL_NAME: Final = "diabetes"
"""Default name of the registered model."""

CHAMPION: Final = "champion"
"""Alias of the version that takes the traffic."""

PREVIOUS: Final = "previous"
"""Alias of the version that was champion before this one."""

MODEL_ARTIFACT: Final = "model"
"""Name under which a run logs its model."""

MODEL_FILE: Final = "model.skops"
"""File, inside a model directory, that holds the fitted estimator."""

EXPORT_FILE: Final = "exported_version.json"
"""File, inside an exported model directory, that names the version it was exported from."""

TAG_FINGERPRINT: Final = "endeavour.fingerprint"
"""Version and run tag: SHA-256 over data, settings, code and library versions."""

TAG_DECISION: Final = "endeavour.gate.decision"
"""Version and run tag: what the gate decided."""

TAG_REASONS: Final = "endeavour.gate.reasons"
"""Version and run tag: the gate's reasons, one a line."""
