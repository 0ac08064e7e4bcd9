"""Who may send what to whom, cell by cell, and what a message may hold."""

import math
from itertools import product

import numpy as np
import pytest

from fleet import AffineLatency, EmulatedEngine, EmulatedLlmEngine, FleetSpec
from fleet.engines import AffineSteps, KvSpec
from fleet.launch.host import ReplicaHost
from fleet.launch.making import make_replica
from fleet.messages import (
    WIRE_MESSAGES,
    Activate,
    AskLoad,
    BatchesMissing,
    BatchFinished,
    Cancel,
    CancelBatch,
    ConfirmBatches,
    ConfirmRequests,
    Deactivate,
    Drain,
    HostReplica,
    InjectSlowness,
    LoadAnswered,
    Operate,
    Operated,
    Payload,
    Probe,
    ProbeAnswered,
    ReplicaExited,
    ReplicaReported,
    Reply,
    RequestsConfirmed,
    RunBatch,
    Streamed,
    Submit,
    Tick,
    Timing,
    Tokens,
    TokensGenerated,
    Undeliverable,
    Usage,
    Work,
)
from fleet.runs.assembly import Head, replica_settings
from fleet.runs.client import ClientActor
from fleet.runs.operate import OperatorActor
from fleet.runs.operator import Operator
from fleet.runtime.rights import RIGHTS, ROLES, fault, refusal, role_of
from fleet.runtime.wire import CONTROL, Hello
from fleet.telemetry.sink import Telemetry
from policies.views import TokenSignals
from traces.schema import Request, Slo

ADDRESSES = {
    "router": "router", "batcher/": "batcher/default", "health": "health", "autoscaler": "autoscaler",
    "autoscaler/": "autoscaler/large", "launcher": "launcher", "observers": "observers", "operator": "operator",
    "registrar": "registrar", "watchers": "watchers", "faults": "faults", "replica/": "replica/3", "host/": "host/a",
    "client/": "client/a", "operator/": "operator/a", "nobody": "nobody", "router/": "router/a",
}  # fmt: skip
"""One address of each kind."""
SENDERS = {
    "head": "router", "host": "host/a", "replica": "replica/3", "client": "client/a", "operator": "operator/a",
}  # fmt: skip

REQUEST = Request("r", 0.0, prompt_tokens=4)
SAMPLES = {
    Submit: Submit(REQUEST, "client/a", 3, Payload(b"x")),
    Cancel: Cancel("r", "client/a"),
    ConfirmRequests: ConfirmRequests(("r",), "client/a"),
    ReplicaReported: ReplicaReported("replica/3", "ready", 0, tokens=TokenSignals(1, 2, 3)),
    BatchFinished: BatchFinished(
        "replica/3", 1, 0.1, results=[Payload(tensor=np.zeros(3))], usage=[Usage(3)], quality=[0.5]
    ),
    BatchesMissing: BatchesMissing("replica/3", (1, 2)),
    TokensGenerated: TokensGenerated("replica/3", [Tokens("r", 1, 0, (5,))]),
    ProbeAnswered: ProbeAnswered("replica/3", 1, "ok"),
    AskLoad: AskLoad("replica/3", "router", 1.5, 4),
    LoadAnswered: LoadAnswered("replica/3", 1.5, 7, 0.25),
    RunBatch: RunBatch(1, [Work(REQUEST, 1, 3, Payload(b"x"))], "batcher/default"),
    CancelBatch: CancelBatch(1),
    ConfirmBatches: ConfirmBatches((1,), "batcher/default"),
    Activate: Activate(),
    Deactivate: Deactivate(),
    Drain: Drain(),
    Probe: Probe(1, "live", "health"),
    InjectSlowness: InjectSlowness(2.0),
    HostReplica: HostReplica("replica/3", b"{}"),
    Reply: Reply("r", "completed", result=Payload(b"x"), usage=Usage(3, 0.1), quality=0.5),
    Streamed: Streamed("r", 0, (5,)),
    RequestsConfirmed: RequestsConfirmed(("r",), True),
    Operate: Operate("1", b'{"kind": "status"}', "operator/a"),
    Operated: Operated("1", None, b"{}"),
}  # fmt: skip

ALLOWED = {
    (Submit, "client", "router"), (Cancel, "client", "router"),
    (ConfirmRequests, "client", "router"), (RequestsConfirmed, "head", "client/"),
    (ReplicaReported, "replica", "observers"), (BatchFinished, "replica", "batcher/"),
    (BatchesMissing, "replica", "batcher/"), (TokensGenerated, "replica", "router"),
    (ProbeAnswered, "replica", "health"), (LoadAnswered, "replica", "router"),
    *((kind, "head", "replica/") for kind in (
        RunBatch, CancelBatch, ConfirmBatches, Activate, Deactivate, Drain, Probe, AskLoad, InjectSlowness)),
    (HostReplica, "head", "host/"), (Reply, "head", "client/"), (Streamed, "head", "client/"),
    (Operate, "operator", "operator"), (Operated, "head", "operator/"),
}  # fmt: skip
"""Everything that may be. It is written out here a second time, on purpose."""


