"""Numbers and rich renderables as plain text."""

from __future__ import annotations

import math
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LEAST_WIDTH = 110
"""Columns of a table where there is no terminal to ask."""


def plain_number(value: float, *, digits: int = 4) -> str:
    """A figure to read: `digits` significant ones, thousands separated, whole numbers as they are."""
    if _whole(value):
        return f"{round(value):,}"
    return f"{value:,.{decimals(value, digits)}f}"


def signed_number(value: float, *, places: int | None = None) -> str:
    """A difference to read, always with its sign; `places` after the point, or three significant digits."""
    if places is None:
        if _whole(value):
            return f"{round(value):+,}" if round(value) else "0"
        places = decimals(value, 3)
    text = f"{value:+,.{places}f}"
    return text if text.strip("+-0.,") else text[1:]  # a zero has no sign


def decimals(value: float, digits: int) -> int:
    """Places after the point that show `digits` significant ones."""
    if value == 0.0 or not math.isfinite(value):
        return digits - 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def _whole(value: float) -> bool:
    return (
        math.isfinite(value)
        and abs(value) < 1e12
        and abs(value - round(value)) <= 1e-9 * max(1.0, abs(value))
    )


def console() -> Console:
    """What a study prints to: the terminal, or wide enough for its tables where there is none."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    return Console(width=LEAST_WIDTH)


def as_text(renderable: RenderableType) -> str:
    """What `print` shows: no colours, as wide as the terminal is."""
    from rich.console import Console

    width = max(LEAST_WIDTH, shutil.get_terminal_size((LEAST_WIDTH, 24)).columns)
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n")
