"""Worker processes that end with the one that started them: at an error, at Ctrl-C, and when it is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Workers(ProcessPoolExecutor):
    """Freshly spawned processes. Leaving the `with` by an exception ends them at once, whatever they do."""

    def __init__(self, count: int) -> None:
        self._not_ours = set(active_children())
        super().__init__(count, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Ctrl-C reaches every process of a terminal; only the one that can tell its user about it should hear it.

        A process inherits the signals that are blocked where it is spawned, and `submit` is where.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with _uninterrupted():
                return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            for child in set(active_children()) - self._not_ours:
                child.kill()
        self.shutdown(wait=True, cancel_futures=kind is not None)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the end: half a `submit` leaves a process that nobody knows of, and locks that nobody opens."""
    if current_thread() is not main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler if handler is not None else signal.SIG_DFL)
    if came and callable(handler):
        handler(*came[0])


def _end_with_parent() -> None:
    """A worker waits for work on a pipe that it holds open itself: it would outlive a parent that was killed."""
    Thread(target=_watch_parent, name="parent-watch", daemon=True).start()


def _watch_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
