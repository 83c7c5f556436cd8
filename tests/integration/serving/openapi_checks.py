"""What schemathesis asks of each answer beyond its own checks; it loads this as its hooks.

Its checks of valid and invalid data go by the status alone. Here it depends on the answer: a
model may have none for a record that fits its schema, and `partial=true` answers what else is
refused.
"""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response
from schemathesis.specs.openapi.checks import negative_data_rejection

JSON = "application/json"
OF_COLUMNS = ("/infer", "/invocations")
"""Routes whose bodies have columns: that these are equally long is beyond a schema."""

WRITTEN_AS_FLOAT = re.compile(r"must be a whole number, got (.+)")
"""To JSON Schema, 1.0 is a whole number."""


@schemathesis.check
def valid_data_is_answered(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """What fits the schema is answered, unless the model itself or the rollout has no answer."""
    is_asked = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_asked or case.method != "POST" or case.media_type != JSON:
        return
    if response.status_code not in (200, 202):
        problem = response.json()
        assert is_excused(problem, case.path.endswith(OF_COLUMNS)), problem


def is_excused(problem: dict[str, Any], has_columns: bool) -> bool:
    """Whether a schema can't say what is wrong."""
    if has_columns and problem["code"] in ("malformed_tensors", "invalid_records"):
        return True
    if problem["code"] in ("unpredictable_records", "rollout_conflict"):
        return True
    wholes = [WRITTEN_AS_FLOAT.match(fault["reason"]) for fault in problem.get("errors", [])]
    return bool(wholes) and all(one is not None and float(one[1]).is_integer() for one in wholes)


@schemathesis.check
def invalid_data_is_refused(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """What doesn't fit gets 4xx, or with `partial=true` the reason in `errors`."""
    is_partial = (case.query or {}).get("partial") == "true"
    if response.status_code == 200 and is_partial and response.json()["errors"]:
        return
    negative_data_rejection(ctx, response, case)
