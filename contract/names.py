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

TAG_JUDGED_AGAINST: Final = "endeavour.gate.champion"
"""Version and run tag: the champion's version that the gate compared with, or `none`."""

TAG_COMPARISON: Final = "endeavour.gate.comparison"
"""Version and run tag: JSON with both errors and the interval, if there was a comparison."""

TAG_PROMOTION: Final = "endeavour.promotion"
"""Version tag, with `.<number>` behind it: JSON that records one move of the alias `champion`."""

TAG_COMMIT: Final = "endeavour.commit"
"""Version and run tag: the commit of the code that trained the model, or `unknown`."""

TAG_DATA_DIGEST: Final = "endeavour.data.digest"
"""Version and run tag: SHA-256 over the values that the model was fitted and judged on."""

TAG_SEED: Final = "endeavour.seed"
"""Version and run tag: the seed of the job."""

TAG_VERSION: Final = "endeavour.version"
"""Run tag: the version that the job ended with, if the gate let it pass."""
