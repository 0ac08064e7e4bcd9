"""The invariants of docs/invariants.md, checked while a simulation runs and on the records it leaves.

Three parts, by cost. `check` runs after every event and does arithmetic only. `check_all` walks over
everything that is in flight; it waits for a multiple of what it walked over before it walks again, so that its
share of a run stays small however long the queues are. `audit` reads the finished run's tables, once.
"""

from __future__ import annotations

from collections import Counter
from typing import NoReturn, Protocol

import numpy as np
import pyarrow.compute as pc

from fleet.actor import FleetError
from fleet.actors.batcher import Batcher
from fleet.actors.load_generator import LoadGenerator
from fleet.actors.pending import Attempt
from fleet.actors.replica import TRANSITIONS, Replica
from fleet.actors.token_replica import TokenReplica
from fleet.pools import DEFAULT, pool_of
from fleet.runs.assembly import Head
from fleet.runtime.simulated import SimulatedRuntime
from fleet.spec import FleetSpec
from fleet.telemetry.attempts import decides, flags, only_attempts, requests_of
from fleet.telemetry.run import Run
from policies.views import ReplicaView

FULL_EVERY = 1_000
"""Events between two full checks, at least."""
EVENTS_PER_ITEM = 8
"""Events that must have happened for each item that a full check walks over."""
ROUNDING_S = 1e-9
"""Two ways to add up one duration may differ by this much, relative to the time of the run."""


class InvariantViolation(FleetError):  # noqa: N818  # what it is called in the design
    """The fleet broke one of its own laws: a defect of fleetlab, not of a policy."""


NAMES = {1: "conservation", 2: "once", 3: "causality", 4: "work conserving", 5: "bounds", 6: "trust"}
"""Those of design section 9 that can be seen on one run."""


def _fail(number: int, detail: str) -> NoReturn:
    raise InvariantViolation(f"invariant {number} ({NAMES[number]}): {detail}")


class Checked(Protocol):
    """What the checker looks at: the parts of a `Simulation`."""

    spec: FleetSpec
    runtime: SimulatedRuntime
    head: Head
    client: LoadGenerator


