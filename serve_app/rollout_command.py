"""`python -m serve_app rollout ...`: the rollout of a running service, asked for and acted on."""

import argparse
import getpass
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import requests

from serve_app.errors import ECHOED
from serve_app.model_errors import printable

ACTIONS: Final = {
    "pause": "stop the step's clock; requests are judged on, and a fail still aborts",
    "resume": "let the step's clock run on",
    "promote": "make the challenger champion now, without the steps left",
    "abort": "send everybody back to the champion now",
}

URL_VARIABLE: Final = "ENDEAVOUR_URL"
KEY_VARIABLE: Final = "ENDEAVOUR_API_KEY"
TIMEOUT_S: Final = 20.0
"""Longer than the service waits for its controller: what it then says tells more than silence."""

_EXIT_CODES: Final = {409: 3}
"""By status of the answer; 1 for all others."""

_BAR: Final = 30

_FOREIGN: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What it takes to read an answer that isn't this service's."""


class ServiceError(Exception):
    """The service has refused, or could not be asked; the message says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `rollout` with a command for each action."""
    port = os.environ.get("PORT", "8000")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE) or f"http://127.0.0.1:{port}",
        help=f"address of the service (default: ${URL_VARIABLE}, else %(default)s)",
    )
    rollout = commands.add_parser(
        "rollout",
        help="look at a rollout, or act on it",
        description=f"A service with API keys asks for one with the scope admin: ${KEY_VARIABLE}.",
    )
    actions = rollout.add_subparsers(required=True, metavar="ACTION", dest="action")
    status = actions.add_parser("status", parents=[shared], help="say how the rollout stands")
    status.add_argument("--json", action="store_true", help="print all that is known, as JSON")
    status.set_defaults(ask=_status)
    for action, text in ACTIONS.items():
        one = actions.add_parser(action, parents=[shared], help=text, description=text)
        one.add_argument(
            "--reason", default=f"{getpass.getuser()} said so", help="goes on record in MLflow"
        )
        one.set_defaults(ask=_act)


def _status(options: argparse.Namespace) -> str:
    answer = _asked("GET", options.url)
    try:
        standing = answer.json()
        text = written(standing, datetime.now(UTC).timestamp())
    except _FOREIGN as error:
        raise _foreign(options.url, answer) from error
    # Of what isn't ASCII, JSON has the codes: a terminal obeys none of them.
    return json.dumps(standing) if options.json else text


def _act(options: argparse.Namespace) -> str:
    answer = _asked("POST", options.url, {"action": options.action, "reason": options.reason})
    try:
        is_taken = answer.json()["action"] == options.action
    except _FOREIGN as error:
        raise _foreign(options.url, answer) from error
    if not is_taken:
        raise _foreign(options.url, answer)
    return (
        f"{options.action}: the controller does it; `python -m serve_app rollout status` shows how"
    )


def _asked(method: str, url: str, content: Mapping[str, str] | None = None) -> requests.Response:
    route = f"{url.rstrip('/')}/admin/rollout"
    try:
        answer = requests.request(
            method,
            route,
            json=content,
            headers=_headers(),
            timeout=TIMEOUT_S,
            allow_redirects=False,  # the key is for nobody else
        )
    except requests.RequestException as error:
        raise ServiceError(
            f"no service answers at {url}: name it with --url or {URL_VARIABLE} "
            f"({type(error).__name__})",
            4,
        ) from error
    if answer.is_redirect:
        raise ServiceError(f"{url} leads elsewhere: name {answer.headers['location']} by --url", 1)
    if answer.ok:
        return answer
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:ECHOED]
    if answer.status_code in (401, 403):
        detail += f" (set {KEY_VARIABLE} to a key with the scope admin)"
    raise ServiceError(f"{answer.status_code}: {detail}", _EXIT_CODES.get(answer.status_code, 1))


def _foreign(url: str, answer: requests.Response) -> ServiceError:
    """Return what is said of another application that answers at the address."""
    kind = (answer.headers.get("content-type") or "no content-type")[:ECHOED]
    return ServiceError(
        f"what answers at {url} is not this service ({answer.status_code}, {kind}): "
        f"name the service with --url or {URL_VARIABLE}",
        1,
    )


def _headers() -> dict[str, str]:
    """Return the API key's header; it comes by the environment, as arguments are for all to see."""
    key = os.environ.get(KEY_VARIABLE)
    return {"x-api-key": key} if key else {}


def written(standing: Mapping[str, Any], now: float) -> str:
    """Return what `/admin/rollout` has said, for people; `now` is in seconds since the epoch."""
    lines = [f"champion: version {standing['champion']}"]
    if standing["previous"] is not None:
        lines.append(f"previous: version {standing['previous']}, warm")
    if standing["is_from_cache"]:
        lines.append("MLflow has not confirmed the champion: it is what was served last")
    if standing["mlflow"] != "answers":
        lines.append(f"MLflow: {standing['mlflow']}")
    if standing["unrecorded"]:
        lines.append(f"not yet recorded in MLflow: {standing['unrecorded']} entries")
    rollout = standing["rollout"]
    lines += ["no rollout is under way"] if rollout is None else _rollout(standing, rollout, now)
    if standing["waiting"] is not None:
        lines.append(f"waiting: version {standing['waiting']}")
    for version, reason in standing["refused"].items():
        lines.append(f"refused: version {version}: {reason}")
    if (last := standing["last_rollout"]) is not None:
        lines.append(f"last rollout: version {last['challenger']} {last['outcome']}, {last['at']}")
        lines += [f"  {reason}" for reason in last["reasons"]]
    return "\n".join(map(printable, lines))


def _rollout(standing: Mapping[str, Any], rollout: Mapping[str, Any], now: float) -> list[str]:
    steps, weight = rollout["steps"], standing["weight"]
    filled = round(_BAR * weight)
    for_s = (rollout["paused_at"] or now) - rollout["step_began"]
    state = "paused" if rollout["paused_at"] is not None else "running"
    what = "shadow" if weight == 0 else f"{weight:.0%} of the clients"
    lines = [
        f"challenger: version {rollout['challenger']}, {state}",
        f"  [{'#' * filled}{'.' * (_BAR - filled)}] {what}, step {rollout['step'] + 1} of "
        f"{len(steps)}, for {max(0.0, for_s):.0f} s",
    ]
    for verdict in rollout["verdicts"]:
        lines.append(f"  {verdict['outcome']:12} {verdict['reason']}")
    waits = [reason for reason in rollout["reasons"] if not _is_verdict(reason, rollout)]
    return lines + [f"  {'waits':12} {reason}" for reason in waits]


def _is_verdict(reason: str, rollout: Mapping[str, Any]) -> bool:
    return any(verdict["reason"] == reason for verdict in rollout["verdicts"])
