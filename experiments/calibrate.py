"""`calibrate`: play one trace in virtual time and on real processes, and say how far the two are apart.

Two questions are asked. How large is the error of each figure? And, which matters more to who chooses among
policies: does the simulator put the candidates in the order in which real processes put them (rank fidelity)?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct, structs

from experiments.measured import check_columns, expanded, measure
from experiments.metrics import Metric, metrics_of, serves_tokens
from experiments.pages import blocks
from experiments.plots.of_report import latency_plots
from experiments.progress import progress_bar
from experiments.text import as_text, plain_number
from experiments.timings import FEWEST, EngineTimes, OwnTimes, own_times
from fleet import FleetSpec, Run, simulate
from fleet.pools import DEFAULT
from traces import FaultTrace, Trace

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

METRICS = ("e2e_s.p50", "e2e_s.p99", "throughput_per_s")
TOKEN_METRICS = (
    "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99", "itl_max_s.p99", *METRICS, "output_tokens_per_s",
)  # fmt: skip
"""In place of `METRICS` where live runs serve token by token."""
TOLERANCES = {"e2e_s.mean": 0.05, "e2e_s.p50": 0.05, "e2e_s.p99": 0.10, "throughput_per_s": 0.01}
"""Relative errors that a replay on an emulated engine is meant to keep."""


HEADINGS = ("simulated", "own times", "live", "drift", "error", "live noise", "sim spread", "aim")
"""Of the columns with figures; one that has none in any row is left out."""
OWN_TIMES = (
    "Own times: simulated with a latency model of the live runs' own engine times. Drift: what that changes, which is "
    "the machine's doing; error: what is left of it, which is the simulator's."
)
FEW_FOR_P99 = 2000
"""Completed requests below which a p99 is said to rest on few."""


class Player(Protocol):
    """`fleet.replay`, or what stands in for it."""

    def __call__(
        self, trace: Trace, spec: FleetSpec, *, speed: float, seed: int, faults: FaultTrace | None
    ) -> Run: ...


class CalibrationRow(Struct, frozen=True, kw_only=True):
    """One metric of one candidate, in the metric's own unit."""

    metric: str
    label: str
    scale: float
    candidate: str
    simulated: float
    live: float
    own: float | None
    """Simulated with the latency of the batches and steps of the live runs themselves; None where none were timed."""
    drift: float | None
    """(own − simulated) / simulated: what became of the figure because engines took other times than were expected."""
    error: float | None
    """(own − live) / live, or (simulated − live) / live where there is no `own`: what is the simulator's."""
    noise: float | None
    """The largest relative gap between two live runs of one seed: what no simulator can be better than. Of a candidate
    that was run once, that of those run more often."""
    spread: float | None
    """The largest relative gap between simulations of different seeds: how much chance decides in this scenario."""
    tolerance: float | None

    @property
    def within(self) -> bool | None:
        """Whether the error is within its tolerance, or within what chance does in either runtime."""
        if self.error is None or self.tolerance is None:
            return None
        return abs(self.error) <= max(self.tolerance, self.noise or 0.0, self.spread or 0.0)


class Fidelity(Struct, frozen=True, kw_only=True):
    """How alike simulation and live order the candidates by one metric."""

    metric: str
    label: str
    tau: float | None
    """Kendall's tau-b: 1 the same order, -1 the reverse; None where all candidates tie."""
    same_order: int
    """Pairs of candidates in the same order."""
    pairs: int
    close: int = 0
    """Pairs whose live runs differ by less than the noise of such runs: their order is chance."""


