"""Probes change nothing: the null baseline."""

from __future__ import annotations

from policies.base import HealthPolicy
from policies.views import ProbeOutcome


class AlwaysTrust(HealthPolicy):
    """Trust every replica whatever its probes say. O(1).

    Failures are then noticed only where a request runs into them.

    Source: none.
    """

    def observe(self, probe: ProbeOutcome, now_s: float) -> None:
        return None

    def settled(self) -> bool:
        return True
