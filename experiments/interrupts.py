"""Ctrl-C in ``python -m experiments.…``: a word and status 130, as of the `fleet` command, also while it imports."""

from __future__ import annotations

import sys
from types import TracebackType


def say_it_in_a_word() -> None:
    """Do so from now on where this process was started to run one of our modules; elsewhere change nothing."""
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if "-m" in given[:-1] else ""
    if module.partition(".")[0] == __package__:
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # Having reported it, the interpreter ends itself with SIGINT, which shells show as 130.
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
