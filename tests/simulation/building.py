"""What the simulation tests build with: small traces, specs, and policies that do one thing."""

from collections.abc import Sequence

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from fleet.actor import Actor
from fleet.messages import Message, Reply, Tick
from fleet.runs.simulate import Simulation
from fleet.telemetry.run import Run
from policies import NoBatching
from traces import Fault, FaultTrace, Request, Trace, TraceEntry


def engine(per_item_s=1.0, base_s=0.0, **changes):
    return EmulatedEngine(latency=AffineLatency(base_s=base_s, per_item_s=per_item_s), **changes)


def fleet(per_item_s=1.0, **changes) -> FleetSpec:
    """Replicas that take one request at a time, `per_item_s` seconds each, unless told otherwise."""
    return FleetSpec(
        **{
            "engine": engine(per_item_s),
            "batching": NoBatching(),
            "max_inflight_batches": 1,
            **changes,
        }
    )


def entry(id, arrived_s=0.0, *, output_tokens=None, think_s=None, **request) -> TraceEntry:
    return TraceEntry(Request(id, arrived_s, **request), output_tokens, think_s=think_s)


def trace_of(*entries: TraceEntry) -> Trace:
    return Trace.from_entries(entries)


def arrivals(*times_s: float, **request) -> Trace:
    """One request `r0`, `r1`, … at each of these times."""
    return trace_of(*(entry(f"r{number}", at_s, **request) for number, at_s in enumerate(times_s)))


def faults(*given: Fault) -> FaultTrace:
    return FaultTrace(faults=given)


def simulation(trace: Trace, spec: FleetSpec, **options) -> Simulation:
    """A simulation whose every event is followed by the full check."""
    made = Simulation(trace, spec, **options)
    made.runtime.after_each = made.checker.check_all
    return made


def play(trace: Trace, spec: FleetSpec, *, until_s=None, **options) -> Run:
    """`simulate`, with the full check after every event."""
    return simulation(trace, spec, **options).run(until_s)


def column(run: Run, name: str) -> dict[str, object]:
    """One column of the records by request id."""
    return dict(zip(run.records["id"].to_pylist(), run.records[name].to_pylist(), strict=True))


def decisions(run: Run, slot: str, decision: str | None = None) -> list[dict]:
    rows = run.decisions.to_pylist()
    return [row for row in rows if row["slot"] == slot and decision in (None, row["decision"])]


def states(run: Run, replica: str) -> list[tuple[float, str]]:
    """When a replica entered which state."""
    return [(row["time_s"], row["state"]) for row in run.replicas.to_pylist() if row["replica"] == replica]


def sizes(run: Run) -> Sequence[int]:
    return run.dispatches["size"].to_pylist()


class Script(Actor):
    """A client that says given things at given times, and keeps the replies to it."""

    def __init__(self, *lines: tuple[float, str, Message]) -> None:
        self.lines = lines
        self.replies: list[tuple[float, Reply]] = []

    def start(self, ctx) -> None:
        super().start(ctx)
        for number, (at_s, _, _) in enumerate(self.lines):
            ctx.after(at_s, Tick("say", number=number))

    def handlers(self):
        return {Tick: self.on_tick, Reply: self.on_reply}

    def on_tick(self, message: Tick) -> None:
        _, to, said = self.lines[message.number]
        self.ctx.send(to, said)

    def on_reply(self, message: Reply) -> None:
        self.replies.append((self.ctx.now, message))


def play_with(script: Script, trace: Trace, spec: FleetSpec, *, until_s=None, **options) -> Run:
    """`play`, with a second client beside the trace's."""
    made = simulation(trace, spec, **options)
    made.runtime.after_each = (
        None  # the second client's requests are in the router's books, not in the first's
    )
    made.runtime.add("client/script", script)
    return made.run(until_s)
