"""`fleet presets`: whole control planes by name, with the documented setting that each field stands for."""

from __future__ import annotations

import shutil
import sys
import textwrap
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fleet.cli import output
from fleet.cli.values import UsageError, meant

if TYPE_CHECKING:
    from policies.presets import Preset


def presets(arguments: Namespace) -> int:
    """All of them in a line each, or one with its settings."""
    from policies.presets import PRESETS

    only: str | None = arguments.only
    name = None if only is None else only.replace("-", "_")
    if name is not None and name not in PRESETS:
        hint = meant(name, list(PRESETS)) or f"; there are {', '.join(PRESETS)}"
        raise UsageError(f"presets: there is no preset {only!r}{hint}")
    listed = [made() for made in PRESETS.values()] if name is None else [PRESETS[name]()]
    if arguments.json:
        output.print_json([_plain(preset) for preset in listed])
    elif name is None:
        _print_all(listed)
    else:
        _print(listed[0])
    return 0


def _plain(preset: Preset) -> dict[str, Any]:  # Any: JSON values
    """A preset as values: policies as the tables that a fleet's file has."""
    from msgspec.structs import asdict

    from policies.base import Component
    from policies.building import to_table

    fields = {
        name: to_table(value) if isinstance(value, Component) else value
        for name, value in preset.fields.items()
    }
    return {**asdict(preset), "fields": fields, "knobs": [asdict(knob) for knob in preset.knobs]}


def _print_all(listed: list[Preset]) -> None:
    wide = max(len(preset.name) for preset in listed)
    for preset in listed:
        _wrapped(f"{preset.name:<{wide}}  {preset.serves:<8}  {preset.source}", " " * (wide + 12))


def _print(preset: Preset) -> None:
    _wrapped(f"{preset.name} ({preset.serves})", "")
    _wrapped(f"source: {preset.source}", "  ")
    settings = [(knob.path, str(knob.value), knob.key) for knob in preset.knobs]
    path_width, value_width = (max(len(setting[at]) for setting in settings) for at in (0, 1))
    print("\nsettings, and what the documentation calls them")
    for knob, (path, value, key) in zip(preset.knobs, settings, strict=True):
        note = f"  ({knob.note})" if knob.note else ""
        _wrapped(
            f"  {path:<{path_width}}  {value:<{value_width}}  {key}{note}",
            " " * (path_width + value_width + 6),
        )
    print("\nleft out")
    for text in preset.left_out:
        _wrapped(f"  - {text}", "    ")


def _wrapped(text: str, indent: str) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    print(textwrap.fill(text, width, subsequent_indent=indent))
