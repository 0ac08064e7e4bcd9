"""A node: every message accepted is handed over or reported, and no peer can hurt it."""

import asyncio
import os
import random
import resource
import socket
import time
from pathlib import Path

import pytest

from fleet.actor import FleetError
from fleet.messages import InjectSlowness, Payload, ReplicaExited, ReplicaReported, Reply, Submit
from fleet.runtime.channel import SocketOptions
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.outbox import OutboxOptions
from fleet.runtime.transport import Node, NodeOptions
from fleet.runtime.wire import NODE, Batch, Codec, Hello
from tests.live.harness import (
    QUICK,
    finished,
    order,
    peer_process,
    raw_dealer,
    run_with_fleet,
    submit,
    until,
)
from traces.schema import Request


def ids(recorder):
    return [
        message.request.id if isinstance(message, Submit) else message.request_id
        for _, _, message in recorder.delivered
    ]


def batches(recorder):
    return [message.batch for _, _, message in recorder.delivered if not isinstance(message, ReplicaReported)]


# --- delivery -------------------------------------------------------------------------------------------


def test_messages_go_both_ways_in_order_and_are_coalesced():
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, at_peer = fleet.peer("a", "client/0")
        await until(lambda: at_peer.joined and at_head.joined)
        for number in range(1_000):
            peer.send("router", "client/0", submit(number))
        await until(lambda: len(at_head.delivered) == 1_000)
        assert ids(at_head) == [f"r{number}" for number in range(1_000)]
        assert head.counters.messages_in == 1_000
        assert head.counters.batches_in < 100
        for number in range(1_000):
            head.send("client/0", "router", Reply(f"r{number}", "completed"))
        await until(lambda: len(at_peer.delivered) == 1_000)
        assert ids(at_peer) == [f"r{number}" for number in range(1_000)]
        assert not at_head.undeliverable + at_peer.undeliverable

    run_with_fleet(main)


def test_what_is_sent_before_the_head_is_there_arrives_when_it_comes():
    async def main(fleet):
        with socket.create_server(("127.0.0.1", 0)) as free:
            endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        fleet.endpoint = endpoint
        peer, at_peer = fleet.peer("a", "client/0")
        peer.send("router", "client/0", submit(1))
        await asyncio.sleep(0.2)
        head = Node("head", options=QUICK)
        head.bind(endpoint)
        at_head = fleet.start(head, "router")
        await until(lambda: at_head.delivered)
        assert ids(at_head) == ["r1"]
        assert not at_peer.undeliverable

    run_with_fleet(main)


def test_a_large_tensor_crosses():
    import numpy as np

    async def main(fleet):
        _, at_head = fleet.head("batcher/default")
        peer, _ = fleet.peer("a", "replica/0")
        tensor = np.random.default_rng(0).random((500, 400))
        peer.send("batcher/default", "replica/0", finished(1, results=[Payload(tensor=tensor)]))
        await until(lambda: at_head.delivered)
        np.testing.assert_array_equal(at_head.delivered[0][2].results[0].tensor, tensor)

    run_with_fleet(main)


def test_a_node_serves_several_heads():
    async def main(fleet):
        _, at_first = fleet.head("batcher/1")
        second = Node("head-2", options=QUICK)
        endpoint = second.bind("tcp://127.0.0.1:*")
        second.host_group("observers")
        at_second = fleet.start(second, "batcher/2")
        peer, at_peer = fleet.peer("a", "replica/0")
        peer.connect(endpoint)
        await until(lambda: len(at_peer.joined) == 2)
        peer.send("batcher/1", "replica/0", finished(1))
        peer.send("batcher/2", "replica/0", finished(2))
        peer.send("observers", "replica/0", ReplicaReported("replica/0", "ready", 0))
        await until(lambda: at_first.delivered and len(at_second.delivered) == 2)
        assert (batches(at_first), batches(at_second)) == ([1], [2])
        assert {to for to, _, _ in at_second.delivered} == {"batcher/2", "observers"}

    run_with_fleet(main)


def test_addresses_hosted_later_become_known():
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, at_peer = fleet.peer("a", "replica/0")
        await until(lambda: at_head.joined)
        peer.host("replica/7")
        peer.unhost("replica/0")
        await until(lambda: "replica/7" in head.peers["a"].addresses)
        head.send("replica/7", "batcher/default", order(1))
        head.send("replica/0", "batcher/default", order(2))
        await until(lambda: at_peer.delivered and at_head.undeliverable)
        assert batches(at_peer) == [1]
        assert [(to, reason) for to, _, _, reason in at_head.undeliverable] == [("replica/0", "unreachable")]

    run_with_fleet(main)


