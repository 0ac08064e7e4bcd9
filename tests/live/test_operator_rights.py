"""Who may operate a fleet, and that this is all that they may do."""

import asyncio
import math

import pytest

from fleet import FleetError, FleetOperator
from fleet.messages import Cancel, Drain, Operate, Operated, ReplicaReported
from fleet.runtime.security import write_keys
from fleet.runtime.transport import Node
from tests.live.harness import QUICK, Recorder, submit, until
from tests.live.test_attacks import CLIENT, HEAD, OPERATOR, attack


def test_an_operator_operates_and_does_nothing_else():
    async def main(world):
        node, recorder = world.start("boss", OPERATOR, "operator/boss")
        await until(lambda: recorder.joined)
        before = world.state()
        forbidden = [
            *(("router", submit(7, me)) for me in ("operator/boss", "client/honest")),
            ("router", Cancel("r1", "operator/boss")), ("replica/0", Drain()), ("host/host-a", Drain()),
            ("observers", ReplicaReported("replica/0", "failed", 0)),
            ("operator", Operate("1", b'{"kind": "status"}', "operator/other")),
            ("operator", Operate("1", b"x" * (2 << 20), "operator/boss")),
            ("operator/boss", Operate("1", b'{"kind": "status"}', "operator/boss")),
        ]  # fmt: skip
        for to, message in forbidden:
            node.send(to, "operator/boss", message)
        await until(lambda: sum(world.node.counters.refused_messages.values()) == len(forbidden))
        assert world.state() == before
        returned = [message for _, _, message, _ in recorder.undeliverable if isinstance(message, Operate)]
        assert len(returned) == 3, "it hears which operation was refused"
        node.send(
            "operator",
            "operator/boss",
            Operate("2", b'{"kind": "scale", "pool": "default", "replicas": 2}', "operator/boss"),
        )
        await until(lambda: recorder.delivered)
        assert recorder.delivered[0][2] == Operated("2")
        assert world.head.pools["default"].autoscaler.bounds == (2, 2)
        await world.serves()

    attack(main)


def test_without_keys_nobody_operates_a_head_that_other_hosts_can_reach():
    async def main():
        for bind, keyless in (("tcp://127.0.0.1:*", True), ("tcp://0.0.0.0:*", False)):
            head = Node("head", options=QUICK, insecure=True)
            endpoint = head.bind(bind).replace("0.0.0.0", "127.0.0.1")
            head.start(Recorder(head))
            peer = Node("boss", options=QUICK)
            peer.connect(endpoint)
            peer.host("operator/boss")
            recorder = Recorder(peer)
            peer.start(recorder)
            await until(lambda recorder=recorder: recorder.joined or recorder.refused)
            assert bool(recorder.refused) == (not keyless)
            assert keyless or "needs a key: other hosts can connect to 'head'" in recorder.refused[0]
            await peer.aclose()
            await head.aclose()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_program_hears_at_once_that_it_may_not_operate_and_what_the_head_does_not_take(tmp_path):
    for name, keys in (("client", CLIENT), ("operator", OPERATOR)):
        write_keys(keys, tmp_path / name)

    async def main(world):
        options = {"server_key": HEAD.public, "timeout_s": 10.0}
        with pytest.raises(
            FleetError, match=r"refuses 'operator-\w+': this key may not host 'operator/operator-"
        ):
            async with FleetOperator(world.endpoint, keys=tmp_path / "client", **options):
                pass
        async with FleetOperator(world.endpoint, keys=tmp_path / "operator", **options) as operator:
            assert (await operator.status())["requests"]["submitted"] == 0
            with pytest.raises(
                FleetError, match=r"the head's operator is refused: \$.operation: expected `bytes` of length"
            ):
                await operator.ask({"kind": "deploy", "pool": "x", "spec": {"model": "x" * (2 << 20)}})
            with pytest.raises(FleetError, match=r"\$.spec.cost_per_hour: expected a finite number, got nan"):
                await operator.ask({"kind": "deploy", "pool": "x", "spec": {"cost_per_hour": math.nan}})
            with pytest.raises(FleetError, match="there is no pool 'x'"):
                await operator.ask({"kind": "retire", "pool": "x"})
        with pytest.raises(FleetError, match="the operator is closed"):
            await operator.status()

    attack(main)
