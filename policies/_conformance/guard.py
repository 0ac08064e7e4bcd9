"""Catch a policy that reads the clock, does I/O, starts a thread, or lets the hash seed decide.

While a guard is on, the functions that tell the time are replaced (in their modules, and where the policy's
own module imported them by name), and an audit hook watches for files, sockets and processes.
"""

from __future__ import annotations

import _thread
import builtins
import contextlib
import datetime
import os
import sys
import time
from _thread import get_ident
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType, ModuleType
from typing import Any, NoReturn

from policies.base import Policy, PolicyError, parts_of

_CLOCKS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
    "process_time_ns", "thread_time", "thread_time_ns", "clock_gettime", "clock_gettime_ns",
)  # fmt: skip
_AUDITED = {
    "http": "uses the network",
    "open": "opens a file",
    "os": "uses the operating system",
    "shutil": "moves files",
    "signal": "handles signals",
    "socket": "uses a socket",
    "subprocess": "starts a process",
    "tempfile": "makes a temporary file",
    "urllib": "uses the network",
}
_NO_WAITING = "a policy does no I/O and never waits: it answers `Hold` or `Wait`"
_hash = hash

_watching: list[Callable[[str, tuple[object, ...]], None]] = []
_hooked: list[bool] = []


class ImpureError(PolicyError):
    """Raised inside the policy, where it does what it must not."""


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    for watch in _watching:
        watch(event, arguments)


@contextlib.contextmanager
def pure(policy: Policy) -> Iterator[None]:
    """Raise `ImpureError` when the code in the block does what no policy may, even if that catches it."""
    if not _hooked:
        sys.addaudithook(_audit)  # for good: Python has no way to remove one
        _hooked.append(True)
    guard = _Guard(policy)
    _watching.append(guard.watch)
    restore = guard.replace()
    try:
        yield
    finally:
        restore()
        _watching.remove(guard.watch)
    if guard.seen:
        raise ImpureError(guard.seen[0])


class _Guard:
    """What one guarded block has seen."""

    def __init__(self, policy: Policy) -> None:
        self.name = type(policy).__name__
        self.namespaces = list(_namespaces(policy))
        if "threading" in sys.modules:  # it keeps the functions of `_thread` under names of its own
            self.namespaces.append(vars(sys.modules["threading"]))
        self.thread = get_ident()
        self.seen: list[str] = []

    def blame(self, what: str) -> NoReturn:
        text = f"{self.name} {what}"
        self.seen.append(text)
        raise ImpureError(text)

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Called for every audit event of the interpreter."""
        kind = event.partition(".")[0]
        if kind not in _AUDITED or get_ident() != self.thread or _importing():
            return
        detail = f"{event}: {arguments[0]!r}" if arguments else event
        self.blame(f"{_AUDITED[kind]} ({detail}); {_NO_WAITING}")

    def replace(self) -> Callable[[], None]:
        """Put guards in the place of what no audit event tells of; returns what puts the originals back."""
        swaps: list[tuple[ModuleType, str, object]] = [
            (datetime, "datetime", self._calendar()),
            (builtins, "hash", self._hash),
            (
                builtins,
                "print",
                self._forbid(print, "prints; give the decision a `reason`, the log keeps it"),
            ),
            (time, "sleep", self._forbid(time.sleep, f"sleeps; {_NO_WAITING}")),
        ]
        swaps += [(time, name, self._clock(getattr(time, name))) for name in _CLOCKS if hasattr(time, name)]
        for name in ("start_new_thread", "start_joinable_thread"):  # the second is of Python 3.13
            if hasattr(_thread, name):
                guard = self._forbid(getattr(_thread, name), f"starts a thread; {_NO_WAITING}")
                swaps.append((_thread, name, guard))
        return _replace(swaps, self.namespaces)

    def _forbid(self, original: Callable[..., object], what: str) -> Callable[..., object]:
        def guard(*arguments: object, **options: object) -> object:
            if get_ident() != self.thread:
                return original(*arguments, **options)
            self.blame(what)

        return guard

    def _clock(self, original: Callable[..., object], called: str = "") -> Callable[..., object]:
        called = called or f"time.{original.__name__}"
        return self._forbid(original, f"reads the clock ({called}); time is an argument: use `now_s`")

    def _calendar(self) -> type[datetime.datetime]:
        names, real = ("now", "utcnow", "today"), datetime.datetime
        guards = {name: staticmethod(self._clock(getattr(real, name), f"datetime.{name}")) for name in names}
        return type("datetime", (real,), guards)

    def _hash(self, value: object) -> int:
        caller = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]  # noqa: SLF001  # as below
        if isinstance(value, str | bytes) and caller not in sys.stdlib_module_names:
            self.blame(
                "calls hash() on a string, which differs from process to process (PYTHONHASHSEED); "
                "use zlib.crc32(text.encode())"
            )
        return _hash(value)


def _replace(
    swaps: list[tuple[ModuleType, str, object]], namespaces: list[dict[str, Any]]
) -> Callable[[], None]:
    """Replace each original by its guard, under whatever name a namespace knows it."""
    undo: list[tuple[dict[str, Any], str, object]] = []
    for module, name, guard in swaps:
        original = getattr(module, name)
        for namespace in [vars(module), *namespaces]:
            for key in [key for key, value in namespace.items() if value is original]:
                undo.append((namespace, key, original))
                namespace[key] = guard

    def restore() -> None:
        for namespace, key, original in undo:
            namespace[key] = original

    return restore


def _namespaces(policy: Policy) -> Iterator[dict[str, Any]]:
    """The globals of the code that `policy` and its parts consist of."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts(policy):
        for function in functions(type(part)):
            found[id(function.__globals__)] = function.__globals__
    yield from found.values()


def parts(policy: Policy) -> Iterator[Policy]:
    """The policy and all policies in its fields, and in theirs."""
    yield policy
    for part in parts_of(policy):
        yield from parts(part)


def functions(cls: type) -> Iterator[FunctionType]:
    """The functions of a class and its bases, short of the contract's own."""
    for base in cls.__mro__:
        if base.__module__ in {"policies.base", "msgspec", "msgspec._core", "builtins"}:
            continue
        for value in vars(base).values():
            function = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if isinstance(function, FunctionType):
                yield function


def _importing() -> bool:
    """True while a module is being imported, which reads files and is no fault."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # there is no other way to the callers
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def environment_with_hash_seed(seed: int) -> dict[str, str]:
    """The environment for a child that can import what this process can, under another hash seed."""
    return {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
