"""The live runtime: the same actors, on an asyncio loop, in real time.

The one thing to know: a handler runs to completion and nothing runs inside it. What it sends to an actor of the
same process waits in one queue, in order; what it sends elsewhere goes to the process's `Node`. An exception
anywhere ends the run, with a note that says which actor had which message.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import anyio
from msgspec import Struct

from fleet.actor import Actor, FleetError
from fleet.messages import Message, Reason, ReplicaExited, Undeliverable
from fleet.runtime.alarm import Alarm
from fleet.runtime.peers import Peer, count
from fleet.runtime.transport import Node
from fleet.runtime.wire import Envelope, text_of
from fleet.seeding import rng_for

T = TypeVar("T")
log = logging.getLogger("fleet.live")

TURN_S = 0.004
"""Local messages run for this long before the loop's other guests have their turn."""
SLOW_CALLBACK_S = 0.010


class RefusedError(FleetError):
    """The head does not want this process."""


_REASONS: dict[str, Reason] = {"overloaded": "overloaded", "too-large": "too-large", "refused": "refused"}
"""Any other is as good as unreachable."""


class LiveCounters(Struct):
    """What a runtime has done."""

    delivered: int = 0
    undeliverable: dict[str, int] = {}
    """Messages that no local actor wanted back, by reason."""
    max_callback_s: float = 0.0
    """The longest time that actors kept the loop."""
    slow_callbacks: int = 0
    """How often that was more than 10 ms."""
    max_lag_s: float = 0.0
    """How late the loop was with a timer, at worst."""


class LiveTimer:
    """A message to oneself, at a time."""

    __slots__ = ("context", "message", "runtime")

    def __init__(self, runtime: LiveRuntime, context: LiveContext, message: Message) -> None:
        self.runtime = runtime
        self.context: LiveContext | None = context
        self.message = message

    @property
    def cancelled(self) -> bool:
        """It will not be delivered (or has been)."""
        return self.context is None

    def cancel(self) -> None:
        if self.context is not None:
            self.context = None
            self.runtime.alarm.note_cancelled()


class LiveContext:
    """One actor's place in a live runtime."""

    __slots__ = ("_rng", "_runtime", "_worker", "actor", "address", "returns")

    def __init__(self, runtime: LiveRuntime, address: str, actor: Actor) -> None:
        self._runtime = runtime
        self._rng: random.Random | None = None
        self._worker: Worker | None = None
        self.address = address
        self.actor = actor
        self.returns = _understands(actor, Undeliverable)
        """It wants to know what could not be delivered."""

    @property
    def now(self) -> float:
        return time.monotonic() - self._runtime.began_s

    @property
    def rng(self) -> random.Random:
        if self._rng is None:
            self._rng = rng_for(self._runtime.seed, self.address)
        return self._rng

    def send(self, to: str, message: Message) -> None:
        self._runtime.send(to, self.address, message)

    def after(self, delay_s: float, message: Message) -> LiveTimer:
        if delay_s < 0.0:
            raise FleetError(f"{self.address} asked for {type(message).__name__} {-delay_s} s ago")
        timer = LiveTimer(self._runtime, self, message)
        if delay_s == 0.0:
            # The loop's next turn, without a trip through the kernel's timer.
            self._runtime.loop.call_soon(self._runtime.on_timers, [timer])
        else:
            self._runtime.alarm.at(time.monotonic() + delay_s, timer)
        return timer

    def every(self, period_s: float, message: Message) -> None:
        self.after(period_s, message)

    def in_thread(self, work: Callable[[], T], then: Callable[[T], Message]) -> None:
        if self._worker is None:
            self._worker = Worker(self.address)
        self._worker.submit(work, then, self._runtime, self)

    def end(self) -> None:
        """The actor is gone."""
        if self._worker is not None:
            self._worker.stop()


def _understands(actor: Actor, kind: type[Message]) -> bool:
    try:
        return kind in actor.handlers()
    except NotImplementedError:
        return False


class Worker:
    """The one thread that an actor's slow work runs on.

    A daemon, so that a kernel launch that never returns does not keep the process alive; hence not a
    `ThreadPoolExecutor`, which is joined when the interpreter exits.
    """

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, work: Callable[[], T], then: Callable[[T], Message], runtime: LiveRuntime, context: LiveContext
    ) -> None:
        def task() -> None:
            try:
                result = work()
            except BaseException as error:
                runtime.call_soon_threadsafe(runtime.on_work_failed, context, error)
            else:
                runtime.call_soon_threadsafe(runtime.on_work_done, context, result, then)

        self._tasks.put(task)

    def stop(self) -> None:
        """No more work; what runs now runs on."""
        self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()


