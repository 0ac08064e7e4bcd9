"""The figures of one run, from its tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from msgspec.structs import asdict

from fleet.messages import OUTCOMES
from fleet.telemetry.attempts import AttemptFigures, attempt_figures
from fleet.telemetry.occupancy import OCCUPYING, Changes, ReplicaRange, ready_range, transitions

DESCRIBED = ["batch_size", "queue_s", "ttft_s", "tpot_s", "itl_max_s", "e2e_s"]
"""Columns of the records that the summary describes, of completed requests."""


class Distribution(Struct, frozen=True):
    """Of one latency over completed requests, in seconds; None where there is none."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Summary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The figures of one run, over all its pools. `submitted` is the sum of the outcomes and `in_flight`.

    Figures that have a default are of runs that have something of the kind: as values they are left out of others.
    """

    submitted: int
    completed: int
    rejected: int
    shed: int
    expired: int
    failed: int
    cancelled: int
    in_flight: int
    duration_s: float
    """To the last reply, or to the horizon."""
    throughput_per_s: float
    """Completed requests per second of the run."""
    goodput_per_s: float
    """Completed within their objectives, per second of the run; a request without an objective need only complete."""
    slo_attainment: float | None
    """Of the submitted requests that have an objective, whatever became of them, the fraction that met it."""
    utilization: float | None
    """Engine seconds over seconds in which replicas were ready, or finished what they had; unfinished work counts."""
    gpu_seconds: float | None
    """Seconds in which replicas held a device, in any state; None of a part of a run."""
    replicas: ReplicaRange
    batch_size_mean: float | None
    """Of the batches that completed requests were in, a request being one observation."""
    attempts_mean: float | None
    """Of all requests that had any, well or badly ended."""
    output_tokens_per_s: float | None
    """Of completed requests; None when whole requests are answered."""
    cached_fraction: float | None
    """Of the prompt tokens of completed requests, those found in a prefix cache when first admitted."""
    preemptions: int
    """Places lost by completed requests."""
    queue_s: Distribution
    """End to end less service: waiting, and the network."""
    ttft_s: Distribution
    """From the intended arrival to the first output token; to the reply, when whole requests are answered."""
    tpot_s: Distribution
    """Mean gap between two output tokens of a request."""
    itl_max_s: Distribution
    """Longest gap between two output tokens of a request."""
    e2e_s: Distribution
    """From the intended arrival to the reply."""
    cost: float | None = None
    """Of all seconds in which replicas held a device, at the `cost_per_hour` of their pools; None unless every pool
    that held one names a price."""
    cost_per_request: float | None = None
    """The whole cost over the completed requests; None where none completed."""
    cost_per_1k_tokens: float | None = None
    """The whole cost over thousands of output tokens of completed requests; None where there were none."""
    quality_mean: float | None = None
    """Of the completed requests whose answers have a quality, 0..1."""
    hedges: int | None = None
    """Attempts that were added beside a live one, tied ones too. This, and the next three: None where a request has one
    attempt at a time and one pool to have it in."""
    retries: int | None = None
    """Attempts after one that failed."""
    wasted_s: float | None = None
    """Service seconds of attempts that ended and became no answer: hedges that lost, failures, shadows, answers that
    were not good enough. Each request of a batch counts all its time."""
    wasted_fraction: float | None = None
    """`wasted_s` over the service seconds of all attempts that ended; None where there were none."""


def summarise(
    records: pa.Table,
    changes: Changes,
    *,
    duration_s: float,
    busy_s: float,
    initial_replicas: int,
    cost: float | None = None,
    attempts: AttemptFigures | None = None,
) -> Summary:
    """The figures of a run from its tables; `changes` are of its replicas' states."""
    spent = transitions(changes, duration_s)
    serving_s = spent.get("ready", 0.0) + spent.get("draining", 0.0)
    return Summary(
        **_of_requests(records, duration_s, cost),
        duration_s=duration_s,
        utilization=min(1.0, busy_s / serving_s) if serving_s > 0.0 else None,
        gpu_seconds=sum(spent.get(state, 0.0) for state in OCCUPYING),
        replicas=ready_range(changes, initial_replicas),
        **_of_attempts(attempts),
    )


