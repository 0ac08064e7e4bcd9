"""Token-level serving in real processes: policies see the same, and streams survive what may happen to them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import anyio
import numpy as np
import pytest
import zmq

from fleet import EmulatedLlmEngine, FleetError, FleetSpec, Run, drive, load_run, replay, simulate
from fleet.actors.load_generator import LoadGenerator
from fleet.cli import main
from fleet.engines import KvSpec
from fleet.engines.latency.steps.affine import AffineSteps
from fleet.messages import Payload, Reply, Streamed, Submit, Tick, Usage
from fleet.runs.client import FleetClient
from fleet.runtime.wire import NODE, Batch, Codec, Hello
from fleet.telemetry.sink import Telemetry
from policies import ExponentialBackoff, NoRetry, RoundRobin
from tests.live.fleet_processes import CONTEXT, HeadProcess, end_all, joined
from tests.live.harness import children
from tests.live.recording import RecordingLru, RecordingTokenBudget, events
from tests.live.test_replay import Recording, books_balance, said
from tests.policies.listening import listening
from traces import Fault, FaultTrace, Request, Trace, TraceEntry, save_trace

RECORDING = ("tests.live.recording",)
pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


def engine(base_s: float = 0.005, blocks: int = 500) -> EmulatedLlmEngine:
    return EmulatedLlmEngine(latency=AffineSteps(base_s=base_s), kv=KvSpec(blocks=blocks, block_tokens=8))


TWO = FleetSpec(
    engine=engine(), replicas=2, routing=RoundRobin(), control_interval_s=0.1, report_interval_s=0.05
)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    resource_tracker.ensure_running()  # one of our own, that multiprocessing never ends
    before = children()
    yield
    assert children() <= before


def every(
    interval_s: float, requests: int, *, prompt_tokens: int = 20, output_tokens: int = 40, **fields: object
) -> Trace:
    return Trace.from_entries(
        TraceEntry(
            Request(f"r{number}", 0.2 + number * interval_s, prompt_tokens=prompt_tokens, **fields),
            output_tokens,
        )
        for number in range(requests)
    )


def generated(run: Run) -> list[int | None]:
    tokens: list[int | None] = run.records["generated_tokens"].to_pylist()
    return tokens


# --- the same in both runtimes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_policies_see_and_hear_the_same_token_by_token_in_both_runtimes(
    tmp_path: Path, *, stream: bool
) -> None:
    # Steps take 0.1 s, the first begins at 0.25 s and there is no pause; all others come in the middle of one. So noise
    # that is shorter than half a step changes the order of nothing.
    entries = [
        TraceEntry(
            Request(
                f"r{number}",
                0.3 + 0.2 * number if number else 0.25,
                prompt_tokens=24,
                blocks=(number % 3, 10 + number, 20 + number),
                block_tokens=8,
            ),
            4,
        )
        for number in range(6)
    ]
    seen = []
    for runtime in (simulate, replay):
        iteration, eviction = (
            tmp_path / f"{runtime.__name__}.steps",
            tmp_path / f"{runtime.__name__}.evictions",
        )
        Recording.calls, Recording.completions = [], []
        (queueing, in_queue), (scaling, in_pool) = listening("queueing"), listening("scaling")
        spec = FleetSpec(
            engine=engine(base_s=0.1, blocks=9), replicas=1, routing=Recording(), queueing=queueing, scaling=scaling,
            iteration=RecordingTokenBudget(path=str(iteration)), eviction=RecordingLru(path=str(eviction)),
        )  # fmt: skip
        run = runtime(Trace.from_entries(entries), spec, stream=stream)
        assert generated(run) == [4] * 6
        routed = [call[:3] for call in Recording.calls]
        told = [[said(call) for call in heard if call[0] != "on_replicas"] for heard in (in_queue, in_pool)]
        seen.append((events(iteration), events(eviction), routed, Recording.completions, *told))
    for simulated, live in zip(*seen, strict=True):
        assert live == simulated
        assert len(live) >= 6


@pytest.mark.parametrize("stream", [False, True])
def test_a_replay_takes_as_long_as_its_simulation(*, stream: bool) -> None:
    trace = every(0.05, 40)
    spec = TWO.replace(engine=engine(base_s=0.02))
    simulated, live = simulate(trace, spec, stream=stream), replay(trace, spec, stream=stream)
    assert books_balance(live, len(trace))
    assert simulated.records.schema == live.records.schema
    for column in ("id", "outcome", "replica", "generated_tokens", "cached_tokens", "preemptions"):
        assert live.records[column].to_pylist() == simulated.records[column].to_pylist(), column
    for measure in ("ttft_s", "tpot_s", "itl_max_s", "e2e_s"):
        # Not before its time; and not twice as late, however busy the machine.
        ours, theirs = getattr(live.summary, measure).p50, getattr(simulated.summary, measure).p50
        assert 0.99 * theirs <= ours <= 2.0 * theirs, measure


# --- streams ---------------------------------------------------------------------------------------------------


def test_a_stream_has_every_token_once_and_in_order() -> None:
    trace = every(0.02, 30)
    run = replay(trace, TWO, stream=True)
    assert books_balance(run, len(trace))
    assert generated(run) == [40] * 30
    assert not [name for name in run.manifest.counters if "tokens" in name], (
        "none was late, lost or out of order"
    )


def test_streams_of_a_killed_replica_go_on_elsewhere_without_a_gap() -> None:
    trace = every(0.02, 30, output_tokens=100)
    faults = FaultTrace(faults=(Fault(at_s=0.7, kind="crash", replica="replica/0"),))
    run = replay(trace, TWO, stream=True, faults=faults)
    assert books_balance(run, len(trace))
    assert run.summary.completed == len(trace)
    assert generated(run) == [100] * 30, "the load generator demands each of them"
    assert run.manifest.counters["retries"] >= 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(at_s=0.4, kind="hang", replica="replica/0"),
        Fault(at_s=0.4, kind="drop", probability=0.3, for_s=1.0),
        Fault(at_s=0.4, kind="partition", for_s=0.3),
        Fault(at_s=0.4, kind="slow", factor=5.0, for_s=0.5),
    ],
    ids=lambda fault: fault.kind,
)
def test_streams_are_whole_when_a_replica_stands_still_or_its_messages_are_lost(fault: Fault) -> None:
    trace = every(0.02, 30)
    spec = TWO.replace(lease_s=1.0, retry=ExponentialBackoff(max_attempts=10))
    run = replay(trace, spec, stream=True, faults=FaultTrace(faults=(fault,)))
    assert books_balance(run, len(trace))
    assert generated(run) == [40] * 30


def test_a_request_that_expires_gives_its_blocks_back() -> None:
    trace = every(0.05, 4, output_tokens=100_000, deadline_s=0.6).merge(every(0.5, 5))
    run = replay(trace, TWO.replace(engine=engine(blocks=20_000)), stream=True)
    assert books_balance(run, len(trace))
    assert (run.summary.expired, run.summary.completed) == (4, 5)
    records = run.records.to_pylist()
    all_expired_s = max(row["ended_s"] for row in records if row["outcome"] == "expired")
    used = [(row["time_s"] > all_expired_s, row["kv_utilization"]) for row in run.series.to_pylist()]
    assert max(share or 0.0 for _, share in used) > 0.0
    assert (True, 0.0) in used, "between the short ones nothing is in use"


# --- clients ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def head_of(spec: FleetSpec, **options: object) -> Iterator[HeadProcess]:
    """A head in a process of its own, with its replicas."""
    head = HeadProcess(spec, **{"local_replicas": spec.replicas, **options})
    try:
        yield head
    finally:
        end_all(head.process)


def one(**changes: object) -> FleetSpec:
    return TWO.replace(replicas=1, **changes)


async def read(client: FleetClient, id: str, output_tokens: int, *, at_most: int | None = None) -> list[int]:
    """The tokens of one answer; leaves off at about `at_most`."""
    tokens: list[int] = []
    request = Request(id, 0.0, prompt_tokens=20)
    async with contextlib.aclosing(client.stream(request, output_tokens=output_tokens)) as stream:
        async for some in stream:
            tokens += some
            if at_most is not None and len(tokens) >= at_most:
                break
    return tokens


def test_a_client_streams_asks_and_is_told_what_went_wrong() -> None:
    async def use(endpoint: str) -> None:
        async with FleetClient(endpoint, timeout_s=30.0) as client:
            streams: dict[str, list[int]] = {}

            async def keep(id: str) -> None:
                streams[id] = await read(client, id, 50)

            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(keep, f"s{number}")
            assert list(streams.values()) == [list(range(50))] * 5
            reply = await client.ask(Request("whole", 0.0, prompt_tokens=20), output_tokens=7)
            assert reply.usage is not None
            assert reply.usage.output_tokens == 7
            stream = client.stream(Request("twice", 0.0, prompt_tokens=20), output_tokens=7)
            assert await anext(stream) == (0,)
            with pytest.raises(FleetError, match="'twice' has no reply yet"):
                await client.ask(Request("twice", 0.0))
            assert [token async for tokens in stream for token in tokens] == list(range(1, 7))
            with pytest.raises(FleetError, match=r"'long' failed: refused: .* the cache has 500"):
                await client.ask(Request("long", 0.0, prompt_tokens=10_000))
        with pytest.raises(FleetError, match="the client is closed"):
            await client.ask(Request("late", 0.0))

    with head_of(TWO) as head:
        anyio.run(use, head.endpoint)
        report = head.stop()
    assert report.outcomes == {"completed": 7, "failed": 1}


def test_a_client_without_a_head_is_told_so() -> None:
    async def use() -> None:
        async with FleetClient("tcp://127.0.0.1:9", timeout_s=0.5):
            pytest.fail("nobody is there")

    with pytest.raises(FleetError, match="no head answered"):
        anyio.run(use)


def test_a_client_whose_head_is_killed_in_the_middle_of_a_stream_gets_one_clear_error() -> None:
    async def use(head: HeadProcess) -> None:
        async with FleetClient(head.endpoint, timeout_s=30.0) as client:
            async for _ in client.stream(Request("r", 0.0, prompt_tokens=20), output_tokens=100_000):
                head.process.kill()

    with (
        head_of(one(engine=engine(blocks=20_000))) as head,
        pytest.raises(FleetError, match="'r' failed: the head is gone"),
    ):
        anyio.run(use, head)


def test_leaving_a_stream_cancels_it_and_frees_its_blocks() -> None:
    """The next one needs nearly the whole cache, and the one before it would write for ever."""

    async def use(endpoint: str) -> None:
        async with FleetClient(endpoint, timeout_s=30.0) as client:
            assert len(await read(client, "endless", 1_000_000, at_most=10)) >= 10
            assert await read(client, "large", 790) == list(range(790))

    with head_of(one(engine=engine(base_s=0.001, blocks=102))) as head:
        anyio.run(use, head.endpoint)
        assert head.stop().outcomes == {"cancelled": 1, "completed": 1}


def _read_for_ever(endpoint: str, pipe: Connection) -> None:
    async def use() -> None:
        async with FleetClient(endpoint) as client:
            async for tokens in client.stream(
                Request("endless", 0.0, prompt_tokens=20), output_tokens=1_000_000
            ):
                pipe.send(tokens)

    anyio.run(use)


def test_the_request_of_a_client_that_vanishes_is_cancelled_and_its_blocks_are_freed() -> None:
    async def use(endpoint: str) -> None:
        async with FleetClient(endpoint, timeout_s=30.0) as client:
            assert await read(client, "large", 790) == list(range(790))

    with head_of(one(engine=engine(base_s=0.001, blocks=102))) as head:
        pipe, theirs = CONTEXT.Pipe()
        vanishing = CONTEXT.Process(target=_read_for_ever, args=(head.endpoint, theirs))
        vanishing.start()
        assert pipe.poll(30.0)
        end_all(vanishing)
        anyio.run(use, head.endpoint)
        assert head.stop().outcomes == {"cancelled": 1, "completed": 1}


def test_a_killed_replica_is_resumed_not_begun_anew(tmp_path: Path) -> None:
    steps = tmp_path / "steps"

    async def use(endpoint: str, replicas: list) -> None:
        async with FleetClient(endpoint, timeout_s=30.0) as client:
            tokens: list[int] = []
            async for some in client.stream(Request("r", 0.0, prompt_tokens=20), output_tokens=200):
                if len(tokens) < 50 <= len(tokens) + len(some):
                    os.kill(replicas[0].pid, signal.SIGKILL)
                    replicas.append(joined(endpoint, allow_modules=RECORDING)[0])
                tokens += some
            assert tokens == list(range(200))

    with head_of(one(iteration=RecordingTokenBudget(path=str(steps))), local_replicas=0) as head:
        replicas = joined(head.endpoint, allow_modules=RECORDING)
        anyio.run(use, head.endpoint, replicas)
        assert head.stop().outcomes == {"completed": 1}
        end_all(*replicas)
    begun = [waiting[0][2] for waiting, *_ in events(steps) if isinstance(waiting, list) and waiting]
    assert begun[0] == 0
    assert begun[-1] >= 50, "the second attempt had the tokens of the first"


def test_without_retry_a_killed_replica_ends_the_stream_with_one_clear_error() -> None:
    async def use(endpoint: str, replica) -> None:
        async with FleetClient(endpoint, timeout_s=30.0) as client:
            async for _ in client.stream(Request("r", 0.0, prompt_tokens=20), output_tokens=100_000):
                os.kill(replica.pid, signal.SIGKILL)

    spec = one(engine=engine(blocks=20_000), retry=NoRetry(), max_replicas=1)
    with head_of(spec, local_replicas=0) as head:
        replicas = joined(head.endpoint, allow_modules=RECORDING)
        with pytest.raises(FleetError, match="'r' failed: replica-lost"):
            anyio.run(use, head.endpoint, replicas[0])
        end_all(*replicas)


def test_a_reader_that_stops_reading_holds_up_nobody_and_gets_the_rest_with_the_answer() -> None:
    """64 streams of 1,000 tokens do not fit in what may wait for one client, whose ids are long."""
    streams, length = 64, 1_000
    ids = [f"{number:0300d}" for number in range(streams)]
    codec = Codec(1 << 20)

    def send(dealer: zmq.Socket, to: str, message: object) -> None:
        batch = Batch()
        codec.append(batch, to, "" if to == NODE else "client/slow", message)
        dealer.send_multipart(batch.seal())

    with head_of(one(engine=engine(base_s=0.001, blocks=20_000))) as head, zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.setsockopt(zmq.RCVBUF, 4_096)
        dealer.connect(head.endpoint)
        send(dealer, NODE, Hello("slow", 1, ("client/slow",), (), 3_600.0))
        for id in ids:
            request = Request(id, 0.0, prompt_tokens=8)
            send(dealer, "router", Submit(request, "client/slow", length, None, stream=True))

        async def read_beside_it() -> None:
            async with FleetClient(head.endpoint, timeout_s=60.0) as client:
                assert await read(client, "quick", length) == list(range(length))

        anyio.run(read_beside_it)  # all that time nobody reads at the other one

        tokens: dict[str, list[int]] = {id: [] for id in ids}
        replies: dict[str, Reply] = {}
        until_s = time.monotonic() + 30.0
        while len(replies) < streams and time.monotonic() < until_s:
            if not dealer.poll(1_000):
                continue
            for _, _, message in codec.decode(dealer.recv_multipart(copy=False)):
                if isinstance(message, Streamed):
                    have = tokens[message.request_id]
                    assert message.start >= len(have), "no token comes twice"
                    if message.start == len(have):
                        have += message.ids
                elif isinstance(message, Reply):
                    replies[message.request_id] = message
        dealer.close()
        report = head.stop()
    assert report.outcomes == {"completed": streams + 1}
    assert report.counters["undeliverable_tokens"] > 0, "the bound was reached"
    for id, reply in replies.items():
        assert reply.result is not None
        assert tokens[id] + reply.result.tensor[len(tokens[id]) :].tolist() == list(range(length))
    assert len(replies) == streams


def test_a_driver_streams_and_its_records_tell_of_tokens() -> None:
    trace = every(0.05, 10)
    with head_of(TWO) as head:
        run = drive(trace, head.endpoint, stream=True)
    assert generated(run) == [40] * 10
    assert run.manifest.options["stream"] is True
    for row in run.records.to_pylist():
        assert 0.0 < row["ttft_s"] < row["e2e_s"]
        assert 0.005 <= row["tpot_s"] <= row["itl_max_s"] < row["e2e_s"]


SPEC = """
replicas = 2

