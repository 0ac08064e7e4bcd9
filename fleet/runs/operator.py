"""Changing a fleet while it runs: deploy a pool, retire one, scale one, and steer a model's rollout.

The one thing to know: the specification is where a fleet begins, not what it is. An operation comes from a person
(`Operate`, over the wire) or from an operations trace at its time, in either runtime; what it asks is checked as a
specification is, and done by messages to the actors whom it concerns. No request is lost by any of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

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
from fleet.blame import reset
from fleet.launch.portable import demand_importable
from fleet.messages import Message, Operate, Operated, Tick, Undeliverable
from fleet.pools import POOL_COMPONENTS, Pool, PoolSpec, autoscaler_of, batcher_of, table_of
from fleet.runs.assembly import ROUTER, Head, Runtime
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.wire import text_of
from fleet.serving_checks import check_alone, check_together, names_not_served, no_pool_serves
from fleet.spec import BELONGS
from policies.base import Component, Policy, PolicyError, RolloutPolicy
from policies.building import build
from traces.operations import Operation, OperationKind, OperationsTrace
from traces.values import BadValue, checked

OPERATOR = "operator"
STATUS = "status"
"""An operation over the wire only: a trace has nobody to answer."""
MOST_SAID = 4_000
"""Characters of an error, which may quote what was wrong: an operation is as large as a message may be."""
MOST_REPLICAS = MembershipOptions().max_peers
"""That a live pool may have to have: no more processes can join a head, and to count them it would do nothing else."""

Table = Mapping[str, Any]  # Any: JSON values, checked here


class Asked(Struct):
    """An operation whose answer comes from another actor."""

    id: str
    reply_to: str


class Operator(Actor):
    """Does what it is asked, and answers each question once."""

    def __init__(
        self,
        head: Head,
        runtime: Runtime,
        trace: OperationsTrace | None = None,
        *,
        live: bool = False,
        allowed: Sequence[str] = (),
    ) -> None:
        """`allowed`: modules that an operation over the wire may name, beside those of installed distributions."""
        self._head, self._runtime, self._live, self._allowed = head, runtime, live, allowed
        self._operations = () if trace is None else trace.operations
        self._asked: dict[str, Asked] = {}
        self._due: dict[str, str] = {}
        """Of the trace's operations whose answers come from another actor, which they are."""
        self._last = 0
        self.last: dict[str, str] = {}
        """By pool, the last operation on it, with its time."""
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
        which = f"operations[{message.number}] at {operation.at_s:g} s"
        try:
            if not self._begin(table, which):
                self._perform(table)
        except (PolicyError, FleetError) as error:
            raise PolicyError(f"{which}: {error}") from None

    def on_operate(self, message: Operate) -> None:
        """Somebody asks over the wire: whatever is wrong with it is said to them, and the fleet goes on."""
        try:
            table = checked_operation(msgspec.json.decode(message.operation, type=dict[str, Any]))
            demand_importable(table, self._allowed)
            if not self._begin(table, message):
                self._perform(table)
                self.ctx.send(message.reply_to, Operated(message.id))
        except RecursionError:
            self.ctx.send(
                message.reply_to, Operated(message.id, "$: it is nested too deeply to be an operation")
            )
        except (msgspec.DecodeError, PolicyError, FleetError) as error:
            self.ctx.send(message.reply_to, Operated(message.id, text_of(str(error), MOST_SAID)))

    def _begin(self, table: Table, asked: Operate | str) -> bool:
        """What another actor answers; False: it is another operation. `asked`: by whom, or which one of the trace."""
        kind, model = table["kind"], table.get("model")
        if kind not in ("promote", "rollback", "status"):
            return False
        self._last += 1
        name = str(self._last)
        if isinstance(asked, Operate):
            self._asked[name] = Asked(asked.id, asked.reply_to)
        else:
            self._due[name] = asked
        if model is None:
            self.ctx.send(ROUTER, DescribeServing(name, self.ctx.address))
        else:
            self._log(kind, model)
            self.ctx.send(ROUTER, MoveRollout(model, kind == "rollback", name, self.ctx.address))
        return True

    def _perform(self, table: Table) -> None:
        self._kinds[table["kind"]](table)

    def _pool(self, table: Table) -> str:
        name: str = table["pool"]
        if name not in self._head.pools:
            there = ", ".join(self._head.pools) or "none"
            raise PolicyError(f"$.pool: there is no pool {name!r}; there are {there}")
        return name

    def _log(self, kind: str, subject: str, reason: str | None = None) -> None:
        self._head.telemetry.decided(self.ctx.now, "operation", subject, kind, reason=reason)

    def _log_of_pool(self, kind: str, pool: str, reason: str | None = None) -> None:
        self._log(kind, pool, reason)
        self.last[pool] = f"{kind} at {self.ctx.now:g} s"

    # --- pools -------------------------------------------------------------------------------------------------

    def _deploy(self, table: Table) -> None:
        name = table["pool"]
        if name in self._head.pools:
            retired = self._head.pools[name].autoscaler.retired
            remedy = "wait until its last replica has gone" if retired else "retire it first"
            raise PolicyError(f"$.pool: there is a pool {name!r} already; {remedy}, or choose another name")
        with code_of_others("$.spec"):
            pool = self._made(name, table_of(PoolSpec, table.get("spec") or {}, "$.spec", BELONGS))
            for slot in POOL_COMPONENTS:
                self._make_usable(getattr(pool, slot), f"$.spec.{slot}")
        self._demand_room(pool.replicas, "$.spec.replicas")
        self._log_of_pool("deploy", name, f"{pool.model}@{pool.version}, {pool.replicas} replicas")
        self._head.deploy(self._runtime, pool)
        self.ctx.send(ROUTER, ServePool(pool, self._head.spec.model(pool.model)))

    def _demand_room(self, replicas: int, path: str) -> None:
        """Raises `PolicyError` where so many can never join; as `max_replicas`, which is no promise, they may be."""
        if self._live and replicas > MOST_REPLICAS:
            raise PolicyError(f"{path}: {replicas:,} processes are more than join a head, {MOST_REPLICAS:,}")

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

    def _make_usable(self, component: Component, path: str) -> None:
        """A policy that cannot even begin is refused now: later it would take the whole fleet with it."""
        if not isinstance(component, Policy):
            return
        if component.oracle:
            lengths = self._head.reveal
            if lengths is None:
                when = "runs in simulation only" if self._live else "needs one in the specification before it"
                raise PolicyError(f"{path}: {component.name()} is an oracle, and {when}")
            component.reveal(lengths)
        reset(component.fresh(), random.Random(0))

    def _retire(self, table: Table) -> None:
        name = self._pool(table)
        self._log_of_pool("retire", name)
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
        autoscaler = self._head.pools[name].autoscaler
        if autoscaler.retired:
            raise PolicyError(f"$.pool: pool {name!r} is retired")
        low, high = autoscaler.bounds
        low, high = table.get("min_replicas", low), table.get("max_replicas", high)
        if "replicas" in table:
            low = high = table["replicas"]
        if low > high:
            raise PolicyError(f"$.min_replicas: {low} is above max_replicas, {high}")
        self._demand_room(low, "$.replicas" if "replicas" in table else "$.min_replicas")
        self._log_of_pool("scale", name, f"{low} to {high} replicas")
        self.ctx.send(autoscaler_of(name), ScalePool(low, high))

    # --- rollouts ----------------------------------------------------------------------------------------------

    def _rollout(self, table: Table) -> None:
        model = table["model"]
        pools = [made.pool for made in self._head.pools.values() if not made.autoscaler.retired]
        served = sorted({pool.model for pool in pools})
        if model not in served:
            raise PolicyError(f"$.model: no pool serves {model!r}; served are {', '.join(served) or 'none'}")
        with code_of_others("$.policy"):
            policy = build(RolloutPolicy, table.get("policy") or {}, "$.policy")
            self._make_usable(policy, "$.policy")
        versions = list(dict.fromkeys(pool.version for pool in pools if pool.model == model))
        for path, version in names_not_served(policy, versions, "$.policy"):
            raise PolicyError(f"{path}: {no_pool_serves(version, model, versions)}; deploy it first")
        self._log("rollout", model, policy.name())
        self.ctx.send(ROUTER, SteerRollout(model, policy))

    def on_rollout_moved(self, message: RolloutMoved) -> None:
        """The router has told the policy. In a trace, one that will not is an error of the trace."""
        asked, due = self._asked.pop(message.operation, None), self._due.pop(message.operation, None)
        if asked is not None:
            error = None if message.error is None else text_of(message.error, MOST_SAID)
            self.ctx.send(asked.reply_to, Operated(asked.id, error))
        elif message.error is not None:
            raise PolicyError(message.error if due is None else f"{due}: {message.error}")

    # --- how it stands -----------------------------------------------------------------------------------------

    def on_serving_described(self, message: ServingDescribed) -> None:
        """What the router knows, and beside it the pools."""
        asked = self._asked.pop(message.operation, None)
        if asked is None:
            return
        router = self._head.router
        pools = {name: made.autoscaler.described() for name, made in self._head.pools.items()}
        for name, desk in router.catalogue.desks.items():
            if name in pools:
                pools[name] |= desk.described()
        ended = {str(outcome): count for outcome, count in router.ended.items()}
        requests = {
            "in_flight": len(router.pending),
            "delayed": len(router.lobby),
            "submitted": router.submitted,
            **ended,
        }
        status = {"now_s": self.ctx.now, "requests": requests, "models": message.models, "pools": pools}
        self.ctx.send(asked.reply_to, Operated(asked.id, None, msgspec.json.encode(status)))

    def on_undeliverable(self, message: Undeliverable) -> None:
        """Whoever asked is gone; it was done all the same."""


def checked_operation(table: Table) -> dict[str, Any]:  # Any: JSON values
    """What came over the wire, held to what an operation of a trace is held to. Raises `PolicyError`."""
    kind = table.get("kind")
    kinds = (*get_args(OperationKind), STATUS)
    if kind not in kinds:
        raise PolicyError(f"$.kind: {kind!r} is no operation; there are {', '.join(kinds)}")
    said = {name: value for name, value in table.items() if value is not None}
    for name in said:
        if name == "at_s" or (kind == STATUS and name != "kind"):
            raise PolicyError(f"$.{name}: {kind} over the wire has no {name}")
    if kind != STATUS:
        try:
            checked(Operation, {**said, "at_s": 0.0})
        except BadValue as error:
            raise PolicyError(str(error)) from None
    return said


@contextmanager
def code_of_others(path: str) -> Iterator[None]:
    """What a component's own code raises while it is made may be anything, and is a mistake in what was asked."""
    try:
        yield
    except (PolicyError, FleetError):
        raise
    except Exception as error:
        raise PolicyError(f"{path}: {type(error).__name__}: {error}") from error
