"""Asking another policy what a run's own policy was asked: the same views, at the same times, after the same hooks.

The one thing to know: the other policy decides nothing. Whatever it answers, it is next shown and told what came of the
logged decision.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from fleet.blame import blaming, reset, tell
from fleet.seeding import rng_for, stream_of
from fleet.telemetry.calls import CALLS, VIEWS
from fleet.telemetry.run import Run
from policies.base import Policy, PolicyError, RoutingPolicy, listeners
from policies.decisions import Hold, Reject, Route
from policies.views import Completion, Ending, ReplicaView, TokenSignals
from traces import Trace
from traces.schema import Request

Row = dict[str, Any]  # Any: the cells of a row of the log
BLOCK_ROWS = 4_096
_VIEW = [name for name in ReplicaView.__struct_fields__ if name != "tokens"]
_TOKENS = TokenSignals.__struct_fields__
_COMPLETION = [name for name in Completion.__struct_fields__ if name != "request"]
_ENDING = [name for name in Ending.__struct_fields__ if name != "request"]


class Asked(NamedTuple):
    """One decision: what was asked, what the log has as its answer, and what the other policy answers."""

    pool: str
    """The first of those that its policy chose among."""
    nth: int
    """Of the decisions of that policy, from 0."""
    time_s: float
    request: str
    views: tuple[ReplicaView, ...]
    logged: str
    """``Route``, ``Hold`` or ``Reject``."""
    replica: str | None
    """Where the log routed it."""
    other: Route | Hold | Reject

    @property
    def other_replica(self) -> str | None:
        return self.other.replica if isinstance(self.other, Route) else None

    @property
    def agrees(self) -> bool:
        """The same kind of decision, and the same replica."""
        return type(self.other).__name__ == self.logged and self.other_replica == self.replica

    def view(self, replica: str | None) -> ReplicaView | None:
        """How this replica was shown."""
        return next((view for view in self.views if view.id == replica), None)


def demand_log(run: Run) -> None:
    """Raises `ValueError` where there is nothing to ask about, or what was logged lacks what policies are shown now."""
    if not pc.any(pc.equal(run.calls["call"], "route")).as_py():
        raise ValueError(
            "the run has no log of what its routing policies were shown; run it anew with log_views=True, or "
            "--log-views, and with early binding (with late binding nobody routes)"
        )
    for name, table, schema in (("calls", run.calls, CALLS), ("views", run.views, VIEWS)):
        missing = [field for field in schema.names if field not in table.column_names]
        if missing:
            raise ValueError(
                f"the log of {name} has no {', '.join(missing)}: it is of an older version; log it anew"
            )


class Asking:
    """The other policy in the place of each routing policy of a run of `trace`: fresh ones, seeded as those were."""

    def __init__(self, run: Run, trace: Trace, policy: RoutingPolicy) -> None:
        self._run, self._policy = run, policy
        self._requests = {entry.request.id: entry.request for entry in trace}
        self._lengths = {entry.request.id: entry.output_tokens for entry in trace} if policy.oracle else {}
        self._others: dict[str, _Other] = {}

    def __iter__(self) -> Iterator[Asked]:
        """Every decision in turn. Raises `PolicyError` with its number and time where the policy breaks its word."""
        views = _Changes(self._run.views)
        number = 0
        for call, row in enumerate(_rows(self._run.calls)):
            other = self._others.get(row["policy"]) or self._add(row["policy"])
            other.show(views.of(call), row["shown"])
            if row["call"] == "route":
                yield self._ask(other, row, number)
                self._send(other, row)
                number += 1
            else:
                self._tell(other, row)

    def _add(self, pool: str) -> _Other:
        policy: RoutingPolicy = self._policy.fresh()
        reset(policy, self._rng(pool))
        if policy.oracle:
            policy.reveal(self._lengths.get)
        self._others[pool] = made = _Other(pool, policy)
        return made

    def _rng(self, pool: str) -> random.Random:
        """The stream that the routing policy of the run was given."""
        router = rng_for(self._run.manifest.seed, "router")
        if not self._run.manifest.spec.get("pools"):
            return router
        return stream_of(router.getrandbits(64), f"routing/{pool}")

    def _request(self, row: Row) -> Request:
        request = self._requests.get(row["request"])
        if request is None:
            raise ValueError(f"the log tells of request {row['request']!r}, which is not in the trace")
        arrived_s = row["arrived_s"]
        if arrived_s is None or arrived_s == request.arrived_s:
            return request
        self._requests[request.id] = moved = replace(request, arrived_s=arrived_s)  # closed loop
        return moved

    def _ask(self, other: _Other, row: Row, number: int) -> Asked:
        request, now_s = self._request(row), row["time_s"]
        try:
            answer: Route | Hold | Reject = other.policy.route(request, other.views, now_s)
            demand_sound(answer, other.views, now_s)
        except Exception as error:
            raise _at(number, blaming(other.policy, error, request.id, now_s), now_s) from error
        nth, other.asked = other.asked, other.asked + 1
        return Asked(other.pool, nth, now_s, request.id, other.views, row["decision"], row["replica"], answer)

    def _send(self, other: _Other, row: Row) -> None:
        """What the log routed was sent at once."""
        if row["replica"] is not None and "on_dispatched" in other.hears:
            tell((other.policy.on_dispatched,), row["time_s"], self._request(row), row["replica"])

    def _tell(self, other: _Other, row: Row) -> None:
        hook, now_s = row["call"], row["time_s"]
        if hook in other.hears:
            tell((getattr(other.policy, hook),), now_s, *self._told(other, hook, row))

    def _told(self, other: _Other, hook: str, row: Row) -> tuple[object, ...]:
        if hook == "on_replicas":
            return (other.views,)
        request = self._request(row)
        if hook == "on_completed":
            return (Completion(request=request, **{name: row[name] for name in _COMPLETION}),)
        if hook == "on_request_ended":
            return (Ending(request=request, **{name: row[name] for name in _ENDING}),)
        return request, row["replica"]


class _Other:
    """The other policy in the place of one of the run's."""

    def __init__(self, pool: str, policy: RoutingPolicy) -> None:
        self.pool, self.policy = pool, policy
        self.hears = frozenset(hook for hook in policy.hears if listeners(policy, hook))
        self.views: tuple[ReplicaView, ...] = ()
        """What it is shown now."""
        self.asked = 0
        self._known: dict[str, ReplicaView] = {}
        self._ids: list[str] = []

    def show(self, changes: list[ReplicaView], ids: str | None) -> None:
        """These views are others than before; and these, if they are, the candidates."""
        for view in changes:
            self._known[view.id] = view
        if ids is not None:
            self._ids = ids.split()
        if changes or ids is not None:
            self.views = tuple(self._known[id] for id in self._ids)


