"""A client with a key of its own attacks a fleet: a real head and a real replica, in this process, CURVE on."""

import asyncio
import math
import resource
import time

import msgspec
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetSpec
from fleet.actor import FleetError
from fleet.launch.host import ReplicaHost
from fleet.launch.making import make_replica
from fleet.messages import (
    Activate,
    BatchesMissing,
    BatchFinished,
    Cancel,
    CancelBatch,
    ConfirmBatches,
    Deactivate,
    Drain,
    HostReplica,
    InjectSlowness,
    Operate,
    Operated,
    Payload,
    Probe,
    ProbeAnswered,
    ReplicaReported,
    Reply,
    RunBatch,
    RunFinished,
    Streamed,
    Submit,
    Tokens,
    TokensGenerated,
    Work,
)
from fleet.runs.assembly import Head, replica_settings
from fleet.runs.client import FleetClient
from fleet.runs.operator import Operator
from fleet.runtime.live import LiveRuntime
from fleet.runtime.membership import Membership, MembershipOptions
from fleet.runtime.peers import NodeCounters
from fleet.runtime.security import AllowList, Owners, PeerRule, Security, generate_keys, write_keys
from fleet.runtime.transport import Node, NodeOptions
from fleet.runtime.wire import NODE, Batch, Codec, Hello, Refused
from fleet.telemetry.sink import Telemetry
from tests.live.harness import QUICK, Recorder, submit, until
from traces.schema import Request

HEAD, HOST, CLIENT, EVIL, OPERATOR, ANYTHING = (generate_keys() for _ in range(6))
ALLOW = AllowList(
    (
        PeerRule(HOST.public, ("host/*", "replica/*")),
        PeerRule(CLIENT.public, ("client/*",)),
        PeerRule(EVIL.public, ("client/*",), peers=3),
        PeerRule(OPERATOR.public, ("operator/*",)),
        PeerRule(ANYTHING.public, ("*",)),
    )
)
SPEC = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.02, per_item_s=0.0)),
    report_interval_s=0.05, probe_interval_s=0.1, control_interval_s=0.1,
)  # fmt: skip


class World:
    """One head, one host with one replica, one honest client, and what the test adds."""

    def __init__(self) -> None:
        self.node = Node("head", options=QUICK, security=Security(HEAD, ALLOW))
        self.endpoint = self.node.bind("tcp://127.0.0.1:*")
        self.runtime = LiveRuntime(node=self.node)
        self.telemetry = Telemetry()
        self.head = Head(SPEC, self.telemetry, seed=0, stamp_arrivals=True)
        self.head.listen(self.runtime)
        self.head.host(self.runtime)
        self.runtime.add("operator", Operator(self.head, self.runtime, live=True))
        self.host = LiveRuntime(node=self.connected("host-a", HOST), name="host-a", observers=None)
        self.replica = make_replica(replica_settings(SPEC, "replica/0", 0))
        self.spare = ReplicaHost(self.host)
        self.host.add("host/host-a", self.spare)
        self.host.add("replica/0", self.replica)
        self.client, self.at_client = self.peer("honest", CLIENT, "client/honest")
        self.evil, self.at_evil = self.peer("evil", EVIL, "client/evil")
        self.nodes = [self.client, self.evil]

    def connected(self, name: str, keys, options: NodeOptions = QUICK) -> Node:
        node = Node(name, options=options, security=Security(keys, server_key=HEAD.public))
        node.connect(self.endpoint)
        return node

    def peer(self, name: str, keys, *addresses: str, options: NodeOptions = QUICK):
        node = self.connected(name, keys, options)
        for address in addresses:
            node.host(address)
        return node, Recorder(node)

    def start(self, name: str, keys, *addresses: str, options: NodeOptions = QUICK):
        node, recorder = self.peer(name, keys, *addresses, options=options)
        node.start(recorder)
        self.nodes.append(node)
        return node, recorder

    def state(self) -> tuple:
        """All that an attack could have changed."""
        head = self.head
        return (
            dict(head.router.ended), sorted(head.router.pending),
            self.candidates(), head.batcher.batches(),
            list(head.pools), head.pools["default"].autoscaler.bounds, head.router.catalogue.models["default"].rollout,
            sorted(head.pools["default"].autoscaler._known), self.replica.state, self.replica._slowness,
            self.replica.batches(), self.spare.replica, sorted(self.node.peers),
        )  # fmt: skip

    def candidates(self) -> list[str]:
        """The replicas that may be chosen; none before the router has begun."""
        only = self.head.router.catalogue.only
        return [] if only is None else [view.id for view in only.roster.candidates]

    async def serves(self) -> None:
        """The fleet still does what it is for."""
        before = len(self.at_client.delivered)
        self.client.send("router", "client/honest", submit(1, "client/honest"))
        await until(lambda: len(self.at_client.delivered) > before)
        assert self.at_client.delivered[-1][2].outcome == "completed"


