"""Why a figure has no value: said by who computes it, or told from the run."""

from __future__ import annotations


class NoValue(Exception):  # noqa: N818  # no error: a run that has no such figure is in order
    """Raised by a metric that this run has no value of, with the reason; to answer None gives none."""
