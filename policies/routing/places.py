"""Where candidates stand: finding one by its id, and the one that comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


class Numbers:
    """The candidates by their ids and numbers. It costs one comparison of each id as long as they are the same.

    The one thing to know: it is shown them at every use, so it is right for whichever they are, those of a retry too.
    """

    __slots__ = ("by_id", "ids")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.by_id: dict[str, int] = {}

    def show(self, replicas: Sequence[ReplicaView]) -> None:
        """These are the candidates now."""
        ids = [replica.id for replica in replicas]
        if ids != self.ids:
            self.ids = ids
            self.by_id = {replica: number for number, replica in enumerate(ids)}

    def of(self, replicas: Iterable[str]) -> list[int]:
        """The numbers of those of these that are candidates. O(these)."""
        return [number for number in map(self.by_id.get, replicas) if number is not None]


def first_of_least(numbers: Sequence[float], replicas: Sequence[ReplicaView]) -> int:
    """Whose number is the least; of several the one with the fewest requests in flight, then the first. O(n)."""
    least = min(numbers)
    if numbers.count(least) == 1:
        return numbers.index(least)
    equals = [place for place, number in enumerate(numbers) if number == least]
    return min([(replicas[place].in_flight, place) for place in equals])[1]