def attack(main, timeout_s: float = 30.0) -> None:
    """Run `main(world)` in a world that is up; nobody may have ended, or failed, but whom it ends itself."""

    async def wrapped() -> None:
        world = World()
        running = [asyncio.ensure_future(runtime.run()) for runtime in (world.runtime, world.host)]
        world.client.start(world.at_client)
        world.evil.start(world.at_evil)
        try:
            await until(lambda: world.candidates() and world.at_evil.joined and world.at_client.joined)
            await asyncio.wait_for(main(world), timeout_s)
            assert not any(task.done() for task in running)
        finally:
            for node in world.nodes:
                await node.aclose()
            for runtime in (world.host, world.runtime):
                runtime.stop()
            await asyncio.gather(*running)

    asyncio.run(wrapped())


ME = "client/evil"
ADDRESSES = (
    "replica/0", "host/host-a", "client/honest", "router", "batcher/default", "autoscaler", "launcher", "health",
    "observers", "nobody",
)  # fmt: skip
WORK = [Work(Request("r1", 0.0), 1, None, None, 1)]
FORBIDDEN = [
    # As itself, what only others may send.
    ("observers", ME, ReplicaReported("replica/0", "failed", 0, number=10**6)),
    ("observers", ME, ReplicaReported("replica/9", "ready", 0)),
    ("batcher/default", ME, BatchFinished("replica/0", 1, 0.0)),
    ("batcher/default", ME, BatchFinished("replica/0", 1, 0.0, results=[None] * 9)),
    ("batcher/default", ME, BatchesMissing("replica/0", tuple(range(1, 99)))),
    ("router", ME, TokensGenerated("replica/0", [Tokens("r1", 1, 0, (1,))])),
    ("health", ME, ProbeAnswered("replica/0", 1, "failed")),
    # Commands, to the replica, its host, and by way of the head's own actors.
    *(
        (to, ME, command)
        for to in ADDRESSES
        for command in (
            RunBatch(7, WORK, ME), CancelBatch(1), ConfirmBatches((1,), ME), Activate(), Deactivate(), Drain(),
            Probe(1, "deep", ME), InjectSlowness(100.0), HostReplica("replica/5", b'{"engine": "antigravity:x"}'),
        )
    ),
    # Others' requests, and answers that are for others.
    ("router", ME, Submit(Request("mine", 0.0), "client/honest")),
    ("router", ME, Submit(Request("mine", 0.0), "replica/0")),
    ("router", ME, Submit(Request("mine", 0.0), "router")),
    ("router", ME, Submit(Request("mine", 0.0), "")),
    ("router", ME, Cancel("r1", "client/honest")),
    ("router", ME, Cancel("r1")),
    ("client/honest", ME, Reply("r1", "failed")),
    ("client/honest", ME, Streamed("r1", 0, (1,))),
    *((to, ME, submit(7, ME)) for to in ADDRESSES if to != "router"),
    # Values.
    *(
        ("router", ME, Submit(Request("bad", 0.0, **{field: value}), ME))
        for field, value in [
            ("work", math.inf), ("work", math.nan), ("work", -1.0), ("deadline_s", math.inf), ("deadline_s", math.nan),
            ("deadline_s", -1.0), ("prompt_tokens", -1), ("prompt_tokens", 2**62), ("block_tokens", 0),
            ("extra", {"x": math.nan}),
        ]
    ),
    ("router", ME, Submit(Request("bad", 0.0), ME, -1)),
    ("router", ME, Submit(Request("bad", math.nan), ME)),
    ("router", ME, Submit(Request("x" * 5_000, 0.0), ME)),
    # The fleet itself.
    *((to, ME, Operate("1", b'{"kind": "retire", "pool": "default"}', ME)) for to in (*ADDRESSES, "operator")),
    ("operator", ME, Operate("1", b'{"kind": "retire", "pool": "default"}', "operator/me")),
    ("operator/me", ME, Operated("1")),
]  # fmt: skip