# --- what cannot be handed over -------------------------------------------------------------------------


def test_an_address_nobody_hosts_is_unreachable():
    async def main(fleet):
        head, at_head = fleet.head("router")
        message = submit(1)
        head.send("replica/9", "router", message)
        assert at_head.undeliverable == [("replica/9", "router", message, "unreachable")]
        assert head.counters.undeliverable == {"unreachable": 1}

    run_with_fleet(main)


def test_the_head_returns_what_is_for_nobody_there():
    async def main(fleet):
        head, at_head = fleet.head()
        peer, at_peer = fleet.peer("a", "client/0")
        at_head.deliver = lambda envelopes: [head.give_back(*envelope) for envelope in envelopes]
        message = submit(1)
        peer.send("router", "client/0", message)
        await until(lambda: at_peer.undeliverable)
        assert at_peer.undeliverable == [("router", "client/0", message, "unreachable")]

    run_with_fleet(main)


def test_a_message_for_its_own_process_only_is_the_senders_defect():
    async def main(fleet):
        head, _ = fleet.head("router")
        fleet.peer("a", "replica/0")
        await until(lambda: "a" in head.peers)
        with pytest.raises(FleetError, match="ReplicaExited"):
            head.send("replica/0", "router", ReplicaExited("replica/1", "gone"))

    run_with_fleet(main)


def test_a_message_larger_than_the_bound_is_reported_and_the_connection_lives():
    async def main(fleet):
        options = NodeOptions(
            membership=QUICK.membership,
            outbox=OutboxOptions(max_message_bytes=10_000, flush_bytes=1_000),
            socket=SocketOptions(max_frame_bytes=12_000),
        )
        head, at_head = fleet.head("router", options=options)
        peer, at_peer = fleet.peer("a", "client/0", options=options)
        peer.send("router", "client/0", submit(1, size=10_000))
        for number in range(2, 100):
            peer.send("router", "client/0", submit(number, size=9_000))
        await until(lambda: len(at_head.delivered) == 98)
        assert [reason for *_, reason in at_peer.undeliverable] == [
            "too-large: a Submit of 10,079 bytes; a message may have 10,000"
        ]
        assert not head.counters.handshake_failures
        assert peer.counters.reconnects == 0

    run_with_fleet(main)


SMALL = NodeOptions(
    membership=MembershipOptions(lease_s=30.0),
    socket=SocketOptions(queue_batches=4, linger_ms=100),
    outbox=OutboxOptions(messages=200, bytes=1 << 20),
)


def test_overload_is_bounded_and_every_message_is_accounted_for():
    """The peer does not read: ZeroMQ fills, then the outbox, and the rest comes back at once."""

    async def main(fleet):
        head, at_head = fleet.head("router", options=SMALL)
        codec, batch = Codec(1 << 20), Batch()
        codec.append(batch, NODE, "slow", Hello("slow", 1, ("replica/0",), (), 60.0))
        payload, total = Payload(b"x" * 10_000), 50_000
        with raw_dealer(fleet.endpoint, RCVHWM=1, RCVBUF=4_096) as slow:
            slow.send_multipart(batch.seal())
            await until(lambda: "slow" in head.peers)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for number in range(total):
                message = Submit(Request(f"r{number}", 0.0), "router", None, payload)
                head.send("replica/0", "router", message)
                if number % 500 == 0:
                    await asyncio.sleep(0)
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            returned = len(at_head.undeliverable)
            assert {reason for *_, reason in at_head.undeliverable} == {"overloaded"}
            assert head.peers["slow"].waiting_messages <= SMALL.outbox.messages + 1
            assert grown_kib < 100_000, "500 MB were offered"

            # It begins to read again: all that was accepted arrives, in order, and nothing twice.
            arrived = []
            while len(arrived) < total - returned:
                while slow.poll(0):
                    arrived += [
                        m.request.id for to, _, m in codec.decode(slow.recv_multipart()) if to != NODE
                    ]
                await asyncio.sleep(0.001)
        lost = {message.request.id for _, _, message, _ in at_head.undeliverable}
        assert arrived == [f"r{number}" for number in range(total) if f"r{number}" not in lost]

    run_with_fleet(main)


