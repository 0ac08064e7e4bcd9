"""The simulated runtime: every actor in one process, on exact virtual time.

One heap holds what is to happen, ordered by (time, sequence number). A message without delay is delivered in
the order it was sent, before the next entry of the heap: a total order, so ties never depend on hashing or
memory. Nothing here is serialised, and nothing sleeps.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import count
from typing import Any, TypeVar

from msgspec import Struct

from fleet.actor import Actor, FleetError
from fleet.messages import LoadFinished, Message, RunFinished, StepRan, Tick, Undeliverable
from fleet.network import NetworkModel, host_of
from fleet.seeding import rng_for

T = TypeVar("T")

OWN = (Tick, LoadFinished, RunFinished, StepRan)
"""Timers of an actor and of its engine: they end with it, and are no loss."""

_COMPACT_AT = 1_024

_LAST_ROUNDS = 3.0
"""Of the longest period: before something happens at last, so much idle time is played out, so that whoever is told of
the world by periodic messages has heard the newest."""


Handler = Callable[[Any], None]
"""Any: each handler takes its own type of message."""


class Inbox(dict[type[Message], Handler]):
    """Where each type of message goes; a type that is not in it goes to `otherwise`.

    The kernel calls an actor's handlers through it, without `Actor.receive` between. An actor is cut off by
    giving it an empty one.
    """

    __slots__ = ("otherwise",)

    def __init__(self, handlers: dict[type[Message], Handler], otherwise: Handler) -> None:
        super().__init__(handlers)
        self.otherwise = otherwise

    def __missing__(self, kind: type[Message]) -> Handler:
        return self.otherwise


class SimulatedTimer(Struct):
    """A heap entry that can be taken back: its context is cleared, and the kernel skips it."""

    context: SimulatedContext | FanOut | Oneself | None
    message: Message

    def cancel(self) -> None:
        context, self.context = self.context, None
        if context is not None:
            context.runtime.note_cancelled()


class Recurring(SimulatedTimer):
    """What comes again every `period_s`; nobody takes it back."""

    period_s: float
    actor: Actor


Passed = tuple[float, int, Recurring, int]
"""What does not come: when it was due, its number, and how many periods of it."""


def _say_passed_over(passed: Sequence[Passed]) -> None:
    """Tell actors what does not come: several of them in the order in which it would have come."""
    if len(passed) == 1:
        due_s, _, timer, periods = passed[0]
        timer.actor.passed_over(timer.message, due_s, periods)
        return
    for due_s, _, timer in merge(*map(_one_by_one, passed)):
        timer.actor.passed_over(timer.message, due_s, 1)


def _one_by_one(passed: Passed) -> Iterator[tuple[float, int, Recurring]]:
    due_s, number, timer, periods = passed
    for period in range(periods):
        yield due_s + period * timer.period_s, number, timer


class SimulatedContext:
    """One actor's place in the kernel. `inbox` is replaced when the actor is killed or stopped."""

    __slots__ = (
        "_heap",
        "_near",
        "_number",
        "_ready",
        "_rng",
        "actor",
        "address",
        "host",
        "inbox",
        "now",
        "runtime",
    )

    def __init__(self, runtime: SimulatedRuntime, address: str, actor: Actor) -> None:
        self.runtime = runtime
        # Each message uses these, so they are kept at hand.
        self._near, self._ready = runtime.near, runtime.ready.append
        self._heap, self._number = runtime.heap, runtime.number
        self._rng: random.Random | None = None
        self.address = address
        self.host = host_of(address)
        self.actor = actor
        self.now = runtime.now
        self.inbox = Inbox({}, actor.receive)

    @property
    def rng(self) -> random.Random:
        if self._rng is None:
            self._rng = rng_for(self.runtime.seed, self.address)
        return self._rng

    def send(self, to: str, message: Message) -> None:
        target = self._near.get(to)
        if target is not None:
            self._ready((target, message))
        else:
            self.runtime.route(self, to, message)

    def after(self, delay_s: float, message: Message) -> SimulatedTimer:
        if delay_s < 0.0:
            raise FleetError(
                f"{self.address} asked for {type(message).__name__} {-delay_s} s ago: time does not run backwards"
            )
        timer = SimulatedTimer(self, message)
        heappush(self._heap, (self.now + delay_s, self._number(), timer))
        return timer

    def every(self, period_s: float, message: Message) -> None:
        heappush(
            self._heap, (self.now + period_s, self._number(), Recurring(self, message, period_s, self.actor))
        )
        self.runtime.look_for_rest()

    def in_thread(self, work: Callable[[], T], then: Callable[[T], Message]) -> None:
        raise FleetError(
            f"{self.address} uses an engine that needs real threads; virtual time runs an EmulatedEngine "
            "(measure the real one with `fleet profile` and give its table to a ProfiledLatency)"
        )


