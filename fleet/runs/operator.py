"""Changing a fleet while it runs: deploy a pool, retire one, scale one, and steer a model's rollout.

The one thing to know: the specification is where a fleet begins, not what it is. An operation comes from a person
(`Operate`, over the wire) or from an operations trace at its time, in either runtime; what it asks is checked as a
specification is, and done by messages to the actors whom it concerns. No request is lost by any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from fleet.actor import Actor, Context, FleetError
from fleet.actors.operations import (
    DescribeServing,
    MoveRollout,
    PoolEmptied,
    RetirePool,
    RolloutMoved,
    ScalePool,
    ServePool,
    ServingDescribed,
    SteerRollout,
)
from fleet.launch.portable import demand_importable
from fleet.messages import Message, Operate, Operated, Tick, Undeliverable
from fleet.pools import POOL_COMPONENTS, Pool, PoolSpec, autoscaler_of, batcher_of, checked_name, table_of
from fleet.runs.assembly import ROUTER, Head, Runtime
from fleet.serving_checks import check_alone, check_together
from fleet.spec import BELONGS
from policies.base import Component, Policy, PolicyError, RolloutPolicy
from policies.building import build
from traces.operations import OperationsTrace

OPERATOR = "operator"
MOST_REPLICAS = 1_000_000

Table = Mapping[str, Any]  # Any: JSON values, checked here


class Asked(Struct):
    """An operation whose answer comes from another actor."""

    id: str
    reply_to: str


class Operator(Actor):
    """Does what it is asked, and answers each question once."""

    def __init__(
        self, head: Head, runtime: Runtime, trace: OperationsTrace | None = None, *, live: bool = False
    ) -> None:
        self._head, self._runtime, self._live = head, runtime, live
        self._operations = () if trace is None else trace.operations
        self._asked: dict[str, Asked] = {}
        self._last = 0
        self._kinds: dict[str, Callable[[Table], None]] = {
            "deploy": self._deploy,
            "retire": self._retire,
            "scale": self._scale,
            "rollout": self._rollout,
        }

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        for number, operation in enumerate(self._operations):
            ctx.after(operation.at_s, Tick("operation", number=number))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Operate: self.on_operate,
            Tick: self.on_tick,
            PoolEmptied: self.on_pool_emptied,
            RolloutMoved: self.on_rollout_moved,
            ServingDescribed: self.on_serving_described,
            Undeliverable: self.on_undeliverable,
        }

    # --- asked -------------------------------------------------------------------------------------------------

    def on_tick(self, message: Tick) -> None:
        """An operation of the trace is due. One that cannot be done is an error of the trace: the run ends with it."""
        operation = self._operations[message.number]
        table = {
            name: value
            for name in operation.__struct_fields__
            if name != "at_s" and (value := getattr(operation, name)) is not None
        }
        try:
            if not self._begin(table, None):
                self._perform(table)
        except PolicyError as error:
            raise PolicyError(f"operations[{message.number}] at {operation.at_s:g} s: {error}") from None

    def on_operate(self, message: Operate) -> None:
        """Somebody asks over the wire: whatever is wrong with it is said to them, and the fleet goes on."""
        try:
            table = msgspec.json.decode(message.operation, type=dict[str, Any])
            demand_importable(table)
            if not self._begin(table, message):
                self._perform(table)
                self.ctx.send(message.reply_to, Operated(message.id))
        except (msgspec.DecodeError, PolicyError, FleetError) as error:
            self.ctx.send(message.reply_to, Operated(message.id, str(error)))

    def _begin(self, table: Table, asked: Operate | None) -> bool:
        """What another actor answers; False: it is another operation."""
        kind = table.get("kind")
        if kind not in ("promote", "rollback", "status"):
            return False
        model = None if kind == "status" else self._named(table, "model")
        self._last += 1
        name = str(self._last)
        if asked is not None:
            self._asked[name] = Asked(asked.id, asked.reply_to)
        if model is None:
            self.ctx.send(ROUTER, DescribeServing(name, self.ctx.address))
        else:
            self._log(kind, model)
            self.ctx.send(ROUTER, MoveRollout(model, kind == "rollback", name, self.ctx.address))
        return True

    def _perform(self, table: Table) -> None:
        kind = table.get("kind")
        perform = self._kinds.get(kind) if isinstance(kind, str) else None
        if perform is None:
            known = ", ".join((*self._kinds, "promote", "rollback", "status"))
            raise PolicyError(f"$.kind: {kind!r} is no operation; there are {known}")
        perform(table)

    def _named(self, table: Table, field: str) -> str:
        value = table.get(field)
        if not isinstance(value, str) or not value:
            raise PolicyError(f"$.{field}: {table.get('kind')} needs the name of a {field}, got {value!r}")
        return value

    def _pool(self, table: Table) -> str:
        name = self._named(table, "pool")
        if name not in self._head.pools:
            raise PolicyError(f"$.pool: there is no pool {name!r}; there are {', '.join(self._head.pools)}")
        return name

    def _log(self, kind: str, subject: str, reason: str | None = None) -> None:
        self._head.telemetry.decided(self.ctx.now, "operation", subject, kind, reason=reason)

    # --- pools -------------------------------------------------------------------------------------------------

    def _deploy(self, table: Table) -> None:
        name = checked_name("pool", self._named(table, "pool"), "$.pool")
        if name in self._head.pools:
            raise PolicyError(
                f"$.pool: there is a pool {name!r} already; retire it first, or choose another name"
            )
        pool = self._made(name, table_of(PoolSpec, table.get("spec") or {}, "$.spec", BELONGS))
        if self._live:
            self._demand_no_oracle(pool)
        self._log("deploy", name, f"{pool.model}@{pool.version}, {pool.replicas} replicas")
        self._head.deploy(self._runtime, pool)
        self.ctx.send(ROUTER, ServePool(pool, self._head.spec.model(pool.model)))

    def _made(self, name: str, pool_spec: PoolSpec) -> Pool:
        """The pool with everything said, and policies that are its own."""
        pool = self._head.spec.pool(name, pool_spec, "$.spec")
        values = {field: getattr(pool, field) for field in POOL_COMPONENTS}
        pool = replace(
            pool, **{field: item.fresh() for field, item in values.items() if isinstance(item, Component)}
        )
        check_alone(pool, "$.spec", pool_spec)
        for made in self._head.pools.values():
            if made.pool.serves == pool.serves and not made.autoscaler.retired:
                check_together(pool, made.pool, "$.spec")
        return pool

    def _demand_no_oracle(self, pool: Pool) -> None:
        for slot in POOL_COMPONENTS:
            policy = getattr(pool, slot)
            if isinstance(policy, Policy) and policy.oracle:
                raise PolicyError(f"$.spec.{slot}: {policy.name()} is an oracle, and runs in simulation only")

    def _retire(self, table: Table) -> None:
        name = self._pool(table)
        self._log("retire", name)
        message = RetirePool(name)
        for address in (
            ROUTER,
            batcher_of(name),
            autoscaler_of(name),
        ):  # so that what waits is not routed back
            self.ctx.send(address, message)

    def on_pool_emptied(self, message: PoolEmptied) -> None:
        """The last replica of a retired pool has gone, and with it all that it had."""
        if message.pool in self._head.pools:
            self.ctx.send(ROUTER, message)
            self.ctx.send("launcher", message)
            self._head.remove(self._runtime, message.pool)

    def _scale(self, table: Table) -> None:
        name = self._pool(table)
        given = {field: table.get(field) for field in ("replicas", "min_replicas", "max_replicas")}
        for field, value in given.items():
            if value is not None and (type(value) is not int or not 0 <= value <= MOST_REPLICAS):
                raise PolicyError(
                    f"$.{field}: expected a whole number from 0 to {MOST_REPLICAS:,}, got {value!r}"
                )
        both = given["replicas"]
        low, high = (both, both) if both is not None else (given["min_replicas"], given["max_replicas"])
        if low is None and high is None:
            raise PolicyError("$.replicas: scale needs `replicas`, or `min_replicas` or `max_replicas`")
        before = self._head.pools[name].autoscaler.bounds
        low, high = before[0] if low is None else low, before[1] if high is None else high
        if low > high:
            raise PolicyError(f"$.min_replicas: {low} is above max_replicas, {high}")
        self._log("scale", name, f"{low} to {high} replicas")
        self.ctx.send(autoscaler_of(name), ScalePool(low, high))

    # --- rollouts ----------------------------------------------------------------------------------------------

    def _rollout(self, table: Table) -> None:
        model = self._named(table, "model")
        served = sorted({made.pool.model for made in self._head.pools.values()})
        if model not in served:
            raise PolicyError(f"$.model: no pool serves {model!r}; served are {', '.join(served)}")
        policy = build(RolloutPolicy, table.get("policy") or {}, "$.policy")
        if policy.oracle and self._live:
            raise PolicyError(f"$.policy: {policy.name()} is an oracle, and runs in simulation only")
        self._log("rollout", model, policy.name())
        self.ctx.send(ROUTER, SteerRollout(model, policy))

    def on_rollout_moved(self, message: RolloutMoved) -> None:
        """The router has told the policy. In a trace, one that will not is an error of the trace."""
        asked = self._asked.pop(message.operation, None)
        if asked is not None:
            self.ctx.send(asked.reply_to, Operated(asked.id, message.error))
        elif message.error is not None:
            raise PolicyError(message.error)

    # --- how it stands -----------------------------------------------------------------------------------------

    def on_serving_described(self, message: ServingDescribed) -> None:
        """What the router knows, and beside it the pools."""
        asked = self._asked.pop(message.operation, None)
        if asked is None:
            return
        pools = {name: made.autoscaler.described() for name, made in self._head.pools.items()}
        router = self._head.router
        ended = {str(outcome): count for outcome, count in router.ended.items()}
        requests = {"in_flight": len(router.pending), "submitted": router.submitted, **ended}
        status = {"now_s": self.ctx.now, "requests": requests, "models": message.models, "pools": pools}
        self.ctx.send(asked.reply_to, Operated(asked.id, None, msgspec.json.encode(status)))

    def on_undeliverable(self, message: Undeliverable) -> None:
        """Whoever asked is gone; it was done all the same."""
