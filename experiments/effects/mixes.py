"""Traces of several streams of requests, and figures of one of them: what tells who goes first."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow.compute as pc
from msgspec import Struct

from fleet import Run
from traces import Request, Slo, Trace, TraceEntry
from traces.schema import RequestKind

Fields = dict[str, Any]  # Any: of several types
"""What several streams have in common."""


class Stream(Struct, frozen=True, kw_only=True):
    """Requests that arrive as a Poisson process and are alike, but for their lengths."""

    name: str
    """Their tenant, by which figures tell them apart."""
    rate_per_s: float
    until_s: float
    from_s: float = 0.0
    prompt_tokens: tuple[int, int] | None = None
    """Uniform between these, both included; None: they have none, and are answered whole."""
    output_tokens: tuple[int, int] | None = None
    kind: RequestKind = "online"
    priority: int | None = None
    users: int = 1
    """They are of so many, each as likely."""
    deadline_s: float | None = None
    slo_e2e_s: float | None = None


def mix(seed: int, *streams: Stream) -> Trace:
    """All of them in one trace. Each draws from a random stream of its own."""
    entries = []
    for stream in streams:
        rng = random.Random(f"{seed} {stream.name}")
        at_s, number = stream.from_s, 0
        while (at_s := at_s + rng.expovariate(stream.rate_per_s)) < stream.until_s:
            request = Request(
                id=f"{stream.name}-{number}", arrived_s=at_s, tenant=stream.name, kind=stream.kind,
                user=f"{stream.name}-user-{rng.randrange(stream.users)}", priority=stream.priority,
                prompt_tokens=_drawn(rng, stream.prompt_tokens), deadline_s=stream.deadline_s,
                slo=None if stream.slo_e2e_s is None else Slo(e2e_s=stream.slo_e2e_s),
            )  # fmt: skip
            entries.append(TraceEntry(request, output_tokens=_drawn(rng, stream.output_tokens)))
            number += 1
    return Trace.from_entries(sorted(entries, key=lambda entry: entry.request.arrived_s))


def _drawn(rng: random.Random, bounds: tuple[int, int] | None) -> int | None:
    return None if bounds is None else rng.randint(*bounds)


def values(
    run: Run, column: str, tenant: str | None = None
) -> Any:  # Any: a numpy array of what the column holds
    """Of the requests of one stream, or all; those that have no value are left out."""
    records = run.records
    if tenant is not None:
        records = records.filter(pc.field("tenant") == tenant)
    return records[column].drop_null().to_numpy()


def quantile_ms(run: Run, share: float, column: str = "e2e_s", tenant: str | None = None) -> float:
    """Of the requests that completed: ``quantile_ms(run, 0.99, tenant="quiet")``."""
    return 1e3 * float(np.quantile(values(run, column, tenant), share))


def mean_ms(run: Run, column: str = "e2e_s", tenant: str | None = None) -> float:
    """Likewise, their mean."""
    return 1e3 * float(np.mean(values(run, column, tenant)))


def completed_percent(run: Run, tenant: str | None = None) -> float:
    """Of the requests of one stream, or all, those that completed."""
    outcomes = values(run, "outcome", tenant)
    return 100.0 * float(np.mean(outcomes == "completed"))


def in_time_percent(run: Run, within_s: float, tenant: str | None = None) -> float:
    """Of the requests of one stream, or all, those that completed within so many seconds."""
    return (
        100.0 * float(np.sum(values(run, "e2e_s", tenant) <= within_s)) / len(values(run, "outcome", tenant))
    )
