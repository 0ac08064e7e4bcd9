"""`fleet traces`: describe, convert and make traces."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.cli import inputs, output
from fleet.cli.laws import LAWS
from fleet.cli.values import UsageError

if TYPE_CHECKING:
    from traces import Header, Lengths, ReadReport, Trace, WriteReport
    from traces.statistics import Quantiles


MOST_REQUESTS = 1_000_000_000
"""That `--upsample` may make: no memory holds more."""


def list_bundled(arguments: Namespace) -> int:
    """The traces that come with fleetlab."""
    from traces import load_trace
    from traces.data import bundled_names

    bundled = {name: load_trace(name) for name in bundled_names()}
    if arguments.json:
        output.print_json({name: _identity(trace) for name, trace in bundled.items()})
        return 0
    table = output.table("name", "requests", "duration (s)", "a second", "sha256")
    for name, trace in bundled.items():
        table.add_row(
            name,
            f"{len(trace):,}",
            f"{trace.duration_s:,.1f}",
            f"{trace.rate_per_s or 0.0:,.1f}",
            trace.sha256[:16],
        )
    output.stdout().print(table)
    return 0


def _identity(trace: Trace) -> dict[str, Any]:  # Any: JSON values
    return {
        "requests": len(trace),
        "duration_s": trace.duration_s,
        "sha256": trace.sha256,
        "header": trace.header,
    }


def stats(arguments: Namespace) -> int:
    """What a trace is like, and what became of the file's rows."""
    from traces import describe

    trace = inputs.trace_of(arguments)
    described = describe(trace)
    if arguments.json:
        output.print_json({**_identity(trace), "statistics": described, "report": trace.report})
        return 0
    header = trace.header
    facts = [
        ("source", f"{header.source} ({header.provenance}, licence {header.licence or 'not given'})"),
        *_account(trace.report),
        *_steps(header),
        ("sha256", trace.sha256),
        ("requests", f"{described.requests:,} in {described.duration_s:,.3f} s, {_rate(trace)}"),
        ("busiest", f"{described.peak_per_s:,} in one second"),
    ]
    if header.offset_s:
        facts.append(("offset", f"time 0 is {header.offset_s:,.3f} s on the clock of the recording"))
    if described.failed:
        share = described.failed / described.requests
        facts.append(("failed", f"{described.failed:,} of these requests when recorded ({share:.1%})"))
    if described.gap_mean_s is not None:
        cv = "" if described.gap_cv is None else f", cv {described.gap_cv:.2f} (Poisson: 1)"
        facts.append(("gaps", f"mean {1000 * described.gap_mean_s:,.3f} ms{cv}"))
    if described.tick_s is not None:
        facts.append(
            ("clock", f"ticks every {described.tick_s:g} s: {described.distinct_times:,} distinct times")
        )
    for name in ("prompt_tokens", "output_tokens"):
        facts += _lengths(name, getattr(described, name))
    if described.sessions:
        facts.append(("sessions", f"{described.sessions:,}"))
    if described.prefix_hit_share is not None:
        facts.append(
            ("prefixes", f"{described.blocks:,} blocks, {described.prefix_hit_share:.1%} seen before")
        )
    output.print_facts(facts)
    return 0


def _steps(header: Header) -> list[tuple[str, str]]:
    """What was done to the recording, in order."""
    steps = []
    for step in header.transforms:
        seed = {} if step.seed is None else {"seed": step.seed}
        steps.append(f"{step.name}({', '.join(f'{k}={v}' for k, v in (step.parameters | seed).items())})")
    return [("steps", ", ".join(steps))] if steps else []


def _rate(trace: Trace) -> str:
    if trace.rate_per_s is None:
        return "all at one instant: no rate"
    late = f" from the first, at {trace.start_s:,.3f} s, on" if trace.start_s else ""
    return f"{trace.rate_per_s:,.2f} a second{late}"


def _account(report: ReadReport) -> list[tuple[str, str]]:
    """How the file was read, and what became of its rows and fields."""
    dropped = "".join(f", {count:,} dropped ({reason})" for reason, count in report.dropped.items())
    facts = [
        ("format", f"{report.format}: {report.rows_in:,} rows, {report.rows_kept:,} kept{dropped}"),
        ("order", f"{report.reordered:,} rows stood after a later one, and were sorted in"),
    ]
    units = [f"times in {report.time_unit}"] if report.time_unit else []
    if report.block_tokens:
        units.append(f"prefix blocks of {report.block_tokens:,} tokens")
    if units:
        facts.append(("read as", ", ".join(units)))
    for name, fields in (("odd", report.odd), ("in extra", report.in_extra), ("not kept", report.not_kept)):
        if fields:
            facts.append((name, ", ".join(f"{field} ({rows:,} rows)" for field, rows in fields.items())))
    return facts


