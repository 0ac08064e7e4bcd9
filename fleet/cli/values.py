"""What a word of the command line may be: a number within bounds, a list, an endpoint; and what else was meant."""

from __future__ import annotations

import difflib
import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any


class UsageError(Exception):
    """The command line is not one that `fleet` understands."""


def meant(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` when something close to `name` is known, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"must be above 0, not {text}")
    return value


def nonnegative(text: str) -> float:
    """A finite number from 0 up."""
    value = number(text)
    if value < 0:
        raise ArgumentTypeError(f"must not be below 0, not {text}")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not math.isfinite(value):
        raise ArgumentTypeError(f"must be finite, not {text}")
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def several(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:  # Any: what `kind` makes
    """Values of one kind, separated by commas."""

    def values(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return values


def endpoint(text: str) -> str:
    """A ZeroMQ endpoint."""
    tcp = re.fullmatch(r"tcp://\S+:(\d+|\*)", text)
    if not re.fullmatch(r"ipc://\S+", text) and (tcp is None or (tcp[1] != "*" and int(tcp[1]) > 65_535)):
        raise ArgumentTypeError(f"must be an endpoint such as tcp://127.0.0.1:5555, not {text!r}")
    return text