class InvariantChecker:
    """Checks one simulation; `check` is called after every event and all that it led to at that instant."""

    def __init__(self, simulation: Checked) -> None:
        self._simulation = simulation
        self.moves = False
        """Requests may have gone from one pool to another, which takes in what it must, however much waits there."""
        self._now = 0.0
        self._until_full = FULL_EVERY

    def check(self) -> None:
        """After every event: what costs a few additions."""
        simulation = self._simulation
        now = simulation.runtime.now
        if now < self._now:
            _fail(3, f"time ran from {self._now} s back to {now} s")
        self._now = now
        router = simulation.head.router
        if router.submitted != len(router.pending) + len(router.lobby) + sum(router.ended.values()):
            _fail(
                1,
                f"{router.submitted} submitted, {router.ended} ended, {len(router.pending)} pending, "
                f"{len(router.lobby)} delayed",
            )
        self._until_full -= 1
        if self._until_full <= 0 or simulation.runtime.stopped:
            walked = self.check_all()
            self._until_full = max(FULL_EVERY, EVENTS_PER_ITEM * walked)

    def check_all(self) -> int:
        """All that can be seen from a state between two events; answers how much it walked over."""
        self._conservation()
        self._once()
        self._nothing_forgotten()
        self._counts_agree()
        self._work_conserving()
        self._bounds()
        self._blocks()
        self._trust()
        head = self._simulation.head
        batchers = [made.batcher for made in head.pools.values()]
        return len(head.router.pending) + sum(item.depth + len(item.views()) for item in batchers)

    # --- 1 and 2: every request is somewhere, once ----------------------------------------------------------

    def _conservation(self) -> None:
        for name, made in self._simulation.head.pools.items():
            batcher = made.batcher
            queues = batcher.queues()
            waiting = sum(len(queue.waiting) for queue in queues)
            dispatched = sum(len(work) for _, work in batcher.batches())
            if (batcher.depth, batcher.dispatched) != (waiting, dispatched):
                _fail(
                    1,
                    f"batcher of {name}: counts {batcher.depth} waiting and {batcher.dispatched} dispatched, "
                    f"has {waiting} and {dispatched}",
                )
            if batcher.enqueued != batcher.finished + waiting + dispatched:
                _fail(
                    1,
                    f"batcher of {name}: {batcher.enqueued} in, {batcher.finished} out, {waiting} waiting, "
                    f"{dispatched} dispatched",
                )
            for queue in queues:
                if len(queue.order) != len(queue.waiting):
                    _fail(
                        1,
                        f"queueing policy {queue.order.name()} holds {len(queue.order)} of {len(queue.waiting)} "
                        "waiting requests",
                    )

    def _once(self) -> None:
        client = self._simulation.client
        if client.submitted != client.replied + len(client.unfinished()):
            _fail(
                2,
                f"{client.submitted} requests, {client.replied} replies, "
                f"{len(client.unfinished())} without one",
            )

    def _nothing_forgotten(self) -> None:
        """Every live attempt waits or runs where it was sent; a request without one has a timer or nowhere to go."""
        head = self._simulation.head
        router, batchers = head.router, [made.batcher for made in head.pools.values()]
        waiting = {
            work.ticket: (name, work.request.id)
            for name, made in head.pools.items()
            for queue in made.batcher.queues()
            for work, _ in queue.waiting.values()
        }
        running = {
            work.ticket: (replica, work.request.id)
            for batcher in batchers
            for replica, works in batcher.batches()
            for work in works
        }

        def somewhere(attempt: Attempt, id: str) -> bool:
            if attempt.started_s is None:
                return waiting.get(attempt.ticket) == (attempt.desk.pool.name, id)
            return running.get(attempt.ticket) == (attempt.replica, id)

        for id, pending in router.pending.items():
            live = pending.live()
            fine = all(somewhere(attempt, id) for attempt in live) and pending.running == sum(
                attempt.started_s is not None for attempt in live
            )
            if not live:
                fine = pending.timer is not None or not any(map(_trusted, pending.variant.roster.candidates))
            if not fine:
                _fail(1, f"request {id!r} is pending, but nobody has it: {pending}")
            if len({attempt.replica for attempt in live}) != len(live):
                _fail(2, f"request {id!r} has two live attempts at one replica: {live}")
        for request, attempt in router.shadows.values():
            if not somewhere(attempt, request.id):
                _fail(1, f"a shadow of request {request.id!r} is live, but nobody has it: {attempt}")
        self._demands()

    def _demands(self) -> None:
        """What each pool's ledger says is there is there, and so it is over all of them."""
        router = self._simulation.head.router
        there: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for pending in router.pending.values():
            there[pending.desk.pool.name] += 1
            running[pending.desk.pool.name] += pending.running > 0
        if router.running != sum(running.values()):
            _fail(
                1,
                f"the router counts {router.running} requests with a replica, and has {sum(running.values())}",
            )
        for _, attempt in router.shadows.values():
            there[attempt.desk.pool.name] += 1
            running[attempt.desk.pool.name] += attempt.started_s is not None
        for name, desk in router.catalogue.desks.items():
            counted = desk.demand.in_flight, desk.demand.running
            if counted != (there[name], running[name]):
                _fail(
                    1,
                    f"pool {name} counts {counted} (in flight, running), and has {there[name], running[name]}",
                )
            if not router.flat and len(desk.open) != sum(
                pending.desk is desk for pending in router.pending.values()
            ):
                _fail(1, f"pool {name} has lost sight of a request")

    def _counts_agree(self) -> None:
        """Router and batchers count what is in flight at each replica on their own; both must be right."""
        head = self._simulation.head
        assigned: Counter[str] = Counter()
        for made in head.pools.values():
            batcher, pool = made.batcher, made.pool
            batches: Counter[str] = Counter()
            dispatched: Counter[str] = Counter()
            for replica, work in batcher.batches():
                batches[replica] += 1
                dispatched[replica] += len(work)
            batches.update(batcher.taken_back())
            assigned.update(dispatched)
            if pool.binding == "early":
                assigned.update(
                    {queue.replica: len(queue.waiting) for queue in batcher.queues() if queue.replica}
                )
            for view in batcher.views():
                expected = (dispatched[view.id], pool.inflight - batches[view.id])
                if (view.in_flight, view.capacity) != expected:
                    _fail(
                        1,
                        f"batcher: {view.id} has (in flight, room) {view.in_flight, view.capacity}, "
                        f"not {expected}",
                    )
        for view in head.router.views():
            if view.in_flight != assigned[view.id]:
                _fail(
                    1,
                    f"the router counts {view.in_flight} in flight at {view.id}, "
                    f"the batcher has {assigned[view.id]}",
                )

    # --- 4 to 6 ---------------------------------------------------------------------------------------------

    def _work_conserving(self) -> None:
        for made in self._simulation.head.pools.values():
            self._conserves_work(made.batcher)

    def _conserves_work(self, batcher: Batcher) -> None:
        idle: set[str] = set()
        for queue in batcher.queues():
            idle.update(view.id for view in queue.idle)
            if not queue.waiting or not queue.idle:
                continue
            if not queue.said_wait:
                _fail(
                    4,
                    f"{queue.idle[0].id} is idle while {len(queue.waiting)} requests wait "
                    f"and {queue.batching.name()} did not say Wait",
                )
            if queue.wait_until_s is not None and queue.wait_until_s < self._now:
                _fail(
                    4,
                    f"{queue.batching.name()} said Wait until {queue.wait_until_s} s; it is {self._now} s",
                )
        for view in batcher.views():
            if (_trusted(view) and view.capacity > 0) != (view.id in idle):
                _fail(
                    4,
                    f"{view.id} ({view.state}, {view.trust}, room for {view.capacity}) "
                    f"is offered work: {view.id in idle}",
                )

    def _bounds(self) -> None:
        head, spec = self._simulation.head, self._simulation.spec
        inflight = {name: made.pool.inflight for name, made in head.pools.items()}
        for made in head.pools.values():
            for view in made.batcher.views():
                if not 0 <= view.capacity <= made.pool.inflight or view.in_flight < 0:
                    _fail(5, f"{view.id} has capacity {view.capacity} and {view.in_flight} in flight")
        if not spec.network.reorder:  # else a batch may come after the question whether it came
            for address, context in self._simulation.runtime.contexts.items():
                replica = context.actor
                if isinstance(replica, Replica) and len(replica.holds()) > inflight[pool_of(address)]:
                    _fail(5, f"{address} holds {len(replica.holds())} batches, over max_inflight_batches")
        for name, desk in head.router.catalogue.desks.items():
            waiting = desk.demand.waiting - sum(
                attempt.desk is desk and attempt.started_s is None
                for _, attempt in head.router.shadows.values()
            )
            if waiting > desk.capacity and not self.moves:
                _fail(5, f"{waiting} requests wait for pool {name}, over queue_capacity = {desk.capacity}")
        if len(head.router.lobby) > head.router.lobby_capacity:
            _fail(5, f"{len(head.router.lobby)} requests are delayed, over {head.router.lobby_capacity}")
        for name, variant in head.router.catalogue.variants.items():
            budget = None if variant.hedge is None else variant.hedge.budget_ratio
            if budget is not None and variant.hedges > budget * variant.let_in:
                _fail(
                    5,
                    f"{variant.hedges} hedges in pool {name}, over budget_ratio = {budget} of {variant.let_in}",
                )

    def _blocks(self) -> None:
        """Key-value blocks: used + cached + empty = total, on every replica that serves token by token."""
        for address, context in self._simulation.runtime.contexts.items():
            replica = context.actor
            if not isinstance(replica, TokenReplica) or replica.scheduler is None:
                continue
            try:
                replica.scheduler.check()
            except FleetError as error:
                _fail(5, f"{address}: {error}")

    def _trust(self) -> None:
        """No batch is at a replica that failed: the verdict took back those it had, and no new one went."""
        for made in self._simulation.head.pools.values():
            failed = {view.id for view in made.batcher.views() if view.trust == "failed"}
            for replica, work in made.batcher.batches():
                if replica in failed:
                    _fail(6, f"{replica} failed its health checks and holds a batch of {len(work)} since")


