"""The commands that change a running fleet, as data: `fleet deploy`, `retire`, `scale`, `rollout` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleet.cli.parser import Parser, command, group, head_argument, key_flags, set_flag
from fleet.cli.values import positive, whole


def add_operations(commands: Any) -> None:  # Any: argparse keeps its type private
    """Add them to the others."""
    deploy = command(commands, "deploy", "operating:deploy", "start a pool in a running fleet")
    head_argument(deploy)
    deploy.add_argument("pool", metavar="NAME", help="what the new pool is called")
    deploy.add_argument(
        "spec", metavar="SPEC", nargs="?", type=Path,
        help="its table, as TOML or JSON, or a fleet's file with [pools.NAME]; what it leaves out is as the running "
        "fleet says",
    )  # fmt: skip
    set_flag(deploy, "the pool", "replicas=4 --set 'version=\"2\"'")
    _wait(deploy, "its replicas are ready")
    _operator(deploy)

    retire = command(
        commands, "retire", "operating:retire", "end a pool of a running fleet, and lose nothing"
    )
    _pool(retire)
    _wait(retire, "it is gone")
    _operator(retire)

    scale = command(commands, "scale", "operating:scale", "set how many replicas a pool may have")
    _pool(scale)
    scale.add_argument("replicas", metavar="N", nargs="?", type=whole, help="so many, no more and no fewer")
    scale.add_argument("--min", metavar="N", type=whole, help="at least so many, as its scaling policy says")
    scale.add_argument("--max", metavar="N", type=whole, help="at most so many")
    _wait(scale, "it has so many")
    _operator(scale)

    _add_rollout(commands)

    status = command(commands, "status", "operating:status", "show how a running fleet stands")
    head_argument(status)
    status.add_argument("--json", action="store_true", help="print it as JSON")
    _operator(status)


def _add_rollout(commands: Any) -> None:
    verbs = group(
        commands, "rollout", "say who chooses among the versions of a model, and steer it"
    ).add_subparsers(metavar="COMMAND", required=True, dest="verb")
    start = command(verbs, "start", "operating:rollout_start", "have a rollout policy choose from now on")
    _model(start)
    start.add_argument(
        "policy", metavar="POLICY", help="by name, such as canary (fleet policies rollout lists them)"
    )
    set_flag(start, "its parameters", "share=0.05 --set 'version=\"2\"'")
    _operator(start)
    status = command(verbs, "status", "operating:rollout_status", "show where a rollout is")
    _model(status)
    status.add_argument("--json", action="store_true", help="print it as JSON")
    _operator(status)
    for verb, text in (("promote", "one stage on, whatever its gates say"), ("rollback", "back, for good")):
        moved = command(verbs, verb, f"operating:rollout_{verb}", text)
        _model(moved)
        _operator(moved)


def _pool(parser: Parser) -> None:
    head_argument(parser)
    parser.add_argument("pool", metavar="POOL", help="a pool of the running fleet")


def _model(parser: Parser) -> None:
    head_argument(parser)
    parser.add_argument(
        "model", metavar="MODEL", help="what clients ask for; default in a fleet that names none"
    )


def _wait(parser: Parser, until: str) -> None:
    parser.add_argument(
        "--wait-s",
        type=positive,
        metavar="S",
        help=f"return when {until}; fail when it is not within S seconds",
    )


def _operator(parser: Parser) -> None:
    key_flags(parser, head=False)
    parser.add_argument(
        "--timeout-s", type=positive, default=30.0, metavar="S",
        help="how long to wait for the head to answer (default 30)",
    )  # fmt: skip
