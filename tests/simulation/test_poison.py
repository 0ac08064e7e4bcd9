"""What one party says or does must not cost the others: poison, and answers and cancels that are not one's own."""

import pytest

from fleet.messages import BatchFinished, Cancel, Payload, ProbeAnswered, Tokens, TokensGenerated
from policies import ExponentialBackoff, Greedy, NoRetry, PolicyError
from tests.simulation.building import (
    Script,
    arrivals,
    column,
    decisions,
    faults,
    fleet,
    play,
    play_with,
    sizes,
)
from traces import Fault


def counters(run):
    return run.manifest.counters


STUBBORN = ExponentialBackoff(jitter="none", base_s=0.0, max_attempts=100, budget_ratio=None)
"""Tries again at once, and for ever."""


def crashes(*times_s: float):
    """Whoever serves longest dies at each of these times."""
    return faults(*(Fault(at_s=at_s, kind="crash") for at_s in times_s))


# --- poison ---------------------------------------------------------------------------------------------


def test_a_request_that_loses_as_many_replicas_as_the_limit_is_failed_and_names_them():
    spec = fleet(10.0, retry=STUBBORN, control_interval_s=0.1)
    run = play(arrivals(0.0), spec, faults=crashes(1.0, 2.0, 3.0, 4.0))

    assert column(run, "outcome") == {"r0": "failed"}
    assert column(run, "detail") == {
        "r0": "poison: its attempts ended with the loss of replica/0, replica/1, replica/2"
    }
    assert column(run, "ended_s")["r0"] == 3.0
    assert counters(run)["poisoned"] == 1
    assert decisions(run, "retry", "GiveUp")[-1]["reason"].startswith("poison")


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_limit_is_the_fleets_to_say(limit):
    spec = fleet(10.0, retry=STUBBORN, control_interval_s=0.1, poison_limit=limit)
    run = play(arrivals(0.0), spec, faults=crashes(1.0, 2.0, 3.0, 4.0))

    assert column(run, "outcome") == {"r0": "failed" if limit <= 4 else "completed"}
    assert column(run, "attempts") == {"r0": min(limit, 5)}


def test_losses_below_the_limit_are_retried_as_ever():
    spec = fleet(10.0, retry=STUBBORN, control_interval_s=0.1)
    run = play(arrivals(0.0), spec, faults=crashes(1.0, 2.0))

    assert column(run, "outcome") == {"r0": "completed"}
    assert column(run, "attempts") == {"r0": 3}
    assert "poisoned" not in counters(run)


def test_who_waits_in_line_for_a_lost_replica_has_not_lost_it():
    """Only an attempt that was with the replica counts; what waited for it is moved."""
    spec = fleet(1.0, retry=STUBBORN, control_interval_s=0.1, poison_limit=1, replicas=2)
    run = play(arrivals(0.0, 0.0, 0.0, 0.0), spec, faults=crashes(0.5))

    assert sorted(column(run, "outcome").values()) == ["completed"] * 3 + ["failed"]


def test_a_retry_policy_that_gives_up_first_is_heard():
    run = play(arrivals(0.0), fleet(10.0, retry=NoRetry()), faults=crashes(1.0))

    assert column(run, "detail")["r0"].startswith("replica-lost")


@pytest.mark.parametrize("limit", [0, -1, 2.5, None])
def test_a_limit_that_cannot_be_names_its_path(limit):
    with pytest.raises(PolicyError, match=r"\$\.poison_limit"):
        fleet(poison_limit=limit)


# --- others' requests -----------------------------------------------------------------------------------


def test_a_client_cancels_its_own_requests_only():
    script = Script(
        (0.5, "router", Cancel("r0", "client/script")), (0.5, "router", Cancel("r1", "client/trace"))
    )

    run = play_with(script, arrivals(0.0, 0.0), fleet())

    assert column(run, "outcome") == {"r0": "completed", "r1": "cancelled"}
    assert counters(run)["foreign_cancels"] == 1


def test_tokens_of_an_attempt_come_from_the_replica_that_has_it():
    forged = TokensGenerated("replica/1", [Tokens("r0", ticket, 0, ()) for ticket in range(1, 9)])

    run = play_with(Script((0.5, "router", forged)), arrivals(0.0), fleet())

    assert column(run, "ttft_s") == {"r0": 1.0}, (
        "not 0.5: it streams nothing, so its answer is its first token"
    )
    assert counters(run)["late_tokens"] == 8


def test_a_probe_is_answered_by_the_replica_that_was_asked():
    """Replica 0 hangs, and another one says that all is well with it."""
    lies = [
        (1.0 + n / 10, "health", ProbeAnswered("replica/1", probe, "ok"))
        for n in range(20)
        for probe in range(1, 40)
    ]
    spec = fleet(0.1, replicas=2, probe_interval_s=0.5, probe_timeout_s=0.3)

    hang = faults(Fault(at_s=1.0, kind="hang", replica="replica/0"))
    run = play_with(Script(*lies), arrivals(8.0), spec, faults=hang)

    assert [row["subject"] for row in decisions(run, "health", "failed")] == ["replica/0"]


@pytest.mark.parametrize("results", [[], [None], [Payload(b"x")] * 3])
def test_an_answer_with_another_number_of_results_is_an_engine_error_of_its_batch(results):
    forged = BatchFinished("replica/0", 2, 0.1, results=results)
    spec = fleet(1.0, batching=Greedy(max_batch=2), binding="late", retry=NoRetry())

    run = play_with(Script((1.5, "batcher/default", forged)), arrivals(0.0, 0.0, 0.0), spec)

    why = f"engine-error: replica/0 answered with {len(results)} results to 2 attempts"
    assert sizes(run) == [1, 2]
    assert column(run, "outcome") == {"r0": "completed", "r1": "failed", "r2": "failed"}
    assert column(run, "detail") == {"r0": None, "r1": why, "r2": why}
