"""`run.attempts`: what became an answer, what was for nothing, and that single attempts cost and change nothing."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fleet import load_run, simulate
from fleet.spec import from_mapping
from fleet.telemetry.attempts import several_attempts
from fleet.telemetry.sink import ATTEMPTS
from policies import ExponentialBackoff, HedgePolicy
from tests.simulation.building import arrivals, faults, fleet
from tests.telemetry.building import ENGINE, NEW, OLD, Told, both_ready, two_versions
from traces import Fault


class HedgeAtOnce(HedgePolicy):
    """Not the null one."""

    def after_s(self, request, attempts, now_s):
        return None


class BacksOffImpatiently(ExponentialBackoff):
    def attempt_limit_s(self, request, attempt, now_s):
        return 1.0


def summary(told):
    return both_ready(told).run().summary


# --- counts and waste ------------------------------------------------------------------------------------------


def test_a_run_of_single_attempts_has_no_rows_and_wastes_nothing():
    run = both_ready(Told()).request().request(replica=NEW).run()

    assert run.attempts.schema == ATTEMPTS
    assert len(run.attempts) == 0
    assert (run.summary.hedges, run.summary.retries, run.summary.wasted_s) == (0, 0, 0.0)
    assert run.summary.wasted_fraction == 0.0


def test_a_hedge_that_loses_is_wasted_for_the_time_that_it_ran():
    told = Told().request(service_s=2.0)
    told.attempt("r0", "primary", OLD, service_s=2.0, ended_s=2.0)
    told.attempt("r0", "hedge", NEW, end="withdrawn", started_s=0.5, ended_s=2.0)

    s = summary(told)

    assert (s.hedges, s.wasted_s) == (1, 1.5)
    assert s.wasted_fraction == 1.5 / 3.5


def test_a_tied_attempt_that_never_began_is_counted_and_wasted_nothing():
    told = Told().request()
    told.attempt("r0", "primary", OLD, service_s=1.0)
    told.attempt("r0", "tied", NEW, end="withdrawn", started_s=None)

    s = summary(told)

    assert (s.hedges, s.wasted_s) == (1, 0.0)


def test_a_hedge_that_wins_is_the_answer_and_its_primary_is_the_waste():
    told = Told().request(replica=NEW)
    told.attempt("r0", "primary", OLD, end="withdrawn", started_s=0.0, ended_s=3.0)
    told.attempt("r0", "hedge", NEW, service_s=1.0)

    assert summary(told).wasted_s == 3.0


def test_a_failed_attempt_is_wasted_and_the_retry_after_it_is_not():
    told = Told().request(attempts=2)
    told.attempt("r0", "primary", OLD, end="replica-lost", started_s=1.0, ended_s=1.25)
    told.attempt("r0", "retry", OLD, service_s=1.0, number=2)

    s = summary(told)

    assert (s.retries, s.hedges, s.wasted_s) == (1, 0, 0.25)


def test_a_shadow_is_never_an_answer_even_where_it_completed_on_the_replica_that_answered():
    told = Told().request()
    told.attempt("r0", "primary", OLD, service_s=1.0)
    told.attempt("r0", "shadow", OLD, service_s=4.0, ended_s=5.0)

    assert summary(told).wasted_s == 4.0


def test_a_request_with_a_shadow_has_its_only_attempt_still():
    told = Told().request(service_s=3.0)
    told.attempt("r0", "shadow", NEW, service_s=1.0)

    run = both_ready(told).run()

    assert [(row["role"], row["pool"]) for row in run.every_attempt().to_pylist()] == [
        ("shadow", "new"), ("primary", "old"),
    ]  # fmt: skip
    assert run.summary.wasted_fraction == 1.0 / 4.0


@pytest.mark.parametrize(("answered_by", "wasted_s"), [(NEW, 1.0), (OLD, 3.0)])
def test_of_two_good_answers_the_one_that_the_client_got_is_not_wasted(answered_by, wasted_s):
    told = Told().request(replica=answered_by)
    told.attempt("r0", "primary", OLD, service_s=1.0)
    told.attempt("r0", "escalation", NEW, service_s=3.0, number=2)

    assert summary(told).wasted_s == wasted_s


@pytest.mark.parametrize("outcome", ["failed", "expired", "cancelled"])
def test_what_completed_for_a_request_that_did_not_is_wasted(outcome):
    told = Told().request(outcome, OLD)
    told.attempt("r0", "primary", OLD, service_s=1.5)

    assert summary(told).wasted_s == 1.5


def test_what_the_end_of_the_run_cuts_off_is_not_wasted():
    told = Told().request(None)
    told.attempt("r0", "primary", OLD, end=None, started_s=1.0, ended_s=None)

    s = summary(told)

    assert s.wasted_s == 0.0
    assert s.wasted_fraction is None, "nothing has ended, so there is nothing to be a fraction of"


def test_attempts_of_another_client_are_wasted_for_nobody_but_are_kept():
    told = Told().request()
    told.attempt("somebody else's", "primary", OLD, service_s=1.0)

    assert len(both_ready(told).run().attempts) == 1


# --- every attempt ---------------------------------------------------------------------------------------------


def test_every_attempt_has_the_single_ones_too_as_far_as_records_tell():
    told = both_ready(Told()).request(service_s=0.5, tokens=7).request(replica=NEW, attempts=2)
    told.attempt("r1", "primary", OLD, end="engine-error", service_s=0.25)
    told.attempt("r1", "retry", NEW, service_s=1.0, number=2)
    told.request("rejected", None)

    rows = told.run().every_attempt().to_pylist()

    assert [(row["request"], row["role"], row["end"]) for row in rows] == [
        ("r1", "primary", "engine-error"), ("r1", "retry", "completed"), ("r0", "primary", "completed"),
    ]  # fmt: skip
    assert rows[2] == {
        "request": "r0", "role": "primary", "attempt": 1, "pool": "old", "version": "1", "variant": "default",
        "replica": OLD, "device": "l4", "sent_s": None, "started_s": None, "ended_s": 1.0, "end": "completed",
        "service_s": 0.5, "tokens": 7,
    }  # fmt: skip


def test_every_attempt_of_a_simulated_flat_fleet_is_its_completed_requests():
    run = simulate(arrivals(0.0, 0.5, 1.0), fleet(1.0, replicas=2))

    rows = run.every_attempt()

    assert rows["request"].to_pylist() == ["r0", "r1", "r2"]
    assert rows["replica"].to_pylist() == run.records["replica"].to_pylist()
    assert set(rows["pool"].to_pylist()) == {"default"}


# --- which runs are judged by them -----------------------------------------------------------------------------


def test_fleets_in_which_a_request_has_one_attempt_at_a_time_are_as_they_were():
    assert not several_attempts(fleet())
    assert several_attempts(fleet(hedge=HedgeAtOnce()))
    assert several_attempts(fleet(retry=BacksOffImpatiently()))
    assert several_attempts(two_versions())
    assert several_attempts(from_mapping({"pools": {"only": {"engine": ENGINE}}}))


def test_a_client_that_drives_a_fleet_knows_what_served_it_and_not_what_that_took():
    told = Told().request(replica=NEW, quality=0.5)
    told.telemetry.pools.clear()

    run = told.run()

    assert run.records["version"].to_pylist() == ["2"]
    assert run.by("version")["requests"].to_pylist() == [1]
    assert run.summary.quality_mean == 0.5
    assert run.summary.wasted_s is run.summary.hedges is run.summary.cost is None


def test_retries_of_a_plain_fleet_are_in_its_attempts_and_not_in_its_summary_or_digest():
    spec = fleet(1.0, replicas=2)
    run = simulate(
        arrivals(0.0, 0.1), spec, faults=faults(Fault(at_s=0.5, kind="crash", replica="replica/0"))
    )
    before = run.digest

    run.attempts = ATTEMPTS.empty_table()

    assert run.summary.wasted_s is None
    assert run.digest == before


def test_attempts_are_part_of_the_digest_where_there_may_be_several():
    def one(end_s):
        told = both_ready(Told()).request()
        return told.attempt("r0", "hedge", NEW, end="withdrawn", started_s=None, ended_s=end_s).run()

    assert one(1.0).digest == one(1.0).digest
    assert one(1.0).summary == one(2.0).summary
    assert one(1.0).digest != one(2.0).digest


# --- files -----------------------------------------------------------------------------------------------------


def hedged():
    told = both_ready(Told()).request()
    told.attempt("r0", "primary", OLD, service_s=1.0)
    return told.attempt("r0", "hedge", NEW, end="withdrawn", started_s=0.5).run()


def test_a_run_is_read_back_with_its_attempts_and_pools(tmp_path):
    run = hedged()

    back = load_run(run.save(tmp_path))

    assert back.attempts.equals(run.attempts)
    assert back.pools.equals(run.pools)
    assert back.summary == run.summary
    assert back.digest == run.digest


@pytest.mark.parametrize("plain", [False, True], ids=["several attempts", "one at a time"])
@pytest.mark.parametrize("table", ["attempts", "pools"])
def test_a_table_that_was_changed_is_found_whether_or_not_the_digest_is_of_it(tmp_path, table, plain):
    run = simulate(arrivals(0.0), fleet()) if plain else hedged()
    run.save(tmp_path)
    more = pa.nulls(len(getattr(run, table)), pa.float64())
    pq.write_table(getattr(run, table).append_column("more", more), tmp_path / f"{table}.parquet")

    with pytest.raises(ValueError, match="do not match the digest"):
        load_run(tmp_path)


def test_a_run_from_before_there_were_attempts_is_read_with_none(tmp_path):
    run = simulate(arrivals(0.0, 0.5), fleet())
    run.save(tmp_path)
    for name in ("attempts", "pools"):
        (tmp_path / f"{name}.parquet").unlink()
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[: text.index('"besides"')] + text[text.index('"digest"') :])

    back = load_run(tmp_path)

    assert len(back.attempts) == 0
    assert back.digest == run.digest
    assert len(back.every_attempt()) == 2
