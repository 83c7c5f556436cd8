"""Single requests, outside the load: is the server there, and are its answers right?"""

from __future__ import annotations

import time
from collections.abc import Callable

import requests

from benchmarks.asks import Ask
from benchmarks.errors import ServerError

_TIMEOUT_S = 60.0
_POLL_S = 0.1


class Client:
    """Asks one server."""

    def __init__(self, address: str) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between us and loopback
        self._address = address

    def fault(self, ask: Ask) -> str | None:
        """Return what is wrong with the answer; None if it is right."""
        try:
            answer = self._session.post(
                self._address + ask.path,
                data=ask.body,
                headers=dict(ask.headers),
                timeout=_TIMEOUT_S,
            )
        except requests.RequestException as error:
            return f"{ask.path}: {error}"
        return ask.fault(answer.status_code, answer.content, answer.headers)

    def check(self, ask: Ask) -> None:
        """Raise ServerError if the answer is not right."""
        if fault := self.fault(ask):
            raise ServerError(fault)

    def document(self, path: str) -> dict[str, object]:
        """Return the JSON object at `path`; empty if there is none."""
        try:
            answer = self._session.get(self._address + path, timeout=_TIMEOUT_S)
            content = answer.json() if answer.ok else {}
        except (requests.RequestException, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def wait_until_right(self, ask: Ask, deadline_s: float, look: Callable[[], None]) -> None:
        """Return at the first right answer; `look` raises if waiting is of no use.

        Raises ServerError after `deadline_s`.
        """
        until = time.monotonic() + deadline_s
        while fault := self.fault(ask):
            look()
            if time.monotonic() > until:
                raise ServerError(f"no right answer within {deadline_s:g} s: {fault}")
            time.sleep(_POLL_S)
