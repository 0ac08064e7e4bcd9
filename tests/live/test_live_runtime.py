"""The live runtime: what an actor may rely on, and that nothing hangs."""

import asyncio
import threading
import time

import anyio
import pytest

from fleet.actor import Actor, FleetError
from fleet.messages import (
    BatchFinished,
    Drain,
    InjectSlowness,
    Payload,
    ReplicaExited,
    ReplicaReported,
    Reply,
    RunBatch,
    Submit,
    Tick,
    Undeliverable,
)  # fmt: skip
from fleet.runtime.live import LiveRuntime
from fleet.runtime.transport import Node
from fleet.seeding import rng_for
from policies.base import PolicyError
from tests.live.harness import QUICK, EchoActor, peer_process, submit, until


class Probe(Actor):
    """Keeps what it gets; `script` maps a message type to what to do with it."""

    def __init__(self, on_start=None, **script):
        self.got = []
        self.on_start = on_start
        self.script = script

    def handlers(self):
        kinds = (
            Submit,
            Reply,
            Tick,
            ReplicaReported,
            ReplicaExited,
            BatchFinished,
            *((Undeliverable,) if "Undeliverable" in self.script else ()),
        )
        return dict.fromkeys(kinds, self.handle)

    def start(self, ctx):
        super().start(ctx)
        if self.on_start:
            self.on_start(self)

    def handle(self, message):
        self.got.append(message)
        act = self.script.get(type(message).__name__)
        if act:
            act(self, message)


def run(runtime, timeout_s=10.0):
    async def main():
        with anyio.fail_after(timeout_s):
            await runtime.run()

    anyio.run(main)


def ticks(actor):
    return [message.number for message in actor.got if isinstance(message, Tick)]


def stop_after(runtime, delay_s):
    """An actor that ends the run."""
    return Probe(lambda self: self.ctx.after(delay_s, Tick()), Tick=lambda self, message: runtime.stop())


# --- messages -------------------------------------------------------------------------------------------


def test_local_messages_arrive_in_the_order_they_were_sent_and_never_inside_a_handler():
    runtime, trace = LiveRuntime(), []

    def forward(self, message):
        trace.append(("in", message.number))
        if message.number < 5:
            self.ctx.send("b", Tick(number=message.number + 1))
            self.ctx.send("b", Tick(number=message.number + 1))
        trace.append(("out", message.number))

    runtime.add("a", Probe(lambda self: self.ctx.send("b", Tick(number=0))))
    runtime.add("b", Probe(Tick=forward))
    runtime.add("end", stop_after(runtime, 0.1))
    run(runtime)
    numbers = [number for what, number in trace if what == "in"]
    assert numbers == sorted(numbers)
    assert len(numbers) == 63
    assert all(trace[i][0] == "in" and trace[i + 1] == ("out", trace[i][1]) for i in range(0, len(trace), 2))


def test_two_actors_that_talk_without_end_leave_the_loop_to_others():
    runtime = LiveRuntime()
    runtime.add(
        "a", Probe(lambda self: self.ctx.send("b", Tick()), Tick=lambda self, m: self.ctx.send("b", m))
    )
    runtime.add("b", Probe(Tick=lambda self, m: self.ctx.send("a", m)))
    runtime.add("end", stop_after(runtime, 0.2))
    run(runtime)
    assert runtime.counters.delivered > 1_000


def test_a_group_delivers_to_every_subscriber_in_order():
    runtime, order = LiveRuntime(), []
    for name in ("x", "y", "z"):
        runtime.subscribe("observers", name)
        runtime.add(name, Probe(Tick=lambda self, m: order.append(self.ctx.address)))
    runtime.add("a", Probe(lambda self: self.ctx.send("observers", Tick())))
    runtime.add("end", stop_after(runtime, 0.05))
    run(runtime)
    assert order == ["x", "y", "z"]


def test_actors_can_come_and_go_while_it_runs():
    runtime = LiveRuntime()
    late = Probe()

    def bring(self, message):
        if message.number == 0:
            runtime.add("late", late)
            self.ctx.send("late", Tick(number=1))
            self.ctx.after(0.02, Tick(number=1))
        else:
            runtime.remove("late")
            self.ctx.send("late", Tick(number=2))

    runtime.add(
        "a",
        Probe(
            lambda self: self.ctx.after(0.0, Tick()), Tick=bring, Undeliverable=lambda self, m: runtime.stop()
        ),
    )
    run(runtime)
    assert ticks(late) == [1]


