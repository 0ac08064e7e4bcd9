"""The hash ring of consistent hashing: who is next to a key, clockwise, and whom it reaches after that.

The one thing to know: points and keys are placed as libketama does, so that the same servers and keys meet here as in
memcached clients and in nginx. A replica's points depend on its id alone, and so do not move when others come or go.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Literal

from traces.schema import Request

KeyField = Literal["auto", "session", "tenant", "user", "id"]
"""Of a request, what is hashed. `auto`: its session, else its tenant, else its user, else its id. A request without the
field that is named goes by its id."""


def key_of(request: Request, field: KeyField) -> str:
    """What this request is hashed by."""
    if field == "auto":
        return request.session or request.tenant or request.user or request.id
    value: str | None = getattr(request, field)
    return value or request.id


class Ring:
    """Points of replicas on a circle. Adding or removing one costs O(points on the ring), a look-up their logarithm."""

    __slots__ = ("_points", "_replicas", "virtual_nodes")

    def __init__(self, virtual_nodes: int) -> None:
        self.virtual_nodes = virtual_nodes
        """Points of each replica."""
        self._points: list[tuple[int, str]] = []
        """In order. Where two replicas meet, which 512 of them do once on average, the first by id comes first."""
        self._replicas: dict[str, None] = {}

    def __contains__(self, replica: str) -> bool:
        return replica in self._replicas

    def __len__(self) -> int:
        return len(self._replicas)

    def add(self, replicas: Iterable[str]) -> None:
        """These are on the ring from now on."""
        new = [replica for replica in replicas if replica not in self._replicas]
        if not new:
            return
        self._replicas.update(dict.fromkeys(new))
        if len(new) == 1:
            for point in points_of(new[0], self.virtual_nodes):
                insort(self._points, (point, new[0]))
            return
        self._points += [
            (point, replica) for replica in new for point in points_of(replica, self.virtual_nodes)
        ]
        self._points.sort()

    def keep_only(self, replicas: Iterable[str]) -> None:
        """Take every other one from the ring."""
        kept = dict.fromkeys(replicas)
        gone = [replica for replica in self._replicas if replica not in kept]
        if gone:
            for replica in gone:
                del self._replicas[replica]
            self._points = [point for point in self._points if point[1] in self._replicas]

    def walk(self, key: str) -> Iterator[str]:
        """The replicas in the order in which the key meets their points, each once. Nobody when the ring is empty."""
        points = self._points
        start = bisect_left(points, (point_of(key), ""))
        seen: dict[str, None] = {}
        for place in range(start, start + len(points)):
            replica = points[place % len(points)][1]
            if replica not in seen:
                seen[replica] = None
                yield replica
                if len(seen) == len(self._replicas):
                    return


def points_of(replica: str, count: int) -> list[int]:
    """The points of a replica: four from each MD5 of its id and a number, as libketama draws them."""
    points: list[int] = []
    for number in range(-(-count // 4)):
        points += struct.unpack("<4I", _md5(f"{replica}-{number}"))
    return points[:count]


def point_of(key: str) -> int:
    """Where a key is on the circle."""
    point: int = struct.unpack_from("<I", _md5(key))[0]
    return point


def _md5(text: str) -> bytes:
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()
