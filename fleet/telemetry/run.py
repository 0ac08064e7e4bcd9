"""What a run is afterwards: tables, a typed summary, a manifest, and a digest over all of them.

A simulated run's bytes depend on its inputs alone: no clock, no host name, no path is in them.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct

from fleet.messages import OUTCOMES
from fleet.spec import FleetSpec
from fleet.telemetry.provenance import ComponentSource, portable_spec, rebuilt, sources_of
from fleet.telemetry.sink import Telemetry, transitions
from traces import FaultTrace, Trace
from traces.columns import digest as table_digest

TABLES = ("records", "series", "decisions", "dispatches", "replicas")
OCCUPYING = ("provisioning", "loading", "warm", "ready", "draining")
"""States in which a replica holds its device."""
KEPT = ("session", "turn", "tenant", "user", "model", "kind", "priority", "prompt_tokens", "output_tokens")
"""Columns of the trace that go into the records."""

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


class ReplicaRange(Struct, frozen=True):
    """Fewest and most ready replicas at any time of the run."""

    min: int
    max: int


class Summary(Struct, frozen=True, kw_only=True):
    """The figures of one run. Conservation holds: `submitted` is the sum of the outcomes and `in_flight`."""

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
    gpu_seconds: float
    """Seconds in which replicas held a device, in any state."""
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


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything a run depended on."""

    runtime: Literal["simulated", "live"]
    seed: int
    trace: dict[str, Any]  # Any: JSON values, here and below
    spec: dict[str, Any]
    faults: dict[str, Any] | None
    options: dict[str, Any]
    versions: dict[str, str]
    counters: dict[str, int]
    machine: dict[str, Any] | None = None
    """Live runs: where it ran. A simulated run does not depend on it."""
    components: tuple[ComponentSource, ...] = ()
    """Each component of the spec by module, with the SHA-256 of its source."""
    files: dict[str, str] = {}
    """Where the files named in the spec were, by path within it. Not part of the digest: what was read of them is."""


class Run:
    """One finished run: `records`, `series`, `decisions`, `dispatches`, `replicas` are pyarrow tables."""

    def __init__(self, tables: dict[str, pa.Table], summary: Summary, manifest: Manifest) -> None:
        self.records: pa.Table = tables["records"]
        """One row a request, in the order of the trace."""
        self.series: pa.Table = tables["series"]
        """What the control loop saw, one row a control interval."""
        self.decisions: pa.Table = tables["decisions"]
        """What policies decided, with the age of the signals used. Plain `Admit`s are left out: every request that
        was not rejected has one. Batching decisions are in `dispatches`."""
        self.dispatches: pa.Table = tables["dispatches"]
        """One row a batch."""
        self.replicas: pa.Table = tables["replicas"]
        """One row a change of a replica's state."""
        self.summary = summary
        self.manifest = manifest

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it: the values of the tables, however Arrow lays them out, summary and manifest.

        Of the manifest `files` is left out: no path of a machine is in it.
        """
        parts = {name: table_digest(getattr(self, name), name) for name in TABLES}
        manifest = msgspec.structs.replace(self.manifest, files={})
        document = msgspec.json.encode([parts, self.summary, manifest], order="sorted")
        return hashlib.sha256(document).hexdigest()

    def fleet(self, *, allow_changed: bool = False) -> FleetSpec:
        """The fleet that this run was of, built again from its manifest.

        Raises `PolicyError` that names the component whose module is not to be had, or whose source is not what it
        was, unless `allow_changed`.
        """
        return rebuilt(
            self.manifest.spec, self.manifest.components, self.manifest.files, allow_changed=allow_changed
        )

    def save(self, directory: str | Path) -> Path:
        """Write one Parquet file for each table, and `manifest.json`; answers the directory."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            pq.write_table(getattr(self, name), target / f"{name}.parquet", compression="zstd")
        document = {"digest": self.digest, "summary": self.summary, "manifest": self.manifest}
        (target / "manifest.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(document, order="sorted")) + b"\n"
        )
        return target

    def __repr__(self) -> str:
        s = self.summary
        p99 = f", p99 {s.e2e_s.p99 * 1000:.1f} ms" if s.e2e_s.p99 is not None else ""
        return f"<Run {self.manifest.runtime} seed={self.manifest.seed}: {s.completed}/{s.submitted} completed{p99}>"


def load_run(directory: str | Path) -> Run:
    """Read back what `Run.save` wrote. Raises ValueError when its bytes are not what its digest says."""
    source = Path(directory)
    document = msgspec.json.decode((source / "manifest.json").read_bytes())
    tables = {name: pq.read_table(source / f"{name}.parquet") for name in TABLES}
    run = Run(
        tables, msgspec.convert(document["summary"], Summary), msgspec.convert(document["manifest"], Manifest)
    )
    if run.digest != document["digest"]:
        raise ValueError(
            f"{source}: the files do not match the digest in manifest.json; they were changed after the run"
        )
    return run


