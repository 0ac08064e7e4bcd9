"""What the tests of token-level serving build with: small language-model fleets, and a client that reads streams.

Unless told otherwise a step takes 0.1 s, 0.01 s more for each prompt token in it and 0.02 s for each decode, and the
cache has room for more than any test asks.
"""

from itertools import chain

from fleet import FleetSpec
from fleet.actor import Actor
from fleet.actors.token_replica import TokenReplica
from fleet.engines import EmulatedLlmEngine, KvSpec
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.messages import Message, Reply, Streamed, Submit, Tick
from fleet.runs.simulate import Simulation
from tests.simulation.building import entry, simulation, trace_of

STEP_S, PROMPT_S, DECODE_S = 0.1, 0.01, 0.02
LATENCY = AffineSteps(base_s=STEP_S, per_prefill_token_s=PROMPT_S, per_decode_s=DECODE_S)
ONE_S = AffineSteps(base_s=1.0)
"""A step takes a second, whatever is in it."""
AFTER_S = 10.0
MOST_WAITS = 60
"""Times `AFTER_S`: long enough for a replica to end whatever nobody waits for any more."""


def llm(latency=LATENCY, *, blocks=1_000, block_tokens=4, cls=EmulatedLlmEngine, kv=None, **changes):
    """An engine with so many blocks of 4 tokens. A step is planned when the one before it has ended, unless told."""
    changes = {"async_scheduling": False, **changes}
    return cls(latency=latency, kv=KvSpec(blocks=blocks, block_tokens=block_tokens, **(kv or {})), **changes)


def serving(latency=LATENCY, *, blocks=1_000, kv=None, cls=EmulatedLlmEngine, **changes) -> FleetSpec:
    """One replica that serves token by token, unless told otherwise."""
    return FleetSpec(**{"engine": llm(latency, blocks=blocks, kv=kv, cls=cls), **changes})


def asks(id, arrived_s=0.0, prompt_tokens=4, output_tokens=4, **request):
    """A request whose prompt is `prompt_tokens` long and whose answer has `output_tokens`."""
    return entry(id, arrived_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens, **request)


def replicas(made: Simulation) -> dict[str, TokenReplica]:
    """Those that are there now, by address."""
    contexts = made.runtime.contexts.items()
    return {
        address: context.actor for address, context in contexts if isinstance(context.actor, TokenReplica)
    }


def demand_all_given_back(made: Simulation) -> None:
    """Let the replicas end what nobody waits for any more: then no block is held on any of them."""
    runtime = made.runtime
    runtime.stopped = False
    for _ in range(MOST_WAITS):
        runtime.run(until_s=runtime.now + AFTER_S)
        here = [one for one in replicas(made).values() if one.scheduler is not None]
        if not any(one.holds() for one in here):
            break
    for replica in here:
        replica.scheduler.check()
        assert not replica.holds(), replica.ctx.address
        assert all(one.batch < 0 for one in replica.scheduler.by_id.values()), "those left are deep probes"
        cache = replica.scheduler.cache
        if not replica.scheduler.by_id and replica.scheduler.work is None:
            assert (cache.used_blocks, cache.host_used_blocks) == (0, 0), replica.ctx.address


def play_out(trace, spec, *, until_s=None, **options):
    """`play`, and then see that every block was given back."""
    made = simulation(trace, spec, **options)
    run = made.run(until_s)
    demand_all_given_back(made)
    return run


class Reader(Actor):
    """A client that says given things at given times, and keeps every token and every reply that it gets."""

    def __init__(self, *lines: tuple[float, Message]) -> None:
        self.lines = lines
        self.streamed: dict[str, list[tuple[float, Streamed]]] = {}
        self.replies: dict[str, list[Reply]] = {}

    def start(self, ctx) -> None:
        super().start(ctx)
        for number, (at_s, _) in enumerate(self.lines):
            ctx.after(at_s, Tick("say", number=number))

    def handlers(self):
        return {Tick: self.on_tick, Streamed: self.on_streamed, Reply: self.on_reply}

    def on_tick(self, message: Tick) -> None:
        self.ctx.send("router", self.lines[message.number][1])

    def on_streamed(self, message: Streamed) -> None:
        self.streamed.setdefault(message.request_id, []).append((self.ctx.now, message))

    def on_reply(self, message: Reply) -> None:
        self.replies.setdefault(message.request_id, []).append(message)

    def tokens(self, id: str) -> list[int]:
        """All tokens of one answer in the order they came."""
        return list(chain.from_iterable(message.ids for _, message in self.streamed.get(id, [])))

    def starts(self, id: str) -> list[int]:
        return [message.start for _, message in self.streamed.get(id, [])]

    def reply(self, id: str) -> Reply:
        """The one reply; more than one is an error."""
        (reply,) = self.replies[id]
        return reply


def submit(id, prompt_tokens=4, output_tokens=4, arrived_s=0.0, **request) -> Submit:
    """A request whose answer is streamed to the reader."""
    asked = entry(id, arrived_s, prompt_tokens=prompt_tokens, **request).request
    return Submit(asked, "client/reader", output_tokens, stream=True)


def read(reader: Reader, spec: FleetSpec, *, until_s: float = 60.0, **options) -> Simulation:
    """Serve the reader alone for so long, every event followed by the full check."""
    made = simulation(trace_of(), spec, **options)
    made.runtime.stopped = False  # the trace, which is empty, is done at once
    made.runtime.add("client/reader", reader)
    made.runtime.run(waiting=made.head.router.waiting, until_s=until_s)
    return made
