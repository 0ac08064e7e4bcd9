"""A live client's watch over its head, in virtual time: work being done is what counts, not answers."""

import pytest

from fleet.actor import Actor
from fleet.actors.load_generator import LoadGenerator
from fleet.messages import Cancel, ConfirmRequests, Reply, RequestsConfirmed, Submit, Tick
from fleet.runs.client import ClientActor
from fleet.runtime.simulated import SimulatedRuntime
from fleet.telemetry.sink import Telemetry
from tests.simulation.building import Script, arrivals, engine, faults, fleet, play_with
from traces import Fault, Request

TIMEOUT_S = 8.0


class Head(Actor):
    """A router that says it works until `works_until_s`, answers after `answers_after_s`, and has lost `lost`."""

    def __init__(self, works_until_s=0.0, answers_after_s=None, lost=(), answers_questions=True):
        self.works_until_s, self.answers_after_s, self.lost = works_until_s, answers_after_s, lost
        self.answers_questions = answers_questions
        self.cancelled = []

    def handlers(self):
        return {
            Submit: self.on_submit, ConfirmRequests: self.on_confirm, Tick: self.on_tick, Cancel: self.on_cancel
        }  # fmt: skip

    def on_submit(self, message):
        if self.answers_after_s is not None:
            self.ctx.after(self.answers_after_s, Tick("answer", message.request.id))

    def on_tick(self, message):
        self.ctx.send("client/trace", Reply(message.key, "completed", 1))

    def on_cancel(self, message):
        self.cancelled.append(message.request_id)

    def on_confirm(self, message):
        missing = tuple(id for id in message.requests if id in self.lost)
        if self.answers_questions:
            self.ctx.send(message.reply_to, RequestsConfirmed(missing, self.ctx.now < self.works_until_s))


def watched(head, *times_s):
    """What became of requests at these times: (when, outcome, detail) of each, and the counters."""
    runtime, telemetry = SimulatedRuntime(seed=0), Telemetry()
    runtime.add("router", head)
    client = LoadGenerator(
        arrivals(*times_s), telemetry=telemetry, on_done=runtime.stop, stall_timeout_s=TIMEOUT_S
    )
    runtime.add("client/trace", client)
    runtime.run()
    rows = telemetry.ended.take().to_pylist()
    return [(row["ended_s"], row["outcome"], row["detail"]) for row in rows], telemetry.counters


def test_an_answer_that_takes_many_time_outs_is_waited_for_while_the_head_says_that_work_is_done():
    ended, counters = watched(Head(works_until_s=1e9, answers_after_s=1_300.0), 0.0, 5.0)

    assert ended == [(1_300.0, "completed", None), (1_305.0, "completed", None)]
    assert counters["stalled"] == 0


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (Head(), "no replica ran or loaded anything"),
        (Head(answers_questions=False), "the head said nothing, and nothing came of it"),
    ],
    ids=["idle", "dumb"],
)
def test_requests_for_which_nothing_is_done_end_as_stalled_not_as_cancelled(head, why):
    ended, counters = watched(head, 0.0, 1.0)

    assert {(outcome, detail) for _, outcome, detail in ended} == {("failed", f"stalled: {why} for 8 s")}
    assert all(TIMEOUT_S <= at_s <= 1.5 * TIMEOUT_S for at_s, _, _ in ended)
    assert counters["stalled"] == 2
    assert head.cancelled == ["r0", "r1"], "the head need not keep them"


def test_the_time_out_begins_when_the_work_ends():
    ended, _ = watched(Head(works_until_s=100.0), 0.0)

    assert 100.0 + TIMEOUT_S - 2.0 <= ended[0][0] <= 100.0 + 1.5 * TIMEOUT_S


def test_a_request_that_was_lost_on_the_way_ends_by_itself():
    ended, _ = watched(Head(works_until_s=1e9, answers_after_s=50.0, lost=("r1",)), 0.0, 0.5)

    assert [(outcome, detail and detail[:12]) for _, outcome, detail in ended] == [
        ("failed", "message-lost"), ("completed", None),
    ]  # fmt: skip
    assert ended[0][0] <= TIMEOUT_S


def asked(head, *requests):
    """The answers of a program's client to these requests at time 0, in the order given, once all have a reply."""
    runtime, client = SimulatedRuntime(seed=0), ClientActor(TIMEOUT_S)
    runtime.add("router", head)
    runtime.add("client/trace", client)
    answers = [client.submit(Submit(Request(id, 0.0), "client/trace")) for id in requests]
    while any(answer.reply is None for answer in answers):
        runtime.run(until_s=runtime.now + 1.0)
    return [answer.reply for answer in answers], runtime.now


def test_a_program_s_client_waits_as_long_as_work_is_done_and_hears_of_what_was_lost():
    (slow, lost), ended_s = asked(
        Head(works_until_s=1e9, answers_after_s=500.0, lost=("lost",)), "slow", "lost"
    )

    assert (slow.outcome, lost.outcome) == ("completed", "failed")
    assert lost.detail.startswith("message-lost: ")
    assert ended_s == pytest.approx(500.0, abs=1.0)


def test_a_program_s_client_ends_what_nothing_is_done_for():
    (reply,), ended_s = asked(Head(), "r")

    assert (reply.outcome, reply.detail) == (
        "failed", "stalled: no replica ran or loaded anything for 8 s",
    )  # fmt: skip
    assert ended_s <= 1.5 * TIMEOUT_S + 1.0


class Asker(Script):
    """Keeps what the router says of its requests."""

    def __init__(self, *lines):
        super().__init__(*lines)
        self.heard = []

    def handlers(self):
        return {**super().handlers(), RequestsConfirmed: self.heard.append}


def test_the_router_says_what_it_has_of_this_client_and_whether_a_replica_works():
    ask = ConfirmRequests(("own", "r0", "unheard of"), "client/script")
    asker = Asker(
        (0.0, "router", Submit(Request("own", 0.0), "client/script")),
        (1.1, "router", ask),
        (9.0, "router", ask),
    )

    play_with(asker, arrivals(0.0, 10.0), fleet(3.0, replicas=2))

    assert asker.heard == [
        RequestsConfirmed(("r0", "unheard of"), working=True),  # r0 is another client's
        RequestsConfirmed(("own", "r0", "unheard of"), working=False),
    ]


def test_a_load_under_way_is_work():
    crash = faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))
    asker = Asker((5.0, "router", ConfirmRequests((), "client/script")))

    play_with(asker, arrivals(0.0), fleet(engine=engine(cold_start_s=60.0)), faults=crash)

    assert [message.working for message in asker.heard] == [True]
