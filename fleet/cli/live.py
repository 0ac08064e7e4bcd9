"""`fleet serve`, `join`, `drive` and `keys`: a fleet across hosts."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path

from fleet.cli import inputs, output


def serve(arguments: Namespace) -> int:
    """A head, until it is stopped; then what it did, by its own books."""
    import msgspec

    from fleet import serve as serve_it

    output.log_to_stderr(everything=True)
    spec, out = inputs.spec_of(arguments.spec, arguments.changes), inputs.writable(arguments.out)
    inputs.say_odd(spec)
    report = serve_it(
        spec, arguments.bind, seed=arguments.seed, local_replicas=arguments.local_replicas, keys=arguments.keys,
        allow=arguments.allow, insecure=arguments.insecure, for_s=arguments.for_s,
        allow_modules=arguments.allow_module,
        on_ready=lambda endpoint: output.note(_invitation(endpoint, arguments)),
    )  # fmt: skip
    if out is not None:
        (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if arguments.json:
        output.print_json(report)
        return 0
    outcomes = output.counted(report.outcomes, all_of_them=True) or "none ended"
    counters = {name: count for name, count in report.counters.items() if count}
    output.print_facts(
        [
            ("served", f"{report.served_s:,.1f} s"),
            ("requests", f"{report.submitted:,} submitted, {outcomes}"),
            ("counters", output.counted(counters, all_of_them=True) or "none"),
        ]
    )
    return 0


def _invitation(endpoint: str, arguments: Namespace) -> str:
    """What to type elsewhere."""
    secured = ""
    if arguments.keys is not None:
        from fleet.runtime.security import read_keys

        secured = f" --keys FILE --server-key {shlex.quote(read_keys(arguments.keys).public)}"
    elif arguments.insecure:
        secured = " --insecure"
    return (
        f"fleet: listening at {endpoint}; Ctrl-C ends it\n"
        f"fleet: bring replicas with   fleet join {endpoint}{secured}\n"
        f"fleet: bring requests with   fleet drive TRACE {endpoint}{secured}"
    )


def join(arguments: Namespace) -> int:
    """Replica processes of this host, until the head ends or Ctrl-C."""
    from fleet import join as join_it

    output.log_to_stderr(everything=True)
    return join_it(
        arguments.head, replicas=arguments.replicas, name=arguments.name, keys=arguments.keys,
        server_key=arguments.server_key, insecure=arguments.insecure, rejoin_s=arguments.rejoin_s,
        allow_modules=arguments.allow_module,
    )  # fmt: skip


def drive(arguments: Namespace) -> int:
    """A client that plays a trace. Fails when its head is lost, or most of what it sent was not served."""
    from fleet import drive as drive_it

    output.log_to_stderr(everything=arguments.debug)
    trace, out = inputs.trace_of(arguments), inputs.writable(arguments.out)
    spec = None if arguments.spec is None else inputs.spec_of(arguments.spec, arguments.changes)
    with output.progress("driving", len(trace)) as advance:
        run = drive_it(
            trace, arguments.head, spec=spec, speed=arguments.speed, sessions=arguments.sessions is not None,
            stream=arguments.stream, keys=arguments.keys, server_key=arguments.server_key,
            insecure=arguments.insecure, on_progress=advance,
        )  # fmt: skip
    output.print_run(run, f"{Path(arguments.trace).name} at {arguments.head}, live", as_json=arguments.json)
    if out is not None:
        output.note(f"saved in {run.save(out)}")
    return output.status_of(run) or int(run.manifest.counters.get("head_lost", 0) > 0)


def keys(arguments: Namespace) -> int:
    """A new key pair in a file; the public half on stdout."""
    from fleet.runtime.security import generate_keys, write_keys

    pair = generate_keys()
    write_keys(pair, arguments.file)
    print(pair.public)
    return 0