class LiveRuntime:
    """Hosts actors on the running loop. `add` them, then `await run()` until somebody calls `stop`."""

    def __init__(
        self,
        *,
        seed: int = 0,
        node: Node | None = None,
        name: str = "head",
        observers: str | None = "observers",
        on_peer_joined: Callable[[Peer], None] | None = None,
        on_peer_lost: Callable[[Peer, str, bool], None] | None = None,
    ) -> None:
        self.seed = seed
        self.node = node
        self.name = name
        self.counters = LiveCounters()
        self.began_s = time.monotonic()
        self.loop = cast(asyncio.AbstractEventLoop, None)
        self.alarm = cast(Alarm[LiveTimer], None)
        """Both are there while it runs."""
        self._observers = observers
        self._joined = on_peer_joined
        self._lost = on_peer_lost
        self._contexts: dict[str, LiveContext] = {}
        self._groups: dict[str, list[str]] = {}
        self._queue: deque[Envelope] = deque()
        self._busy = False
        self._turn_scheduled = False
        self._running = False
        self._ended: anyio.Event | None = None
        self._stopped = False
        self._error: BaseException | None = None

    # --- hosting -----------------------------------------------------------------------------------------

    def add(self, address: str, actor: Actor) -> None:
        """Host `actor` under `address`; it starts now, or with the run."""
        if address in self._contexts:
            raise FleetError(f"two actors under one address: {address}")
        context = LiveContext(self, address, actor)
        self._contexts[address] = context
        if self.node is not None:
            self.node.host(address)
        if self._running:
            self._start(context)

    def remove(self, address: str) -> None:
        """Take an actor out; what comes for it is undeliverable."""
        context = self._contexts.pop(address, None)
        if context is not None:
            context.end()
            if self.node is not None:
                self.node.unhost(address)

    def subscribe(self, group: str, address: str) -> None:
        """Deliver messages to the address `group` to `address` as well, in the order of subscription."""
        self._groups.setdefault(group, []).append(address)
        if self.node is not None:
            self.node.host_group(group)

    def _start(self, context: LiveContext) -> None:
        try:
            context.actor.start(context)
        except Exception as error:
            error.add_note(f"while {context.address} started")
            self.fail(error)

    # --- running -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the actors in the order they were added; return after `stop`, or raise what an actor raised."""
        self.loop = asyncio.get_running_loop()
        self.alarm = Alarm(self.loop, self.on_timers)
        self._ended = anyio.Event()
        self._running = True
        self.began_s = time.monotonic()
        lag = self.loop.call_later(0.1, self._measure_lag, time.monotonic() + 0.1)
        try:
            if self.node is not None:
                self.node.start(self)
            for context in list(self._contexts.values()):
                self._start(context)
            self._schedule()
            if not self._stopped:
                await self._ended.wait()
        finally:
            self._running = False
            lag.cancel()
            with anyio.CancelScope(shield=True):
                await self._close()
        if self._error is not None:
            raise self._error

    async def _close(self) -> None:
        for context in self._contexts.values():
            context.end()
        self._queue.clear()
        self.alarm.close()
        if self.node is not None:
            if self._error is None:
                await self.node.aclose()
            else:
                line = str(self._error).partition("\n")[0]
                await self.node.aclose(f"failed: {text_of(line, 200)}", in_order=False)

    def begin(self) -> None:
        """Set the clock to zero: the run begins now."""
        self.began_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began_s

    def stop(self) -> None:
        """Let `run` return; what has not been delivered stays so. From the loop's thread."""
        self._stopped = True
        if self._ended is not None:
            self._ended.set()

    def fail(self, error: BaseException) -> None:
        """Stop, and raise `error` from `run`; the first one counts."""
        if self._error is None:
            self._error = error
        self._running = False
        self.stop()

    def call_soon_threadsafe(self, step: Callable[..., object], *arguments: object) -> None:
        """From another thread; without effect when the run is over."""
        try:
            self.loop.call_soon_threadsafe(step, *arguments)
        except RuntimeError:  # the loop is closed
            log.debug("dropped the result of a thread that outlived the run")

    def _measure_lag(self, due_s: float) -> None:
        now = time.monotonic()
        self.counters.max_lag_s = max(self.counters.max_lag_s, now - due_s)
        if self._running:
            self.loop.call_later(0.1, self._measure_lag, now + 0.1)

    # --- messages ----------------------------------------------------------------------------------------

    def send(self, to: str, sender: str, message: Message) -> None:
        """Queue for an actor here, or hand to the node."""
        if to in self._contexts:
            self._queue.append((to, sender, message))
            if not self._busy:
                self._schedule()
        else:
            self._send_elsewhere(to, sender, message)

    def _send_elsewhere(self, to: str, sender: str, message: Message, *, received: bool = False) -> None:
        group = self._groups.get(to)
        if group is not None:
            for address in group:
                self.send(address, sender, message)
        elif self.node is None:
            self.on_undeliverable(to, sender, message, "unreachable")
        elif received:
            self.node.give_back(to, sender, message)
        else:
            self.node.send(to, sender, message)

    def _schedule(self) -> None:
        if not self._turn_scheduled and self._running:
            self._turn_scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        self._work(())

    def on_timers(self, timers: list[LiveTimer]) -> None:
        """Deliver those that are due, in order. One may cancel the next, so each is looked at when its turn comes."""
        for timer in timers:
            context, timer.context = timer.context, None
            if context is not None:
                self.run_one(context, timer.message)

    def run_one(self, context: LiveContext, message: Message) -> None:
        """Deliver one message from a timer or a thread, and what follows from it, unless its actor is gone."""
        if self._contexts.get(context.address) is context:
            self._work(((context.address, context.address, message),))

    def deliver(self, envelopes: list[Envelope]) -> None:
        """A batch from the node."""
        self._work(envelopes)

    def _work(self, envelopes: list[Envelope] | tuple[Envelope, ...]) -> None:
        """Deliver these, then what waits in the queue, until it is empty or the turn is over."""
        if not self._running:
            return
        began = time.monotonic()
        self._busy = True
        contexts, queue, delivered = self._contexts, self._queue, 0
        to, message = "", None
        try:
            for to, sender, message in envelopes:
                context = contexts.get(to)
                if context is None:
                    self._send_elsewhere(to, sender, message, received=True)
                else:
                    context.actor.receive(message)
                    delivered += 1
            while queue and self._running:
                to, sender, message = queue.popleft()
                context = contexts.get(to)
                if context is None:
                    self._send_elsewhere(to, sender, message)
                else:
                    context.actor.receive(message)
                delivered += 1
                if not delivered & 31 and time.monotonic() - began > TURN_S:
                    break
        except Exception as error:
            error.add_note(f"while {to} handled {type(message).__name__}")
            self.fail(error)
        finally:
            self._busy = False
        if queue:
            self._schedule()
        counters = self.counters
        counters.delivered += delivered
        took = time.monotonic() - began
        counters.max_callback_s = max(counters.max_callback_s, took)
        if took > SLOW_CALLBACK_S:
            counters.slow_callbacks += 1

    # --- what the threads and the node report ---------------------------------------------------------------

    def on_work_done(
        self, context: LiveContext, result: Any, then: Callable[[Any], Message]
    ) -> None:  # Any: work's own
        """A thread finished."""
        if not self._running:
            return
        try:
            message = then(result)
        except Exception as error:
            error.add_note(f"while {context.address} took the result of its thread")
            self.fail(error)
        else:
            self.run_one(context, message)

    def on_work_failed(self, context: LiveContext, error: BaseException) -> None:
        """A thread raised: nobody would ever hear of that batch, so the run ends."""
        failure = FleetError(
            f"work of {context.address} on its thread raised {type(error).__name__}: {error}"
        )
        failure.__cause__ = error
        self.fail(failure)

    def on_undeliverable(self, to: str, sender: str, message: Message, reason: str) -> None:
        """Back to its sender, if that is here and wants it."""
        context = self._contexts.get(sender)
        kind, _, detail = reason.partition(": ")
        if context is not None and context.returns and not isinstance(message, Undeliverable):
            why = _REASONS.get(kind, "unreachable")
            self._queue.append((sender, to, Undeliverable(to, why, message, detail or None)))
            if not self._busy:
                self._schedule()
            return
        if count(self.counters.undeliverable, _REASONS.get(kind, "unreachable")) == 1:
            log.warning("%s from %s to %s: %s", type(message).__name__, sender, text_of(to), reason)

    def on_peer_joined(self, peer: Peer) -> None:
        if self._joined is not None:
            self._joined(peer)

    def on_peer_lost(self, peer: Peer, reason: str, *, expected: bool) -> None:
        """Tell those who observe the fleet which replicas went with it."""
        if self._lost is not None:
            self._lost(peer, reason, expected)
        if self._observers is None or self._observers not in self._groups:
            return
        for address in sorted(peer.addresses):
            if address.startswith("replica/"):
                self.send(self._observers, self.name, ReplicaExited(address, reason, expected))

    def on_refused(self, peer: Peer, reason: str) -> None:
        self.fail(RefusedError(f"{peer.name} refuses {self.name!r}: {reason}"))

    def on_error(self, error: Exception) -> None:
        self.fail(error)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:  # Any: what a coroutine yields is its own
    """`anyio.run`, on uvloop when it is installed."""
    uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": uvloop})