def test_the_undelivered_comes_back_when_a_head_is_given_up():
    async def main(fleet):
        with socket.create_server(("127.0.0.1", 0)) as free:
            fleet.endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        options = NodeOptions(
            membership=MembershipOptions(lease_s=0.4, connect_timeout_s=0.4), socket=QUICK.socket
        )
        peer, at_peer = fleet.peer("a", "client/0", options=options)
        peer.send("router", "client/0", submit(1))
        await until(lambda: at_peer.lost)
        assert [(to, reason) for to, _, _, reason in at_peer.undeliverable] == [("router", "unreachable")]
        peer.send("router", "client/0", submit(2))
        assert len(at_peer.undeliverable) == 2

    run_with_fleet(main)


# --- peers that go away ---------------------------------------------------------------------------------


def test_a_goodbye_is_expected_and_immediate():
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, _ = fleet.peer("a", "replica/0")
        await until(lambda: at_head.joined)
        await peer.aclose("finished")
        await until(lambda: at_head.lost, 0.5)
        assert at_head.lost == [("a", "said goodbye: finished", True)]
        assert head.peers == {}

    run_with_fleet(main)


def test_who_leaves_because_it_failed_is_unexpected_and_a_head_that_does_has_ended():
    async def main(fleet):
        head, at_head = fleet.head("router")
        failing, _ = fleet.peer("a", "replica/0")
        _, at_other = fleet.peer("b", "replica/1")
        await until(lambda: {"a", "b"} <= set(head.peers) and at_other.joined)
        await failing.aclose("failed: no memory", in_order=False)
        await until(lambda: at_head.lost)
        await head.aclose("failed: a policy raised", in_order=False)
        await until(lambda: at_other.lost)
        assert at_head.lost[0] == ("a", "said goodbye: failed: no memory", False)
        assert at_other.lost == [("head", "said goodbye: failed: a policy raised", True)]

    run_with_fleet(main)


@pytest.mark.live
def test_a_killed_process_is_lost_after_its_lease_and_unreachable_then():
    async def main(fleet):
        head, at_head = fleet.head("router")
        with peer_process(fleet.endpoint, "a", "replica/0") as process:
            await until(lambda: at_head.joined)
            head.send("replica/0", "batcher/default", order(1))
            await until(lambda: at_head.delivered)
            process.kill()
            killed = time.monotonic()
            await until(lambda: at_head.lost)
            assert 0.3 < time.monotonic() - killed < 3.0
            assert at_head.lost == [("a", "silent for 0.8 s", False)]
            head.send("replica/0", "batcher/default", order(2))
            assert [reason for *_, reason in at_head.undeliverable] == ["unreachable"]

    run_with_fleet(main)


@pytest.mark.live
def test_a_stopped_process_is_lost_and_joins_again_when_it_continues():
    async def main(fleet):
        head, at_head = fleet.head("router")
        with peer_process(fleet.endpoint, "a", "replica/0") as process:
            await until(lambda: at_head.joined)
            os.kill(process.pid, 19)
            await until(lambda: at_head.lost)
            os.kill(process.pid, 18)
            await until(lambda: len(at_head.joined) == 2)
            head.send("replica/0", "batcher/default", order(3))
            await until(lambda: 3 in batches(at_head))

    run_with_fleet(main)


@pytest.mark.live
def test_a_newer_incarnation_takes_over_and_the_older_cannot_come_back():
    async def main(fleet):
        head, at_head = fleet.head("router")
        with peer_process(fleet.endpoint, "a", "replica/0", "--incarnation", "1") as old:
            await until(lambda: at_head.joined)
            os.kill(old.pid, 19)
            with peer_process(fleet.endpoint, "a", "replica/0", "--incarnation", "2"):
                await until(lambda: len(at_head.joined) == 2)
                assert head.peers["a"].incarnation == 2
                os.kill(old.pid, 18)
                assert await asyncio.to_thread(old.wait, 10) == 3
                assert "a newer incarnation" in old.stderr.read()
                head.send("replica/0", "batcher/default", order(1))
                await until(lambda: at_head.delivered)
                assert set(head.counters.refused) == {"stale"}
                assert head.counters.handovers + head.counters.peers_lost >= 1

    run_with_fleet(main)


def test_two_processes_cannot_host_one_address():
    async def main(fleet):
        head, at_head = fleet.head("router")
        fleet.peer("a", "replica/0")
        await until(lambda: at_head.joined)
        _, at_second = fleet.peer("b", "replica/0")
        await until(lambda: at_second.refused)
        assert "'replica/0' is hosted by 'a'" in at_second.refused[0]
        assert head.counters.refused["address"] >= 1

    run_with_fleet(main)


