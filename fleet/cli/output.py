"""What the command prints: tables for people, plain text where nobody watches, JSON for programs."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from fleet.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fleet import Run
    from fleet.telemetry.summary import Distribution

PLAIN_WIDTH = 120
WIDE = 180
"""Of a table of pools."""
MOST_REASONS = 8
"""Lines that say why requests did not complete."""
MOST_POOLS = 40
"""Lines of that table."""
MOST_STAGES = 12
"""Lines that say what operators did, and what rollouts decided."""
LATENCIES = {
    "e2e_s": "end to end", "queue_s": "queue wait", "ttft_s": "TTFT", "tpot_s": "TPOT", "itl_max_s": "longest ITL",
}  # fmt: skip


def stdout(width: int = PLAIN_WIDTH) -> Console:
    """Where results go. Not a terminal: no colour, no frames, nothing cut to an unknown width, but `width`."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False)


def table(*headings: str, left: int = 1) -> Table:
    """An empty table whose first `left` columns are text and whose others are numbers."""
    from rich import box
    from rich.table import Table

    framed = box.SIMPLE_HEAD if sys.stdout.isatty() else None
    made = Table(box=framed, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="left" if number < left else "right", no_wrap=True)
    return made


def print_json(value: object) -> None:
    """One JSON document, keys in a fixed order."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value, order="sorted")).decode())


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and what they are, one a line."""
    rows = list(facts)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")


# --- runs --------------------------------------------------------------------------------------------------


def print_run(run: Run, title: str, *, as_json: bool) -> None:
    """The figures of one run."""
    if as_json:
        print_json(run_as_json(run))
        return
    print(title)
    print_facts(_facts(run))
    latencies = table("latency (ms)", "mean", "p50", "p90", "p95", "p99", "max")
    for name, label in LATENCIES.items():
        distribution: Distribution = getattr(run.summary, name)
        if distribution.mean is not None and not (name == "ttft_s" and distribution == run.summary.e2e_s):
            fields = distribution.__struct_fields__
            latencies.add_row(label, *(f"{1000 * getattr(distribution, field):.1f}" for field in fields))
    if latencies.row_count:
        print()
        stdout().print(latencies)
    if len(run.pools) > 1:
        _print_pools(run)
    _print_done(run)
    if run.summary.wasted_s is not None and len(run.attempts):
        _print_attempts(run)
    _print_reasons(reasons_of(run))


def _print_pools(run: Run) -> None:
    from experiments.serving import pools_of

    headings, names, rows = pools_of(run)
    pools = table(*headings, left=names)
    for row in rows[:MOST_POOLS]:
        pools.add_row(*row)
    print()
    stdout(WIDE).print(pools)
    if len(rows) > MOST_POOLS:
        print(f"and {len(rows) - MOST_POOLS:,} more, which --json has")


def _print_done(run: Run) -> None:
    """What operators did to the fleet, and what rollouts decided where there are several pools."""
    from experiments.serving import operations_of, stages_of

    done: tuple[tuple[str, Sequence[tuple[float, str, str, str | None]]], ...] = (
        ("operations", operations_of(run)),
        ("rollouts", stages_of(run) if len(run.pools) > 1 else []),
    )
    for heading, rows in done:
        if rows:
            print(f"\n{heading}")
        for time_s, subject, what, reason in rows[:MOST_STAGES]:
            why = f" ({one_line(reason)})" if reason else ""
            print(f"{time_s:>10,.1f} s  {subject}: {one_line(what)}{why}")
        if len(rows) > MOST_STAGES:
            print(f"and {len(rows) - MOST_STAGES:,} more, which --json has")


def _print_attempts(run: Run) -> None:
    from experiments.serving import attempts_of

    headings, names, rows = attempts_of(run)
    attempts = table(*headings, left=names)
    for row in rows:
        attempts.add_row(*row)
    print()
    stdout().print(attempts)


