"""`fleet deploy`, `retire`, `scale`, `rollout` and `status`: what somebody does to a fleet that runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.cli import inputs, output
from fleet.cli.values import UsageError, meant
from fleet.text import one_line

if TYPE_CHECKING:
    from fleet import FleetOperator

Status = dict[str, Any]  # Any: JSON values, here and below


def deploy(arguments: Namespace) -> int:
    """A pool more."""
    name = arguments.pool
    operation = {
        "kind": "deploy", "pool": name, "spec": pool_table(arguments.spec, name, arguments.changes),
    }  # fmt: skip
    return _operate(arguments, operation, f"pool {name} is deployed", _ready(name), f"pool {name} is ready")


def retire(arguments: Namespace) -> int:
    """A pool fewer."""
    name = arguments.pool

    def gone(status: Status) -> bool:
        return name not in status["pools"]

    said = f"pool {name} takes nothing new; what it has ends there, what waits goes elsewhere"
    return _operate(arguments, {"kind": "retire", "pool": name}, said, gone, f"pool {name} is gone")


def scale(arguments: Namespace) -> int:
    """A pool larger or smaller."""
    name, given = arguments.pool, (arguments.replicas, arguments.min, arguments.max)
    if all(number is None for number in given):
        raise UsageError("scale: needs N, the number of replicas, or --min N, or --max N")
    fields = zip(("replicas", "min_replicas", "max_replicas"), given, strict=True)
    operation = {
        "kind": "scale",
        "pool": name,
        **{key: number for key, number in fields if number is not None},
    }
    return _operate(
        arguments, operation, f"pool {name} is scaled", _ready(name), f"pool {name} has its replicas"
    )


def rollout_start(arguments: Namespace) -> int:
    """Another policy chooses the version from now on."""
    policy = inputs.changed({"policy": arguments.policy}, arguments.changes)
    operation = {"kind": "rollout", "model": arguments.model, "policy": policy}
    return _operate(
        arguments, operation, f"{arguments.policy} chooses the version of {arguments.model} from now on"
    )


def rollout_promote(arguments: Namespace) -> int:
    """One stage on."""
    operation = {"kind": "promote", "model": arguments.model}
    return _operate(arguments, operation, f"the rollout of {arguments.model} is promoted")


def rollout_rollback(arguments: Namespace) -> int:
    """Back to the old version."""
    operation = {"kind": "rollback", "model": arguments.model}
    return _operate(arguments, operation, f"the rollout of {arguments.model} is rolled back")


def rollout_status(arguments: Namespace) -> int:
    """One model."""
    models = _status(arguments)["models"]
    model = models.get(arguments.model)
    if model is None:
        hint = meant(arguments.model, list(models)) or f"; served are {', '.join(models) or 'none'}"
        raise UsageError(f"rollout status: no pool serves {arguments.model}{hint}")
    if arguments.json:
        output.print_json(model)
    else:
        print_models({arguments.model: model})
    return 0


def status(arguments: Namespace) -> int:
    """The whole fleet."""
    fleet = _status(arguments)
    if arguments.json:
        output.print_json(fleet)
        return 0
    counts = dict(fleet["requests"])
    submitted = f"{counts.pop('submitted'):,} submitted"
    others = output.counted({name: number for name, number in counts.items() if number}, all_of_them=True)
    output.print_facts(
        [("up", f"{fleet['now_s']:,.1f} s"), ("requests", f"{submitted}, {others or 'none open'}")]
    )
    print()
    print_pools(fleet["pools"])
    print()
    print_models(fleet["models"])
    return 0


# --- to the head ---------------------------------------------------------------------------------------------


def _connection(arguments: Namespace) -> dict[str, Any]:
    return {
        "keys": arguments.keys, "server_key": arguments.server_key, "insecure": arguments.insecure,
        "timeout_s": arguments.timeout_s,
    }  # fmt: skip


def _status(arguments: Namespace) -> Status:
    from fleet import operate

    output.log_to_stderr(everything=arguments.debug)
    return operate(arguments.head, {"kind": "status"}, **_connection(arguments)) or {}


def _operate(
    arguments: Namespace,
    operation: Mapping[str, Any],
    done: str,
    reached: Callable[[Status], bool] | None = None,
    there: str = "",
) -> int:
    """Have it done and say so; where that was asked, wait until the fleet has got there."""
    from fleet import FleetOperator
    from fleet.runs.operate import demand_finite
    from fleet.runtime.live import run

    demand_finite(operation, "$")
    output.log_to_stderr(everything=arguments.debug)
    within_s = None if reached is None else arguments.wait_s

    async def main() -> Status | None:
        """How the fleet stands, if it did not get there in time."""
        async with FleetOperator(arguments.head, **_connection(arguments)) as operator:
            await _ask(operator, operation, getattr(arguments, "changes", []))
            if reached is None or within_s is None or await operator.wait_until(reached, within_s):
                return None
            return await operator.status()

    late = run(main)
    if late is not None:
        output.note(f"fleet: {done}, and not there after {within_s:g} s: {_state(late, arguments.pool)}")
        return 1
    print(there if within_s is not None else done)
    return 0


async def _ask(operator: FleetOperator, operation: Mapping[str, Any], changes: list[str]) -> None:
    """What the head says is wrong with a `--set` is said in words of the command line."""
    from fleet import FleetError

    try:
        await operator.ask(operation)
    except FleetError as error:
        said = str(error)
        inside = "$.spec" if operation["kind"] == "deploy" else "$.policy"
        raise FleetError(f"{said}{inputs.quoting_hint(said, changes, inside)}") from None


def _ready(pool: str) -> Callable[[Status], bool]:
    """It has all the replicas that are wanted of it, and no other."""

    def reached(status: Status) -> bool:
        known = status["pools"].get(pool)
        replicas = {} if known is None else known["replicas"]
        return known is not None and replicas.get("ready", 0) == sum(replicas.values()) == known["desired"]

    return reached


def _state(status: Status, pool: str) -> str:
    known = status["pools"].get(pool)
    if known is None:
        return "it is gone"
    failure = f"; {known['failure']}" if known["failure"] else ""
    return f"{_replicas(known)}, {known['desired']} wanted{failure}"


# --- from files ----------------------------------------------------------------------------------------------


def pool_table(path: Path | None, name: str, changes: list[str]) -> dict[str, Any]:
    """What `path` says of the pool `name`, with some `PATH=VALUE` changes; the head checks it.

    The file is the pool's table, or a fleet's file with a table for it. What a fleet's file says for all its pools goes
    with it: what it leaves out of both is as the running fleet says.
    """
    from fleet.pools import PoolSpec
    from fleet.reading import read_table

    table = {} if path is None else read_table(path)
    if "pools" in table:
        pools = table["pools"]
        own = pools.get(name) if isinstance(pools, dict) else None
        if not isinstance(own, dict):
            known = list(pools) if isinstance(pools, dict) else []
            hint = meant(name, known) or f"; there are {', '.join(known) or 'none'}"
            raise UsageError(f"deploy: {path}: $.pools.{name}: there is no such pool{hint}")
        shared = {field: table[field] for field in PoolSpec.__struct_fields__ if field in table}
        table = {**shared, **own}
    return inputs.changed(table, changes)


# --- tables --------------------------------------------------------------------------------------------------


def print_pools(pools: Mapping[str, Mapping[str, Any]]) -> None:
    """One a line, and below what is wrong."""
    table = output.table(
        "pool", "serves", "replicas", "bounds", "device", "in flight", "waiting", "completed", "not", left=5
    )
    for name, pool in pools.items():
        low, high = pool["min_replicas"], pool["max_replicas"]
        table.add_row(
            name, _serves(pool), _replicas(pool), "retired" if pool["retired"] else f"{low:,} to {high:,}",
            pool["device"] or "-", f"{pool['in_flight']:,}", f"{pool['queue_depth']:,}", f"{pool['completed']:,}",
            f"{pool['not_completed']:,}",
        )  # fmt: skip
    output.stdout().print(table)
    for name, pool in pools.items():
        if pool["failure"]:
            print(f"{name}: {pool['failed_starts']:,} failed starts in a row: {one_line(pool['failure'])}")


def _serves(pool: Mapping[str, Any]) -> str:
    variant = "" if pool["variant"] == "default" else f" {pool['variant']}"
    return f"{pool['model']}@{pool['version']}{variant}"


def _replicas(pool: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in pool["replicas"].items()) or "none"


def print_models(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Who chooses, where that is, and each version with what is known of it."""
    for number, (name, model) in enumerate(models.items()):
        stage = f", {one_line(model['stage'])}" if model["stage"] else ""
        print(f"{chr(10) if number else ''}model {name}: {model['rollout']}{stage}")
        table = output.table(
            "version", "pools", "ready", "in flight", "completed", "failed", "p50 ms", "p99 ms", "errors", "met",
            "quality", left=2,
        )  # fmt: skip
        for version, known in model["versions"].items():
            table.add_row(version, ", ".join(known["pools"]), *_figures(known))
        output.stdout().print(table)


def _figures(known: Mapping[str, Any]) -> Iterator[str]:
    """`-` where nobody knows: nothing ended lately, or no policy looks."""
    for name in ("ready", "in_flight", "completions", "failures"):
        yield "-" if known[name] is None else f"{known[name]:,}"
    for name in ("e2e_s_p50", "e2e_s_p99"):
        yield "-" if known[name] is None else f"{1000 * known[name]:,.1f}"
    for name in ("error_fraction", "attainment"):
        yield "-" if known[name] is None else f"{known[name]:.1%}"
    yield "-" if known["quality"] is None else f"{known['quality']:.3f}"
