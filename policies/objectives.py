"""What a request itself says of how long its reply may take, for policies that choose by latency."""

from __future__ import annotations

from traces.schema import Request


def own_bound_s(request: Request) -> float | None:
    """Its end-to-end objective or its deadline, whichever is sooner, from its arrival; None where it has neither."""
    objective_s = None if request.slo is None else request.slo.e2e_s
    if objective_s is None or request.deadline_s is None:
        return request.deadline_s if objective_s is None else objective_s
    return min(objective_s, request.deadline_s)