def _print_reasons(reasons: list[Reason]) -> None:
    if not reasons:
        return
    print("\nnot completed")
    for reason in reasons[:MOST_REASONS]:
        print(f"{reason.requests:>8,}  {reason.outcome:<9}  {one_line(reason.why)}")
    more = reasons[MOST_REASONS:]
    if more:
        print(f"{sum(reason.requests for reason in more):>8,}  for {len(more):,} other reasons")


class Reason(NamedTuple):
    """Why so many requests did not complete."""

    outcome: str
    why: str
    """The detail of the first of them; the others' differ from it in names and numbers at most."""
    requests: int


def reasons_of(run: Run) -> list[Reason]:
    """Who or what ended the requests that did not complete, the most frequent first."""
    outcomes, details = run.records["outcome"].to_pylist(), run.records["detail"].to_pylist()
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for outcome, detail in zip(outcomes, details, strict=True):
        if outcome is None or outcome == "completed":
            continue
        kind = (outcome, _VARIES.sub("", detail or ""))
        counts[kind] += 1
        first.setdefault(kind, detail or "no reason was given")
    return [Reason(kind[0], first[kind], requests) for kind, requests in counts.most_common()]


_VARIES = re.compile(r"'[^']*'|[\d.,]*\d")


def status_of(run: Run) -> int:
    """0, or 1 and a line that says so when most of what ended was not served.

    What was refused or shed is what the policies decided; to complete nothing at all is a failure all the same.
    """
    s = run.summary
    ended = s.submitted - s.in_flight
    unserved = s.failed + s.expired + s.cancelled
    if not ended or (s.completed and 2 * unserved <= ended):
        return 0
    others = {
        "failed": s.failed,
        "expired": s.expired,
        "cancelled": s.cancelled,
        "rejected": s.rejected,
        "shed": s.shed,
    }
    parts = ", ".join(f"{n:,} {name}" for name, n in others.items() if n)
    note(f"fleet: most requests were not served: {parts}, of {ended:,}")
    return 1


def run_as_json(run: Run) -> dict[str, Any]:  # Any: JSON values
    """The summary of a run, and what identifies it."""
    manifest = run.manifest
    return {
        "runtime": manifest.runtime,
        "seed": manifest.seed,
        "trace": {"sha256": manifest.trace["sha256"], "requests": manifest.trace["requests"]},
        "summary": run.summary,
        "counters": manifest.counters,
        "reasons": [reason._asdict() for reason in reasons_of(run)],
        "digest": run.digest,
        **_pools_as_json(run),
    }


def _pools_as_json(run: Run) -> dict[str, Any]:  # Any: JSON values
    """Of a run of several pools: each of them, the figures of its requests, and what rollouts decided.

    Of any run what operators did, where they did something.
    """
    from experiments.serving import operations_of, stages_of

    operations = [done._asdict() for done in operations_of(run)]
    done = {"operations": operations} if operations else {}
    if len(run.pools) < 2:
        return done
    return {
        **done,
        "pools": run.pools.to_pylist(),
        "by_pool": run.by("pool").to_pylist(),
        "rollouts": [stage._asdict() for stage in stages_of(run)],
    }


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    s = run.summary
    others = {
        name: getattr(s, name) for name in ("rejected", "shed", "expired", "failed", "cancelled", "in_flight")
    }
    yield "requests", f"{s.submitted:,} submitted, {counted({'completed': s.completed} | others)}"
    yield "duration", f"{s.duration_s:,.2f} s"
    yield "throughput", f"{s.throughput_per_s:,.1f} a second completed"
    if s.slo_attainment is not None:
        yield "objectives", f"{s.slo_attainment:.1%} met, goodput {s.goodput_per_s:,.1f} a second"
    if s.output_tokens_per_s is not None:
        yield "tokens", _tokens(run)
    if run.replicas.num_rows:  # a client's own run has none
        yield "replicas", _replicas(run)
    if s.batch_size_mean is not None and s.attempts_mean is not None:
        attempts = f"{s.attempts_mean:.3f} attempts a request"
        # A sequence has no one batch, so there is none to describe.
        batches = "" if s.output_tokens_per_s is not None else f"{s.batch_size_mean:.2f} requests a batch, "
        yield "work", f"{batches}{attempts}"
    yield from _facts_of_pools(run)
    if run.manifest.faults is not None:
        yield "faults", faults_in([run])
    if run.manifest.counters:
        yield "counters", counted(run.manifest.counters, all_of_them=True)
    yield "digest", run.digest[:16]


