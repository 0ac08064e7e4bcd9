"""`fleet policies`: what there is. A slot is a table that fits a screen; one policy is shown in full."""

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
    """A table for each slot, or for one of them; or one policy in full."""
    from policies import describe

    only: str | None = arguments.only
    if arguments.markdown:
        from experiments.catalogue import page

        if only is not None:
            raise UsageError(f"policies: --markdown prints the whole library; leave {only} out")
        print(page(), end="")
        return 0
    listed = describe()
    if only is not None:
        listed = _chosen(only, listed)
    if arguments.json:
        output.print_json(listed)
        return 0
    in_full = only is not None and not _is_slot(only, listed)
    for index, slot in enumerate(dict.fromkeys(info.slot for info in listed)):
        print(f"{chr(10) if index else ''}{slot}")
        of_slot = [info for info in listed if info.slot == slot]
        if in_full:
            for info in of_slot:
                _print(info)
        else:
            _print_table(of_slot)
    if not in_full and sys.stdout.isatty():
        print("\nfleet policies NAME says more of one: bounds, source, class")
    return 0


def _is_slot(only: str, listed: list[ComponentInfo]) -> bool:
    return only.replace("-", "_") in {info.slot for info in listed}


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


def _print_table(listed: list[ComponentInfo]) -> None:
    """A line for each: name, law, parameters. What a terminal has no room for is cut."""
    names, width = max(len(info.name) for info in listed), _width()
    laws = max(len(_law(info)) for info in listed)
    if names + laws > 3 * width // 4:  # on a terminal, a quarter of the line is left to the parameters
        laws = max(3 * width // 4 - names, 20)
    for info in listed:
        line = f"  {info.name:<{names}}  {_cut(_law(info), laws):<{laws}}  {info.parameters_in_short()}"
        print(_cut(line.rstrip(), width))


def _law(info: ComponentInfo) -> str:
    return f"{info.law} (oracle)" if info.oracle else info.law


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def _print(info: ComponentInfo) -> None:
    width = _width()
    oracle = "  (oracle: sees true output lengths, simulation only)" if info.oracle else ""
    print(f"  {info.name}{oracle}")
    for text in (info.summary, f"source: {info.source or 'not given'}", f"class: {info.location}"):
        print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="      "))
    for parameter in info.parameters:
        default = "required" if parameter.default is None else f"default {parameter.default}"
        print(f"    - {parameter.name}: {parameter.type}, {default}")