class FanOut:
    """The members of a group on one host: a message to them travels once, and reaches all of them or none."""

    __slots__ = ("_members", "host", "inbox", "now", "runtime")

    def __init__(self, runtime: SimulatedRuntime, members: list[SimulatedContext]) -> None:
        self.runtime, self._members = runtime, members
        self.host = members[0].host
        self.now = runtime.now
        self.inbox = Inbox({}, self._hand_out)

    def _hand_out(self, message: Message) -> None:
        self.runtime.ready.extend((member, message) for member in self._members)


class Oneself:
    """Where the kernel sends a message to itself, to be called when all that is due at an instant is done."""

    __slots__ = ("inbox", "now", "runtime")

    def __init__(self, runtime: SimulatedRuntime, handler: Handler) -> None:
        self.runtime = runtime
        self.now = runtime.now
        self.inbox = Inbox({}, handler)


class SimulatedRuntime:
    """Hosts actors in virtual time. `add` them, `run`, and read what they recorded."""

    def __init__(self, *, seed: int, network: NetworkModel | None = None) -> None:
        self.seed = seed
        self.network = network or NetworkModel()
        self.now = 0.0
        self.contexts: dict[str, SimulatedContext] = {}
        self.near: dict[str, SimulatedContext] = {}
        """Those that a message reaches at once: all of them, or none while the network is not perfect."""
        self.heap: list[tuple[float, int, SimulatedTimer]] = []
        self.ready: deque[tuple[SimulatedContext | FanOut, Message]] = deque()
        self.number = count(1).__next__
        """The next sequence number."""
        self.stopped = False
        self.delivered = 0
        self.lost = 0
        """Messages to a dead process, or cut off by a partition or drop fault: counted, never silent."""
        self.after_each: Callable[[], None] | None = None
        """Called after every entry of the heap and all it led to (the invariant checker)."""
        self._groups: dict[str, list[str]] = {}
        self._members: dict[str, list[SimulatedContext]] = {}
        """Of each group, those that are there; made anew when that changes."""
        self._cancelled = 0
        """Entries of the heap that were taken back, at most."""
        self._partitioned: set[str] = set()
        self._drops: dict[str, float] = {}
        self._arrivals: dict[tuple[str, str], float] = {}
        self._network_rng = rng_for(seed, "network")
        self._direct = self.network.perfect
        self._horizon_s: float | None = None
        self._look_from_s = 0.0
        """Before that there is nothing to gain from looking whether idle time can be passed over."""
        self._quiet_until_s: float | None = None
        """As the last look found: nothing happens before."""
        self._oneself = Oneself(self, self._pass_over)

    # --- hosting -----------------------------------------------------------------------------------------------

    def add(self, address: str, actor: Actor) -> None:
        """Host `actor` under `address` and start it now."""
        if address in self.contexts:
            raise FleetError(f"two actors under one address: {address}")
        context = SimulatedContext(self, address, actor)
        self.contexts[address] = context
        self._members.clear()
        if self._direct:
            self.near[address] = context
        actor.start(context)
        if type(actor).receive is Actor.receive:  # else it wants to see every message itself
            context.inbox.update(actor.handlers())

    def remove(self, address: str) -> None:
        """Take an actor out; what is under way to it is lost, and counted."""
        context = self.contexts.pop(address, None)
        if context is not None:
            self._members.clear()
            self.near.pop(address, None)
            context.inbox = Inbox({}, self._drop)
            if address in self._partitioned or address in self._drops:  # its link is gone with it
                self._partitioned.discard(address)
                self._drops.pop(address, None)
                self._choose_path()

    def subscribe(self, group: str, address: str) -> None:
        """Deliver messages to the address `group` to `address` as well, in the order of subscription."""
        self._groups.setdefault(group, []).append(address)
        self._members.clear()

    def stop_actor(self, address: str) -> Callable[[], None]:
        """SIGSTOP: what comes for it waits. The answer continues it (SIGCONT)."""
        context = self.contexts[address]
        context.now = self.now
        context.actor.settle()
        waiting: list[Message] = []
        before = context.inbox
        context.inbox = Inbox({}, waiting.append)

        def resume() -> None:
            if self.contexts.get(address) is context:
                context.inbox = before
                self.ready.extend((context, message) for message in waiting)

        return resume

    # --- the network -------------------------------------------------------------------------------------------

    def partition(self, address: str, cut: bool) -> None:
        """Cut the host of `address` off, or join it again."""
        (self._partitioned.add if cut else self._partitioned.discard)(address)
        self._choose_path()

    def drop(self, address: str, probability: float) -> None:
        """Lose messages to and from `address` with this probability; 0 ends it."""
        if probability > 0.0:
            self._drops[address] = probability
        else:
            self._drops.pop(address, None)
        self._choose_path()

    def _choose_path(self) -> None:
        self._direct = self.network.perfect and not self._partitioned and not self._drops
        self.near.clear()  # in place: every context holds it
        if self._direct:
            self.near.update(self.contexts)

    def route(self, sender: SimulatedContext, to: str, message: Message) -> None:
        """The slow path of a send: groups, unknown addresses, and anything the network may delay or lose."""
        group = self._groups.get(to)
        if group is not None:
            members = self._members.get(to)
            if members is None:
                members = [self.contexts[address] for address in group if address in self.contexts]
                self._members[to] = members
            if self._direct:
                self.ready.extend((member, message) for member in members)
                return
            hosts: dict[str, list[SimulatedContext]] = {}
            for member in members:
                hosts.setdefault(member.host, []).append(member)
            for those in hosts.values():
                self._carry(sender, those[0] if len(those) == 1 else FanOut(self, those), message)
            return
        target = self.contexts.get(to)
        if target is None:
            self.ready.append((sender, Undeliverable(to, "unreachable", message)))
            return
        self._carry(sender, target, message)

    def _carry(self, sender: SimulatedContext, target: SimulatedContext | FanOut, message: Message) -> None:
        source, destination = sender.host, target.host
        if self._direct or source == destination:
            self.ready.append((target, message))
            return
        for end in (source, destination):
            if end in self._partitioned or (
                end in self._drops and self._network_rng.random() < self._drops[end]
            ):
                self.lost += 1
                return
        if self.network.perfect:
            self.ready.append((target, message))
            return
        arrival = sender.now + self.network.sample_s(self._network_rng)
        if not self.network.reorder:
            pair = (source, destination)
            arrival = max(arrival, self._arrivals.get(pair, 0.0))
            self._arrivals[pair] = arrival
        heappush(self.heap, (arrival, self.number(), SimulatedTimer(target, message)))

    def _drop(self, message: Message) -> None:
        if not isinstance(message, OWN):
            self.lost += 1

    # --- time --------------------------------------------------------------------------------------------------

    def note_cancelled(self) -> None:
        """A timer was cancelled. Most are (deadlines, time-outs): they must not lie in the heap until they are due."""
        self._cancelled += 1
        if self._cancelled > _COMPACT_AT and self._cancelled * 2 > len(self.heap):
            self.heap[:] = [
                entry for entry in self.heap if entry[2].context is not None
            ]  # every context holds it
            heapify(self.heap)
            self._cancelled = 0

    def look_for_rest(self) -> None:
        """When all that is due now is done, see whether anything would happen in the next periods."""
        if self.now >= self._look_from_s:
            self._look_from_s = math.inf  # until it was seen to
            heappush(self.heap, (self.now, self.number(), SimulatedTimer(self._oneself, Tick("rest"))))

    def _pass_over(self, message: Message) -> None:
        """Pass over the periods that change nothing, up to the last ones before something happens.

        Something happens at the first entry of the heap that is not a period of an actor at rest. In a world without
        one, time goes on period by period, as it does where a network may lose or delay what is sent in a period.
        """
        resting, others, longest_s = [], [], 0.0
        for index, (due_s, _, timer) in enumerate(self.heap):
            if isinstance(timer, Recurring):
                longest_s = max(longest_s, timer.period_s)
                if timer.actor.at_rest(timer.message):
                    resting.append((index, timer))
                    continue
            if timer.context is not None:
                others.append(due_s)
        happens_s = min(others, default=self.now)
        if self._horizon_s is not None:
            happens_s = min(happens_s, self._horizon_s)
        until_s = happens_s - _LAST_ROUNDS * longest_s
        quiet = until_s > self.now and self._direct
        # What happened before this look may show in the next period: only when all had one since is it known.
        known, self._quiet_until_s = quiet and self._quiet_until_s == happens_s, happens_s if quiet else None
        self._look_from_s = (
            self.now + longest_s if quiet and not known else max(happens_s, self.now + longest_s)
        )
        if not known:
            return
        passed = []
        for index, timer in resting:
            due_s, number, _ = self.heap[index]
            periods = math.ceil((until_s - due_s) / timer.period_s)
            if periods > 0:
                if type(timer.actor).passed_over is not Actor.passed_over:
                    passed.append((due_s, number, timer, periods))
                self.heap[index] = (due_s + periods * timer.period_s, number, timer)
        heapify(self.heap)
        _say_passed_over(passed)

    def hasten(self, address: str, kind: type[Message]) -> None:
        """What an actor has told itself of this kind for later, it is told now, before anything else happens."""
        context = self.contexts[address]
        for _, _, timer in reversed(self.heap):  # it was set just now
            if timer.context is context and type(timer.message) is kind:
                timer.cancel()
                context.inbox[kind](timer.message)
                return

    def stop(self) -> None:
        """Let `run` return once what is ready has been delivered."""
        self.stopped = True

    def run(self, *, waiting: Callable[[], Sequence[str]] = tuple, until_s: float | None = None) -> None:
        """Run until `stop` is called, or to the horizon `until_s`.

        Raises `FleetError` that lists `waiting()` (who waits for what) when nobody called `stop` and nothing
        is left to happen.
        """
        heap, ready, next_ready, check = self.heap, self.ready, self.ready.popleft, self.after_each
        self._horizon_s = until_s
        now, delivered = self.now, 0
        while True:
            while ready:
                context, message = next_ready()
                context.now = now
                context.inbox[type(message)](message)
                delivered += 1
            if check is not None:
                check()
            if self.stopped:
                break
            if not heap:
                raise FleetError("deadlock: nothing is left to happen, but\n  " + "\n  ".join(waiting()))
            if until_s is not None and heap[0][0] > until_s:
                self.now = now = until_s
                break
            time, _, timer = heappop(heap)
            owner = timer.context
            if owner is None:
                self._cancelled -= 1
                continue
            self.now = owner.now = now = time
            message = timer.message
            owner.inbox[type(message)](message)
            delivered += 1
        self.delivered += delivered
