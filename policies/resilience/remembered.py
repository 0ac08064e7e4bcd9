"""What a breaker knows of each replica, kept while the replica is away.

The one thing to know: `on_replicas` names those that may be chosen *now*. One that is not among them may be under
suspicion for a missed probe, and be back in a second as ill as it was; or it has gone for good, and its name never
comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

AWAY_S = 300.0
"""Seconds for which a replica that is away is remembered, at least."""


class Remembered(Generic[T]):
    """A note for each replica, forgotten once it has been away for `away_s` seconds or longer.

    `seen` costs O(n), everything else O(1). So many are kept as are here, and as left within `away_s`.
    """

    __slots__ = ("_away_s", "_left_s", "_notes")

    def __init__(self, away_s: float) -> None:
        self._away_s = away_s
        self._notes: dict[str, T] = {}
        self._left_s: dict[str, float] = {}
        """Since when each that is away is so."""

    def of(self, replica: str) -> T | None:
        """What is known of it; None: nothing."""
        return self._notes.get(replica)

    def add(self, replica: str, note: T) -> T:
        """From now on this is known of it; answers `note`."""
        self._notes[replica] = note
        return note

    def seen(self, replicas: Iterable[str], now_s: float) -> None:
        """These are here and no others: whoever left long ago is forgotten."""
        here = set(replicas)
        self._left_s = {name: self._left_s.get(name, now_s) for name in self._notes if name not in here}
        for name, left_s in list(self._left_s.items()):
            if now_s - left_s >= self._away_s:
                del self._left_s[name], self._notes[name]

    def is_here(self, replica: str) -> bool:
        """False: it is away, or nothing is known of it."""
        return replica in self._notes and replica not in self._left_s

    def here(self) -> list[T]:
        """What is known of those that are here."""
        return [note for name, note in self._notes.items() if name not in self._left_s]

    def all(self) -> Iterator[T]:
        """What is known of each, those that are away too."""
        return iter(self._notes.values())

    def __len__(self) -> int:
        return len(self._notes)