def test_a_timer_of_an_actor_that_is_gone_never_fires():
    runtime = LiveRuntime()
    gone = Probe(lambda self: self.ctx.after(0.05, Tick()))
    runtime.add("gone", gone)
    runtime.add(
        "a", Probe(lambda self: self.ctx.after(0.01, Tick()), Tick=lambda self, m: runtime.remove("gone"))
    )
    runtime.add("end", stop_after(runtime, 0.1))
    run(runtime)
    assert not gone.got


def test_two_actors_under_one_address_are_an_error():
    runtime = LiveRuntime()
    runtime.add("a", Probe())
    with pytest.raises(FleetError, match="two actors"):
        runtime.add("a", Probe())


def test_the_undeliverable_comes_back_to_who_understands_it():
    runtime = LiveRuntime()
    sender = Probe(
        lambda self: self.ctx.send("nobody", Tick(number=7)), Undeliverable=lambda self, m: runtime.stop()
    )
    runtime.add("a", sender)
    run(runtime)
    assert sender.got == [Undeliverable("nobody", "unreachable", Tick(number=7))]


def test_the_undeliverable_of_others_is_counted():
    runtime = LiveRuntime()
    runtime.add("a", Probe(lambda self: self.ctx.send("nobody", Tick())))
    runtime.add("end", stop_after(runtime, 0.05))
    run(runtime)
    assert runtime.counters.undeliverable == {"unreachable": 1}


# --- time and chance ------------------------------------------------------------------------------------


def test_timers_fire_in_order_never_early_and_not_when_cancelled():
    runtime, fired = LiveRuntime(), []

    def set_timers(self):
        began = self.ctx.now
        for number, delay in enumerate((0.03, 0.01, 0.02, 0.0, 0.01)):
            self.ctx.after(delay, Tick(number=number, key=str(began + delay)))
        self.ctx.after(0.015, Tick(number=9)).cancel()

    def fire(self, message):
        assert self.ctx.now >= float(message.key)
        fired.append(message.number)

    runtime.add("a", Probe(set_timers, Tick=fire))
    runtime.add("end", stop_after(runtime, 0.1))
    run(runtime)
    assert fired == [3, 1, 4, 2, 0]


def test_of_two_timers_due_at_once_the_first_can_cancel_the_second():
    runtime, timers = LiveRuntime(), []

    def set_timers(self):
        timers.extend(self.ctx.after(0.01, Tick(number=number)) for number in range(3))
        time.sleep(0.03)

    actor = Probe(set_timers, Tick=lambda self, m: timers[1].cancel())
    runtime.add("a", actor)
    runtime.add("end", stop_after(runtime, 0.1))
    run(runtime)
    assert ticks(actor) == [0, 2]


def test_cancelled_timers_do_not_pile_up():
    runtime = LiveRuntime()

    def churn(self, message):
        for _ in range(100):
            self.ctx.after(3_600.0, Tick()).cancel()
        if message.number < 200:
            self.ctx.send("a", Tick(number=message.number + 1))
        else:
            assert len(runtime.alarm._heap) < 5_000
            runtime.stop()

    runtime.add("a", Probe(lambda self: self.ctx.send("a", Tick()), Tick=churn))
    run(runtime)


