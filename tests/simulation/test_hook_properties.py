"""Whatever the fleet and its faults: an attempt that was sent is told once to have ended, and nothing is miscounted."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fleet.pools import ModelPolicies
from fleet.runs.simulate import Simulation
from policies.base import SLOTS
from tests.policies.listening import listening, told
from tests.simulation import test_token_properties as token_by_token
from tests.simulation.test_properties import fault_traces, law, patient, specs, traces

SEEDS = st.integers(0, 3)
HEAD = tuple(slot for slot, base in SLOTS.items() if "on_request_ended" in base.hears)
EARLY_ONLY = ("hedge", "breaker")
OF_MODELS = ("rollout", "variants")


def heard_in(trace, spec, failing, seed, slot):
    """What a policy of this slot hears that decides as the one it stands for; for a minute after the last reply too."""
    of_model = slot in OF_MODELS
    policy = getattr(spec.models.get("default", ModelPolicies()) if of_model else spec, slot)
    listener, heard = listening(slot, parent=type(policy), parameters=policy.parameters())
    changes = {f"models.default.{slot}" if of_model else slot: listener} | (
        {"binding": "early"} if slot in EARLY_ONLY else {}
    )
    made = Simulation(trace, patient(spec).replace(changes), faults=failing, seed=seed, check=False)
    run = made.run()
    made.runtime.stopped = False
    made.runtime.run(until_s=made.runtime.now + 60.0)
    return run, heard, made


def pairs_match(run, heard, made, slot):
    sent = Counter((request.id, replica) for request, replica, _ in told(heard, "on_dispatched"))
    ended = Counter((done.request.id, done.replica) for done, _ in told(heard, "on_completed"))
    if slot in {"iteration", "eviction"}:  # those of a replica that crashed went with it
        assert ended <= sent
        return
    assert sent == ended
    if slot in HEAD:
        outcomes = {ending.request.id: ending.outcome for ending, _ in told(heard, "on_request_ended")}
        assert len(told(heard, "on_request_ended")) == len(outcomes)
        recorded = dict(zip(run.records["id"].to_pylist(), run.records["outcome"].to_pylist(), strict=True))
        assert outcomes == {id: recorded[id] for id in outcomes}
        # What was never let in: refused, or delayed, and then it may have ended in the lobby.
        delayed = {row["subject"] for row in run.decisions.to_pylist() if row["decision"] == "Delay"}
        refused = recorded.keys() - outcomes.keys() - delayed
        assert {recorded[id] for id in refused} <= {"rejected", None}
    else:
        batches = [batch for batch, _ in told(heard, "on_batch_completed")]
        assert sum(batch.size for batch in batches) == sum(sent.values())
        assert all((batch.failure is None) == (batch.service_s is not None) for batch in batches)
        assert made.head.batcher.hearing.is_empty()


@law(30)
@given(traces(), specs(), fault_traces, SEEDS, st.sampled_from([*HEAD, "queueing", "batching"]))
def test_each_attempt_that_was_sent_is_told_to_have_ended_once(trace, spec, failing, seed, slot):
    pairs_match(*heard_in(trace, spec, failing, seed, slot), slot)


@law(30)
@given(token_by_token.traces(), token_by_token.specs(), fault_traces, SEEDS, st.sampled_from(list(SLOTS)))
def test_tokens_are_counted_up_to_what_the_answer_has(trace, spec, failing, seed, slot):
    run, heard, made = heard_in(trace, spec, failing, seed, slot)

    pairs_match(run, heard, made, slot)
    counts: dict[tuple[str, str], list[int]] = {}
    for name, what, *rest in heard:
        if name == "on_tokens":
            counts.setdefault((what.id, rest[0]), []).append(rest[1])
        elif name == "on_completed":
            tokens = counts.pop((what.request.id, what.replica), [])
            assert tokens == sorted(set(tokens)), "each step adds to it"
            if what.failure is None and spec.network.perfect and not failing.faults:
                assert tokens == list(range(what.resumed_tokens + 1, what.output_tokens + 1))
            elif what.failure is None:  # a message may be lost, or be overtaken; the sum is right
                assert (tokens or [0])[-1] == what.output_tokens
