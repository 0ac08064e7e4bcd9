"""From arguments to values: traces, fleets, fault traces, and changes to a fleet such as ``routing=round-robin``."""

from __future__ import annotations

import tomllib
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.cli import output
from fleet.cli.values import UsageError

if TYPE_CHECKING:
    from fleet import FleetSpec, Run
    from traces import FaultTrace, OperationsTrace, Trace

Table = dict[str, Any]  # Any: whatever TOML holds
LONGEST_S = 1e9
"""Of a trace: beyond it is a mistake in its unit, and a run that would never end."""


def trace_of(arguments: Namespace) -> Trace:
    """The trace that was named, as asked: its clock, then which requests, who follows whom, the rate, the lengths."""
    from traces import load_trace

    trace = load_trace(
        arguments.trace,
        on_bad=getattr(arguments, "on_bad", "raise"),
        failed=arguments.failed,
        time_unit=arguments.time_unit,
        block_tokens=arguments.block_tokens,
        arrivals=arguments.arrivals,
        chars_per_token=arguments.chars_per_token,
        seed=arguments.trace_seed,
        columns=arguments.columns,
        format=arguments.format,
    )
    if arguments.failed is None:
        _say_failed(trace, arguments.trace)
    if arguments.dequantise is not None:
        trace = trace.dequantise(tick_s=arguments.dequantise, seed=arguments.trace_seed)
    if arguments.first_s is not None or arguments.first is not None:
        if arguments.first_s is not None and trace.start_s >= arguments.first_s:
            begins = f"the first comes at {trace.start_s:,.6g} s"
            raise UsageError(
                f"{arguments.trace}: no requests are left before {arguments.first_s:g} s: {begins}"
            )
        trace = trace.first(seconds=arguments.first_s, requests=arguments.first)
    if getattr(arguments, "sessions", None) is not None:
        trace = _linked(trace, arguments.trace, infer=arguments.sessions == "inferred")
    if arguments.scale_rate is not None:
        trace = trace.scale_rate(arguments.scale_rate)
    lengths = {
        "max_prompt_tokens": arguments.max_prompt_tokens,
        "max_output_tokens": arguments.max_output_tokens,
        "output_factor": arguments.scale_outputs,
    }
    if arguments.scale_lengths is not None or any(lengths.values()):
        trace = trace.scale_lengths(arguments.scale_lengths or 1.0, **lengths)
    if arguments.with_work is not None:
        trace = trace.with_work(arguments.with_work)
    return plausible(_assigned(trace, arguments), arguments.trace)


def _assigned(trace: Trace, arguments: Namespace) -> Trace:
    laws, per, overwrite = _laws(arguments.assign), arguments.assign_per, arguments.assign_overwrite
    if laws:
        return trace.assign(seed=arguments.trace_seed, per=per, overwrite=overwrite, **laws)
    if per is not None or overwrite:
        flag = "--assign-overwrite" if overwrite else "--assign-per"
        raise UsageError(f"{flag} goes with --assign COLUMN=LAW")
    return trace


def _laws(texts: Iterable[str]) -> dict[str, Any]:  # Any: of `Trace.assign`, which has other arguments too
    """`COLUMN=LAW`, each column once."""
    laws: dict[str, Any] = {}
    for text in texts:
        column, equals, law = text.partition("=")
        if not equals or not law:
            raise UsageError(f"--assign takes COLUMN=LAW, such as tenant=zipf:20:1.1; got {text!r}")
        if column in ("seed", "per", "overwrite"):
            raise UsageError(f"--assign {column}: is no column of a trace")
        if column in laws:
            raise UsageError(f"--assign {column}: is given twice")
        laws[column] = law
    return laws


def _say_failed(trace: Trace, name: str) -> None:
    failed = trace.report.failed
    if failed:
        output.note(
            f"{name}: {failed:,} of {trace.report.rows_in:,} requests failed when they were recorded, and are kept as "
            "recorded; --failed drop leaves them out, --failed keep keeps them without this line"
        )


def _linked(trace: Trace, name: str, *, infer: bool) -> Trace:
    """Every turn of a session linked to the one before. A trace in which all are stays what it is."""
    linked = trace.sessions(infer=infer)
    if linked.column("parent").null_count == len(linked):
        output.note(f"{name}: no request follows another; each is sent at its time")
    return trace if linked.sha256 == trace.sha256 else linked


def plausible(trace: Trace, name: str) -> Trace:
    """`trace`, if there is anything in it and it ends within a lifetime."""
    if not len(trace):
        raise UsageError(f"{name}: no requests are left (the trace, or what was cut of it, is empty)")
    if trace.duration_s > LONGEST_S:
        raise UsageError(
            f"{name}: lasts {trace.duration_s:.3g} s, which is over 30 years; are its times in seconds?"
        )
    return trace


def faults_of(arguments: Namespace, *, ends_s: float, replicas: int) -> FaultTrace | None:
    """The fault trace that was named, if any; what is odd about it is said.

    `ends_s` is when the last request comes, `replicas` how many there are at first.
    """
    from traces import load_faults

    options = {
        name.removeprefix("faults_"): value
        for name, value in vars(arguments).items()
        if name.startswith("faults_")
    }
    if arguments.faults is None:
        if options:
            raise UsageError(f"--faults-{next(iter(options)).replace('_', '-')} goes with --faults FILE")
        return None
    faults = load_faults(arguments.faults, **options)
    for line in _odd(faults, ends_s, replicas):
        output.note(f"{arguments.faults}: {line}")
    return faults


