"""Everyone is let in: the null baseline."""

from __future__ import annotations

from policies.base import AdmissionPolicy
from policies.decisions import Admit
from policies.views import FleetView
from traces.schema import Request

_ADMIT = Admit()


class AdmitAll(AdmissionPolicy):
    """Let every request in. O(1).

    Source: none; under sustained overload the queue grows without bound.
    """

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit:
        return _ADMIT
