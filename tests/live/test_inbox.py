"""What arrives at a node: bytes that are no messages, and peers that are not who they say."""

import asyncio
import random
import resource
import socket
import struct

import pytest

from fleet.runtime.wire import NODE, Batch, Codec, Hello, Returned
from tests.live.harness import raw_dealer, run_with_fleet, submit, until


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b""], "malformed"),
        ([b"\xc1\xff"], "malformed"),
        ([b"\x91\x93\xa0\xa0\x91\xa4Nope"], "invalid"),
        ([b"\xdd\0\0\0\1\x93\xa0\xa0\x97\xa5Hello\xa1x"], "malformed"),
        ([b"\x90", b"frame"], "invalid"),
    ],
    ids=["empty frame", "random bytes", "unknown tag", "truncated", "stray frame"],
)
def test_a_batch_that_does_not_decode_is_counted_with_its_sender_and_dropped(frames, reason):
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, _ = fleet.peer("good", "client/0")
        with raw_dealer(fleet.endpoint, b"evil") as dealer:
            dealer.send_multipart(frames)
            await until(lambda: head.counters.undecodable)
        assert head.counters.undecodable == {reason: 1}
        assert head.counters.last_undecodable_from == "b'evil'"
        peer.send("router", "client/0", submit(1))
        await until(lambda: at_head.delivered)

    run_with_fleet(main)


def test_a_message_without_a_hello_is_dropped_and_hello_is_asked_for():
    async def main(fleet):
        head, at_head = fleet.head("router")
        codec, batch = Codec(1 << 20), Batch()
        codec.append(batch, "router", "client/0", submit(1))
        with raw_dealer(fleet.endpoint) as dealer:
            dealer.send_multipart(batch.seal())
            await until(lambda: dealer.poll(0))
            hello = codec.decode(dealer.recv_multipart())[0][2]
        assert (hello.name, hello.answer) == ("head", True)
        assert head.counters.strangers == 1
        assert not at_head.delivered

    run_with_fleet(main)


def test_a_sender_that_the_peer_does_not_host_is_a_forgery():
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, _ = fleet.peer("a", "replica/0")
        await until(lambda: "a" in head.peers)
        peer.send("router", "replica/1", submit(1))
        await until(lambda: head.counters.forged)
        assert not at_head.delivered

    run_with_fleet(main)


def test_only_a_head_may_return_a_message():
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, _ = fleet.peer("a", "replica/0")
        await until(lambda: "a" in head.peers and peer.peers)
        peer.control(peer.peers["head"], Returned("replica/1", "router", "unreachable", submit(1)))
        await until(lambda: head.counters.forged)
        assert not at_head.undeliverable

    run_with_fleet(main)


@pytest.mark.parametrize(
    "hello",
    [
        Hello("", 1, (), (), 1.0),
        Hello("x", 1, ("",), (), 1.0),
        Hello("x", 1, (), (), 0.0),
        Hello("x", 1, (), (), float("nan")),
        Hello("x", 1, (), (), float("inf")),
        Hello("x", 1, ("router",), (), 1.0),
        Hello("x", 1, tuple(map(str, range(5_000))), (), 1.0),
    ],
)
def test_a_hello_that_cannot_be_is_refused(hello):
    async def main(fleet):
        head, at_head = fleet.head("router")
        codec, batch = Codec(1 << 20), Batch()
        codec.append(batch, NODE, "x", hello)
        with raw_dealer(fleet.endpoint) as dealer:
            dealer.send_multipart(batch.seal())
            await until(lambda: head.counters.refused)
        assert not at_head.joined

    run_with_fleet(main)


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""What a ZMTP 3.0 peer says first: signature, version, mechanism."""
READY = b"\x04\x26\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"


@pytest.mark.parametrize(
    "junk",
    [
        random.Random(1).randbytes(4_096),
        b"GET / HTTP/1.1\r\nHost: fleet\r\n\r\n",
        b"\xff" * 4_096,
        b"\0" * 4_096,
        GREETING[:20],
        GREETING + b"\x04\xff" + random.Random(2).randbytes(300),
        GREETING + READY + random.Random(3).randbytes(300),
    ],
    ids=["random", "http", "ones", "zeros", "half a greeting", "bad command", "junk after the handshake"],
)
def test_bytes_that_are_no_zeromq_do_not_disturb_the_others(junk):
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, _ = fleet.peer("good", "client/0")
        await until(lambda: "good" in head.peers)
        port = int(fleet.endpoint.rpartition(":")[2])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                try:
                    raw.sendall(junk)
                    await asyncio.sleep(0.01)
                except OSError:
                    pass
        for number in range(100):
            peer.send("router", "client/0", submit(number))
        await until(lambda: len(at_head.delivered) == 100)
        assert len(head.peers) == 1

    run_with_fleet(main)


def test_a_header_that_announces_a_gigabyte_closes_the_connection_and_allocates_nothing():
    async def main(fleet):
        head, at_head = fleet.head("router")
        peer, _ = fleet.peer("good", "client/0")
        await until(lambda: "good" in head.peers)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        port = int(fleet.endpoint.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(GREETING + READY)
            await asyncio.sleep(0.2)
            assert len(raw.recv(4_096)) > 64  # its greeting and READY: the handshake is through
            raw.sendall(b"\x02" + struct.pack(">Q", 1 << 30) + b"x" * 1_000)
            raw.settimeout(5)
            try:
                while raw.recv(4_096):
                    pass
            except ConnectionResetError:
                pass
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
        peer.send("router", "client/0", submit(1))
        await until(lambda: at_head.delivered)

    run_with_fleet(main)