def _lengths(name: str, quantiles: Quantiles | None) -> list[tuple[str, str]]:
    if quantiles is None:
        return []
    shown = (f"{field} {getattr(quantiles, field):,.0f}" for field in quantiles.__struct_fields__)
    return [(name.replace("_", " "), ", ".join(shown))]


def convert(arguments: Namespace) -> int:
    """Read, transform, write, and say what was lost on the way in and on the way out."""
    from traces import save_trace

    if arguments.to is None:
        _demand_suffix(arguments.target, "; --to names a layout of others")
    _demand_folder(arguments.target)
    trace = inputs.trace_of(arguments)
    if arguments.from_s:
        trace = trace.slice(arguments.from_s, max(arguments.from_s, trace.duration_s + 1.0))
    if arguments.scale_time is not None:
        trace = trace.scale_time(arguments.scale_time)
    if arguments.upsample is not None:
        if len(trace) * arguments.upsample > MOST_REQUESTS:
            raise UsageError(
                f"--upsample {arguments.upsample:g} would make {len(trace) * arguments.upsample:.3g} requests; "
                f"{MOST_REQUESTS:,} are the most"
            )
        trace = trace.upsample(arguments.upsample, seed=arguments.trace_seed)
    written = save_trace(inputs.plausible(trace, arguments.trace), arguments.target, format=arguments.to)
    report = trace.report
    for reason, count in report.dropped.items():
        output.note(f"dropped {count:,} rows: {reason}")
    for what, count in report.odd.items():
        output.note(f"odd, and kept: {what}, which {count:,} rows have")
    for field, count in report.not_kept.items():
        output.note(f"not kept: {field}, which {count:,} rows have")
    _say_lost(written, arguments.target)
    started = (
        written.header_kept or trace.start_s == 0.0
    )  # readers of other layouts begin with the first arrival
    whole = started and not written.not_kept and not written.changed
    known = f", sha256 {trace.sha256}" if whole else ""  # else what is read back has another
    print(f"{arguments.target}: {len(trace):,} requests in {trace.duration_s:,.1f} s{known}")
    return 0


def _say_lost(written: WriteReport, target: Path) -> None:
    """What the file does not have of the trace, by name."""
    for column, rows in written.not_kept.items():
        output.note(f"{target}: {written.format} has no place for {column}, which {rows:,} rows have")
    for what, rows in written.changed.items():
        output.note(f"{target}: {what}, in {rows:,} rows")
    if not written.header_kept:
        output.note(f"{target}: {written.format} says nothing of source, licence, citation and transforms")


def synthesize(arguments: Namespace) -> int:
    """A law, its parameters and a seed."""
    import traces

    _demand_suffix(arguments.target)
    _demand_folder(arguments.target)
    parameters = {
        name: getattr(arguments, name) for name in LAWS[arguments.law][1] if hasattr(arguments, name)
    }
    if len(parameters.get("mean_sojourn_s", ())) == 1:
        (parameters["mean_sojourn_s"],) = parameters["mean_sojourn_s"]
    for name in ("prompt_tokens", "output_tokens"):
        parameters[name] = lengths_of(getattr(arguments, name), name)
    trace: Trace = getattr(traces, arguments.law)(**parameters, seed=arguments.seed)
    traces.save_trace(inputs.plausible(trace, arguments.law), arguments.target)
    print(f"{arguments.target}: {len(trace):,} requests in {trace.duration_s:,.1f} s, sha256 {trace.sha256}")
    return 0


def lengths_of(text: str | None, name: str) -> Lengths | int | None:
    """`128`, `uniform:8,128` or `lognormal:512,1.2` as a law of token counts."""
    from traces import Lengths

    if text is None:
        return None
    law, _, numbers = text.partition(":")
    try:
        if not numbers:
            return int(law)
        first, second = (float(part) for part in numbers.split(","))
        if law == "uniform":
            return Lengths.uniform(int(first), int(second))
        if law == "lognormal":
            return Lengths.lognormal(first, second)
    except ValueError as error:
        if type(error) is not ValueError:  # a TraceError says it better
            raise
    flag = f"--{name.replace('_', '-')}"
    raise UsageError(f"{flag} takes 128, uniform:LOW,HIGH or lognormal:MEAN,CV; got {text!r}")


def _demand_suffix(path: Path, otherwise: str = "") -> None:
    """Refuse a name that says no format before any work is done."""
    if not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise UsageError(f"{path}: the suffix names the format: .jsonl, .jsonl.gz or .parquet{otherwise}")


def _demand_folder(path: Path) -> None:
    """Refuse a place that is not there before any work is done."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
