"""What a routing policy keeps of each attempt in flight, so that it can take exactly that back when it ends.

The one thing to know: hooks name an attempt by its request and its replica. After a retry two attempts may bear one
name; they are then taken to end, and to be prefilled, in the order in which they were sent.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Attempts(Generic[T]):
    """A note for each attempt in flight. Every operation costs O(1); nothing is kept of one that has ended."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: dict[tuple[str, str], list[T]] = {}

    def add(self, request_id: str, replica: str, note: T) -> None:
        """It was sent."""
        self._notes.setdefault((request_id, replica), []).append(note)

    def of(self, request_id: str, replica: str) -> list[T]:
        """The notes of all attempts of this name in flight, the one sent first in front."""
        return self._notes.get((request_id, replica), [])

    def take(self, request_id: str, replica: str) -> T | None:
        """It ended: remove and return its note. None: it was never sent, as far as is known here."""
        key = (request_id, replica)
        notes = self._notes.get(key)
        if notes is None:
            return None
        note = notes.pop(0)
        if not notes:
            del self._notes[key]
        return note

    def __len__(self) -> int:
        return sum(map(len, self._notes.values()))