def summary_of_part(whole: Summary, records: pa.Table, attempts: pa.Table) -> Summary:
    """The figures of some requests of a run, `records` and `attempts` being theirs; rates are over the run's time."""
    counted = whole.wasted_s is not None
    return Summary(
        **_of_requests(records, whole.duration_s, cost_of(records)),
        duration_s=whole.duration_s,
        utilization=None,
        gpu_seconds=None,
        replicas=whole.replicas,
        **_of_attempts(attempt_figures(attempts, records) if counted else None),
    )


def cost_of(records: pa.Table) -> float | None:
    """What these requests cost together; None where that is not known of all."""
    if "cost" not in records.column_names or records["cost"].null_count:
        return None
    cost: float = pc.sum(records["cost"]).as_py() or 0.0
    return cost


def _of_requests(
    records: pa.Table, duration_s: float, cost: float | None
) -> dict[str, Any]:  # Any: fields of several types
    counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    for item in pc.value_counts(records["outcome"]).to_pylist():
        if item["values"] is not None:
            counts[item["values"]] = item["counts"]
    completed = counts["completed"]
    judged = records["slo_met"].drop_null()
    met = pc.sum(judged).as_py() or 0
    missed_though_completed = pc.sum(
        pc.and_(pc.equal(records["outcome"], "completed"), pc.invert(pc.fill_null(records["slo_met"], True)))
    ).as_py()
    per_s = 1.0 / duration_s if duration_s > 0.0 else 0.0
    done = records.select(DESCRIBED).filter(pc.equal(records["outcome"], "completed"))
    tried = records["attempts"].drop_null()
    generated, cached_fraction, preemptions = _token_totals(records)
    return {
        **counts,
        "submitted": len(records),
        "in_flight": records["outcome"].null_count,
        "throughput_per_s": completed * per_s,
        "goodput_per_s": (completed - (missed_though_completed or 0)) * per_s,
        "slo_attainment": met / len(judged) if len(judged) else None,
        "batch_size_mean": pc.mean(done["batch_size"]).as_py(),
        "attempts_mean": pc.mean(tried.filter(pc.greater(tried, 0))).as_py(),
        "output_tokens_per_s": None if generated is None else generated * per_s,
        "cached_fraction": cached_fraction,
        "preemptions": preemptions,
        **{name: distribution(done[name]) for name in DESCRIBED if name.endswith("_s")},
        "cost": cost,
        "cost_per_request": over(cost, completed),
        "cost_per_1k_tokens": over(cost, (generated or 0) / 1000.0),
        "quality_mean": quality_mean(records),
    }


def _of_attempts(figures: AttemptFigures | None) -> dict[str, Any]:  # Any: fields of several types
    return {} if figures is None else asdict(figures)


def over(cost: float | None, count: float) -> float | None:
    """Cost for each; None where there is no price, or none of them."""
    return None if cost is None or not count else cost / count


def quality_mean(records: pa.Table) -> float | None:
    """Mean quality of the completed requests of `records` that have one."""
    if "quality" not in records.column_names:
        return None
    completed = records["quality"].filter(pc.equal(records["outcome"], "completed"))
    mean: float | None = pc.mean(completed).as_py()
    return mean


def _token_totals(records: pa.Table) -> tuple[int | None, float | None, int]:
    """Output tokens, the fraction of prompt tokens that were cached, and preemptions, of completed requests."""
    if records["generated_tokens"].null_count == len(records):
        return None, None, 0
    served = records.filter(
        pc.and_(pc.equal(records["outcome"], "completed"), pc.is_valid(records["generated_tokens"]))
    )
    prompt = pc.sum(served["prompt_tokens"]).as_py() if "prompt_tokens" in served.column_names else None
    cached = pc.sum(served["cached_tokens"]).as_py() or 0
    return (
        pc.sum(served["generated_tokens"]).as_py() or 0,
        cached / prompt if prompt else None,
        pc.sum(served["preemptions"]).as_py() or 0,
    )


def distribution(values: pa.ChunkedArray) -> Distribution:
    """Mean, percentiles (linear interpolation) and maximum of the values that are there."""
    present = values.drop_null().to_numpy()
    if len(present) == 0:
        return Distribution()
    p50, p90, p95, p99 = (float(value) for value in np.percentile(present, (50, 90, 95, 99)))
    return Distribution(
        mean=float(present.mean()), p50=p50, p90=p90, p95=p95, p99=p99, max=float(present.max())
    )