def test_every_message_that_crosses_processes_has_its_row_and_nothing_else_has():
    assert set(RIGHTS) == set(WIRE_MESSAGES) == set(SAMPLES) == {kind for kind, _, _ in ALLOWED}


@pytest.mark.parametrize(("kind", "role"), list(product(WIRE_MESSAGES, ROLES)))
def test_a_message_may_go_from_one_role_to_one_kind_of_address_and_nowhere_else(kind, role):
    for receiver, to in ADDRESSES.items():
        why = refusal(role, SENDERS[role], to, SAMPLES[kind])
        assert (why is None) == ((kind, role, receiver) in ALLOWED), (kind, role, receiver, why)


@pytest.mark.parametrize("message", [Tick(), ReplicaExited("replica/3", "x"), Hello("h", 1, (), (), 1.0)])
@pytest.mark.parametrize("role", [*ROLES, "", "anything"])
def test_what_is_not_in_the_table_may_go_nowhere(message, role):
    for to in ADDRESSES.values():
        assert refusal(role, "x", to, message) == "no process may send it to another"


@pytest.mark.parametrize("kind", [kind for kind, right in RIGHTS.items() if right.own is not None])
def test_nobody_speaks_for_another(kind):
    right = RIGHTS[kind]
    for other in ("client/b", "replica/4", "replica/33", "replica/default/3", "operator/b", "router", ""):
        why = refusal(right.sender, other, ADDRESSES[right.receiver], SAMPLES[kind])
        assert why is not None
        assert right.own in why


LLM = EmulatedLlmEngine(latency=AffineSteps(base_s=0.1), kv=KvSpec(blocks=9, block_tokens=8))


def test_what_is_said_of_a_refusal_is_short_whatever_was_sent():
    long = "router/" + "x" * 1_000_000
    for why in (
        refusal("client", "client/a", "x" * 1_000_000, SAMPLES[Submit]),
        refusal("client", "client/a", "router", Submit(REQUEST, long)),
        refusal("client", "client/a", "router", Submit(Request(long, 0.0), "client/a")),
    ):
        assert 0 < len(why) < 200


def receivers():
    """Every actor that an allowed message may reach, by kind of address."""
    telemetry = Telemetry()
    whole = FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0)))
    head = Head(whole, telemetry, seed=0)
    replicas = [
        make_replica(replica_settings(spec, "replica/3", 0)) for spec in (whole, whole.replace(engine=LLM))
    ]
    return {
        "router": [head.router],
        "batcher/": [head.batcher],
        "health": [head.health_checker],
        "observers": [head.registrar],
        "replica/": replicas,
        "host/": [ReplicaHost(None)],
        "client/": [ClientActor(60.0)],
        "operator": [Operator(head, None, live=True)],
        "operator/": [OperatorActor()],
    }


def test_whoever_may_get_a_message_understands_it():
    actors = receivers()
    for kind, right in RIGHTS.items():
        for actor in actors[right.receiver]:
            assert kind in actor.handlers(), f"{type(actor).__name__} does not understand {kind.__name__}"
    for kind in ("replica/", "host/", "client/", "operator/", "router", "operator"):
        for actor in actors[kind]:
            assert Undeliverable in actor.handlers()


def test_a_message_between_nodes_is_not_for_actors():
    assert not set(CONTROL) & set(RIGHTS)


# --- addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "role"),
    [
        ("client/a", "client"), ("client/a/b", "client"), ("host/gpu-1", "host"), ("replica/0", "replica"),
        ("replica/12", "replica"), ("replica/large/0", "replica"), ("replica/llama-3.1_8b/12", "replica"),
        ("replica/3/4", "replica"), ("operator/me", "operator"), ("replica/" + "x" * 63 + "/1", "replica"),
        *((address, None) for address in (
            "replica/", "replica/x", "replica/-1", "replica/00", "replica/1 ", "replica/1\n", "replica/٣",
            "replica/" + "9" * 5_000, "replica/1.5", "replica/1/2/3", "replica/large/", "replica/large/x",
            "replica/large/01", "replica/-large/1", "replica/lar ge/1", "replica/large\n/1", "replica//1",
            "replica/default/1", "replica/" + "x" * 64 + "/1", "operator", "operator/", "operator//x", "client/",
            "client", "client//x", "client/a b",
            "client/" + "x" * 300, "host/", "router", "batcher/default", "observers", "head", "launcher", "faults", "",
            "health", "autoscaler", "Client/a", "client/\x1b[2J", "host/a\x00")),
    ],
)  # fmt: skip
def test_a_peer_hosts_hosts_replicas_clients_and_operators_and_nothing_else(address, role):
    assert role_of(address) == role