def _trusted(view: ReplicaView) -> bool:
    return view.state == "ready" and view.trust == "healthy"


# --- on what a run leaves behind ----------------------------------------------------------------------------


def audit(run: Run, spec: FleetSpec) -> None:
    """Check the tables of a finished run. Raises `InvariantViolation`."""
    _audit_counts(run)
    _audit_attempts(run)
    _audit_causality(run)
    _audit_bounds(run, spec)
    _audit_trust(run)


def _audit_counts(run: Run) -> None:
    summary = run.summary
    counts = (
        summary.completed + summary.rejected + summary.shed + summary.expired + summary.failed,
        summary.cancelled,
        summary.in_flight,
    )
    if summary.submitted != sum(counts) or summary.submitted != run.records.num_rows:
        _fail(1, f"the summary does not add up: {summary}")
    if pc.count_distinct(run.records["id"]).as_py() != run.records.num_rows:
        _fail(2, "a request has two records")


def _audit_attempts(run: Run) -> None:
    """Each attempt that a record counts has a row, shadows apart.

    The only one of a request that completed needs none, and the one for which there was no room in the queue has none.
    """
    records, attempts = run.records, run.attempts
    counted = flags(decides(attempts))
    rows, numbers = requests_of(attempts, records)[counted], attempts["attempt"].to_numpy()[counted]
    if len(np.unique(np.stack([rows, numbers]), axis=1).T) != len(rows):
        _fail(1, "two attempts of a request have one number")
    written = np.bincount(rows[rows >= 0], minlength=len(records))
    ended = flags(pc.is_valid(records["outcome"]))
    said = pc.fill_null(records["attempts"], 0).to_numpy()
    needed = np.where(only_attempts(attempts, records), np.minimum(said, 1), 0)
    shed = flags(pc.equal(pc.fill_null(records["outcome"], ""), "shed"))
    lacking = said - written - needed
    odd = np.flatnonzero(ended & (lacking != 0) & ~(shed & (lacking == 1)))
    if len(odd):
        request = records["id"][int(odd[0])].as_py()
        _fail(1, f"request {request!r} had {said[odd[0]]} attempts, of which {written[odd[0]]} have a row")


