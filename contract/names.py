"""The names under which training and serving find each other's facts in MLflow."""

from typing import Final

MODEL_NAME: Final = "diabetes"
"""Default name of the registered model."""

CHAMPION: Final = "champion"
"""Alias of the version that takes the traffic."""

PREVIOUS: Final = "previous"
"""Alias of the version that was champion before this one."""

CHALLENGER: Final = "challenger"
"""Alias of the newest version that a rollout may make champion."""

MODEL_ARTIFACT: Final = "model"
"""Name under which a run logs its model."""

MODEL_FILE: Final = "model.skops"
"""File, inside a model directory, that holds the fitted estimator."""

EXPORT_FILE: Final = "exported_version.json"
"""File, inside an exported model directory, that names the version it was exported from."""

MANIFEST_FILE: Final = "endeavour_manifest.json"
"""File, inside a model directory, with the digests of all others and what they are for."""

SIGNATURE_FILE: Final = "endeavour_manifest.sig"
"""File, inside a model directory: the 64 bytes of an Ed25519 signature over the manifest."""

LONGEST_TAG: Final = 4_900
"""Most characters of a text that is put into a tag; MLflow's databases hold 5,000."""

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

TAG_EXAMPLE_PREDICTION: Final = "endeavour.example.prediction"
"""Version and run tag: JSON list of one value, which the fitted model predicts for the first row
of the logged input example. Serving predicts it again before the version gets traffic."""

TAG_ROLLOUTS: Final = "endeavour.rollouts"
"""Registered-model tag: whether the serving side runs staged rollouts, ON or OFF."""

ON: Final = "on"
OFF: Final = "off"

TAG_ROLLOUT_STATE: Final = "endeavour.rollout.state"
"""Registered-model tag: JSON of the rollout under way, its version under `challenger`, or empty."""

TAG_ROLLOUT_DECISION: Final = "endeavour.rollout.decision"
"""Version tag, with `.<number>` behind it: JSON that records one decision of a rollout."""

TAG_ROLLOUT_OUTCOME: Final = "endeavour.rollout.outcome"
"""Version tag: how the version's last rollout ended, PROMOTED or ABORTED."""

PROMOTED: Final = "promoted"
ABORTED: Final = "aborted"

TAG_ROLLOUT_REASONS: Final = "endeavour.rollout.reasons"
"""Version tag: why the rollout ended so, a reason a line."""

TAG_REFUSED: Final = "endeavour.serving.refused"
"""Version tag: why serving can't serve this version."""
