"""What all ingresses have counted, as far as they have said lately. Times are in seconds."""

from typing import Final

from serve_app.control.fleet import Leases
from serve_app.metrics.counts import Report

PERIOD_S: Final = 5.0
"""How often an ingress reports."""

LEASE_S: Final = 4 * PERIOD_S
"""One that hasn't for this long is shown no more."""


class Reports:
    """The last report of each ingress."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._leases = Leases(LEASE_S)

    def note(self, ingress: str, report: Report, now: float) -> dict[str, Report]:
        """Take a report in place of the last one, and return those of all."""
        self._reports[ingress] = report
        self._leases.renew(ingress, now)
        for gone in self._leases.expire(now):
            del self._reports[gone]
        return dict(self._reports)