class CalibrationReport:
    """Runs of both runtimes: `print(report)` is the table, `rows` and `fidelity` its content."""

    def __init__(
        self,
        simulated: Mapping[str, Sequence[Run]],
        live: Mapping[str, Sequence[Run]],
        metrics: Sequence[Metric | str] | None = None,
        tolerances: Mapping[str, float] = TOLERANCES,
        own: Mapping[str, Sequence[OwnTimes]] | None = None,
    ) -> None:
        """`own`: by candidate, what the engines of each live run took."""
        self.own = {name: list(times) for name, times in (own or {}).items()}
        self.simulated = {name: list(runs) for name, runs in simulated.items()}
        self.live = {name: list(runs) for name, runs in live.items()}
        if metrics is None:
            tokens = any(serves_tokens(run.summary) for runs in self.live.values() for run in runs)
            metrics = TOKEN_METRICS if tokens else METRICS
        asked = metrics_of(metrics)
        self._measured = {
            id(run): measure(run, asked, name, run.manifest.seed)
            for name in self.live
            for run in (*self.simulated[name], *self.live[name], *self.own_runs(name))
        }
        chosen = [one for item in asked for one in expanded(item, self._measured.values())]
        self.rows: list[CalibrationRow] = []
        for item in chosen:
            rows = [self._row(item, name, tolerances.get(item.key)) for name in self.live]
            self.rows += _with_noise([row for row in rows if row is not None])
        distinct = {id(run) for runs in self.live.values() for run in runs}
        ordered = len(self.live) > 1 and len(distinct) > 1
        self.fidelity: list[Fidelity] = [_fidelity(item, self.rows) for item in chosen] if ordered else []

    def own_runs(self, name: str) -> list[Run]:
        """The live runs of a candidate, simulated with their own times, as far as these are known."""
        return [times.run for times in self.own.get(name, ()) if times.run is not None]

    def _row(self, item: Metric, name: str, tolerance: float | None) -> CalibrationRow | None:
        virtual = self._values(item, self.simulated[name])
        mean, live_mean = _mean(virtual), _mean(self._values(item, self.live[name]))
        own_mean = _mean(self._values(item, self.own_runs(name)))
        if mean is None or live_mean is None:
            return None
        return CalibrationRow(
            metric=item.key,
            label=item.label,
            scale=item.scale,
            candidate=name,
            simulated=mean,
            live=live_mean,
            own=own_mean,
            drift=None if own_mean is None else _relative(own_mean, mean),
            error=_relative(mean if own_mean is None else own_mean, live_mean),
            noise=self._noise(item, self.live[name]),
            spread=_gap(virtual),
            tolerance=tolerance,
        )

    def _values(self, item: Metric, runs: Sequence[Run]) -> list[float]:
        """Of the runs that have one."""
        found = (self._measured[id(run)].values.get(item.key) for run in runs)
        return [value for value in found if value is not None]

    def _noise(self, item: Metric, live: Sequence[Run]) -> float | None:
        """The largest gap between live runs of one seed."""
        by_seed: dict[int, list[Run]] = {}
        for run in live:
            by_seed.setdefault(run.manifest.seed, []).append(run)
        gaps = [gap for runs in by_seed.values() if (gap := _gap(self._values(item, runs))) is not None]
        return max(gaps, default=None)

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the columns that have a figure in some row."""
        said = [cells(row, HEADINGS) for row in self.rows]
        return tuple(
            name for name, column in zip(HEADINGS, zip(*said, strict=True), strict=False) if any(column)
        )

    def table(self) -> Table:
        """The rich table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD)
        table.add_column("metric")
        for heading in self.headings:
            table.add_column(heading, justify="right", no_wrap=True)
        last = None
        for row in self.rows:
            if row.metric != last:
                if last is not None:
                    table.add_section()
                table.add_row(Text(row.label, style="bold"))
            table.add_row(Text(f"  {row.candidate}"), *cells(row, self.headings))
            last = row.metric
        return table

    @property
    def notes(self) -> list[str]:
        """Rank fidelity, and what the columns mean."""
        notes = [OWN_TIMES] if any(row.own is not None for row in self.rows) else []
        for name, of_all in self.own.items():
            pools = [pool for times in of_all for pool in times.pools]
            notes += [
                _engines(name, [pool for pool in pools if pool.pool == one])
                for one in dict.fromkeys(pool.pool for pool in pools)
            ]
        for item in self.fidelity:
            tau = "" if item.tau is None else f" (Kendall tau {item.tau:+.2f})"
            close = f"; {item.close} closer than live noise" if item.close else ""
            notes.append(
                f"{item.label}: {item.same_order} of {item.pairs} pairs of candidates in the same order{tau}{close}"
            )
        if all(row.noise is None for row in self.rows):
            notes.append(
                "One live run each, so the noise of live runs is unknown: ask for repeats=2 or more."
            )
        fewest = min(run.summary.completed for runs in self.live.values() for run in runs)
        if fewest < FEW_FOR_P99 and any(".p99" in row.metric for row in self.rows):
            notes.append(
                f"With {fewest:,} requests, p99 is decided by the {max(1, fewest // 100)} slowest of them."
            )
        return notes

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        return Group(Text(title(self)), self.table(), *(Text(f"· {note}") for note in self.notes))

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def save(self, directory: str | Path) -> Path:
        """Write calibration.html, calibration.json and calibration.parquet (all records); answers the directory."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        tables = []
        own = {name: runs for name in self.live if (runs := self.own_runs(name))}
        for runtime, of_all in (("simulated", self.simulated), ("own times", own), ("live", self.live)):
            for name, runs in of_all.items():
                for number, run in enumerate(runs):
                    tables.append(_marked(run, {"runtime": runtime, "candidate": name, "run": number}))
        pq.write_table(pa.concat_tables(tables, promote_options="permissive"), target / "calibration.parquet")
        document = {
            "rows": self.rows,
            "fidelity": self.fidelity,
            "simulated": {name: [run.manifest for run in runs] for name, runs in self.simulated.items()},
            "own_times": {name: [run.manifest for run in runs] for name, runs in own.items()},
            "live": {name: [run.manifest for run in runs] for name, runs in self.live.items()},
        }
        text = msgspec.json.format(msgspec.json.encode(document, order="sorted"))
        (target / "calibration.json").write_bytes(text + b"\n")
        (target / "calibration.html").write_text(_page(self), encoding="utf-8")
        return target


def calibrate(
    trace: Trace,
    candidates: Mapping[str, FleetSpec],
    *,
    speed: float = 1.0,
    seeds: Iterable[int] = (0,),
    repeats: int | Mapping[str, int] = 1,
    faults: FaultTrace | None = None,
    simulated: Callable[[FleetSpec], FleetSpec] = lambda spec: spec,
    metrics: Sequence[Metric | str] | None = None,
    tolerances: Mapping[str, float] = TOLERANCES,
    progress: bool = True,
    play: Player | None = None,
) -> CalibrationReport:
    """Replay every candidate live, `repeats` times for each seed, and simulate it with the same seeds.

    Where live runs are long, `repeats` may name the candidates that are run more than once: theirs is the noise that
    all are held against. `tolerances` are relative errors that are aimed at, by metric; `metrics` follow from what was
    served, whole requests or tokens, unless given; a grouped one has a row for each group.

    Where engines did real work live, they said how long it took them: each live run is simulated once more with those
    times (`own_times`), so that what the machine did and what the simulator gets wrong stand apart.

    `speed` makes arrivals come that much faster, in both. `simulated` answers the spec to simulate in place of a
    live one: an engine that does real work needs one that emulates it. `play` replays (`fleet.replay` unless
    given). A live run takes the trace's own time over `speed`.
    """
    if play is None:
        from fleet import replay

        play = replay
    if metrics is not None:
        metrics = metrics_of(metrics)
        check_columns(metrics, [trace])
    chosen = list(seeds)
    in_virtual_time = trace if speed == 1.0 else trace.scale_rate(speed)
    live: dict[str, list[Run]] = {name: [] for name in candidates}
    virtual: dict[str, list[Run]] = {name: [] for name in candidates}
    times = {name: repeats if isinstance(repeats, int) else repeats.get(name, 1) for name in candidates}
    with progress_bar("live runs", sum(times.values()) * len(chosen), shown=progress) as advance:
        for seed in chosen:
            for name, spec in candidates.items():
                virtual[name].append(simulate(in_virtual_time, simulated(spec), seed=seed, faults=faults))
            for turn in range(max(times.values(), default=0)):
                # In turn, so that a drift of the machine meets all alike.
                for name, spec in candidates.items():
                    if turn < times[name]:
                        live[name].append(play(trace, spec, speed=speed, seed=seed, faults=faults))
                        advance()

    def again(name: str, run: Run) -> OwnTimes:
        play = partial(simulate, in_virtual_time, seed=run.manifest.seed, faults=faults)
        return own_times(candidates[name], simulated(candidates[name]), run, play)

    own = {name: [again(name, run) for run in runs] for name, runs in live.items()}
    return CalibrationReport(virtual, live, metrics, tolerances, own)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _relative(value: float, to: float) -> float | None:
    return (value - to) / to if to else None


def _with_noise(rows: Sequence[CalibrationRow]) -> list[CalibrationRow]:
    """Rows of one metric, those of candidates that were run once with the noise of the others."""
    floor = max([row.noise for row in rows if row.noise is not None], default=None)
    return [structs.replace(row, noise=floor) if row.noise is None else row for row in rows]


def _gap(values: Sequence[float]) -> float | None:
    """Largest less smallest, over their mean; None for fewer than two."""
    mean = sum(values) / len(values) if values else 0.0
    return (max(values) - min(values)) / mean if len(values) > 1 and mean else None


def _fidelity(item: Metric, rows: Sequence[CalibrationRow]) -> Fidelity:
    from scipy import stats

    of_metric = [row for row in rows if row.metric == item.key]
    virtual, measured = [row.simulated for row in of_metric], [row.live for row in of_metric]
    tau = float(stats.kendalltau(virtual, measured).statistic) if len(of_metric) > 1 else float("nan")
    pairs = list(combinations(of_metric, 2))
    same = sum(1 for one, other in pairs if (one.simulated - other.simulated) * (one.live - other.live) > 0.0)
    return Fidelity(
        metric=item.key,
        label=item.label,
        tau=None if math.isnan(tau) else tau,
        same_order=same,
        pairs=len(pairs),
        close=sum(1 for one, other in pairs if _close(one, other)),
    )


def _close(one: CalibrationRow, other: CalibrationRow) -> bool:
    gap = _gap([one.live, other.live])
    return gap is not None and gap < max(one.noise or 0.0, other.noise or 0.0)


def title(report: CalibrationReport) -> str:
    """What was compared, in a line."""
    first = next(iter(report.live.values()))[0].manifest
    source, requests = first.trace["header"]["source"], first.trace["requests"]
    counts = sorted({len(runs) for runs in report.live.values()})
    runs = f"{counts[0]} live run{'s' if counts[-1] != 1 else ''}"
    if len(counts) > 1:
        runs = f"{counts[0]} to {counts[-1]} live runs"
    return f"Simulated against live: {source} ({requests:,} requests), {runs} each"


def cells(row: CalibrationRow, headings: Sequence[str]) -> list[str]:
    """What stands in these columns of a row, as text."""
    said = {
        "simulated": plain_number(row.simulated * row.scale),
        "own times": "" if row.own is None else plain_number(row.own * row.scale),
        "live": plain_number(row.live * row.scale),
        "drift": "" if row.drift is None else f"{row.drift:+.1%}",
        "error": "" if row.error is None else f"{row.error:+.1%}",
        "live noise": "" if row.noise is None else f"{row.noise:.1%}",
        "sim spread": "" if row.spread is None else f"{row.spread:.1%}",
        "aim": "" if row.tolerance is None else f"± {row.tolerance:.0%}",
    }
    return [said[heading] for heading in headings]


def _engines(name: str, times: Sequence[EngineTimes]) -> str:
    """How far the engines of one pool were, in the live runs of a candidate, from what was expected of them."""
    count, took_s = sum(one.count for one in times), sum(one.took_s for one in times)
    expected_s = sum(one.expected_s for one in times)
    whose = name if times[0].pool == DEFAULT else f"{name}, pool {times[0].pool}"
    said = f"{whose}: {count:,} {times[0].what} took {took_s:.3g} s"
    if expected_s:
        said += f", {took_s / expected_s:.2f} times what their latency model says"
    if any(one.latency is None for one in times):
        said += f". They are too few (below {FEWEST} in a run) to simulate with: its drift is in its error"
    return f"{said}."


def _page(report: CalibrationReport) -> str:
    runs = {}
    for name in report.live:
        runs[f"{name}, simulated"] = report.simulated[name]
        if own := report.own_runs(name):
            runs[f"{name}, own times"] = own
        runs[f"{name}, live"] = report.live[name]
    rows = [(row.label, row.candidate, *cells(row, report.headings)) for row in report.rows]
    drawn = (
        blocks.figures(latency_plots(runs)) if blocks.can_plot() else [blocks.Text(blocks.NO_PLOTS, "note")]
    )
    return blocks.page(
        title(report),
        [
            blocks.Table(("metric", "candidate", *report.headings), rows, names=2),
            *(blocks.Text(note, "note") for note in report.notes),
            *blocks.section("Latency", drawn),
        ],
    )


def _marked(run: Run, columns: dict[str, str | int]) -> pa.Table:
    table = run.records
    for name, value in reversed(columns.items()):
        table = table.add_column(0, name, pa.array([value] * len(run.records)))
    return table
