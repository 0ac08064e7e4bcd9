"""`fleet simulate` and `fleet replay`: one trace, one fleet, one run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fleet.cli import inputs, output


def simulate(arguments: Namespace) -> int:
    """In virtual time."""
    from fleet import simulate as run_it

    trace, spec = inputs.trace_of(arguments), inputs.spec_of(arguments.spec, arguments.changes)
    inputs.say_odd(spec)
    faults = inputs.faults_of(arguments, ends_s=trace.duration_s, replicas=spec.all_replicas)
    operations = inputs.operations_of(arguments, ends_s=trace.duration_s)
    out = inputs.folder_for_run(arguments)
    with output.progress("simulating", len(trace)) as advance:
        run = run_it(
            trace, spec, seed=arguments.seed, faults=faults, operations=operations,
            sessions=arguments.sessions is not None, stream=arguments.stream, check=not arguments.no_check,
            until_s=arguments.until_s, log_views=arguments.log_views, on_progress=advance,
        )  # fmt: skip
    output.print_run(run, _title(arguments, "simulated"), as_json=arguments.json)
    if out is not None:
        output.note(f"saved in {run.save(out, with_trace=arguments.with_trace)}")
    return output.status_of(run)


def replay(arguments: Namespace) -> int:
    """In real time, through real processes."""
    from fleet import replay as run_it

    output.log_to_stderr(everything=arguments.debug)
    trace, spec = inputs.trace_of(arguments), inputs.spec_of(arguments.spec, arguments.changes)
    inputs.say_odd(spec)
    ends_s = trace.duration_s / arguments.speed
    faults = inputs.faults_of(arguments, ends_s=ends_s, replicas=spec.all_replicas)
    operations = inputs.operations_of(arguments, ends_s=ends_s)
    out = inputs.folder_for_run(arguments)
    label = f"replaying {ends_s:,.0f} s on {spec.all_replicas} processes"
    with output.progress(label, len(trace)) as advance:
        run = run_it(
            trace, spec, speed=arguments.speed, seed=arguments.seed, faults=faults, operations=operations,
            sessions=arguments.sessions is not None, stream=arguments.stream, log_views=arguments.log_views,
            on_progress=advance,
        )  # fmt: skip
    output.print_run(run, _title(arguments, "live"), as_json=arguments.json)
    if out is not None:
        output.note(f"saved in {run.save(out, with_trace=arguments.with_trace)}")
    return output.status_of(run)


def _title(arguments: Namespace, how: str) -> str:
    return f"{Path(arguments.trace).name} on {arguments.spec.name}, {how}, seed {arguments.seed}"
