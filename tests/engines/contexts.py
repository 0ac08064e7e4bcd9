"""Two contexts for an engine alone: one with a clock of its own, one with real threads."""

import heapq
import queue
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fleet.messages import Message, Payload, Work
from traces.schema import Request


class VirtualTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualContext:
    """Virtual time, as in the simulated runtime: `run()` delivers everything, in order, into `received`."""

    address = "replica/0"

    def __init__(self) -> None:
        self.now = 0.0
        self.rng = random.Random(0)
        self.received: list[tuple[float, Message]] = []
        self._timers: list[tuple[float, int, VirtualTimer, Message]] = []

    def after(self, delay_s: float, message: Message) -> VirtualTimer:
        timer = VirtualTimer()
        heapq.heappush(self._timers, (self.now + delay_s, len(self._timers), timer, message))
        return timer

    def run(self, until_s: float = float("inf")) -> None:
        while self._timers and self._timers[0][0] <= until_s:
            self.now, _, timer, message = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.received.append((self.now, message))
        if until_s != float("inf"):
            self.now = until_s


class ThreadContext:
    """One thread for slow work, as in the live runtime; its messages wait in a queue for `receive`."""

    address = "replica/0"
    now = 0.0

    def __init__(self) -> None:
        self.rng = random.Random(0)
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.worker = ThreadPoolExecutor(1)

    def in_thread(self, work: Callable[[], Any], then: Callable[[Any], Message]) -> None:
        self.worker.submit(lambda: self.inbox.put(then(work())))

    def receive(self, timeout_s: float = 60.0) -> Any:
        return self.inbox.get(timeout=timeout_s)


def make_work(
    count: int, *, prefix: str = "request", payloads: list[Any] | None = None, **fields: Any
) -> list[Work]:
    """`count` first attempts; `fields` are those of `Request`, `payloads` their tensors."""
    return [
        Work(
            Request(f"{prefix}-{i}", 0.0, **fields),
            attempt=1,
            payload=None if payloads is None else Payload(tensor=payloads[i]),
        )
        for i in range(count)
    ]
