"""That no secret is written anywhere, looked for when a system has been through its tests."""

from __future__ import annotations

from pathlib import Path

from tests.running import Running

MANY_LOGS = 20


def check(service: Running, *written: str) -> None:
    """Fail if the key's secret or Ray's token stands in a log, on a page, or in other texts."""
    secrets = {"the API key": service.key.partition(".")[2], "Ray's token": service.token}
    scratch = Path(service.state["scratch"])
    logs = [service.log]
    for folder in (service.root / "var", scratch):
        logs += [one for kind in ("*.log", "*.out", "*.err") for one in folder.rglob(kind)]
    assert len(logs) > MANY_LOGS
    texts = {str(log): log.read_text(errors="replace") for log in logs}
    texts |= {route: service.get(route).text for route in ("/model", "/admin/rollout")}
    texts |= {f"text {at}": text for at, text in enumerate(written)}
    found = [
        f"{what} in {where}"
        for where, text in texts.items()
        for what, secret in secrets.items()
        if secret and secret in text
    ]
    assert not found, found