def test_a_head_that_comes_back_is_found_again():
    async def main(fleet):
        head, _ = fleet.head("router")
        peer, at_peer = fleet.peer("a", "replica/0")
        await until(lambda: at_peer.joined)
        await head.aclose("restart")
        await until(lambda: at_peer.lost)
        assert at_peer.lost[0][2]
        again = Node("head", options=QUICK)
        again.bind(fleet.endpoint)
        at_again = fleet.start(again, "router")
        await until(lambda: len(at_peer.joined) == 2)
        peer.send("batcher/default", "replica/0", finished(1))
        await until(lambda: at_again.delivered)
        await until(lambda: peer.counters.reconnects == 1)

    run_with_fleet(main)


def test_a_node_that_stood_still_itself_does_not_give_up_its_peers():
    async def main(fleet):
        _, at_head = fleet.head("router")
        with peer_process(fleet.endpoint, "a", "replica/0", "--lease", "0.8"):
            await until(lambda: at_head.joined)
            time.sleep(1.5)  # noqa: ASYNC251  # the loop stands still, as under SIGSTOP
            await asyncio.sleep(0.3)
            assert not at_head.lost

    run_with_fleet(main)


# --- injected faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["a", "replica/0"])
def test_a_partition_loses_both_ways_until_it_heals(by):
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, at_peer = fleet.peer("a", "replica/0")
        await until(lambda: at_head.joined and at_peer.joined)
        head.partition(by)
        head.send("replica/0", "batcher/default", order(1))
        peer.send("batcher/default", "replica/0", finished(2))
        await until(lambda: at_head.lost and at_peer.lost)
        await asyncio.sleep(0.5)
        assert len(at_head.joined) == 1
        assert not at_head.delivered + at_peer.delivered
        assert head.counters.dropped_by_fault >= 2
        head.partition(by, cut=False)
        await until(lambda: len(at_head.joined) == 2 and len(at_peer.joined) == 2)
        head.send("replica/0", "batcher/default", order(3))
        await until(lambda: at_peer.delivered)

    run_with_fleet(main)


def test_drop_loses_the_given_share_of_batches():
    async def main(fleet):
        head, _ = fleet.head("router", options=NodeOptions(membership=MembershipOptions(lease_s=60.0)))
        _, at_peer = fleet.peer(
            "a", "replica/0", options=NodeOptions(membership=MembershipOptions(lease_s=60.0))
        )
        await until(lambda: "a" in head.peers)
        head.drop("a", 0.3, random.Random(0))
        for _ in range(1_000):
            head.send("replica/0", "router", InjectSlowness(1.0))
            head.flush()
        await until(lambda: len(at_peer.delivered) + head.counters.dropped_by_fault == 1_000)
        assert 250 < head.counters.dropped_by_fault < 350

    run_with_fleet(main)


# --- the descriptor -------------------------------------------------------------------------------------


def test_nothing_is_left_waiting_in_a_ping_pong_of_many():
    """The edge-triggered descriptor: a single forgotten re-check stops this within a few thousand turns."""

    async def main(fleet):
        head, at_head = fleet.head("router")
        rounds = 3_000
        clients = [fleet.peer(f"c{n}", f"client/{n}", echo=True) for n in range(3)]
        await until(lambda: len(head.peers) == 3)
        left = {f"client/{n}": rounds for n in range(3)}

        def pong(envelopes):
            for _, sender, _ in envelopes:
                left[sender] -= 1
                if left[sender] > 0:
                    head.send(sender, "router", Reply(str(left[sender]), "completed"))

        at_head.deliver = pong
        for address in left:
            head.send(address, "router", Reply("0", "completed"))
        await until(lambda: not any(left.values()), 25)
        assert len(clients) == 3

    run_with_fleet(main)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_opening_and_closing_leaves_no_descriptor_behind():
    async def main(fleet):
        head, _ = fleet.head("router")
        counts = []
        for number in range(6):
            peer, at_peer = fleet.peer(f"p{number}", f"client/{number}")
            await until(lambda recorder=at_peer: recorder.joined)
            await peer.aclose()
            await until(lambda: not head.peers)
            counts.append(open_descriptors())
        assert counts[-1] <= counts[1] + 2

    run_with_fleet(main)


def test_a_port_in_use_is_an_error_that_says_so():
    node, other = Node("head"), Node("head")
    try:
        endpoint = node.bind("tcp://127.0.0.1:*")
        with pytest.raises(FleetError, match=r"cannot listen on .*in use"):
            other.bind(endpoint)
        with pytest.raises(FleetError, match="cannot connect to"):
            other.connect("tcp://127.0.0.1:no-port")
    finally:
        node.close()
        other.close()
