"""Which failed attempts speak against the replica that had them."""

from __future__ import annotations

from policies.views import FailureKind

TELLS_NOTHING: frozenset[FailureKind] = frozenset(("withdrawn", "refused", "overloaded"))
"""Failures that say nothing of the replica: nobody wanted the answer any more; no replica of its kind could have served
the request; the queue was full before the replica had it."""