@pytest.mark.parametrize("delay_s", [0.0005, 0.0035, 0.012])
def test_a_timer_is_late_by_less_than_epolls_millisecond(delay_s):
    runtime, late = LiveRuntime(), []

    def again(self, message):
        late.append(self.ctx.now - float(message.key))
        if len(late) == 60:
            runtime.stop()
        else:
            self.ctx.after(delay_s, Tick(key=repr(self.ctx.now + delay_s)))

    runtime.add("a", Probe(lambda self: self.ctx.after(0.0, Tick(key=repr(self.ctx.now))), Tick=again))
    run(runtime)
    assert min(late) >= 0.0
    assert sorted(late)[len(late) // 4] < 0.0005


def test_a_negative_delay_is_an_error():
    runtime = LiveRuntime()
    runtime.add("a", Probe(lambda self: self.ctx.after(-1.0, Tick())))
    with pytest.raises(FleetError, match="a asked for Tick 1"):
        run(runtime)


def test_chance_comes_from_the_seed_and_the_address():
    runtime, drawn = LiveRuntime(seed=5), {}
    for name in ("a", "b"):
        runtime.add(name, Probe(lambda self: drawn.update({self.ctx.address: self.ctx.rng.random()})))
    runtime.add("end", stop_after(runtime, 0.01))
    run(runtime)
    assert drawn == {"a": rng_for(5, "a").random(), "b": rng_for(5, "b").random()}
    assert drawn["a"] != drawn["b"]


# --- threads --------------------------------------------------------------------------------------------


def test_work_in_a_thread_leaves_the_loop_free_and_answers_by_message_in_order():
    runtime, threads, beats = LiveRuntime(), set(), []

    def begin(self):
        for number in range(3):

            def work(number=number):
                threads.add(threading.get_ident())
                time.sleep(0.05)
                return number

            self.ctx.in_thread(work, lambda number: Tick(number=number))

    def beat(self, message):
        beats.append(self.ctx.now)
        self.ctx.after(0.01, Tick())

    worker = Probe(begin, Tick=lambda self, m: runtime.stop() if m.number == 2 else None)
    runtime.add("a", worker)
    runtime.add("beat", Probe(lambda self: self.ctx.after(0.0, Tick()), Tick=beat))
    run(runtime)
    assert ticks(worker) == [0, 1, 2]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert len(beats) >= 8


def test_an_exception_in_a_thread_ends_the_run_and_keeps_its_traceback():
    runtime = LiveRuntime()

    def explode():
        raise ValueError("out of memory, say")

    runtime.add("replica/0", Probe(lambda self: self.ctx.in_thread(explode, lambda _: Tick())))
    with pytest.raises(FleetError, match=r"replica/0 .* ValueError: out of memory, say") as raised:
        run(runtime)
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.__cause__.__traceback__ is not None


def test_a_thread_that_never_ends_does_not_hold_up_the_end():
    runtime, hold = LiveRuntime(), threading.Event()
    runtime.add("a", Probe(lambda self: self.ctx.in_thread(hold.wait, lambda _: Tick())))
    runtime.add("end", stop_after(runtime, 0.05))
    began = time.monotonic()
    run(runtime)
    assert time.monotonic() - began < 2.0
    hold.set()


# --- when things go wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), PolicyError("no such replica"), FleetError("gone")])
def test_an_exception_in_a_handler_ends_the_run_and_says_where(error):
    runtime = LiveRuntime()

    def explode(self, message):
        raise error

    runtime.add("a", Probe(lambda self: self.ctx.after(0.01, Tick()), Tick=explode))
    runtime.add("b", Probe(lambda self: self.ctx.after(60.0, Tick())))
    with pytest.raises(type(error)) as raised:
        run(runtime)
    assert raised.value is error
    assert raised.value.__notes__ == ["while a handled Tick"]


def test_an_exception_while_an_actor_starts_ends_the_run():
    runtime = LiveRuntime()
    runtime.add("a", Probe(lambda self: 1 / 0))
    with pytest.raises(ZeroDivisionError) as raised:
        run(runtime)
    assert raised.value.__notes__ == ["while a started"]


def test_nothing_is_delivered_after_an_error():
    runtime = LiveRuntime()
    other = Probe()

    def explode(self):
        self.ctx.send("b", Tick())
        raise ValueError

    runtime.add("a", Probe(explode))
    runtime.add("b", other)
    with pytest.raises(ValueError):  # noqa: PT011  # any
        run(runtime)
    assert not other.got


def test_cancelling_the_run_closes_everything():
    async def main():
        node = Node("head", options=QUICK)
        node.bind("tcp://127.0.0.1:*")
        runtime = LiveRuntime(node=node)
        runtime.add("a", Probe())
        with anyio.move_on_after(0.1) as scope:
            await runtime.run()
        assert scope.cancelled_caught
        assert node.closed

    anyio.run(main)


def test_a_handler_that_keeps_the_loop_is_counted():
    runtime = LiveRuntime()
    runtime.add("a", Probe(lambda self: self.ctx.after(0.0, Tick()), Tick=lambda self, m: time.sleep(0.05)))
    runtime.add("end", stop_after(runtime, 0.2))
    run(runtime)
    assert runtime.counters.slow_callbacks >= 1
    assert runtime.counters.max_callback_s >= 0.05


# --- across processes -----------------------------------------------------------------------------------


def pair():
    """A head and a peer in one process."""
    head = Node("head", options=QUICK)
    return LiveRuntime(node=head), joined(head.bind("tcp://127.0.0.1:*"), "host-a")


def joined(endpoint, name):
    node = Node(name, options=QUICK)
    node.connect(endpoint)
    return LiveRuntime(node=node, name=name)


def run_both(head, peer, timeout_s=10.0):
    async def main():
        with anyio.fail_after(timeout_s):
            async with anyio.create_task_group() as group:
                group.start_soon(head.run)
                await peer.run()
                head.stop()

    anyio.run(main)


def test_an_actor_cannot_tell_a_remote_one_from_a_local_one():
    head, peer = pair()
    head.add("router", EchoActor())
    client = Probe(lambda self: self.ctx.send("router", submit(1)), Reply=lambda self, m: peer.stop())
    peer.add("client/0", client)
    run_both(head, peer)
    assert client.got == [Reply("r1", "completed", replica="router")]


def test_the_head_hands_nothing_on_from_one_peer_to_another():
    node = Node("head", options=QUICK)
    endpoint = node.bind("tcp://127.0.0.1:*")
    head, peer, other = LiveRuntime(node=node), joined(endpoint, "host-a"), joined(endpoint, "host-b")
    replica = Probe()
    other.add("replica/1", replica)

    def ask(self, message):
        if "host-b" in node.peers:
            self.ctx.send("replica/1", Drain())
            self.ctx.send("replica/1", submit(1))
        self.ctx.after(0.05, Tick())

    client = Probe(
        lambda self: self.ctx.after(0.0, Tick()), Tick=ask, Undeliverable=lambda self, m: peer.stop()
    )
    peer.add("client/0", client)

    async def main():
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(head.run)
                group.start_soon(other.run)
                await peer.run()
                head.stop()
                other.stop()

    anyio.run(main)
    assert not replica.got
    assert client.got[-1].reason == "refused"
    assert node.counters.refused_messages.keys() == {"Drain", "Submit"}


def test_a_message_to_a_group_at_the_head_reaches_every_subscriber():
    head, peer = pair()
    watchers = [Probe(), Probe(ReplicaReported=lambda self, m: peer.stop())]
    for number, watcher in enumerate(watchers):
        head.subscribe("observers", f"watcher/{number}")
        head.add(f"watcher/{number}", watcher)
    report = ReplicaReported("replica/0", "ready", 1)
    peer.add("replica/0", Probe(lambda self: self.ctx.send("observers", report)))
    run_both(head, peer)
    assert [watcher.got[0] for watcher in watchers] == [report, report]


def test_a_payload_over_the_wire_equals_a_local_one():
    import numpy as np

    head, peer = pair()
    sink = Probe(Submit=lambda self, m: peer.stop())
    head.add("router", sink)
    message = Submit(submit(1).request, "client/0", 3, Payload(tensor=np.eye(3)))
    peer.add("client/0", Probe(lambda self: self.ctx.send("router", message)))
    run_both(head, peer)
    assert sink.got[0].request == message.request
    np.testing.assert_array_equal(sink.got[0].payload.tensor, np.eye(3))


def test_replicas_that_leave_are_announced_to_the_observers():
    head, peer = pair()
    watcher = Probe(ReplicaExited=lambda self, m: head.stop())
    head.subscribe("observers", "watcher")
    head.add("watcher", watcher)
    peer.add("replica/0", EchoActor())
    peer.add("client/0", stop_after(peer, 0.3))

    async def main():
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(peer.run)
                await head.run()

    anyio.run(main)
    assert watcher.got == [ReplicaExited("replica/0", "said goodbye: done", True)]


def test_a_message_that_may_not_leave_its_process_ends_the_run():
    head, peer = pair()
    peer.add("a", Probe(lambda self: self.ctx.send("router", Tick())))
    with pytest.raises(FleetError, match=r"Tick to router.*may not leave"):
        run(peer)
    head.node.close()


def test_a_message_that_its_sender_may_not_send_is_counted_and_ends_nothing():
    head, peer = pair()
    head.add("router", EchoActor())

    def attack(self):
        self.ctx.send("router", InjectSlowness(1.0))
        self.ctx.send("router", submit(1))

    client = Probe(attack, Reply=lambda self, m: peer.stop())
    peer.add("client/0", client)
    run_both(head, peer)
    assert [message.request_id for message in client.got] == ["r1"]
    assert head.node.counters.refused_messages == {"InjectSlowness": 1}


@pytest.mark.live
def test_a_killed_replica_process_is_announced_and_the_rest_goes_on():
    async def main():
        node = Node("head", options=QUICK)
        endpoint = node.bind("tcp://127.0.0.1:*")
        head = LiveRuntime(node=node)
        watcher = Probe(Undeliverable=lambda self, m: None)
        head.subscribe("observers", "batcher/w")
        head.add("batcher/w", watcher)
        async with anyio.create_task_group() as group:
            group.start_soon(head.run)
            with peer_process(endpoint, "a", "replica/0") as first, peer_process(endpoint, "b", "replica/1"):
                await until(lambda: len(node.peers) == 2)
                first.kill()
                await until(lambda: watcher.got)
                assert watcher.got == [ReplicaExited("replica/0", "silent for 0.8 s", False)]
                watcher.ctx.send("replica/0", RunBatch(1, [], "batcher/w"))
                watcher.ctx.send("replica/1", RunBatch(2, [], "batcher/w"))
                await until(lambda: len(watcher.got) == 3)
                assert isinstance(watcher.got[1], Undeliverable)
                assert watcher.got[2] == BatchFinished("replica/1", 2, 0.0)
            head.stop()

    asyncio.run(main())