def test_nothing_that_a_client_may_not_do_changes_anything_or_ends_anybody():
    async def main(world):
        await world.serves()
        before = world.state()
        for to, sender, message in FORBIDDEN:
            world.evil.send(to, sender, message)
        await until(lambda: sum(world.node.counters.refused_messages.values()) == len(FORBIDDEN))
        await asyncio.sleep(0.1)
        assert world.state() == before
        assert not world.at_client.lost
        submits = [message for _, _, message in FORBIDDEN if isinstance(message, Submit)]
        refused = [reason for _, _, message, reason in world.at_evil.undeliverable]
        assert len(refused) == len(submits), "an honest program hears which request was refused, and why"
        assert any("$.request.work" in reason for reason in refused)
        await world.serves()

    attack(main)


def test_a_program_hears_at_once_what_its_request_may_not_hold(tmp_path):
    write_keys(CLIENT, tmp_path / "client.key")

    async def main(world):
        keys = {"keys": tmp_path / "client.key", "server_key": HEAD.public}
        async with FleetClient(world.endpoint, timeout_s=10.0, **keys) as client:
            with pytest.raises(
                FleetError, match=r"'bad' rejected: refused: \$\.request\.work: expected `float` <= "
            ):
                await client.ask(Request("bad", 0.0, work=math.inf))
            with pytest.raises(FleetError, match="'big' rejected: too-large: a Submit of 41,943,"):
                await client.ask(Request("big", 0.0), Payload(b"x" * (40 << 20)))
            assert (await client.ask(Request("good", 0.0))).outcome == "completed"

    attack(main)


def test_a_message_is_logged_with_its_sender(caplog):
    async def main(world):
        world.evil.send("replica/0", ME, Drain())
        await until(lambda: world.node.counters.refused_messages)

    attack(main)
    (line,) = [text for text in caplog.messages if text.startswith("refused a Drain")]
    assert "from client/evil (Peer('evil', ['client/evil'])) to replica/0: only the head may send it" in line


def test_speaking_as_another_is_a_forgery():
    async def main(world):
        before = world.state()
        for sender, message in [
            ("replica/0", ReplicaReported("replica/0", "failed", 0)), ("client/honest", Cancel("r", "client/honest")),
            ("router", Drain()), ("", Drain()),
        ]:  # fmt: skip
            world.evil.send("replica/0", sender, message)
            world.evil.flush()
        await until(lambda: world.node.counters.forged >= 3)
        assert world.state() == before
        await world.serves()

    attack(main)


@pytest.mark.parametrize(
    "message",
    [
        ["NoSuchMessage"], ["NoSuchMessage", 1, 2], ["Tick"], ["ReplicaExited", "replica/0", "gone"],
        ["Undeliverable", "router", "unreachable", ["Drain"]], ["KillReplica", "replica/0"],
        ["StartReplica", "replica/9"],
        ["TrustChanged", "replica/0", "failed"], [], {}, None, ["Submit"], ["Submit", ["r", 0.0], 7],
    ],
)  # fmt: skip
def test_what_no_process_may_send_is_counted_whoever_it_is_for(message):
    async def main(world):
        before = world.state()
        channel = world.evil.peers["head"].channel
        for to in ("replica/0", "router", "batcher/default"):
            channel.send(b"", [msgspec.msgpack.encode([[to, ME, message]])])
        await until(lambda: sum(world.node.counters.undecodable.values()) == 3)
        assert world.state() == before
        await world.serves()

    attack(main)


