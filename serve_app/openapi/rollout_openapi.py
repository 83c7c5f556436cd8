"""The routes of rollouts and true values, as the OpenAPI document describes them; pure."""

from typing import Any, Final

from serve_app.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InvalidBodyError,
    MalformedBodyError,
    NotReadyError,
    RolloutConflictError,
    UnsupportedMediaTypeError,
)
from serve_app.http.rollout_pages import MOST_VALUES, PRINTABLE
from serve_app.models.served import ServedModel
from serve_app.openapi import schemas
from serve_app.openapi.operations import Described, Errors, answer, content, operation
from serve_app.openapi.schemas import SHARE, STANDING, Schema, named, strict
from serve_app.protocols import media

TAG: Final = "Rollouts"

_BODIES: Final[Errors] = (
    MalformedBodyError,
    BodyTimeoutError,
    BodyTooLargeError,
    UnsupportedMediaTypeError,
    InvalidBodyError,
    NotReadyError,
)

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_NUMBER: Final[Schema] = {"type": "number"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_ARM: Final = strict({"requests": _COUNT, "errors": _NUMBER, "missing": _NUMBER})
_PAIRS: Final = strict({"count": _COUNT, "total": _NUMBER})

_ROLLOUT: Final = {
    "description": "The rollout under way, and what was seen since its step began.",
    **strict(
        {
            "number": _COUNT,
            "champion": _TEXT,
            "challenger": _TEXT,
            "step": {**_COUNT, "description": "Counted from 0."},
            "step_began": {**_NUMBER, "description": "Seconds since the epoch."},
            "paused_at": {"type": ["number", "null"]},
            "steps": {"type": "array", "items": SHARE, "description": "The weight of each step."},
            "evidence": strict(
                {
                    "champion": _ARM,
                    "challenger": _ARM,
                    "live": _COUNT,
                    "time": _PAIRS,
                    "shift": _PAIRS,
                    "quality": _PAIRS,
                }
            ),
            "reasons": {**_TEXTS, "description": "What the step waits for."},
            "verdicts": {
                "type": "array",
                "items": strict(
                    {
                        "metric": _TEXT,
                        "outcome": {"enum": ["pass", "fail", "inconclusive"]},
                        "reason": _TEXT,
                        "numbers": {"type": "object", "additionalProperties": _NUMBER},
                    }
                ),
            },
        }
    ),
}

_LAST: Final = {
    "description": "The last rollout that this controller has ended; MLflow has them all.",
    **strict(
        {
            "challenger": _TEXT,
            "outcome": {"enum": ["promoted", "aborted"]},
            "at": {"type": "string", "format": "date-time"},
            "reasons": _TEXTS,
        }
    ),
}

_COMMAND: Final = strict(
    {
        "action": {"enum": ["pause", "resume", "promote", "abort"]},
        "reason": {"type": "string", "pattern": PRINTABLE, "minLength": 1, "maxLength": 500},
    }
)


def components(model: ServedModel) -> dict[str, Schema]:
    """Return the schemas that `paths` names."""
    return {
        "Standing": strict(STANDING),
        "Rollout": _ROLLOUT,
        "LastRollout": _LAST,
        "Command": _COMMAND,
        "TrueValue": _true_value(model),
    }


def _true_value(model: ServedModel) -> Schema:
    one = {"type": "number"} if model.labels is None else {"enum": list(model.labels)}
    each = {"anyOf": [one, {"type": "null"}]}
    known = {"contains": one}
    return strict(
        {
            "request_id": {
                "type": "string",
                "pattern": "^[ -~]{1,200}$",
                "description": "The `x-request-id` of the answer.",
            },
            "value": {
                "description": "The true value; of a request with many records a list, null where "
                "it isn't known.",
                "anyOf": [one, {**schemas.many(each, MOST_VALUES), **known}],
            },
        }
    )


def paths(model: ServedModel) -> Described:
    """Return the routes."""
    standing = answer("How it stands", content(media.JSON, named("Standing")))
    taken = answer("It will be done", content(media.JSON, strict({"action": _TEXT})))
    states = {"enum": ["accepted", "duplicate", "unused"]}
    kept = answer(
        "`accepted`: it will be compared if its request is remembered; `duplicate`: its request "
        "has one already, and the first counts; `unused`: no rollout is under way",
        content(media.JSON, strict({"state": states})),
    )
    command = {"action": "pause", "reason": "looking into it"}
    label: dict[str, Any] = {"request_id": "order-1", "value": (model.labels or (151.0,))[0]}
    return {
        "/admin/rollout": {
            "get": operation("rollout", TAG, "How the rollout stands", standing),
            "post": operation(
                "rollout_command",
                TAG,
                "Pause, resume, promote or abort the rollout",
                taken,
                errors=(*_BODIES, RolloutConflictError),
                body=content(media.JSON, named("Command"), {"pause": command}),
                status=202,
            ),
        },
        "/feedback": {
            "post": operation(
                "feedback",
                TAG,
                "Say what was true of a request's records",
                kept,
                errors=_BODIES,
                body=content(media.JSON, named("TrueValue"), {"one record": label}),
                status=202,
            )
        },
    }
