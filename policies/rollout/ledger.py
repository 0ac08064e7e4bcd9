"""The requests that a rollout sent to one version and that have not ended: those it is judged by, and no others.

The one thing to know: not every request that a version ends was sent to it by the rollout (a client may pin it, or it
was there before), and not every one that was sent comes to an end that is told (a variants policy may refuse it).
"""

from __future__ import annotations


class Ledger:
    """What is out, in the order in which it was sent. Every operation is O(1); nothing is kept of what has ended."""

    __slots__ = ("_unheard", "late", "open")

    def __init__(self) -> None:
        self.open: dict[str, float] = {}
        """Intended arrival by id."""
        self.late: dict[str, float] = {}
        """Likewise, of those that have been found to be slow: none of them is open."""
        self._unheard: dict[str, None] = {}
        """Of both, those of which nothing was heard since they were sent."""

    def __len__(self) -> int:
        return len(self.open) + len(self.late)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.open or request_id in self.late

    def sent(self, request_id: str, arrived_s: float) -> None:
        """One more goes to this version."""
        self.open[request_id] = arrived_s
        self._unheard[request_id] = None

    def heard(self, request_id: str) -> None:
        """A replica has it."""
        self._unheard.pop(request_id, None)

    def drop(self, request_id: str) -> None:
        """It has ended, or goes to another version after all."""
        self._unheard.pop(request_id, None)
        if self.open.pop(request_id, None) is None:
            self.late.pop(request_id, None)

    def is_late(self, request_id: str) -> None:
        """It is slow, whatever comes of it."""
        self.late[request_id] = self.open.pop(request_id)

    def reconcile(self, in_flight: int) -> None:
        """The version has so many requests in all: what is more, and was never heard of, was refused on the way."""
        while self._unheard and len(self) > in_flight:
            self.drop(next(iter(self._unheard)))