def test_a_replica_speaks_for_itself_only():
    """A host's key is not the head's: what it says of other replicas is refused, whatever it holds."""

    async def main(world):
        await world.serves()
        rogue, _ = world.start("rogue", HOST, "host/rogue", "replica/7")
        await until(lambda: "rogue" in world.node.peers)
        before = world.state()
        said = [
            ("observers", ReplicaReported("replica/0", "failed", 0, number=10**6)),
            ("observers", ReplicaReported("replica/7", "ready", 0, weight=math.nan)),
            ("batcher/default", BatchFinished("replica/0", 1, 0.0, results=[None] * 3)),
            ("batcher/default", BatchesMissing("replica/0", (1, 2, 3))),
            ("router", TokensGenerated("replica/0", [Tokens("r1", 1, 0, (1,))])),
            ("health", ProbeAnswered("replica/0", 1, "failed")),
            ("replica/0", Drain()), ("replica/0", RunBatch(7, WORK, "replica/7")), ("router", submit(5, "replica/7")),
            ("host/host-a", HostReplica("replica/5", b"{}")), ("client/honest", Reply("r1", "failed")),
        ]  # fmt: skip
        for to, message in said:
            rogue.send(to, "replica/7", message)
        await until(lambda: sum(world.node.counters.refused_messages.values()) == len(said))
        assert world.state() == before
        await world.serves()

    attack(main)


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "name", "addresses", "says"),
    [
        (EVIL, "x", ("client/honest",), "'client/honest' belongs to another key"),
        (EVIL, "honest", ("client/x",), "'honest' belongs to another key"),
        (EVIL, "head", ("client/x",), "'head' is the name of this node itself"),
        (EVIL, "host-a", ("client/x",), "'host-a' belongs to another key"),
        (EVIL, "x", ("replica/0",), "may not host 'replica/0'"),
        (EVIL, "x", ("host/x",), "may not host 'host/x'"),
        (EVIL, "x", ("router",), "may not host 'router'"),
        (HOST, "x", ("replica/0",), "'replica/0' is hosted by 'host-a'"),
        (HOST, "x", ("replica/x",), "'replica/x' is not for a peer to host"),
        (HOST, "x", ("replica/01",), "'replica/01' is not for a peer to host"),
        (HOST, "x", ("client/x",), "may not host 'client/x'"),
        (HOST, "x", ("replica/default/1",), "'replica/default/1' is not for a peer to host"),
        (HOST, "x", ("operator/x",), "may not host 'operator/x'"),
        (
            CLIENT,
            "x",
            ("operator/x",),
            """may not host 'operator/x' (only client/*); "operator/*" among its hosts""",
        ),
        (
            ANYTHING,
            "x",
            ("operator/x",),
            """(only *); "operator/*" among its hosts would let it operate the fleet""",
        ),
        (OPERATOR, "x", ("client/x",), "may not host 'client/x'"),
        (OPERATOR, "x", ("operator",), "may not host 'operator'"),
    ],
)
def test_a_name_is_its_keys_own(keys, name, addresses, says):
    async def main(world):
        before = world.state()
        later = 10**9 + time.time_ns()
        node = Node(name, options=QUICK, security=Security(keys, server_key=HEAD.public), incarnation=later)
        node.connect(world.endpoint)
        for address in addresses:
            node.host(address)
        recorder = Recorder(node)
        node.start(recorder)
        world.nodes.append(node)
        await until(lambda: recorder.refused)
        assert says in recorder.refused[0]
        assert world.state() == before
        await world.serves()

    attack(main)


def test_an_address_is_kept_for_its_key_while_nobody_uses_it():
    async def main(world):
        await world.client.aclose()
        await until(lambda: "honest" not in world.node.peers)
        _, at_thief = world.start("thief", EVIL, "client/honest")
        await until(lambda: at_thief.refused)
        assert "belongs to another key" in at_thief.refused[0]
        _, again = world.start("honest", CLIENT, "client/honest")
        await until(lambda: again.joined)

    attack(main)


def test_which_host_is_which_replica_is_not_kept():
    """A replica is given out by its head, who may give it to a host with another key when the first is gone."""
    owners = Owners()
    owners.claim("one", "host-a", ("host/host-a", "replica/0"))
    assert owners.denial("two", "host-b", ("host/host-b", "replica/0")) is None
    assert "'host/host-a'" in owners.denial("two", "host-b", ("host/host-a",))
    assert "'host-a'" in owners.denial("two", "host-a", ())
    assert owners.denial("one", "host-a", ("host/host-a",)) is None


