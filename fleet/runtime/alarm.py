"""Timers to a tenth of a millisecond, on any asyncio loop.

asyncio rounds a timer up to epoll's millisecond and fires up to two late; uvloop rounds to the nearest and so may
fire *early*, which an actor would see as time running backwards. A serving policy waits for single milliseconds,
so both are too coarse to agree with a simulation. Linux has a better clock: one timerfd, on the loop like any
descriptor, armed for the earliest entry of our own heap. Elsewhere the loop's own timers serve.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_COMPACT_AT = 1_024


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class _TimerDescriptor:
    """A Linux timerfd on the monotonic clock."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._settime = libc.timerfd_settime
        self._settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p]
        self._spec = _Itimerspec()
        self._reference = ctypes.pointer(self._spec)

    def set(self, due_s: float) -> None:
        """Become readable at `due_s` on the monotonic clock; 0 disarms. Either way what was readable is cleared."""
        value = self._spec.value
        value.seconds = seconds = int(due_s)
        value.nanoseconds = int((due_s - seconds) * 1e9)
        self._settime(self.descriptor, _ABSOLUTE, self._reference, None)


class Cancellable(Protocol):
    """An entry: it can say that it is no longer wanted."""

    @property
    def cancelled(self) -> bool: ...


Entry = TypeVar("Entry", bound=Cancellable)


class Alarm(Generic[Entry]):
    """Calls `fire` with every entry that is due, in order of time, then of setting."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[list[Entry]], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._heap: list[tuple[float, int, Entry]] = []
        self._sequence = 0
        self._armed_s = float("inf")
        self._cancelled = 0
        self._handle: asyncio.TimerHandle | None = None
        self._timer: _TimerDescriptor | None = None
        if sys.platform == "linux":
            self._timer = _TimerDescriptor()
            loop.add_reader(self._timer.descriptor, self._on_due)

    def at(self, due_s: float, entry: Entry) -> None:
        """Fire `entry` at `due_s` on the monotonic clock, never before."""
        self._sequence += 1
        heappush(self._heap, (due_s, self._sequence, entry))
        if due_s < self._armed_s:
            self._arm(due_s)

    def note_cancelled(self) -> None:
        """An entry was cancelled. Most timers of a fleet are (deadlines, time-outs): they must not pile up."""
        self._cancelled += 1
        if self._cancelled > _COMPACT_AT and self._cancelled * 2 > len(self._heap):
            self._heap = sorted(item for item in self._heap if not item[2].cancelled)
            self._cancelled = 0

    def _arm(self, due_s: float) -> None:
        self._armed_s = due_s
        if self._timer is not None:
            self._timer.set(max(due_s, 1e-6))
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, due_s - time.monotonic()), self._on_due)

    def _on_due(self) -> None:
        heap, now, due = self._heap, time.monotonic(), []
        while heap and (heap[0][0] <= now or heap[0][2].cancelled):
            entry = heappop(heap)[2]
            if entry.cancelled:
                self._cancelled -= 1
            else:
                due.append(entry)
        # Armed again before anyone runs: what they set is then compared with the right time.
        if heap:
            self._arm(heap[0][0])
        else:
            self._armed_s = float("inf")
            if self._timer is not None:
                self._timer.set(0.0)
        if due:
            self._fire(due)

    def close(self) -> None:
        """Nothing fires any more."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
        if self._timer is not None:
            self._loop.remove_reader(self._timer.descriptor)
            os.close(self._timer.descriptor)
            self._timer = None
