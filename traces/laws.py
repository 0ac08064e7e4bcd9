"""Laws of what requests have: values, and how likely each is. A law is on record as the text that makes it again.

The one thing to know: the text says the law exactly. A share of 1/3 is written with all its digits, a value with a
comma in double quotes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct

from traces.errors import TraceError

MOST_VALUES = 1_000_000
"""Of one law."""
Shares = Mapping[str, float] | Mapping[int, float] | Mapping[str | None, float]
_PAIR = re.compile(r'("(?:[^"\\]|\\.)*"|[^",]*)=([^=,]*)(,|$)')
"""A value and its share; one with a comma or a quote in it is written as JSON writes text."""
_HOW = "write zipf:COUNT:EXPONENT, uniform:COUNT, choice:VALUE=SHARE,VALUE=SHARE, or one value for all"


class Law(Struct, frozen=True):
    """Values and their shares. Make one with `zipf`, `uniform`, `choice` or `law_of`."""

    text: str
    """As it is written on record: ``zipf:20:1.1``. `law_of` makes the law again."""
    shares: tuple[float, ...]
    """In proportion to how likely each value is; finite, none below 0, some above."""
    values: tuple[str | None, ...] | None = None
    """One for each share, None being no value; without them they are numbered after the column that they are for."""

    def values_of(self, column: str) -> tuple[str | None, ...]:
        """The values for a column: as given, or numbered, as in ``tenant-0``, ``tenant-1``, and so on."""
        return _numbered(f"{column}-", len(self.shares)) if self.values is None else self.values


def zipf(count: int, exponent: float = 1.0, prefix: str | None = None) -> Law:
    """`count` values, that of rank k (from 1) with a probability in proportion to ``k ** -exponent``.

    They are named by `prefix` and a number from 0 on, the most likely first: ``tenant-0`` with ``prefix="tenant-"``,
    which is also what they are called without a prefix in the column `tenant`. An exponent of 0 is `uniform`.
    """
    _demand_count("zipf", count)
    if not (_is_number(exponent) and exponent >= 0):
        raise TraceError(f"zipf(exponent={exponent!r}) is not possible", remedy="give a number from 0 on")
    shares = tuple(float(rank) ** -exponent for rank in range(1, count + 1))
    return _named(f"zipf:{count}:{_written(exponent)}", shares, prefix)


def uniform(count: int, prefix: str | None = None) -> Law:
    """`count` values, all as likely, named as those of `zipf`."""
    _demand_count("uniform", count)
    return _named(f"uniform:{count}", (1.0,) * count, prefix)


def choice(shares: Shares) -> Law:
    """These values, each with a probability in proportion to its share. None, or no text, is no value at all."""
    values = tuple(None if value is None else _value(value) for value in shares)
    if len(set(values)) < len(values):
        raise TraceError(f"choice({dict(shares)}) has a value twice", remedy="give each value one share")
    numbers = tuple(shares.values())
    if not all(_is_number(share) and share >= 0 for share in numbers) or not 0 < sum(numbers) < math.inf:
        remedy = "give finite shares, none below 0, some above"
        raise TraceError(f"choice({dict(shares)}) is not possible", remedy=remedy)
    pairs = zip(values, numbers, strict=True)
    text = ",".join(f"{_quoted(value or '')}={_written(share)}" for value, share in pairs)
    return Law(f"choice:{text}", tuple(map(float, numbers)), values)


def law_of(said: Law | str | int) -> Law:
    """The law that this is or says: ``zipf:20:1.1``, ``uniform:8``, ``choice:chat=0.7,code=0.3``; else one for all.

    Raises:
        TraceError: A law that is none, or text that looks like one and is not.
    """
    if isinstance(said, Law):
        return said
    text = _value(said) or ""
    kind, colon, rest = text.partition(":")
    if kind == "choice" and colon:
        return _choice_of(text, rest)
    if kind in ("zipf", "uniform"):
        return _numbered_law_of(text, kind, rest)
    meant = difflib.get_close_matches(kind, ("zipf", "uniform", "choice"), n=1, cutoff=0.75) if colon else []
    if kind == "choice" or ("," in text and _pairs_of(text) is not None):
        meant = ["choice:VALUE=SHARE"]
    if meant or not text:
        hint = f"did you mean {meant[0]}? " if meant else ""
        raise TraceError(f"{text!r} is no law", remedy=f"{hint}{_HOW}")
    return Law(text, (1.0,), (text,))


def _numbered_law_of(text: str, kind: str, rest: str) -> Law:
    count, *more = rest.split(":", 2 if kind == "zipf" else 1)
    exponent = more.pop(0) if kind == "zipf" and more else "1"
    try:
        numbers = int(count), float(exponent)
    except ValueError:
        raise TraceError(f"{text!r} is no law", remedy=_HOW) from None
    prefix = more[0] if more else None
    return zipf(*numbers, prefix) if kind == "zipf" else uniform(numbers[0], prefix)


def _choice_of(text: str, rest: str) -> Law:
    pairs = _pairs_of(rest)
    if pairs is None:
        raise TraceError(f"{text!r} is no law", remedy=_HOW)
    shares = dict(pairs)
    if len(shares) < len(pairs):
        raise TraceError(f"{text!r} has a value twice", remedy="give each value one share")
    return choice(shares)


def _pairs_of(text: str) -> list[tuple[str, float]] | None:
    """Values and shares; None: the text is something else."""
    try:
        return list(_pairs(text))
    except (ValueError, msgspec.DecodeError):
        return None


def _pairs(text: str) -> Iterator[tuple[str, float]]:
    at, comma = 0, ","
    while comma:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ValueError(text)
        value, share, comma = pair.groups()
        yield msgspec.json.decode(value, type=str) if value.startswith('"') else value, float(share)
        at = pair.end()


def is_whole(value: object) -> bool:
    """Whether it is a whole number from 0 on, whatever its annotation says."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _demand_count(law: str, count: int) -> None:
    if not is_whole(count) or not 1 <= count <= MOST_VALUES:
        remedy = f"give a whole number from 1 to {MOST_VALUES:,}"
        raise TraceError(f"{law}(count={count!r}) is not possible", remedy=remedy)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _named(text: str, shares: tuple[float, ...], prefix: str | None) -> Law:
    if prefix is None:
        return Law(text, shares)
    return Law(f"{text}:{_checked(prefix)}", shares, _numbered(prefix, len(shares)))


def _numbered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(count))


def _value(said: str | int) -> str | None:
    """A value as text; None: there is none."""
    if isinstance(said, bool) or not isinstance(said, str | int):
        raise TraceError(f"{said!r} is no value", remedy="give text, a whole number, or a law")
    return _checked(str(said)) or None


def _checked(text: str) -> str:
    if text != text.strip() or not text.isprintable():
        raise TraceError(f"{text!r} is no value", remedy="no space around it, and nothing unprintable within")
    return text


def _quoted(value: str) -> str:
    return msgspec.json.encode(value).decode() if re.search('[,"]', value) else value


def _written(number: float) -> str:
    """In as few digits as say it exactly."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))
