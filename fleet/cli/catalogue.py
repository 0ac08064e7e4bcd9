"""`fleet policies`: what there is, with parameters and sources."""

from __future__ import annotations

import shutil
import sys
import textwrap
from argparse import Namespace
from typing import TYPE_CHECKING

from fleet.cli import output
from fleet.cli.values import UsageError, meant

if TYPE_CHECKING:
    from policies.registry import ComponentInfo


def policies(arguments: Namespace) -> int:
    """Every policy, those of one slot, or one of them."""
    from policies import describe

    listed = describe()
    only: str | None = arguments.only
    if only is not None:
        listed = _chosen(only, listed)
    if arguments.json:
        output.print_json(listed)
        return 0
    slot = None
    for info in listed:
        if info.slot != slot:
            print(f"{'' if slot is None else chr(10)}{info.slot}")
            slot = info.slot
        _print(info)
    return 0


def _chosen(only: str, listed: list[ComponentInfo]) -> list[ComponentInfo]:
    from fleet.engines import Engine, LatencyModel
    from fleet.engines.latency.steps.base import StepLatency
    from policies import describe

    if ":" in only:
        return [_own(only)]
    known = [*listed, *describe(Engine), *describe(LatencyModel), *describe(StepLatency)]
    slot = only.replace("-", "_")
    chosen = [info for info in known if slot == info.slot] or [
        info for info in known if only in (info.name, info.location, info.location.partition(":")[2])
    ]
    if not chosen:
        names = sorted({info.slot for info in known}) + sorted(info.name for info in known)
        hint = meant(only, names) or f"; slots are {', '.join(sorted({info.slot for info in known}))}"
        raise UsageError(f"policies: there is no slot and no policy {only!r}{hint}")
    return chosen


def _own(name: str) -> ComponentInfo:
    """The class that is written ``module:Class``, which need not be imported yet. Raises `PolicyError`."""
    from policies import describe
    from policies.base import Component
    from policies.registry import qualified, resolve

    cls = resolve(Component, name, "policies")
    found = [info for info in describe(cls) if info.location == qualified(cls)]
    if not found:
        raise UsageError(f"policies: {name} is the base of components, and fills no slot itself")
    return found[0]


def _print(info: ComponentInfo) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    oracle = "  (oracle: sees true output lengths, simulation only)" if info.oracle else ""
    print(f"  {info.name}{oracle}")
    for text in (info.summary, f"source: {info.source or 'not given'}", f"class: {info.location}"):
        print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="      "))
    for parameter in info.parameters:
        default = "required" if parameter.default is None else f"default {parameter.default}"
        print(f"    - {parameter.name}: {parameter.type}, {default}")