def _facts_of_pools(run: Run) -> Iterator[tuple[str, str]]:
    """What only fleets with attempts beside each other, a quality or prices have to say."""
    s = run.summary
    if s.wasted_s is not None:
        from experiments.serving import attempts_in_short

        yield "attempts", attempts_in_short(run)
    if s.quality_mean is not None:
        yield "quality", f"{s.quality_mean:.4f} on average, of completed requests"
    if run.pools["cost"].null_count < len(run.pools):
        yield "cost", _cost(run)


def _cost(run: Run) -> str:
    """`600: 203.5 per 1,000 requests`: the whole, and over what completed."""
    from experiments.text import plain_number

    s = run.summary
    if s.cost is None:
        pools = run.pools.to_pylist()
        unpriced = [pool["pool"] for pool in pools if pool["cost"] is None and pool["gpu_seconds"] > 0.0]
        return f"unknown: no cost_per_hour is given of {', '.join(dict.fromkeys(unpriced))}"
    parts = []
    if s.cost_per_request is not None:
        parts.append(f"{plain_number(1000.0 * s.cost_per_request)} per 1,000 requests")
    if s.cost_per_1k_tokens is not None:
        parts.append(f"{plain_number(s.cost_per_1k_tokens)} per 1,000 output tokens")
    if idle := run.unattributed_cost:
        parts.append(f"{plain_number(idle)} of it for pools in which nothing ran")
    return ": ".join(part for part in (plain_number(s.cost), ", ".join(parts)) if part)


def _tokens(run: Run) -> str:
    s = run.summary
    parts = [f"{s.output_tokens_per_s or 0.0:,.1f} output tokens a second"]
    if s.cached_fraction is not None:
        parts.append(f"{s.cached_fraction:.1%} of prompt tokens found cached")
    return ", ".join([*parts, f"{s.preemptions:,} preemption{'' if s.preemptions == 1 else 's'}"])


def _replicas(run: Run) -> str:
    s = run.summary
    low, high = s.replicas.min, s.replicas.max
    busy = "" if s.utilization is None else f", {s.utilization:.1%} busy while ready"
    held = "" if s.gpu_seconds is None else f", {s.gpu_seconds:,.1f} device seconds"
    return f"{low if low == high else f'{low} to {high}'} ready{busy}{held}"


def faults_in(runs: Sequence[Run]) -> str:
    """`583 faults: 580 struck, 3 found nobody there`, over all runs; those that their ends left out too."""
    total = sum(len((run.manifest.faults or {}).get("faults", ())) for run in runs)
    struck = sum(run.manifest.counters.get("faults", 0) for run in runs)
    nobody = sum(run.manifest.counters.get("faults_without_victim", 0) for run in runs)
    late = total - struck - nobody
    after = (
        f", {late:,} came after the end of {'the run' if len(runs) == 1 else 'their runs'}" if late else ""
    )
    return (
        f"{total:,} fault{'' if total == 1 else 's'}: {struck:,} struck, {nobody:,} found nobody there{after}"
    )


def counted(counts: Mapping[str, int], *, all_of_them: bool = False) -> str:
    """`6,605 completed, 1 failed`: what is not 0 (and always the first)."""
    shown = [(name, n) for number, (name, n) in enumerate(counts.items()) if n or number == 0 or all_of_them]
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in shown)


# --- progress ----------------------------------------------------------------------------------------------


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where a person watches, and nothing elsewhere; call it with how much is done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def note(text: str) -> None:
    """A line for the person at the terminal, beside the results."""
    print(text, file=sys.stderr, flush=True)


def log_to_stderr(*, everything: bool) -> None:
    """Errors of a live fleet (with `everything`, its comings and goings too) go to stderr, one a line."""
    import logging

    logging.basicConfig(format="fleet: %(message)s", level=logging.INFO if everything else logging.ERROR)
