"""What the router knows of those who serve: pools, their replicas, and what an operator changes in them.

The lowest of the router's four storeys. It ends no request and makes no attempt: where a change up here means that
requests must be placed or ended, it says so to the storeys above (`_release`, `_place`, `_abandon`).
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fleet.actor import Actor, Context
from fleet.actors.catalogue import Catalogue, Model
from fleet.actors.hearing import Announcer, Calls, Hooks
from fleet.actors.operations import (
    DescribeServing,
    MoveRollout,
    PoolEmptied,
    RetirePool,
    RolloutMoved,
    ServePool,
    ServingDescribed,
    SteerRollout,
)
from fleet.actors.pending import Pending
from fleet.actors.registrar import Signals
from fleet.actors.roster import Roster
from fleet.actors.serving import Desk, Variant
from fleet.blame import reset, tell
from fleet.messages import Message, ReplicaExited, ReplicaReported, ReportPool, StartFailed, TrustChanged
from fleet.pools import ModelPolicies, Pool, pool_of
from fleet.seeding import stream_of
from fleet.serving_checks import no_pool_serves
from fleet.telemetry.sink import Telemetry
from policies.base import AdmissionPolicy, PolicyError, RetryPolicy
from policies.views import Outcome, ReplicaView
from traces.schema import Slo

HEALTH = "health"

Served = tuple[Pool, ModelPolicies, str, str]
"""A pool, who chooses among the versions and variants of its model, and the addresses of its batcher and autoscaler."""
Listeners = Callable[[Pool], Mapping[str, frozenset[str]]]
"""What the router tells other actors of a pool's requests: the hooks that their policies listen to, by address."""


