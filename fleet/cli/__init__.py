"""The `fleet` command. This module imports next to nothing: a command loads what it needs when it runs.

Exit status: 0 done, 1 the run failed, 2 a mistake in the input (one line on stderr says which), 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as from a batch system whose time is up: what was begun is cleared away, as at Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and answer its exit status; `argv` is without the program's name."""
    given = list(sys.argv[1:] if argv is None else argv)
    _make_writable()
    try:
        _heed_terminate()
        # Loaded here, where an interrupt meanwhile is told in a word, too.
        from fleet.cli.arguments import parse

        return _run(parse(given))
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is over but the interpreter's own end
        if isinstance(error, _Terminated):
            return _report("terminated", EXIT_TERMINATED)
        return _report("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _reader_is_gone()
    except Exception as error:
        if "--debug" in given:
            raise
        return _report(*_judged(error))


def _heed_terminate() -> None:
    """Unless SIGTERM is somebody else's already, or ignored: who calls `main` may have a use for it."""
    if current_thread() is main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process where it stands
    raise _Terminated


def _make_writable() -> None:
    """Output that was closed (`>&-`) goes nowhere; a character that it cannot show does not end the command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # for good
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _run(arguments: Namespace) -> int:
    """The command's own status. A policy is code of others: its `sys.exit` must not look like ours."""
    warnings.filterwarnings(
        "ignore", message="coroutine .* was never awaited"
    )  # the error below says it better
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except SystemExit as error:
        raise RuntimeError(f"something that was run called sys.exit({error.code})") from None


def _judged(error: Exception) -> tuple[str, int]:
    """What to say of an error, and whose it is: the input's (2) or the run's (1)."""
    from fleet.cli.values import UsageError
    from fleet.text import one_line

    message = one_line(str(error))
    if isinstance(error, UsageError):
        return message, EXIT_USAGE
    from fleet.actor import FleetError
    from fleet.runs.deadlock import DeadlockError
    from fleet.runs.invariants import InvariantViolation
    from policies.base import PolicyError
    from traces.errors import TraceError
    from traces.values import BadValue

    if isinstance(error, (PolicyError, TraceError, BadValue, FleetError)):
        notes = one_line("; ".join(getattr(error, "__notes__", ())))
        whole = f"{message} ({notes})" if notes else message
        return whole, EXIT_FAILED if isinstance(error, (InvariantViolation, DeadlockError)) else EXIT_USAGE
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"cannot write{_named(error)}: no space is left on the device", EXIT_FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", EXIT_USAGE
    if isinstance(error, MemoryError):
        return f"not enough memory: {message or 'ask for less'}", EXIT_USAGE
    return f"{type(error).__name__}: {message} (--debug shows where)", EXIT_FAILED


def _named(error: OSError) -> str:
    return "" if error.filename is None else f" {error.filename}"


def _report(message: str, status: int) -> int:
    print(f"fleet: {message}", file=sys.stderr)
    return status


def _reader_is_gone() -> int:
    """Whoever read our output (`| head`) has enough; what is left must not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


__all__ = ["main"]
