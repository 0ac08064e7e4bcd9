"""Many jobs that have nothing to do with one another, on as many cores as are wanted.

The one thing to know: a job that raises, or that takes its worker process with it, comes back as a `Failure`, and the
others go on. Workers are fresh processes, never forked; what they are sent may be of the user's own script or notebook.
They end with the process that started them: at an error, at Ctrl-C, and when it is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pickle import PicklingError
from threading import Thread, current_thread, main_thread
from typing import Any, Generic, NoReturn, TypeVar

from msgspec import Struct

from experiments.sending import packed, unpacked
from fleet.text import one_line

J = TypeVar("J")
R = TypeVar("R")

AHEAD = 2
"""Jobs at hand for each worker, the one that it runs among them: none waits for its next, and few are lost with it."""
LOST = "lost its worker twice: that was killed, or the machine ran out of memory"
_ENDING = (signal.SIGINT, signal.SIGTERM)
_PARENT_WATCH_S = 0.25
_ENVIRONMENT = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}
"""The pages of a shared trace count as a worker's memory: that it grows is no leak for a new process to mend."""


class Failure(Struct, frozen=True):
    """What became of a job that did not end well."""

    error: str
    """In a line: what kind of error, and what it says."""
    traceback: str = ""
    """From the job's own function on."""
    exception: BaseException | None = None
    """What was raised; None where the worker was lost."""

    @property
    def lost(self) -> bool:
        """Its worker was lost: it may go well another time."""
        return self.exception is None

    def reraise(self) -> NoReturn:
        """For those who cannot do without this job's result."""
        if self.exception is None:
            raise RuntimeError(self.error)
        raise self.exception from _Elsewhere(f"\n{self.traceback}")


class _Elsewhere(Exception):  # noqa: N818  # it only carries the text of a traceback
    """Where the exception was raised, which may have been in another process."""


def attempt(work: Callable[[J], R], job: J) -> R | Failure:
    """What `work` makes of `job`, in this process; `sys.exit` in a policy is an error like another."""
    try:
        return work(job)
    except (Exception, SystemExit) as error:
        return _failure(error)


def _failure(error: BaseException) -> Failure:
    notes = "; ".join(getattr(error, "__notes__", ()))
    said = one_line(f"{type(error).__name__}: {error}{f' ({notes})' if notes else ''}")
    frames = error.__traceback__ and error.__traceback__.tb_next
    return Failure(said, "".join(traceback.format_exception(type(error), error, frames)), error)


class _Parcel(Generic[J]):
    """A job, and what a worker is sent of it: None where it cannot be sent."""

    def __init__(self, work: Callable[[J], object], job: J) -> None:
        self.job = job
        self.data: bytes | None = None
        self.obstacle = ""
        try:
            self.data = packed((work, job))
        except (PicklingError, AttributeError, TypeError) as error:
            self.obstacle = one_line(str(error))