# --- from telemetry to a run -------------------------------------------------------------------------------


def finish_run(
    telemetry: Telemetry,
    trace: Trace,
    spec: FleetSpec | None,
    *,
    seed: int,
    runtime: Literal["simulated", "live"],
    ended_s: float,
    unfinished: list[tuple[int, float]],
    faults: FaultTrace | None = None,
    options: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
) -> Run:
    """Close the books: `unfinished` are (row, intended arrival) of requests without a reply.

    A client that drives a
    fleet it did not build may have no `spec`.
    """
    records = _records(telemetry.ended.take(), telemetry.served.take(), trace, spec, unfinished)
    replicas = telemetry.replicas.take()
    tables = {
        "records": records,
        "series": telemetry.series.take(),
        "decisions": telemetry.decisions.take(),
        "dispatches": telemetry.dispatches.take(),
        "replicas": replicas,
    }
    last_s = pc.max(records["ended_s"]).as_py()
    duration_s = ended_s if unfinished or last_s is None else last_s
    summary = summarise(
        records,
        replicas,
        duration_s=duration_s,
        busy_s=telemetry.engines.total(duration_s),
        initial_replicas=0 if spec is None else sum(pool.replicas for pool in spec.serving),
    )
    plain, files = ({}, {}) if spec is None else portable_spec(spec)
    manifest = Manifest(
        runtime=runtime,
        seed=seed,
        trace={"sha256": trace.sha256, "requests": len(trace), "header": msgspec.to_builtins(trace.header)},
        spec=plain,
        components=() if spec is None else sources_of(spec),
        files=files,
        faults=None if faults is None else msgspec.to_builtins(faults),
        options=options or {},
        versions=_versions(),
        counters={name: count for name, count in sorted(telemetry.counters.items()) if count},
        machine=machine,
    )
    return Run(tables, summary, manifest)


def _versions() -> dict[str, str]:
    names = ("fleetlab", "msgspec", "numpy", "pyarrow", "pyzmq")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _records(
    ended: pa.Table,
    served: pa.Table,
    trace: Trace,
    spec: FleetSpec | None,
    unfinished: list[tuple[int, float]],
) -> pa.Table:
    """One row a request, in the order of the trace."""
    if unfinished:
        rows, arrivals = zip(*unfinished, strict=True)
        open_rows = {"row": pa.array(rows, pa.int64()), "arrived_s": pa.array(arrivals, pa.float64())}
        nulls = {
            field.name: open_rows.get(field.name, pa.nulls(len(rows), field.type)) for field in ended.schema
        }
        ended = pa.concat_tables([ended, pa.table(nulls, schema=ended.schema)])
    ended = ended.sort_by("row").combine_chunks()
    # As a rule every request is there; only a horizon leaves some out.
    source = trace.table if len(ended) == len(trace) else trace.table.take(ended["row"])
    completed = pc.equal(pc.fill_null(ended["outcome"], ""), "completed")
    e2e = pc.if_else(completed, pc.subtract(ended["ended_s"], ended["arrived_s"]), None)
    tokens = _token_columns(served, ended["row"])
    ttft, tpot = e2e, tokens["itl_max_s"]  # whole requests: the first output is the answer; there are no gaps
    if len(served):
        first_token = pc.subtract(tokens["first_token_s"], ended["arrived_s"])
        ttft = pc.if_else(completed, pc.coalesce(first_token, e2e), None)
        gaps = pc.subtract(tokens["generated_tokens"], 1)
        decode_s = pc.subtract(e2e, ttft)
        tpot = pc.if_else(
            pc.and_(completed, pc.greater(gaps, 0)), pc.divide(decode_s, pc.cast(gaps, pa.float64())), None
        )
    columns: dict[str, Any] = {
        "id": source["id"],
        "arrived_s": ended["arrived_s"],
        "ended_s": ended["ended_s"],
        "outcome": ended["outcome"],
        "replica": ended["replica"],
        "attempts": ended["attempts"],
        "batch_size": ended["batch_size"],
        # A late clock tick must not make waiting negative.
        "queue_s": pc.if_else(
            completed, pc.max_element_wise(pc.subtract(e2e, ended["service_s"]), 0.0), None
        ),
        "service_s": ended["service_s"],
        "ttft_s": ttft,
        "tpot_s": tpot,
        "itl_max_s": tokens["itl_max_s"],
        "e2e_s": e2e,
        "cold": ended["cold"],
        "slo_met": _slo_met({"e2e_s": e2e, "ttft_s": ttft, "tpot_s": tpot}, completed, source, spec),
        "generated_tokens": tokens["generated_tokens"],
        "cached_tokens": tokens["cached_tokens"],
        "preemptions": tokens["preemptions"],
        "detail": ended["detail"],
    }
    for name in KEPT:
        if name in source.column_names:
            columns[name] = source[name]
    return pa.table(columns).combine_chunks()


