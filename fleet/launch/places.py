"""Where replicas are: numbered places, which faults put out of order, and what launchers do about them.

A place is what a fault names: a slot, a host, a device. The replicas that hold it succeed each other, under
addresses of their own. Each pool has places of its own, one for each replica that it may have, spares included.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from fleet.actor import Actor
from fleet.actors.operations import PoolEmptied
from fleet.actors.roster import REMEMBERED
from fleet.messages import (
    Message,
    ReplicaExited,
    ReplicaReported,
    StartHeld,
    StartReplica,
    Tick,
    TrustChanged,
)
from fleet.pools import DEFAULT, autoscaler_of, pool_of

Place = tuple[str, int]
"""A pool, and the number of one of its places."""


class Places:
    """Of one pool: who is at which place, and which of them are out of order.

    A replica that drains or has failed its checks leaves its place to a successor at once, and lingers there. So a
    fleet whose places are all in order never waits for one: whoever is started before it is known who leaves has a
    number above the others until then.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        """How many there are."""
        self.repaired_s: dict[int, float] = {}
        """Places out of order, and until when."""
        self._holders: dict[int, str] = {}
        self._lingering: dict[int, list[str]] = {}
        """Those that leave it, the last one last."""
        self._at: dict[str, int] = {}
        """The place of every replica that is there, lingering or not."""
        self._first: dict[str, int] = {}
        """The place that each replica had first; of the last ones."""

    # --- what a fault names ------------------------------------------------------------------------------------

    def named(self, name: str) -> int | None:
        """The place that `place/<n>` or `replica/<n>` names.

        ``replica/<n>`` is place n, where there are that many; beyond, it is the place which that replica held first.
        """
        kind, number = name.partition("/")[0], name.rpartition("/")[2]
        if not number.isdecimal():
            return None
        if kind == "place" or int(number) < self.most:
            return int(number)
        return self._first.get(name)

    def found(self, name: str) -> str | None:
        """Whom a fault hits: who holds the place; the very replica that it names, while that lingers there."""
        place = self.named(name)
        if place is None or self._at.get(name) == place:
            return None if place is None else name
        return self.holder(place)

    def holder(self, place: int) -> str | None:
        """Whoever is there: the holder, or one that has not left yet."""
        lingering = self._lingering.get(place)
        return self._holders.get(place) or (lingering[-1] if lingering else None)

    def lowest_in_order(self) -> int | None:
        """None while all are out of order."""
        return next((place for place in range(self.most) if place not in self.repaired_s), None)

    def place_of(self, replica: str) -> int | None:
        """Where it is now."""
        return self._at.get(replica)

    # --- coming and going --------------------------------------------------------------------------------------

    def take(self, replica: str) -> bool:
        """Give it the lowest place that is free and in order; False when so many are out of order that none is."""
        if replica in self._at:
            return True
        broken = {place for place in self.repaired_s if place < self.most}
        if broken and len(broken | self._holders.keys()) >= self.most:
            return False
        self._settle(replica, self._lowest_free())
        self._first[replica] = self._at[replica]
        if len(self._first) > REMEMBERED:
            del self._first[next(iter(self._first))]
        return True

    def vacate(self, replica: str) -> None:
        """It no longer counts, and may linger."""
        place = self._at.get(replica)
        if place is not None and self._holders.get(place) == replica:
            del self._holders[place]
            self._lingering.setdefault(place, []).append(replica)
            self._move_down()

    def stay(self, replica: str) -> None:
        """It counts again: it has recovered."""
        place = self._at.get(replica)
        if place is not None and self._holders.get(place) != replica:
            self._unlinger(replica, place)
            self._settle(replica, self._lowest_free() if place in self._holders else place)

    def leave(self, replica: str) -> None:
        """It is gone."""
        self.vacate(replica)
        place = self._at.pop(replica, None)
        if place is not None:
            self._unlinger(replica, place)

    def _settle(self, replica: str, place: int) -> None:
        self._holders[place] = replica
        self._at[replica] = place

    def _unlinger(self, replica: str, place: int) -> None:
        self._lingering[place].remove(replica)
        if not self._lingering[place]:
            del self._lingering[place]

    def _lowest_free(self) -> int:
        place = 0
        while place in self._holders or place in self.repaired_s:
            place += 1
        return place

    def _move_down(self) -> None:
        """Whoever came before its place was vacated has it now."""
        for above in sorted(place for place in self._holders if place >= self.most):
            free = self._lowest_free()
            if free < above:
                self._settle(self._holders.pop(above), free)