class _Changes:
    """The views of the log, by call, in the order of calls."""

    def __init__(self, table: pa.Table) -> None:
        self._rows = _rows(table)
        self._next: Row | None = next(self._rows, None)

    def of(self, call: int) -> list[ReplicaView]:
        """Those that are part of this call."""
        found = []
        while self._next is not None and self._next["call"] == call:
            found.append(_view(self._next))
            self._next = next(self._rows, None)
        return found


def _view(row: Row) -> ReplicaView:
    tokens = None
    if row["tokens.waiting"] is not None:
        tokens = TokenSignals(**{name: row[f"tokens.{name}"] for name in _TOKENS})
    return ReplicaView(tokens=tokens, **{name: row[name] for name in _VIEW})


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
        yield from batch.to_pylist()


def demand_sound(answer: object, views: tuple[ReplicaView, ...], now_s: float) -> None:
    """Raises `PolicyError` for what a router would not take for an answer."""
    if isinstance(answer, Route):
        if not any(view.id == answer.replica for view in views):
            raise PolicyError(f"it named replica {answer.replica!r}, which is not a candidate")
    elif isinstance(answer, Hold):
        if not (math.isfinite(answer.until_s) and answer.until_s > now_s):
            raise PolicyError(f"it held until {answer.until_s} s; until_s must be in the future")
    elif not isinstance(answer, Reject):
        raise PolicyError(f"it answered {answer!r}; expected Route, Hold or Reject")


def _at(number: int, error: PolicyError, now_s: float) -> PolicyError:
    return PolicyError(f"decision {number} of the log, at {now_s:.6f} s: {error}")


def not_fed(policy: Policy) -> list[str]:
    """Hooks that this policy listens to and that no log has."""
    return [hook for hook in policy.hears if hook in {"on_tokens", "on_load"} and listeners(policy, hook)]
