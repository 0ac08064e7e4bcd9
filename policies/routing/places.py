"""Finding a candidate by its id without looking at the others."""

from __future__ import annotations

from collections.abc import Sequence

from policies.views import ReplicaView


class Places:
    """Where each replica stands among the candidates. Finding one costs O(1) as long as they are those told of.

    The one thing to know: it is a guess that is checked at each use. A retry is shown fewer candidates than there are;
    then they are gone through.
    """

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def learn(self, replicas: Sequence[ReplicaView]) -> None:
        """These are the candidates from now on."""
        self._places = {replica.id: place for place, replica in enumerate(replicas)}

    def find(self, replica: str, replicas: Sequence[ReplicaView]) -> ReplicaView | None:
        """The one of `replicas` with this id. None: it is not among them."""
        place = self._places.get(replica)
        if place is not None and place < len(replicas):
            found = replicas[place]
            if found.id == replica:
                return found
        for found in replicas:
            if found.id == replica:
                return found
        return None

    def __contains__(self, replica: str) -> bool:
        return replica in self._places