class FleetPlaces:
    """The places of all pools."""

    def __init__(self, most: Mapping[str, int]) -> None:
        """`most`: how many each pool has; one that is deployed later comes with its first replica."""
        self._pools = {pool: Places(count) for pool, count in most.items()}

    def of(self, name: str) -> Places:
        """Those of the pool of a replica or a place; none at all, where there is no such pool."""
        return self._pools.get(pool_of(name)) or Places(0)

    def wanted(self, request: StartReplica) -> Places:
        """Those of a pool that is to have one more replica, and has so many places from now on."""
        places = self._pools.setdefault(pool_of(request.replica), Places(0))
        places.most = request.places or places.most
        return places

    def forget(self, pool: str) -> None:
        """The pool is gone. What is out of order stays so, should one of that name come again meanwhile."""
        places = self._pools.get(pool)
        if places is not None and places.repaired_s:
            places.most = 0
        else:
            self._pools.pop(pool, None)

    def named(self, name: str) -> Place | None:
        """The place that a fault's name means."""
        pool = pool_of(name)
        number = None if pool not in self._pools else self._pools[pool].named(_shortest(name))
        return None if number is None else (pool, number)

    def found(self, name: str) -> str | None:
        """Whom a fault of this name hits."""
        return self.of(name).found(_shortest(name))

    def holder(self, place: Place) -> str | None:
        """Whoever is there."""
        return self._pools[place[0]].holder(place[1])

    def lowest_in_order(self) -> Place | None:
        """Of the first pool that has one; None while all are out of order."""
        lowest = ((pool, places.lowest_in_order()) for pool, places in self._pools.items())
        return next(((pool, number) for pool, number in lowest if number is not None), None)

    def place_of(self, replica: str) -> Place | None:
        """Where it is now."""
        number = self.of(replica).place_of(replica)
        return None if number is None else (pool_of(replica), number)


def _shortest(name: str) -> str:
    """`replica/3` for ``replica/default/3``, which means the same."""
    return name.replace(f"/{DEFAULT}/", "/", 1)


class PlacedLauncher(Actor):
    """What the launchers of both runtimes have in common: a start gets a place, or waits for one."""

    def __init__(self, *, places: Mapping[str, int], observers: str) -> None:
        """`places`: how many each pool has."""
        self.places = FleetPlaces(places)
        self._observers = observers
        self._waiting: deque[StartReplica] = deque()
        """Starts that no place is in order for."""
        self.failing_loads: list[str | None] = []
        """Faults not yet used up: whose next load fails, by replica or place; None: the next one's, whoever it is."""

    @abstractmethod
    def begin(self, request: StartReplica) -> None:
        """Bring this replica up; it has its place."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            StartReplica: self.on_start_replica,
            TrustChanged: self.on_trust_changed,
            PoolEmptied: self.on_pool_emptied,
            Tick: self.on_tick,
        }

    def on_start_replica(self, message: StartReplica) -> None:
        if self.places.wanted(message).take(message.replica):
            self.begin(message)
        else:
            self._waiting.append(message)
            self.ctx.send(autoscaler_of(pool_of(message.replica)), StartHeld(message.replica, held=True))

    def on_trust_changed(self, message: TrustChanged) -> None:
        if message.trust == "failed":
            self.places.of(message.replica).vacate(message.replica)
            self._make_use_of_room()
        elif message.trust == "healthy":
            self.places.of(message.replica).stay(message.replica)

    def on_pool_emptied(self, message: PoolEmptied) -> None:
        """No fault is to find the places of a pool that is gone."""
        self.places.forget(message.pool)

    def on_tick(self, message: Tick) -> None:
        if message.what == "room":
            self._begin_waiting()
        if message.what != "broken":
            return
        repaired_s = self.places.of(f"place/{message.key}/{message.number}").repaired_s
        if message.number not in repaired_s:
            return
        rest_s = repaired_s[message.number] - self.ctx.now
        if rest_s > 0.0:
            self.ctx.after(rest_s, message)
        else:
            del repaired_s[message.number]
            self._begin_waiting()

    def break_place(self, place: Place, until_s: float) -> None:
        """Nobody can come up there before `until_s`; outages that overlap are one. Others may call this."""
        pool, number = place
        repaired_s = self.places.of(f"place/{pool}/{number}").repaired_s
        if until_s > repaired_s.get(number, 0.0):
            repaired_s[number] = until_s
            self.ctx.send(self.ctx.address, Tick("broken", pool, number))

    def vacates(self, report: ReplicaReported) -> None:
        """One that says that it ends makes room."""
        if report.state in ("draining", "stopped", "failed"):
            self.places.of(report.replica).vacate(report.replica)
            self._make_use_of_room()

    def left(self, replica: str) -> None:
        """It is gone."""
        self.places.of(replica).leave(replica)
        self._make_use_of_room()

    def call_off(self, replica: str) -> bool:
        """Forget a start that waits for a place; False when it is none."""
        for request in self._waiting:
            if request.replica == replica:
                self._waiting.remove(request)
                detail = "no longer wanted"
                self.ctx.send(self._observers, ReplicaExited(replica, detail, expected=True))
                return True
        return False

    def load_fails(self, replica: str) -> bool:
        """Whether a fault makes its load fail; one fault fails one load."""
        place = self.places.place_of(replica)
        for index, name in enumerate(self.failing_loads):
            if name is None or name == replica or self.places.named(name) == place:
                del self.failing_loads[index]
                return True
        return False

    def _make_use_of_room(self) -> None:
        # By message, as a fault may have made the room: that is not this actor's turn.
        if self._waiting:
            self.ctx.send(self.ctx.address, Tick("room"))

    def _begin_waiting(self) -> None:
        """In the order in which they were asked for; a pool that has no room holds up no other."""
        full: set[str] = set()
        for request in list(self._waiting):
            pool = pool_of(request.replica)
            if pool in full or not self.places.of(request.replica).take(request.replica):
                full.add(pool)
                continue
            self._waiting.remove(request)
            self.ctx.send(autoscaler_of(pool), StartHeld(request.replica, held=False))
            self.begin(request)
