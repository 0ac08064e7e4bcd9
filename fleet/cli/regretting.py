"""`fleet regret`: what the decisions of a saved run cost beside another policy's."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli import inputs, output
from fleet.cli.values import UsageError

if TYPE_CHECKING:
    from policies import RoutingPolicy


def regret(arguments: Namespace) -> int:
    """Ask the other policy, and say what the difference comes to."""
    from experiments import regret as regret_of
    from traces import TraceError

    policy, target = _policy(arguments.policy), _target(arguments.out)
    run = inputs.run_of(arguments.run_folder)
    try:
        found = regret_of(
            run, policy, metric=arguments.metric, exact=arguments.exact, seed=arguments.seed, trace=arguments.trace,
            allow_changed=arguments.allow_changed, progress=sys.stderr.isatty(),
        )  # fmt: skip
    except TraceError:
        raise
    except ValueError as error:
        raise UsageError(f"regret: {arguments.run_folder}: {error}") from None
    if arguments.json:
        output.print_json(found.to_dict())
    else:
        output.stdout().print(found)
    if target is not None:
        from traces.files import write_parquet

        write_parquet(target, found.to_table())
        output.note(f"saved in {target}")
    return 0


def _policy(text: str) -> RoutingPolicy:
    from policies import RoutingPolicy
    from policies.building import build

    value = inputs.value_of(text)
    table = value if isinstance(value, dict) else {"policy": text}
    return build(RoutingPolicy, table, "--policy")  # type: ignore[type-abstract]  # of the class that is named


def _target(path: Path | None) -> Path | None:
    if path is not None and (path.suffix != ".parquet" or not path.parent.is_dir()):
        raise UsageError(f"regret: --out {path}: name a .parquet file in a folder that is there")
    return path
