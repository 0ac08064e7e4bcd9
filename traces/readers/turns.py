"""Who follows whom in a file that says how long after another each request is sent, and not always when.

The one thing to know: a row can follow only a row that stands before it, so one pass tells, and what is remembered is
the last row of each session (and, once a row names others, each row by its id).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from traces.readers.further import ReadAgain
from traces.readers.options import PER_S, TimeUnit

Names = Sequence[str | int] | str | int


class Line(Protocol):
    """What is told of a row. Delays are in ms."""

    timestamp: float | None
    session_id: str | int | None
    request_id: str | int | None
    wait_for: Names | None
    delay: float | None
    tool_wait_ms: float | None


class Turn(NamedTuple):
    """What became known of a row."""

    recorded: float | None
    """Its arrival, in the unit of the file; None where nothing tells it."""
    parent: str | None = None
    think_s: float | None = None
    unknown: str | None = None
    """A request that it waits for and that no earlier row is."""


class _Before(NamedTuple):
    """An earlier row."""

    number: int
    id: str
    recorded: float | None


class Turns:
    """The rows of a file, in its order.

    Args:
        unit: Of the arrivals.
        waits: Not empty if rows are known to name those that they wait for, and all ids are to be remembered. The first
            such row that comes unexpected is put there, and asks to read the file again (`ReadAgain`).
    """

    def __init__(self, unit: TimeUnit, waits: set[str]) -> None:
        self.unit = unit
        self._per_ms = PER_S[unit] / 1e3
        self._rows = 0
        self._last: dict[str, _Before] = {}
        self._waits = waits
        self._known: dict[str, _Before] | None = {} if waits else None

    def of(self, lines: Sequence[Line]) -> list[Turn]:
        """The next rows."""
        return [self._turn(line) for line in lines]

    def pass_by(self, lines: Sequence[Line]) -> bool:
        """Whether the next rows follow nobody, and nobody can follow them: then there is nothing to tell of them."""
        linked = self._known is not None or any(
            line.session_id is not None or line.timestamp is None or line.wait_for is not None
            for line in lines
        )
        self._rows += 0 if linked else len(lines)
        return not linked

    def _turn(self, line: Line) -> Turn:
        session = None if line.session_id is None else str(line.session_id)
        before, unknown = self._before(line, session)
        waits = [wait for wait in (line.delay, line.tool_wait_ms) if wait is not None]
        wait_ms = sum(waits) if before is not None and waits else None
        recorded = line.timestamp
        if recorded is None and before is not None and before.recorded is not None:
            recorded = before.recorded + (wait_ms or 0.0) * self._per_ms
        self._remember(line, session, recorded)
        parent = None if before is None else before.id
        return Turn(recorded, parent, None if wait_ms is None else wait_ms / 1e3, unknown)

    def _before(self, line: Line, session: str | None) -> tuple[_Before | None, str | None]:
        """The row that it follows, and a name that is no earlier row's."""
        names = awaited(line)
        if names:
            if self._known is None:
                self._waits.add("wait_for")
                raise ReadAgain("wait_for")
            unknown = next((name for name in names if name not in self._known), None)
            return max((self._known[n] for n in names if n in self._known), default=None), unknown
        if session is not None and (line.delay is not None or line.timestamp is None):
            return self._last.get(session), None
        return None, None

    def _remember(self, line: Line, session: str | None, recorded: float | None) -> None:
        name = str(self._rows if line.request_id is None else line.request_id)
        row = _Before(self._rows, name, recorded)
        self._rows += 1
        if session is not None:
            self._last[session] = row
        if self._known is not None:
            self._known[name] = row


def awaited(line: Line) -> list[str]:
    """The requests that a row says it waits for."""
    names = line.wait_for
    if names is None:
        return []
    return [str(name) for name in ([names] if isinstance(names, str | int) else names)]
