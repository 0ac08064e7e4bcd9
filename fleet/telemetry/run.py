"""What a run is afterwards: tables, a typed summary, a manifest, and a digest over all of them.

A simulated run's bytes depend on its inputs alone: no clock, no host name, no path is in them.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from fleet.spec import FleetSpec
from fleet.telemetry.attempts import attempt_figures, every_attempt, several_attempts
from fleet.telemetry.breakdown import breakdown
from fleet.telemetry.calls import LOG
from fleet.telemetry.costs import POOLS, pools_table, request_costs, total_cost, unattributed_cost
from fleet.telemetry.documents import encoded
from fleet.telemetry.folder import TRACE, read_manifest, read_origin, read_table, write_folder
from fleet.telemetry.groups import Group, groups_of
from fleet.telemetry.occupancy import changes_of, held_by_pool_s
from fleet.telemetry.origin import Origin, origin_of
from fleet.telemetry.provenance import ComponentSource, portable_spec, rebuilt, sources_of
from fleet.telemetry.rebuilt import Rebuilt, trace_again, with_places
from fleet.telemetry.rebuilt import rebuilt as inputs_again
from fleet.telemetry.records import BESIDES, records_of
from fleet.telemetry.shown import summary_as_html
from fleet.telemetry.sink import ATTEMPTS, TIMINGS, Telemetry
from fleet.telemetry.summary import Summary, summarise, summary_of_part
from policies.base import PolicyError
from traces import FaultTrace, Trace
from traces.columns import digest as table_digest

TABLES = ("records", "series", "decisions", "dispatches", "replicas")
"""The tables that every digest is of."""
OF_ATTEMPTS = {"attempts": ATTEMPTS, "pools": POOLS}
"""Those that it is of only where the summary says what attempts came to, and their schemas."""
WATCHED = {**LOG, "timings": TIMINGS}
"""What was watched of a run: calls of its policies, where they were logged, and the times of its engines, where it is
live. The digest is not of them."""


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


class _Saved(Struct, frozen=True):
    """What `manifest.json` holds."""

    digest: str
    summary: Summary
    manifest: Manifest
    besides: dict[str, str] = {}
    """Digests of the tables that `digest` is not of."""


class Run:
    """One finished run: its tables, which are pyarrow's, a summary of them, and what it was a run of."""

    def __init__(
        self,
        tables: dict[str, pa.Table],
        summary: Summary,
        manifest: Manifest,
        origin: Origin | None = None,
        trace: Trace | Path | None = None,
    ) -> None:
        """Of a run that was made before there were attempts and pools in it, those tables are empty."""
        self.records: pa.Table = tables["records"]
        """One row a request, in the order of the trace."""
        self.attempts: pa.Table = tables.get("attempts", ATTEMPTS.empty_table())
        """One row an attempt, as they ended, but for a request's only one (shadows apart) if that completed: see
        `every_attempt`. `end` is null where the run's end left it unfinished."""
        self.series: pa.Table = tables["series"]
        """What the control loops saw, one row a control interval and pool."""
        self.decisions: pa.Table = tables["decisions"]
        """What policies decided, with the age of the signals used. Plain `Admit`s are left out: every request that
        was not rejected has one. Batching decisions are in `dispatches`."""
        self.dispatches: pa.Table = tables["dispatches"]
        """One row a batch."""
        self.replicas: pa.Table = tables["replicas"]
        """One row a change of a replica's state."""
        self.pools: pa.Table = tables.get("pools", POOLS.empty_table())
        """One row a pool: what it serves, for how long its replicas held devices, and what that cost."""
        self.calls: pa.Table = tables.get("calls", LOG["calls"].empty_table())
        """What its routing policies were asked and told, in order, where `log_views` had it logged: `calls.CALLS`."""
        self.views: pa.Table = tables.get("views", LOG["views"].empty_table())
        """What they were shown of replicas, each view where it had changed: `calls.VIEWS`."""
        self.timings: pa.Table = tables.get("timings", TIMINGS.empty_table())
        """Live runs: how long engines took by their own clocks, one row a batch or a step, and how large it was. Empty
        where it is simulated: there a latency model says it."""
        self.summary = summary
        self.manifest = manifest
        self.origin = origin
        """Where it was made, by what command, and how its trace came to be. Not part of the digest."""
        self.kept_trace = trace
        """What it was a run of, or the file that holds it, if either is at hand."""

    def __getstate__(self) -> dict[str, Any]:  # Any: each attribute's own type
        """For another process without the trace, which is large, and which whoever asked for the run has."""
        return {**vars(self), "kept_trace": None}

    @property
    def tables(self) -> dict[str, pa.Table]:
        """All of them by name; those of what was watched where there is any of it."""
        watched = [name for name in WATCHED if len(getattr(self, name))]
        return {name: getattr(self, name) for name in (*TABLES, *OF_ATTEMPTS, *watched)}

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it: the values of the tables, however Arrow lays them out, summary and manifest.

        Attempts and pools are part of it where the summary has `wasted_s`: of fleets that name their pools, and where
        a request may have several attempts at a time (`several_attempts`). Elsewhere records and spec say what there
        is to say of them, and the digest is what it was before they were recorded. Of the manifest `files` is left
        out: no path of a machine is in it. What was logged of calls is no part of it: watching changes nothing.
        """
        return self._digest_with(self.manifest.seed)

    @property
    def fingerprint(self) -> str:
        """The digest with the seed's number left out: equal for runs that chance did not touch."""
        return self._digest_with(0)

    def _digest_with(self, seed: int) -> str:
        manifest = msgspec.structs.replace(self.manifest, files={}, seed=seed)
        document = encoded([self._table_digests, self.summary, manifest])
        return hashlib.sha256(document).hexdigest()

    @cached_property
    def _table_digests(self) -> dict[str, str]:
        """Tables do not change."""
        return {name: table_digest(self._judged(name), name) for name in self._digested}

    @property
    def _digested(self) -> tuple[str, ...]:
        return TABLES if self.summary.wasted_s is None else (*TABLES, *OF_ATTEMPTS)

    def _judged(self, name: str) -> pa.Table:
        """A table without the columns that the digest is not of."""
        table: pa.Table = getattr(self, name)
        there = [column for column in BESIDES if column in table.column_names]
        return table.drop_columns(there) if there and name == "records" else table

    def every_attempt(self) -> pa.Table:
        """`attempts`, and the only attempts of the requests that completed with one, as far as their records tell.

        Those have neither `sent_s` nor `started_s`, and `ended_s` is when the client had the answer.
        """
        return every_attempt(self.attempts, self.records, self.pools)

    def by(self, *columns: str) -> pa.Table:
        """The main figures (`breakdown.FIGURES`) of the requests that are alike: ``run.by("model", "tenant")``.

        `columns` are of the records, or of the pools that served them; `model` is what served, where pools name one,
        else what was asked for. Raises `ValueError` that says what there is to group by.
        """
        return breakdown(self.records, self.pools, columns)

    def parts(self, *columns: str) -> dict[Group, Run]:
        """The run of each group of requests that are alike in `columns`, which are those of `by` and fields of `extra`.

        In the order of the values, requests without one last. See `part`.
        """
        rows_of = groups_of(columns, self.records, self.pools)
        return {group: self.part(rows) for group, rows in rows_of.items()}

    def part(self, rows: pa.Array) -> Run:
        """As if these rows of `records` were all there was to ask about: their records, attempts and figures.

        The fleet that served them is the whole one: series, dispatches, replicas, pools and decisions are. Figures of
        it have no value in the summary, rates are over the whole run's time, and the digest is of the whole run.
        """
        return Part(self, rows)

    @property
    def unattributed_cost(self) -> float | None:
        """Of the cost, that of pools in which nothing ran: it is no request's. None where there are no prices."""
        return unattributed_cost(self.records, self.attempts, self.pools)

    def fleet(self, *, allow_changed: bool = False) -> FleetSpec:
        """The fleet that this run was of, built again from its manifest.

        Raises `PolicyError` that names the component whose module is not to be had, or whose source is not what it
        was, unless `allow_changed`.
        """
        said = self.manifest
        try:
            return rebuilt(said.spec, said.components, said.files, allow_changed=allow_changed)
        except PolicyError as error:
            raise with_places(error, self.origin) from None

    def rebuild(self, *, trace: Trace | str | Path | None = None, allow_changed: bool = False) -> Rebuilt:
        """All that it takes to make this run anew: ``simulate(**run.rebuild().arguments)``.

        Args:
            trace: The run's trace; or where the file is now that it was read from (a folder, where it was read from
                several: each by its name). By default as the manifest says.
            allow_changed: Build the fleet of the sources that there are, whatever they were.

        Raises:
            PolicyError: As `fleet`.
            TraceError: The trace is not to be had, or is not what it was: names the file, or the step, that differs.
        """
        said = self.manifest
        spec = self.fleet(allow_changed=allow_changed)
        return inputs_again(self.find_trace(trace), spec, said.seed, said.faults, said.options)

    def find_trace(self, given: Trace | str | Path | None = None) -> Trace:
        """The trace that it is a run of. `given` is that of `rebuild`, and so is what is raised."""
        return trace_again(self.manifest.trace, self.origin, self.kept_trace, given)

    def save(self, directory: str | Path, *, with_trace: bool = False) -> Path:
        """Write one Parquet file for each table, `origin.json`, and `manifest.json`; answers the directory.

        `with_trace` keeps the trace there too, for whoever has not the file, or the code, that it came from. Raises
        `OSError` that names the file that cannot be written: there is then no manifest, and `load_run` says so.
        """
        target, tables, said = Path(directory), self.tables, self.manifest
        trace = self.find_trace() if with_trace else None
        besides = {name: table_digest(tables[name], name) for name in tables if name not in self._digested}
        if any(name in self.records.column_names for name in BESIDES):
            besides["records"] = table_digest(self.records, "records")
        saved = _Saved(self.digest, self.summary, said, besides)
        write_folder(target, tables, manifest=saved, origin=self.origin, trace=trace)
        return target

    def _repr_html_(self) -> str:
        source, manifest = self.manifest.trace["header"]["source"], self.manifest
        return summary_as_html(self.summary, f"Run of {source}, {manifest.runtime}, seed {manifest.seed}")

    def __repr__(self) -> str:
        s = self.summary
        p99 = f", p99 {s.e2e_s.p99 * 1000:.1f} ms" if s.e2e_s.p99 is not None else ""
        return f"<Run {self.manifest.runtime} seed={self.manifest.seed}: {s.completed}/{s.submitted} completed{p99}>"