def _token_columns(served: pa.Table, rows: Any) -> dict[str, Any]:  # Any: Arrow arrays, here and below
    """The columns of `served` for these rows of the trace, null where there is nothing."""
    if not len(served):  # columns of nothing but nulls take memory all the same, so those of one type are one
        nulls = {kind: pa.nulls(len(rows), kind) for kind in set(served.schema.types)}
        return {field.name: nulls[field.type] for field in served.schema}
    aligned = served.take(pc.index_in(rows, served["row"]))
    return {name: aligned[name] for name in served.column_names}


def _slo_met(
    measured: dict[str, Any], completed: Any, source: pa.Table, spec: FleetSpec | None
) -> Any:  # Any: Arrow arrays, whose stubs are partial
    """True or false for requests with an objective, null for the others.

    Only a completed request can have met one: whoever is refused, expires, fails, is cancelled or has no answer when
    the run ends got nothing in time. An engine that answers whole requests has its first output at the end, so a TTFT
    objective is held against E2E. An answer of one token, of none, or in one piece has no gap between two tokens, so
    a TPOT objective asks nothing of it but to complete.
    """
    rows = len(source)
    met: Any = pa.nulls(rows, pa.bool_())
    for name, values in measured.items():
        default = None if spec is None or spec.slo is None else getattr(spec.slo, name)
        column = f"slo_{name}"
        bound: Any = source[column] if column in source.column_names else pa.nulls(rows, pa.float64())
        if default is not None:
            bound = pc.fill_null(bound, default)
        within = pc.and_(completed, pc.fill_null(pc.less_equal(values, bound), name == "tpot_s"))
        this = pc.if_else(pc.is_valid(bound), within, None)
        met = pc.if_else(pc.is_null(met), this, pc.if_else(pc.is_null(this), met, pc.and_(met, this)))
    return met


def summarise(
    records: pa.Table, replicas: pa.Table, *, duration_s: float, busy_s: float, initial_replicas: int
) -> Summary:
    """The figures of a run from its tables."""
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
    changes = list(zip(*(replicas[name].to_pylist() for name in ("time_s", "replica", "state")), strict=True))
    spent = transitions(changes, duration_s)
    serving_s = spent.get("ready", 0.0) + spent.get("draining", 0.0)
    done = records.select(DESCRIBED).filter(pc.equal(records["outcome"], "completed"))
    e2e_s, ttft_s, tpot_s, itl_max_s, queue_s = (
        distribution(done[name]) for name in ("e2e_s", "ttft_s", "tpot_s", "itl_max_s", "queue_s")
    )
    attempts = records["attempts"].drop_null()
    generated, cached_fraction, preemptions = _token_totals(records)
    return Summary(
        submitted=len(records),
        completed=completed,
        rejected=counts["rejected"],
        shed=counts["shed"],
        expired=counts["expired"],
        failed=counts["failed"],
        cancelled=counts["cancelled"],
        in_flight=records["outcome"].null_count,
        duration_s=duration_s,
        throughput_per_s=completed * per_s,
        goodput_per_s=(completed - (missed_though_completed or 0)) * per_s,
        slo_attainment=met / len(judged) if len(judged) else None,
        utilization=min(1.0, busy_s / serving_s) if serving_s > 0.0 else None,
        gpu_seconds=sum(spent.get(state, 0.0) for state in OCCUPYING),
        replicas=_ready_range(changes, initial_replicas),
        batch_size_mean=pc.mean(done["batch_size"]).as_py(),
        attempts_mean=pc.mean(attempts.filter(pc.greater(attempts, 0))).as_py(),
        output_tokens_per_s=None if generated is None else generated * per_s,
        cached_fraction=cached_fraction,
        preemptions=preemptions,
        queue_s=queue_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        itl_max_s=itl_max_s,
        e2e_s=e2e_s,
    )


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


def _ready_range(changes: list[tuple[float, str, str]], initial: int) -> ReplicaRange:
    """Fewest and most ready replicas, from when the `initial` ones are all there (live, they report one by one)."""
    ready: set[str] = set()
    counts: dict[float, int] = {}
    complete = False
    for time_s, replica, state in changes:
        (ready.add if state == "ready" else ready.discard)(replica)
        complete = complete or len(ready) >= initial
        if complete:
            counts[time_s] = len(ready)
    return ReplicaRange(min=min(counts.values(), default=0), max=max(counts.values(), default=0))