class Front(Actor):
    """Pools, variants and replicas."""

    def __init__(
        self,
        *,
        admission: AdmissionPolicy,
        retry: RetryPolicy,
        serving: Iterable[Served],
        flat: bool,
        telemetry: Telemetry,
        signals: Signals,
        hear: Listeners,
        slo: Slo | None = None,
        window_s: float = 1.0,
    ) -> None:
        """`flat`: a fleet of one pool that has no name."""
        self._admission, self._retry = admission, retry
        self._telemetry, self._signals, self._hear, self._slo = telemetry, signals, hear, slo
        self.pending: dict[str, Pending] = {}
        self.flat = flat
        """There is nothing to say of what served a request."""
        self._serving = tuple(serving)
        self.catalogue = Catalogue(telemetry, window_s)
        self._calls: Calls = {}
        self._tells = False
        """What is in `_calls` is sent after each message that is handled; else nobody was to be told at the start."""
        self._hooks = Hooks(admission, retry)
        """Of the policies that are the fleet's: who may be chosen in all of it."""
        self._start_failures: dict[str, str] = {}
        """Why the last start failed, by pool, while none of its replicas may be chosen."""

    def start(self, ctx: Context) -> None:
        self.ctx = ctx
        reset(self._admission, ctx.rng)
        for served in self._serving:
            self._add_pool(*served)
        reset(self._retry, ctx.rng)
        super().start(ctx)

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            ReportPool: self.on_report_pool,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            StartFailed: self.on_start_failed,
            TrustChanged: self.on_trust_changed,
            ServePool: self.on_serve_pool,
            RetirePool: self.on_retire_pool,
            PoolEmptied: self.on_pool_emptied,
            SteerRollout: self.on_steer_rollout,
            MoveRollout: self.on_move_rollout,
            DescribeServing: self.on_describe_serving,
        }

    # --- for the storeys above ---------------------------------------------------------------------------------

    @abstractmethod
    def _release(self, variant: Variant) -> None:
        """There are candidates again, or others: try what is held."""

    @abstractmethod
    def _replace(self, pending: Pending) -> None:
        """Nobody it was held for is served any more."""

    @abstractmethod
    def _abandon(self, pending: Pending, outcome: Outcome, detail: str) -> None:
        """It ends without an answer, whatever attempts are under way."""

    # --- pools -------------------------------------------------------------------------------------------------

    def _add_pool(self, pool: Pool, spec: ModelPolicies, batcher: str, autoscaler: str) -> None:
        catalogue, now = self.catalogue, self.ctx.now
        desk = Desk(pool, batcher=batcher, autoscaler=autoscaler, slo=self._slo)
        variant = catalogue.find(pool)
        if variant is None:
            variant = Variant(self._telemetry.watched(pool), Roster(follow=self._signals.show_in))
            for policy in (pool.routing, pool.hedge, pool.breaker):
                reset(policy, self._rng(f"{policy.slot}/{pool.name}"))
        model = catalogue.models.get(pool.model)
        if model is None:
            model = Model(pool.model, spec.rollout, spec.variants)
            reset(spec.rollout, self._rng(f"rollout/{pool.model}"))
            reset(spec.variants, self._rng(f"variants/{pool.model}"))
        catalogue.add(desk, variant, model, now)
        self._hook_up(desk, variant, model)
        catalogue.note_stage(model, now)

    def _rng(self, what: str) -> random.Random:
        """A stream of its own where there are several of each policy: what one draws changes nothing for the others."""
        if self.flat:
            return self.ctx.rng
        if not hasattr(self, "_base"):
            self._base = self.ctx.rng.getrandbits(64)
        return stream_of(self._base, what)

    def _hook_up(self, desk: Desk, variant: Variant, model: Model) -> None:
        """Who hears of a pool's requests."""
        more = [policy for policy in (variant.hedge, variant.breaker) if policy is not None]
        desk.hooks = Announcer(
            self._admission, variant.routing, *more, model.rollout, model.variants_policy, self._retry,
            elsewhere=self._hear(desk.pool), calls=self._calls,
            send=self.ctx.send if hasattr(self, "_handlers") and not self._tells else None,
        )  # fmt: skip

    def on_serve_pool(self, message: ServePool) -> None:
        """An operator has deployed it."""
        pool = message.pool
        self.flat = False
        for (
            desk
        ) in self.catalogue.desks.values():  # while there was one pool, its requests were all there were
            desk.open = desk.open or {
                id: pending for id, pending in self.pending.items() if pending.desk is desk
            }
        self._add_pool(pool, message.model, f"batcher/{pool.name}", f"autoscaler/{pool.name}")

    def on_retire_pool(self, message: RetirePool) -> None:
        """What waits for its replicas is moved by its batcher; what waits here for one of them is placed anew."""
        desk = self.catalogue.desks.get(message.pool)
        if desk is None or desk.retired:
            return
        variant = self.catalogue.retire(desk)
        if variant.roster.forget_pool(message.pool):
            self._tell_replicas(variant)
        for pending in list(variant.parked.values()):
            if not pending.resting and not variant.desks:
                self._replace(pending)

    def on_pool_emptied(self, message: PoolEmptied) -> None:
        """It is gone for good."""
        self.catalogue.forget(message.pool)

    def on_report_pool(self, message: ReportPool) -> None:
        """All that waits is seen: what is held here too, or a pool of no replicas would look like one without work."""
        desk = self.catalogue.desks.get(message.pool)
        if desk is None:
            return
        now = self.ctx.now
        requests = self.pending if self.flat else desk.open
        first = next((pending for pending in requests.values() if not pending.running), None)
        oldest_wait_s = 0.0 if first is None else max(0.0, now - first.request.arrived_s)
        report = desk.demand.report(now, oldest_wait_s=oldest_wait_s)
        self.ctx.send(desk.batcher, ReportPool(message.reply_to, report, message.pool))

    # --- rollouts ----------------------------------------------------------------------------------------------

    def on_steer_rollout(self, message: SteerRollout) -> None:
        """An operator has another policy choose the version."""
        model, now = self.catalogue.models.get(message.model), self.ctx.now
        if model is None:
            return
        reset(message.rollout, self._rng(f"rollout/{model.name}/{now}"))
        self.catalogue.steer(model, message.rollout, now)
        for variant in model.served():
            for desk in variant.desks:
                self._hook_up(desk, variant, model)
        self.catalogue.note_stage(model, now)

    def on_move_rollout(self, message: MoveRollout) -> None:
        """An operator promotes a rollout, or rolls it back."""
        try:
            self._move_rollout(message.model, message.back)
            error = None
        except PolicyError as refusal:
            error = str(refusal)
        self.ctx.send(message.reply_to, RolloutMoved(message.operation, error))

    def _move_rollout(self, name: str, back: bool) -> None:
        """Raises `PolicyError` where that cannot be, or the policy will not."""
        catalogue, now = self.catalogue, self.ctx.now
        model = catalogue.models.get(name)
        if model is None:
            raise PolicyError(
                f"no model {name!r} is served; served are {', '.join(catalogue.models) or 'none'}"
            )
        policy = model.rollout
        version = policy.destination(back=back)
        if version is not None and version not in model.versions:
            raise PolicyError(no_pool_serves(version, name, model.versions))
        try:
            (policy.rollback if back else policy.promote)(now)
        finally:
            catalogue.note_stage(model, now)

    def on_describe_serving(self, message: DescribeServing) -> None:
        """An operator asks how things stand."""
        models = self.catalogue.described(self.ctx.now)
        self.ctx.send(message.reply_to, ServingDescribed(message.operation, models))

    # --- replicas ----------------------------------------------------------------------------------------------

    def _desk_of(self, replica: str) -> Desk | None:
        only = self.catalogue.only
        if self.flat and only is not None:
            return only.desk
        return self.catalogue.desks.get(pool_of(replica))

    def _variant_of(self, replica: str) -> tuple[Variant, Desk] | None:
        """Whose replica it is; None: of a pool that is not served, or no more."""
        desk = self._desk_of(replica)
        return None if desk is None or desk.retired else (self.catalogue.variants[desk.pool.name], desk)

    def on_replica_reported(self, message: ReplicaReported) -> None:
        found = self._variant_of(message.replica)
        if found is not None and found[0].roster.reported(message, self.ctx.now, found[1].pool):
            self._replicas_changed(*found)

    def on_trust_changed(self, message: TrustChanged) -> None:
        found = self._variant_of(message.replica)
        if found is not None and found[0].roster.judged(message.replica, message.trust):
            self._replicas_changed(*found)

    def on_replica_exited(self, message: ReplicaExited) -> None:
        found = self._variant_of(message.replica)
        if found is not None and found[0].roster.exited(message.replica):
            self._replicas_changed(*found)

    def on_start_failed(self, message: StartFailed) -> None:
        """When there is no replica and no start succeeds, what waits for one ends with the reason."""
        desk = self.catalogue.desks.get(message.pool)
        if desk is None:
            return
        variant = self.catalogue.variants[message.pool]
        if any(view.state == "ready" for view in variant.roster.views.values()):
            return
        self._start_failures[message.pool] = message.detail
        if message.hopeless:
            requests = self.pending if self.flat else desk.open
            for pending in [item for item in requests.values() if not item.running]:
                self._abandon(pending, "failed", f"no replica can be started: {message.detail}")

    def _replicas_changed(self, variant: Variant, desk: Desk) -> None:
        if variant.roster.candidates:
            self._start_failures.pop(desk.pool.name, None)
        self._tell_replicas(variant)
        if variant.roster.candidates and variant.parked:
            self._release(variant)

    def _tell_replicas(self, variant: Variant) -> None:
        """The candidates of this variant are others now: each policy hears of those that concern it."""
        now, candidates = self.ctx.now, variant.roster.candidates
        tell(variant.hooks.on_replicas, now, candidates)
        everybody: Sequence[ReplicaView] = candidates
        if not self.flat:
            everybody = [view for item in self._variants() for view in item.roster.candidates]
        tell(self._hooks.on_replicas, now, everybody)
        for desk in variant.desks:
            if desk.hooks.on_replicas and desk.hooks.reaches_others:
                own = [view for view in candidates if view.pool == desk.pool.name]
                desk.hooks.tell_replicas(desk.autoscaler, own)
                desk.hooks.tell_replicas(HEALTH, everybody)

    def _variants(self) -> list[Variant]:
        return list({id(variant): variant for variant in self.catalogue.variants.values()}.values())

    def views(self) -> list[ReplicaView]:
        """All replicas."""
        return [view for variant in self._variants() for view in variant.roster.views.values()]

    def _ready_replicas(self) -> int:
        return sum(len(variant.roster.candidates) for variant in self._variants())
