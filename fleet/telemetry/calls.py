"""The log of what routing policies were asked and told: enough to ask another policy the very same.

The one thing to know: a policy is watched from around it (`Logged`), so that actors know nothing of the log, and a run
without one does nothing for it. A view is written down only where it differs from how it was last shown, which makes
the log as long as what changed, however many replicas there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from msgspec.structs import astuple, replace

from fleet.blame import blaming, tell
from fleet.telemetry.sink import Columns
from policies.base import RoutingPolicy, listeners
from policies.decisions import Hold, Reject, Route
from policies.views import Completion, Ending, ReplicaView, TokenSignals
from traces.schema import Request

MOST_CALLS = 5_000_000
"""Rows of a log, of each table. A log that is full ends there: its beginning can still be played."""

CALLS = pa.schema([
    ("time_s", pa.float64()), ("policy", pa.string()), ("call", pa.string()), ("request", pa.string()),
    ("arrived_s", pa.float64()), ("shown", pa.string()), ("decision", pa.string()), ("until_s", pa.float64()),
    ("replica", pa.string()), ("attempt", pa.int32()), ("failure", pa.string()), ("service_s", pa.float64()),
    ("e2e_s", pa.float64()), ("ttft_s", pa.float64()), ("output_tokens", pa.int64()), ("resumed_tokens", pa.int64()),
    ("role", pa.string()), ("pool", pa.string()), ("version", pa.string()), ("variant", pa.string()),
    ("quality", pa.float64()), ("outcome", pa.string()), ("attempts", pa.int32()), ("slo_met", pa.bool_()),
])  # fmt: skip
"""One row a call of a routing policy, in order. `policy` is the first pool of those that it chooses among; `shown` the
candidates' ids, null where they are those of the call before; from `replica` on it is the fields of `Completion`, with
those that only `Ending` has at the end."""
VIEWS = pa.schema([
    ("call", pa.int64()), ("id", pa.string()), ("in_flight", pa.int64()), ("capacity", pa.int64()),
    ("weight", pa.float64()), ("state", pa.string()), ("trust", pa.string()), ("ready_since_s", pa.float64()),
    ("as_of_s", pa.float64()), ("busy_fraction", pa.float64()), ("gpu_utilization", pa.float64()),
    ("memory_used_bytes", pa.int64()), ("memory_total_bytes", pa.int64()), ("pool", pa.string()),
    ("device", pa.string()), ("cost_per_hour", pa.float64()), ("expected_service_s", pa.float64()),
    ("zone", pa.string()),
    *((f"tokens.{name}", pa.int64()) for name in TokenSignals.__struct_fields__),
])  # fmt: skip
"""One row a view that differed from how this policy was last shown that replica: the fields of `ReplicaView`. `call` is
the number of the row in the table of calls."""
LOG = {"calls": CALLS, "views": VIEWS}

NO_TOKENS = (None,) * len(TokenSignals.__struct_fields__)
_TOKENS = ReplicaView.__struct_fields__.index("tokens")
_NOT_TOLD = (None,) * (len(CALLS) - CALLS.get_field_index("replica") - 1)


class Around(RoutingPolicy):
    """A routing policy with something around it. It hears what that one hears, and errors name that one."""

    slot = ""  # nobody can ask for it by name

    inner: RoutingPolicy

    def name(self) -> str:  # type: ignore[override]  # of an instance, not of the class
        return self.inner.name()

    def ask(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        """What the policy itself says."""
        try:
            return self.inner.route(request, replicas, now_s)
        except Exception as error:
            raise blaming(self.inner, error, request.id, now_s) from error


class CallLog:
    """The calls of every routing policy of a run, in one order."""

    def __init__(self, most: int = MOST_CALLS) -> None:
        self._most = most
        self._calls, self._views = Columns(CALLS), Columns(VIEWS)
        self.number = 0
        """Of the next call."""

    @property
    def full(self) -> bool:
        """No more calls are written."""
        return self.number >= self._most

    def watch(self, pool: str, policy: RoutingPolicy) -> RoutingPolicy:
        """Log what this policy is asked and told."""
        return Logged(policy, self, pool)

    def tables(self) -> dict[str, pa.Table]:
        """Everything so far; it is here no longer."""
        return {"calls": self._calls.take(), "views": self._views.take()}

    def write(self, row: tuple[object, ...]) -> None:
        """One call, with all that its schema has."""
        self._calls.append(row)
        self.number += 1

    def show(self, view: ReplicaView) -> None:
        """A view that is part of the next call."""
        fields = astuple(view)
        tokens = NO_TOKENS if view.tokens is None else astuple(view.tokens)
        self._views.append((self.number, *fields[:_TOKENS], *fields[_TOKENS + 1 :], *tokens))


class Logged(Around):
    """Answers as its policy does, and writes down what that was shown, what it said, and what it was told.

    What is routed is sent at once, so that `on_dispatched` needs no row of its own.
    """

    log: CallLog
    pool: str

    def __post_init__(self) -> None:
        self.known: dict[str, ReplicaView] = {}
        """Views as this policy was last shown them."""
        self.shown: Sequence[ReplicaView] = ()
        self.ids = ""
        self.listeners = {hook: tuple(listeners(self.inner, hook)) for hook in self.inner.hears}

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        log = self.log
        if log.full:
            return self.ask(request, replicas, now_s)
        shown = self._shown(replicas)
        decision = self.ask(request, replicas, now_s)
        replica = decision.replica if isinstance(decision, Route) else None
        until_s = decision.until_s if isinstance(decision, Hold) else None
        log.write(
            (now_s, self.pool, "route", request.id, request.arrived_s, shown, type(decision).__name__, until_s, replica,
             *_NOT_TOLD)
        )  # fmt: skip
        return decision

    def _shown(self, replicas: Sequence[ReplicaView]) -> str | None:
        """Write down what is new in these views; their ids, where they are others than those of the call before."""
        known = self.known
        for view in replicas:
            if view != known.get(view.id):
                known[view.id] = replace(view)
                self.log.show(view)
        if replicas is self.shown:
            return None
        self.shown, before = replicas, self.ids
        self.ids = " ".join(view.id for view in replicas)
        return None if self.ids == before else self.ids

    def _told(self, hook: str, request: Request, now_s: float, fields: Iterable[object]) -> None:
        if not self.log.full:
            self.log.write((now_s, self.pool, hook, request.id, None, None, None, None, *fields))

    def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
        self._told("on_first_token", request, now_s, (replica, *_NOT_TOLD))
        tell(self.listeners["on_first_token"], now_s, request, replica)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        self._told("on_completed", completion.request, now_s, (*astuple(completion)[1:], None, None, None))
        tell(self.listeners["on_completed"], now_s, completion)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        fields = (
            None, None, None, None, ending.e2e_s, ending.ttft_s, ending.output_tokens, None, None, ending.pool,
            ending.version, ending.variant, ending.quality, ending.outcome, ending.attempts, ending.slo_met,
        )  # fmt: skip
        self._told("on_request_ended", ending.request, now_s, fields)
        tell(self.listeners["on_request_ended"], now_s, ending)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        if not self.log.full:
            shown = self._shown(replicas)
            self.log.write((now_s, self.pool, "on_replicas", None, None, shown, None, None, None, *_NOT_TOLD))
        tell(self.listeners["on_replicas"], now_s, replicas)