[engine]
engine = "emulated-llm"
latency = { latency = "affine", base_s = 0.005 }
kv = { blocks = 500, block_tokens = 8 }
"""


@pytest.mark.parametrize("command", ["simulate", "replay", "drive"])
def test_the_command_line_streams(command: str, tmp_path: Path) -> None:
    spec, trace, out = tmp_path / "llm.toml", tmp_path / "short.jsonl", tmp_path / "out"
    spec.write_text(SPEC)
    save_trace(every(0.05, 5), trace)
    if command == "drive":
        with head_of(TWO) as head:
            status = main(["drive", str(trace), head.endpoint, "--stream", "--out", str(out)])
    else:
        status = main([command, str(trace), str(spec), "--stream", "--out", str(out)])
    assert status == 0
    run = load_run(out)
    assert run.manifest.options["stream"] is True
    assert generated(run) == [40] * 5


class Context:
    """Enough of one for a load generator."""

    now, address = 1.0, "client/trace"

    def send(self, to: str, message: object) -> None:
        pass

    def after(self, delay_s: float, message: object) -> None:
        pass


def test_tokens_that_were_lost_on_the_way_are_in_the_answer_and_an_answer_without_them_is_an_error() -> None:
    for result, counted in ((Payload(tensor=np.arange(4, dtype=np.int32)), 2), (None, None)):
        telemetry, done = Telemetry(), []
        client = LoadGenerator(
            every(0.0, 1, output_tokens=4),
            telemetry=telemetry,
            on_done=lambda done=done: done.append(1),
            stream=True,
        )
        client.start(Context())
        client.on_tick(Tick("arrive"))
        client.on_streamed(Streamed("r0", 0, (0, 1)))
        client.on_streamed(Streamed("r0", 3, (3,)))
        reply = Reply("r0", "completed", result=result, usage=Usage(4))
        if counted is None:
            with pytest.raises(FleetError, match=r"completed with 4 output tokens.* 2 were streamed"):
                client.on_reply(reply)
        else:
            client.on_reply(reply)
            assert telemetry.counters["tokens_from_answers"] == counted
            assert done


def test_a_token_that_comes_twice_is_an_error() -> None:
    client = LoadGenerator(every(0.0, 1), telemetry=Telemetry(), on_done=list, stream=True)
    client.start(Context())
    client.on_tick(Tick("arrive"))
    client.on_streamed(Streamed("r0", 0, (0, 1)))
    with pytest.raises(FleetError, match="tokens 1 to 1 of 'r0' came twice"):
        client.on_streamed(Streamed("r0", 1, (1, 2)))