class Executor:
    """Runs jobs on `workers` processes; one worker is this process itself, and nothing is sent anywhere.

    Leaving the `with` by an exception ends the processes at once, whatever they do.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}: there must be at least one")
        self._workers = workers
        self._pool: Any = None  # Any: loky ships no types
        self._said_here = False

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._end_pool(at_once=kind is not None)

    def run(self, work: Callable[[J], R], jobs: Iterable[J]) -> Iterator[tuple[J, R | Failure]]:
        """Each job with what `work` made of it, as they end. `jobs` is read as there is room for them.

        Jobs whose worker was lost are run again one at a time, so that the one that takes its worker with it is told
        from those that were under way beside it. What cannot be sent (an open file, a lock) is run in this process.
        """
        if self._workers == 1:
            return ((job, attempt(work, job)) for job in jobs)
        return self._shared(work, jobs)

    def _shared(self, work: Callable[[J], R], jobs: Iterable[J]) -> Iterator[tuple[J, R | Failure]]:
        parcels = map(partial(_Parcel, work), jobs)
        lost: deque[_Parcel[J]] = deque()
        while True:
            yield from self._side_by_side(work, parcels, lost)
            if not lost:
                return
            while lost:
                yield self._alone(work, lost.popleft())

    def _side_by_side(
        self, work: Callable[[J], R], parcels: Iterator[_Parcel[J]], lost: deque[_Parcel[J]]
    ) -> Iterator[tuple[J, R | Failure]]:
        """Until there are no more, or a worker is lost: then `lost` gets all that was under way."""
        running: dict[Future[Any], _Parcel[J]] = {}
        while True:
            room = 0 if lost else AHEAD * self._workers - len(running)
            running |= {self._submit(work, parcel): parcel for parcel in islice(parcels, room)}
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                parcel = running.pop(future)
                if isinstance(future.exception(), BrokenExecutor):
                    lost.append(parcel)
                else:
                    yield parcel.job, _result(future)
            if lost and not running:
                self._end_pool(at_once=True)

    def _alone(self, work: Callable[[J], R], parcel: _Parcel[J]) -> tuple[J, R | Failure]:
        future = self._submit(work, parcel)
        if isinstance(future.exception(), BrokenExecutor):
            self._end_pool(at_once=True)
            return parcel.job, Failure(LOST)
        return parcel.job, _result(future)

    def _submit(self, work: Callable[[J], R], parcel: _Parcel[J]) -> Future[Any]:
        """Its future holds the result, or from another process its bytes."""
        future: Future[Any] = Future()
        if parcel.data is None:
            self._say_here(parcel.obstacle)
            future.set_result(attempt(work, parcel.job))
            return future
        try:
            with _unheard():
                future = self._started().submit(_run_packed, parcel.data)
        except BrokenExecutor as error:
            future.set_exception(error)
        return future

    def _started(self) -> Any:
        if self._pool is None:
            from loky import ProcessPoolExecutor

            self._pool = ProcessPoolExecutor(
                self._workers, initializer=_end_with_parent, initargs=(os.getpid(),), env=_ENVIRONMENT
            )
        return self._pool

    def _end_pool(self, *, at_once: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=at_once)

    def _say_here(self, obstacle: str) -> None:
        if not self._said_here:
            print(f"running in this process what cannot be sent to another ({obstacle})", file=sys.stderr)
            self._said_here = True


def results(
    work: Callable[[J], R], jobs: Sequence[J], workers: int, *, advance: Callable[[], None] = lambda: None
) -> list[R]:
    """What `work` makes of each job, in the order of `jobs`, for those who need all: the first failure is raised."""
    found: dict[int, R] = {}
    with Executor(max(1, min(workers, len(jobs)))) as executor:
        for (number, _), result in executor.run(partial(_numbered, work), enumerate(jobs)):
            if isinstance(result, Failure):
                result.reraise()
            found[number] = result
            advance()
    return [found[number] for number in range(len(jobs))]


def _numbered(work: Callable[[J], R], job: tuple[int, J]) -> R:
    return work(job[1])


class _Sent(Struct, frozen=True):
    """A result on its way back."""

    data: bytes


def _result(future: Future[Any]) -> Any:
    value = future.result()
    return unpacked(value.data) if isinstance(value, _Sent) else value


# --- in a worker -------------------------------------------------------------------------------------------


def _run_packed(data: bytes) -> _Sent:
    try:
        work, job = unpacked(data)
    except Exception as error:
        return _sendable(_failure(error))
    return _sendable(attempt(work, job))


def _sendable(result: object) -> _Sent:
    """`result`, or what hinders it. An exception that pickle cannot build again is told in its words."""
    try:
        sent = packed(result)
        if isinstance(result, Failure):
            unpacked(sent)
        return _Sent(sent)
    except Exception as error:
        failure = result if isinstance(result, Failure) else _failure(error)
        return _Sent(packed(Failure(failure.error, failure.traceback, RuntimeError(failure.error))))


def _end_with_parent(parent: int) -> None:
    """A worker waits for work on a pipe that it holds open itself: it would outlive a parent that was killed."""
    Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_WATCH_S)
    os._exit(1)


# --- Ctrl-C, SIGTERM ---------------------------------------------------------------------------------------


@contextmanager
def _unheard() -> Iterator[None]:
    """Processes that are started within do not hear Ctrl-C: it reaches all of a terminal, and one should tell of it.

    They inherit the signals that are blocked where they are started. Here it is put off to the end, as SIGTERM is: half
    a start leaves a process that nobody knows of, and locks that nobody opens.
    """
    with _put_off():
        resource_tracker.ensure_running()  # its own start would unblock what is blocked next
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _put_off() -> Iterator[None]:
    if current_thread() is not main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    if came:
        signal.raise_signal(came[0])