class Part(Run):
    """Some requests of a run."""

    def __init__(self, whole: Run, rows: pa.Array) -> None:
        records = whole.records.take(rows)
        mine = pc.is_in(whole.attempts["request"], records["id"].combine_chunks())
        attempts = whole.attempts.filter(mine) if len(whole.attempts) else whole.attempts
        tables = {**whole.tables, "records": records, "attempts": attempts}
        self.whole = whole
        """What it is a part of."""
        summary = summary_of_part(whole.summary, records, attempts)
        super().__init__(tables, summary, whole.manifest, whole.origin, whole.kept_trace)

    @property
    def digest(self) -> str:
        return self.whole.digest

    def save(self, directory: str | Path, *, with_trace: bool = False) -> Path:
        raise ValueError("a part of a run is not saved: save the run, and take the part again")


def load_run(directory: str | Path) -> Run:
    """Read back what `Run.save` wrote.

    Raises ValueError that names what is missing or damaged, and when the bytes are not what the digests say.
    """
    source = Path(directory)
    saved = read_manifest(source, _Saved)
    names = [*TABLES, *(name for name in OF_ATTEMPTS if (source / f"{name}.parquet").exists())]
    names += [name for name in WATCHED if name in saved.besides]
    tables = {name: read_table(source, name) for name in names}
    kept = source / TRACE
    run = Run(
        tables,
        saved.summary,
        saved.manifest,
        origin=read_origin(source),
        trace=kept if kept.exists() else None,
    )
    found = {name: table_digest(table, name) for name, table in run.tables.items() if name in saved.besides}
    if found != saved.besides or run.digest != saved.digest:
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
    attempts, replicas = telemetry.attempts.take(), telemetry.replicas.take()
    records = records_of(telemetry, trace, spec, unfinished, attempts)
    last_s = pc.max(records["ended_s"]).as_py()
    duration_s = ended_s if unfinished or last_s is None else last_s
    changes = changes_of(replicas)
    pools = pools_table(telemetry.pools, held_by_pool_s(changes, telemetry.pools, duration_s))
    if pools["cost"].null_count < len(pools):
        records = records.append_column("cost", request_costs(records, attempts, pools, duration_s))
    tables = {
        "records": records,
        "attempts": attempts,
        "series": telemetry.series.take(),
        "decisions": telemetry.decisions.take(),
        "dispatches": telemetry.dispatches.take(),
        "replicas": replicas,
        "pools": pools,
        **({} if telemetry.watcher is None else telemetry.watcher.tables()),
        "timings": telemetry.timings.take(),
    }
    # A client that drives a fleet knows what was said to it, and not what the fleet did: no pool is described to it.
    counted = spec is not None and bool(telemetry.pools) and several_attempts(spec)
    summary = summarise(
        records,
        changes,
        duration_s=duration_s,
        busy_s=telemetry.engines.total(duration_s),
        initial_replicas=0 if spec is None else sum(pool.replicas for pool in spec.serving),
        cost=total_cost(pools),
        attempts=attempt_figures(attempts, records) if counted else None,
    )
    plain, files = ({}, {}) if spec is None else portable_spec(spec)
    components = () if spec is None else sources_of(spec)
    manifest = Manifest(
        runtime=runtime,
        seed=seed,
        trace={"sha256": trace.sha256, "requests": len(trace), "header": msgspec.to_builtins(trace.header)},
        spec=plain,
        components=components,
        files=files,
        faults=None if faults is None else msgspec.to_builtins(faults),
        options=options or {},
        versions=versions(),
        counters={name: count for name, count in sorted(telemetry.counters.items()) if count},
        machine=machine,
    )
    return Run(tables, summary, manifest, origin=origin_of(components, trace.recipe), trace=trace)


def versions() -> dict[str, str]:
    """What a simulated run's bytes may depend on beside its inputs."""
    names = ("fleetlab", "msgspec", "numpy", "pyarrow", "pyzmq")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