def test_a_key_forgets_its_own_names_only():
    owners = Owners(most=4)
    owners.claim("good", "g", ("client/g",))
    for number in range(100):
        owners.claim("bad", f"b{number}", (f"client/b{number}",))
    assert owners.denial("bad", "b", ("client/g",)) is not None
    assert owners.denial("good", "x", ("client/b99",)) is not None
    assert owners.denial("good", "x", ("client/b1",)) is None


def test_a_client_does_not_become_a_host_on_the_way():
    async def main(world):
        world.evil.host("replica/5")
        await until(lambda: world.at_evil.refused)
        assert "replica/5" not in world.node.peers["evil"].addresses
        await world.serves()

    attack(main)


def test_without_keys_a_name_stays_on_its_side():
    """On loopback the role is what the first Hello said, and a larger incarnation does not change it."""

    async def main():
        head = Node("head", options=QUICK)
        endpoint = head.bind("tcp://127.0.0.1:*")
        nodes = [head]

        def joined(name, *addresses):
            node = Node(name, options=QUICK)
            node.connect(endpoint)
            for address in addresses:
                node.host(address)
            recorder = Recorder(node)
            node.start(recorder)
            nodes.append(node)
            return node, recorder

        head.start(Recorder(head))
        _, first = joined("host-1", "host/host-1")
        client, at_client = joined("c", "client/c")
        await until(lambda: first.joined and at_client.joined)
        _, thief = joined("host-1", "client/x")
        await until(lambda: thief.refused)
        assert "'host-1' is a host, and stays one" in thief.refused[0]
        client.host("host/c")
        await until(lambda: at_client.refused)
        assert "'c' is a client, and stays one" in at_client.refused[0]
        assert not first.lost
        _, again = joined("host-1", "host/host-1")
        await until(lambda: again.joined)  # a host that was started again has its name
        for node in reversed(nodes):
            await node.aclose()

    asyncio.run(asyncio.wait_for(main(), 20))


# --- room -----------------------------------------------------------------------------------------------


def test_one_key_takes_up_only_its_own_room_and_no_lease_is_longer_than_the_head_grants():
    async def main(world):
        greedy = NodeOptions(
            membership=MembershipOptions(lease_s=3_600.0), socket=QUICK.socket, outbox=QUICK.outbox
        )
        recorders = [world.start(f"evil-{n}", EVIL, f"client/evil-{n}", options=greedy)[1] for n in range(8)]
        await until(lambda: sum(bool(item.joined or item.refused) for item in recorders) == 8)
        assert sum(bool(item.joined) for item in recorders) == 2, "its third is `evil` itself"
        assert {item.refused[0] for item in recorders if item.refused} == {"already 3 peers of this key"}
        assert {peer.lease_s for name, peer in world.node.peers.items() if name.startswith("evil-")} == {10.0}
        _, other = world.start("another", CLIENT, "client/another")
        await until(lambda: other.joined)
        await world.serves()

    attack(main)


class FakeNode:
    """What membership asks of its node."""

    routes = True

    def __init__(self) -> None:
        self.joined, self.refusals = [], []

    def control(self, peer, message):
        if isinstance(message, Refused):
            self.refusals.append(message.reason)

    def on_joined(self, peer):
        self.joined.append(peer.name)

    def on_lost(self, peer, reason, *, expected):
        self.joined.remove(peer.name)


def test_4096_hellos_that_ask_for_an_hour_keep_nobody_else_out():
    """Without keys too: hosts have room of their own, and clients after the longest lease that is granted."""
    node = FakeNode()
    members = Membership(
        "head", 1, options=MembershipOptions(), allow=None, counters=NodeCounters(), events=node
    )

    def hello(name, *addresses, at_s, lease_s=3.0):
        peer = members.stranger(node, name.encode(), at_s)
        members.on_hello(peer, Hello(name, 1, addresses, (), lease_s), None)
        return name in node.joined

    for number in range(4_096):
        hello(f"evil-{number}", f"client/evil-{number}", at_s=0.0, lease_s=3_600.0)
    assert len(node.joined) == 1_024
    assert not hello("late", "client/late", at_s=1.0)
    assert hello("host-1", "host/host-1", at_s=1.0)
    assert "already 1024 peers of this kind" in node.refusals
    members.peers["host-1"].last_heard_s = 10.1
    members.beat(10.2, 0.0)
    assert node.joined == ["host-1"]
    assert hello("late", "client/late", at_s=10.2)