def operations_of(arguments: Namespace, *, ends_s: float) -> OperationsTrace | None:
    """The operations trace that was named, if any; `ends_s` is when the last request comes."""
    from traces import load_operations

    if arguments.operations is None:
        return None
    operations = load_operations(arguments.operations)
    if not operations.operations:
        output.note(f"{arguments.operations}: holds no operation; each is an [[operations]] of its own")
    late = sum(operation.at_s > ends_s for operation in operations.operations)
    if late:
        output.note(
            f"{arguments.operations}: {late:,} of {len(operations.operations):,} operations come after the last "
            f"request ({ends_s:,.6g} s)"
        )
    return operations


def _odd(faults: FaultTrace, ends_s: float, replicas: int) -> Iterator[str]:
    """How it was laid on the fleet, and what looks like another clock or another fleet than was meant."""
    if " laid on " in faults.source:
        yield faults.source
    times = [fault.at_s for fault in faults.faults]
    if not times:
        yield "holds no fault, or none after --faults-start-s"
        return
    late = sum(at_s > ends_s for at_s in times)
    first = f"the first fault comes at {times[0]:,.6g} s, "
    hint = "--faults-start-s and --faults-time-scale bring them nearer"
    if late == len(times):
        yield f"{first}after the last request ({ends_s:,.6g} s); {hint}"
    elif late:
        yield f"{late:,} of {len(times):,} faults come after the last request ({ends_s:,.6g} s); {hint}"
    at_once = [fault for fault in faults.faults if fault.at_s == 0 and fault.kind in ("crash", "preempt")]
    unnamed = sum(fault.replica is None for fault in at_once)
    gone = unnamed + len({fault.replica for fault in at_once if fault.replica is not None})
    if gone >= replicas:
        yield f"takes away every replica there is at t = 0 ({gone} faults, {replicas} replicas)"
    if len(times) > 1 and all(fault.replica is None for fault in faults.faults):
        yield "names no places: each fault is of the replica that has been ready longest"


def say_odd(*specs: FleetSpec, names: Sequence[str] = ()) -> None:
    """What is odd in the fleets that are about to run, on stderr, each line once.

    `names` are those of several; what is odd in some of them only begins with theirs.
    """
    from fleet.outline import notes_of

    of: dict[str, list[int]] = {}
    for number, spec in enumerate(specs):
        for text in notes_of(spec):
            of.setdefault(text, []).append(number)
    for text, numbers in of.items():
        whose = "" if len(numbers) == len(specs) else f"{', '.join(names[number] for number in numbers)}: "
        output.note(f"note: {whose}{text}")


def spec_of(path: Path, changes: Iterable[str] = ()) -> FleetSpec:
    """The fleet in `path` with some `PATH=VALUE` changes. Errors name the file and the path within it."""
    from fleet.reading import read_table

    return built(read_table(path), changes, str(path))


def built(values: Table, changes: Iterable[str], source: str) -> FleetSpec:
    """A fleet from plain values that came from `source`, with some changes."""
    from fleet.spec import from_mapping
    from policies import PolicyError

    changes = list(changes)
    try:
        return from_mapping(changed(values, changes))
    except PolicyError as error:
        raise PolicyError(f"{source}: {error}{quoting_hint(str(error), changes)}") from None


def quoting_hint(error: str, changes: Iterable[str], inside: str = "$") -> str:
    """How to write the number that a change gave where text is wanted: a shell takes one pair of quotes away.

    `inside` is the path, in the error, of what was changed.
    """
    for path, value in map(split_change, changes):
        unquoted = path.removeprefix("$.").replace('"', "").replace("'", "")
        about = error.startswith(f"{inside}.{unquoted}: ") and ("`str" in error or " is text" in error)
        if about and isinstance(value_of(value), (int, float)):
            return f"; on the command line, '{path}=\"{value}\"'"
    return ""


# --- changes -----------------------------------------------------------------------------------------------


def changed(values: Table, changes: Iterable[str]) -> Table:
    """A copy of `values` with each `PATH=VALUE` applied, in order; `fleet.changes` says how."""
    from fleet.changes import changed as with_changes

    for change in changes:
        path, value = split_change(change)
        values = with_changes(values, {path: value_of(value)})
    return values


def split_change(change: str, who: str = "--set and --vary take") -> tuple[str, str]:
    """`PATH` and what follows the first `=`."""
    path, equals, value = change.partition("=")
    if not equals or not path.strip(". ") or not value:
        raise UsageError(f"{who} PATH=VALUE, such as routing=round-robin; got {change!r}")
    return path.strip(), value


def value_of(text: str) -> Any:  # Any: a TOML value
    """`text` as TOML writes a value; text that is none is a string (`round-robin` needs no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def alternatives(text: str) -> list[str]:
    """`A,B,C` taken apart at commas that are in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def run_of(folder: Path) -> Run:
    """The run that was saved in `folder`. Errors name the file that is missing or damaged."""
    from fleet import load_run

    try:
        return load_run(folder)
    except ValueError as error:
        raise UsageError(str(error)) from None


def folder_for_run(arguments: Namespace) -> Path | None:
    """Where the run is to be saved, if it is: `--out`, made now."""
    if arguments.with_trace and arguments.out is None:
        raise UsageError("--with-trace goes with --out DIR")
    return writable(arguments.out)


def writable(path: Path | None) -> Path | None:
    """`path`, made as a folder now: better to fail before a long run than after it."""
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {path}: {error.strerror}") from None
    return path