def _audit_causality(run: Run) -> None:
    records = run.records
    ended, arrived = records["ended_s"], records["arrived_s"]
    slack_s = ROUNDING_S * max(1.0, run.summary.duration_s)
    if pc.any(pc.less(ended, arrived)).as_py():
        _fail(3, "a request ended before it arrived")
    late = pc.greater(records["service_s"], pc.add(records["e2e_s"], slack_s))
    if pc.any(late).as_py():
        _fail(3, "a request was answered before its batch can have run")
    for name in ("decisions", "dispatches", "series", "replicas"):
        times = getattr(run, name)["time_s"].to_numpy()
        if len(times) and (times[0] < 0.0 or np.any(times[1:] < times[:-1])):
            _fail(3, f"the rows of {name} are not in the order of time")
    youngest = pc.min(run.decisions["signal_age_s"]).as_py()
    if youngest is not None and youngest < 0.0:
        _fail(3, f"a decision used a signal {-youngest} s before it was measured")
    _audit_life_cycles(run)


def _audit_life_cycles(run: Run) -> None:
    """States follow the replicas' table; a report that the network lost may hide some of those between."""
    states: dict[str, str] = {}
    for replica, state in zip(
        run.replicas["replica"].to_pylist(), run.replicas["state"].to_pylist(), strict=True
    ):
        before = states.get(replica)
        if before is not None and state not in REACHABLE[before]:
            _fail(3, f"{replica} went from {before} to {state}")
        states[replica] = state


def _reachable() -> dict[str, set[str]]:
    """Every state that can come, soon or late, after each; any replica may be stopped by a kill."""
    reach: dict[str, set[str]] = {state: {*then, "stopped"} for state, then in TRANSITIONS.items()}
    reach["waiting"] = {"provisioning", "stopped"}  # for a place; it begins when there is one
    reach["provisioning"].add("waiting")
    for _ in reach:
        for later in reach.values():
            later.update(*(reach[state] for state in tuple(later)))
    for over in ("stopped", "failed"):
        reach[over] = set()
    return reach


REACHABLE = _reachable()


def _audit_bounds(run: Run, spec: FleetSpec) -> None:
    scales = run.decisions.filter(pc.equal(run.decisions["decision"], "Scale"))
    for pool in spec.serving:
        path = "replica/" if pool.name == DEFAULT else f"replica/{pool.name}/"
        own = pc.starts_with(run.dispatches["replica"], path) if spec.pools else None
        dispatches = run.dispatches if own is None else run.dispatches.filter(own)
        limit = getattr(pool.batching, "max_batch", None)
        largest = pc.max(dispatches["size"]).as_py() or 0
        if limit is not None and largest > limit:
            _fail(5, f"a batch of {largest}, over max_batch = {limit} of {pool.batching.name()}")
        asked = scales.filter(pc.equal(scales["subject"], pool.name))["value"].to_numpy()
        low, high = pool.bounds
        if (
            len(asked)
            and not run.manifest.options.get("operations")
            and not low <= asked.min() <= asked.max() <= high
        ):
            _fail(5, f"{asked.min():g} to {asked.max():g} replicas were asked for, not {low} to {high}")


def _audit_trust(run: Run) -> None:
    """No batch went to a replica between the instant it was failed and the one it was trusted again."""
    verdicts = run.decisions.filter(pc.equal(run.decisions["slot"], "health")).to_pylist()
    if not any(verdict["choice"] == "failed" for verdict in verdicts):
        return
    times, replicas = run.dispatches["time_s"].to_numpy(), run.dispatches["replica"]
    for replica in {verdict["subject"] for verdict in verdicts if verdict["choice"] == "failed"}:
        sent = times[pc.equal(replicas, replica).to_numpy()]
        since: float | None = None
        spans: list[tuple[float, float]] = []
        for verdict in verdicts:
            if verdict["subject"] != replica:
                continue
            if verdict["choice"] == "failed":
                since = verdict["time_s"] if since is None else since
            elif since is not None:
                spans.append((since, verdict["time_s"]))
                since = None
        if since is not None:
            spans.append((since, np.inf))
        for start, end in spans:
            if np.any((sent > start) & (sent < end)):
                _fail(6, f"a batch went to {replica}, which had failed its health checks at {start} s")
