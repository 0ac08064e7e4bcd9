"""What the router keeps of those who serve: of each pool, and of each variant, whose pools are chosen among together.

The one thing to know: routing chooses among the replicas of one *variant*, whatever pool they are of; a queue, a demand
and a bound belong to one *pool*. In a fleet of one pool the two are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fleet.actors.demand import Demand
from fleet.actors.hearing import Announcer, Hooks
from fleet.actors.roster import Roster
from fleet.actors.windows import Window
from fleet.blame import blaming
from fleet.pools import Pool
from policies.base import BreakerPolicy, HedgePolicy, Policy, PolicyError, RoutingPolicy, parts_of
from policies.decisions import Hold, Reject, Route
from policies.resilience.no_breaker import NoBreaker
from policies.resilience.no_hedge import NoHedge
from policies.views import ReplicaView
from traces.schema import Request, Slo

Candidates = tuple[ReplicaView, ...]


class Desk:
    """One pool, as the router knows it."""

    __slots__ = (
        "autoscaler",
        "batcher",
        "capacity",
        "demand",
        "escalates",
        "expected_service_s",
        "hooks",
        "late",
        "open",
        "pool",
        "retired",
        "roster",
    )

    hooks: Announcer
    roster: Roster
    """Of its variant."""
    late: Roster | None
    """The same, where replicas take batches themselves; None: routing chooses them."""

    def __init__(self, pool: Pool, *, batcher: str, autoscaler: str, slo: Slo | None) -> None:
        self.pool = pool
        self.batcher, self.autoscaler = batcher, autoscaler
        self.demand = Demand(slo)
        self.capacity = pool.queue_capacity
        """Requests that may wait for it."""
        self.open: dict[str, Any] = {}  # Any: `Pending`, which knows of desks
        """Its requests that have not ended, in the order in which they came to it; only where there are other pools."""
        self.retired = False
        self.escalates = False
        """Its answers are judged before a client gets them."""
        self.expected_service_s = pool.expected_service_s
        """Worked out once."""

    def described(self) -> dict[str, int]:
        """What has become of its requests, each counted once, in plain values."""
        demand = self.demand
        return {
            "in_flight": demand.in_flight, "queue_depth": demand.waiting, "completed": demand.completions,
            "not_completed": demand.ended - demand.completions,
        }  # fmt: skip


def _probers(policy: Policy) -> tuple[RoutingPolicy, ...]:
    """The policy, if it has replicas probed, else those of its parts that do."""
    if isinstance(policy, RoutingPolicy) and type(policy).probes is not RoutingPolicy.probes:
        return (policy,)
    return tuple(prober for part in parts_of(policy) for prober in _probers(part))


class Variant:
    """One variant of one version of a model: who may be chosen for it, and who chooses."""

    __slots__ = (
        "breaker",
        "desk",
        "desks",
        "early",
        "escalates",
        "hedge",
        "hedges",
        "hooks",
        "let_in",
        "model",
        "name",
        "parked",
        "probers",
        "roster",
        "routing",
        "version",
        "window",
    )

    def __init__(self, pool: Pool, roster: Roster) -> None:
        self.model, self.version, self.name = pool.serves
        self.routing: RoutingPolicy = pool.routing
        self.hedge: HedgePolicy | None = None if type(pool.hedge) is NoHedge else pool.hedge
        self.breaker: BreakerPolicy | None = None if type(pool.breaker) is NoBreaker else pool.breaker
        self.early = pool.binding == "early"
        self.probers = _probers(pool.routing)
        """Those of its routing policies that name replicas to be asked for their load."""
        chooses = [policy for policy in (self.routing, self.hedge, self.breaker) if policy is not None]
        self.hooks = Hooks(*chooses)
        """Of those who choose among its replicas."""
        self.roster = roster
        self.desks: list[Desk] = []
        self.desk: Desk | None = None
        """The one there is; None where there are several, and the replica that is chosen says which."""
        self.parked: dict[str, Any] = {}  # Any: `Pending`
        """Requests that wait for a replica that they may go to, or for their next attempt's time, in order."""
        self.window: Window | None = None
        """What came of its requests lately, where a policy chooses among versions or variants."""
        self.escalates = False
        """Its answers are judged before a client gets them."""
        self.let_in = self.hedges = 0
        """Requests that were let in for it, and attempts that the hedge policy added."""

    def add(self, desk: Desk) -> None:
        """One more pool."""
        self.desks.append(desk)
        desk.roster, desk.late = self.roster, None if self.early else self.roster
        self._one()

    def retire(self, desk: Desk) -> None:
        """One pool fewer; the last one may leave nobody."""
        self.desks.remove(desk)
        desk.retired = True
        self._one()

    def _one(self) -> None:
        self.desk = self.desks[0] if len(self.desks) == 1 else None

    # --- choosing a replica ------------------------------------------------------------------------------------

    def candidates(
        self, request: Request, exclude: Iterable[str], now_s: float
    ) -> Candidates | Hold | Reject:
        """Who may be chosen: ready and trusted, not excluded if anybody else is there, and allowed by the breaker."""
        candidates = self.roster.candidates
        if self.breaker is not None and candidates:
            allowed = self._allowed(self.breaker, request, candidates, now_s)
            if not isinstance(allowed, tuple):
                return allowed
            candidates = allowed
        if exclude:
            # A wish, and so after what must be: one that is excluded is better than none.
            candidates = tuple(view for view in candidates if view.id not in exclude) or candidates
        return candidates

    def _allowed(
        self, breaker: BreakerPolicy, request: Request, candidates: Candidates, now_s: float
    ) -> Candidates | Hold | Reject:
        chosen = []
        try:
            for view in candidates:
                allows = breaker.allows(view, now_s)
                if allows is True:
                    chosen.append(view)
                elif allows is not False:
                    raise PolicyError(
                        f"breaker policy {breaker.name()} answered {allows!r} to whether {view.id} is allowed; "
                        "expected True or False"
                    )
            allowed = tuple(chosen)
            answer = None if allowed else breaker.none_allowed(request, candidates, now_s)
        except Exception as error:
            raise blaming(breaker, error, request.id, now_s) from error
        if answer is not None and not isinstance(answer, (Hold, Reject)):
            raise PolicyError(
                f"breaker policy {breaker.name()} answered {answer!r} when it allowed nobody; "
                "expected Hold, Reject or None"
            )
        return answer or allowed or candidates

    def route(self, request: Request, candidates: Candidates, now_s: float) -> Route | Hold | Reject:
        """Ask the routing policy."""
        try:
            return self.routing.route(request, candidates, now_s)
        except Exception as error:
            raise blaming(self.routing, error, request.id, now_s) from error

    def to_probe(self, request: Request, candidates: Candidates, now_s: float) -> list[ReplicaView]:
        """Whom the routing policy wants to hear of. Raises `PolicyError` when it names who is no candidate."""
        views = []
        for policy in self.probers:
            try:
                named = policy.probes(request, candidates, now_s)
            except Exception as error:
                raise blaming(policy, error, request.id, now_s) from error
            views += [self.chosen(Route(replica), candidates, request, now_s) for replica in named]
        return views

    def chosen(self, decision: Route, candidates: Candidates, request: Request, now_s: float) -> ReplicaView:
        """The replica that it named. Raises `PolicyError` when that is no candidate."""
        view = self.roster.chosen.get(decision.replica)
        if view is None or (
            candidates is not self.roster.candidates
            and not any(view is candidate for candidate in candidates)
        ):
            known = ", ".join(view.id for view in candidates[:8])
            raise PolicyError(
                f"routing policy {self.routing.name()} named replica {decision.replica!r}, "
                f"which is not a candidate for request {request.id!r} at {now_s:.6f} s (candidates: {known})"
            )
        return view

    def demand_future(self, decision: Hold, policy: str, request: Request, now_s: float) -> None:
        """Raises `PolicyError` for a hold that is over already."""
        if not decision.until_s > now_s:
            raise PolicyError(
                f"{policy} held request {request.id!r} until {decision.until_s} s at {now_s} s; "
                "until_s must be in the future"
            )