# --- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WIRE_MESSAGES)
def test_what_an_honest_process_sends_is_taken(kind):
    assert fault(SAMPLES[kind]) is None


NOT_A_DURATION = (math.nan, math.inf, -math.inf, -0.5, 1e300)
NOT_A_COUNT = (-1, 2**40, 2**63 - 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("work", value) for value in NOT_A_DURATION),
        *(("deadline_s", value) for value in NOT_A_DURATION),
        *(("arrived_s", value) for value in (math.nan, math.inf, -1e300)),
        *(("prompt_tokens", value) for value in NOT_A_COUNT),
        *(("block_tokens", value) for value in (0, *NOT_A_COUNT)),
        ("priority", 2**40), ("turn", -1), ("id", "x" * 2_000), ("tenant", "x" * 2_000),
        ("slo", Slo(ttft_s=math.nan)), ("slo", Slo(e2e_s=-1.0)), ("slo", Slo(tpot_s=math.inf)),
        ("extra", {"x": math.nan}), ("extra", {"x": "y" * 2_000}),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_is_refused_and_the_field_is_named(field, value):
    fields = {"id": "r", "arrived_s": 0.0, field: value}
    for message, path in (
        (Submit(Request(**fields), "client/a"), f"$.request.{field}"),
        (RunBatch(1, [Work(Request(**fields), 1)], "batcher/default"), f"$.work[0].request.{field}"),
    ):
        assert str(fault(message)).startswith(path)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (Submit(REQUEST, "client/a", -1), "$.output_tokens"),
        (Submit(REQUEST, "client/a", 10**12), "$.output_tokens"),
        (BatchFinished("replica/3", 1, math.nan), "$.service_s"),
        (BatchFinished("replica/3", 1, -1.0), "$.service_s"),
        (BatchFinished("replica/3", 1, 1.0, busy_s=math.inf), "$.busy_s"),
        (BatchFinished("replica/3", 1, 1.0, usage=[Usage(1), Usage(-1)]), "$.usage[1].output_tokens"),
        (BatchFinished("replica/3", 1, 1.0, usage=[Usage(1, math.nan)]), "$.usage[0].itl_max_s"),
        (ReplicaReported("replica/3", "ready", 0, weight=0.0), "$.weight"),
        (ReplicaReported("replica/3", "ready", 0, weight=math.nan), "$.weight"),
        (ReplicaReported("replica/3", "ready", 0, max_inflight_batches=0), "$.max_inflight_batches"),
        (ReplicaReported("replica/3", "ready", 0, busy_fraction=math.nan), "$.busy_fraction"),
        (ReplicaReported("replica/3", "ready", 0, gpu_utilization=7.0), "$.gpu_utilization"),
        (ReplicaReported("replica/3", "ready", 0, memory_used_bytes=-1), "$.memory_used_bytes"),
        (
            ReplicaReported("replica/3", "ready", 0, tokens=TokenSignals(used_blocks=-1)),
            "$.tokens.used_blocks",
        ),
        (BatchFinished("replica/3", 1, 1.0, quality=[0.5, 1.5]), "$.quality[1]"),
        (BatchFinished("replica/3", 1, 1.0, quality=[None, -0.1]), "$.quality[1]"),
        (BatchFinished("replica/3", 1, 1.0, quality=[math.nan]), "$.quality[0]"),
        (BatchFinished("replica/3", 1, 1.0, timings=[Timing(0.0, math.nan)]), "$.timings[0].service_s"),
        (BatchFinished("replica/3", 1, 1.0, timings=[Timing(0.0, 1.0, 1 << 40)]), "$.timings[0].batch_size"),
        (Reply("r", "completed", quality=1.5), "$.quality"),
        (Operate("1", b"x" * (2 << 20), "operator/a"), "$.operation"),
        (Operate("1" * 2_000, b"{}", "operator/a"), "$.id"),
        (InjectSlowness(math.nan), "$.factor"),
        (InjectSlowness(-1.0), "$.factor"),
        (ProbeAnswered("replica/3", 1, "ok", "x" * (2 << 20)), "$.detail"),
        (Reply("r", "completed", service_s=math.nan), "$.service_s"),
    ],
)
def test_what_cannot_be_is_refused_and_the_field_is_named(message, path):
    assert str(fault(message)).startswith(f"{path}: expected")


def test_no_number_of_any_message_may_be_nan():
    """The bounds come from names and units: a field that somebody adds has them too."""
    from msgspec import structs

    def holes(value):
        """The value with each float in it made NaN, one at a time."""
        for field in structs.fields(type(value)):
            item = getattr(value, field.name)
            if isinstance(item, float):
                yield structs.replace(value, **{field.name: math.nan})
            elif hasattr(item, "__struct_fields__"):
                yield from (structs.replace(value, **{field.name: hole}) for hole in holes(item))

    found = [hole for sample in SAMPLES.values() for hole in holes(sample)]
    assert len(found) >= 5
    assert all(fault(hole) for hole in found)