def test_room_is_free_again_when_a_peer_has_gone():
    async def main(world):
        for number in range(6):
            node, recorder = world.start(f"evil-{number}", EVIL, f"client/evil-{number}")
            await until(lambda recorder=recorder: recorder.joined)
            await node.aclose()
            await until(lambda number=number: f"evil-{number}" not in world.node.peers)

    attack(main)


def test_a_message_of_tiny_items_is_not_decoded_and_its_sender_is_dropped():
    async def main(world):
        await world.serves()
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        bomb = b"\x91\x93\xa1a\xa1b\x97\xadBatchFinished\xa9replica/0\x01\xcb" + bytes(8)
        bomb += b"\xc2\xc0\xdd" + (50_000_000).to_bytes(4, "big") + b"\x90" * 50_000_000
        world.evil.peers["head"].channel.send(b"", [bomb])
        await until(lambda: world.node.counters.dropped_peers)
        assert world.node.counters.undecodable == {"heavy": 1}
        assert "evil" not in world.node.peers
        await until(lambda: world.at_evil.refused)
        assert "items" in world.at_evil.refused[0]
        heard = world.node.counters.batches_in
        world.evil.send("router", ME, submit(1, ME))
        await world.serves()
        assert "evil" not in world.node.peers
        assert world.node.counters.batches_in > heard
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 400_000, "the message itself, on both sides, and its copies; not 2.3 GB"

    attack(main)


def test_a_message_of_too_many_items_is_refused_where_it_is_sent():
    codec, batch = Codec(32 << 20), Batch()
    with pytest.raises(FleetError, match="a Submit of more than 934,464 items"):
        codec.append(batch, "router", ME, Submit(Request("r", 0.0, blocks=(1,) * 1_000_000), ME))
    codec.append(batch, "router", ME, Submit(Request("r", 0.0, blocks=(2**60,) * 900_000), ME))
    assert len(codec.decode(batch.seal())[0][2].request.blocks) == 900_000


def test_a_hello_says_only_so_much():
    async def main(world):
        codec = Codec(1 << 20)
        channel = world.evil.peers["head"].channel
        for hello in (
            Hello("evil", 1, tuple(f"client/{n}" for n in range(10_000)), (), 1.0),
            Hello("x" * 10_000, 1, (), (), 1.0), Hello("line\nbreak", 1, (), (), 1.0),
            Hello("evil", 1, (), tuple(map(str, range(10_000))), 1.0), Hello("evil", 1, (), (), -1.0),
        ):  # fmt: skip
            batch = Batch()
            codec.append(batch, NODE, "evil", hello)
            channel.send(b"", batch.seal())
        await until(lambda: world.node.counters.refused.get("malformed") == 5)
        await world.serves()

    attack(main)


def test_an_answer_larger_than_a_message_is_refused_by_name_and_not_retried():
    """Both ways: too large for its replica to send, and for the head to hand to the client."""

    async def main(world):
        await world.serves()
        engine = world.replica._engine
        run = engine.run

        def answering(batch, work):
            sizes[batch] = len(work)
            run(batch, work)

        sizes: dict[int, int] = {}
        engine.run = answering
        finished = world.replica.on_run_finished

        def with_results(message):
            big = Payload(b"x" * (40 << 20))
            results = [big if number == 0 else Payload(b"small") for number in range(sizes[message.batch])]
            finished(msgspec.structs.replace(message, results=results))

        world.replica._handlers[RunFinished] = with_results
        for number in range(10, 14):
            world.client.send("router", "client/honest", submit(number, "client/honest"))
        await until(lambda: len(world.at_client.delivered) == 5, 20)
        replies = {message.request_id: message for _, _, message in world.at_client.delivered[1:]}
        refused = [reply for reply in replies.values() if reply.outcome == "failed"]
        assert refused
        for reply in refused:
            assert reply.attempts == 1
            assert reply.detail.startswith("refused: its answer was not taken: a BatchFinished of 41,943,")
        assert {reply.outcome for reply in replies.values()} <= {"failed", "completed"}
        assert any(reply.outcome == "completed" for reply in replies.values()), (
            "the others of its batch have theirs"
        )

    attack(main)
