"""Variants: the cheapest that will do, the one that can, the small one first, the best there is room for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies import (
    AnswerView,
    ByCapability,
    Cascade,
    CheapestMeetingSlo,
    DegradeUnderLoad,
    Ending,
    Escalate,
    FixedVariant,
    Latencies,
    PolicyError,
    Reject,
    Use,
    VariantView,
    build,
)
from policies.base import VariantsPolicy
from policies.variants.costs import costs
from tests.policies.makers import request, reset
from traces import Slo


def variant(name, **fields):
    return VariantView(**{"model": "m", "variant": name, "ready": 1, **fields})


SMALL = variant("small", cost_per_hour=1.0, expected_service_s=0.1, quality=0.6)
LARGE = variant("large", cost_per_hour=4.0, expected_service_s=0.5, quality=0.9)


def chosen(policy, views, now_s=0.0, **own):
    return policy.choose(request(**own), views, now_s).variant


# --- what things cost --------------------------------------------------------------------------------------


def test_a_request_costs_the_price_of_a_replica_for_as_long_as_it_takes():
    assert costs((SMALL, LARGE)) == [(False, 0.1), (False, 2.0)]


def test_without_a_service_time_prices_of_an_hour_are_compared_all_of_them():
    untimed = variant("untimed", cost_per_hour=3.0)
    assert costs((SMALL, untimed, LARGE)) == [(False, 1.0), (False, 3.0), (False, 4.0)]


def test_no_price_comes_after_every_price_and_takes_nobody_elses_service_time_away():
    free = variant("free", cost_per_hour=0.0, expected_service_s=0.0)
    assert costs((variant("unpriced"), SMALL, free)) == [(True, 0.0), (False, 0.1), (False, 0.0)]


# --- one for all -------------------------------------------------------------------------------------------


def test_a_fixed_variant_that_is_gone_is_no_reason_to_refuse():
    assert chosen(FixedVariant(variant="large"), (SMALL, LARGE)) == "large"
    assert chosen(FixedVariant(variant="huge"), (SMALL, LARGE)) == "small"
    assert chosen(FixedVariant(), (LARGE, SMALL)) == "large"


# --- the cheapest that will do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "own", "expected"),
    [
        (CheapestMeetingSlo(), {}, "small"),
        (CheapestMeetingSlo(min_quality=0.8), {}, "large"),
        (CheapestMeetingSlo(objective_s=0.05), {"slo": Slo(e2e_s=1.0)}, "small"),
        (CheapestMeetingSlo(objective_s=0.05), {"deadline_s": 0.3}, "small"),
        (CheapestMeetingSlo(min_quality=0.8, objective_s=0.05), {"deadline_s": 0.5}, "large"),
        (CheapestMeetingSlo(objective_s=0.3), {"slo": Slo(ttft_s=0.01)}, "small"),
    ],
)
def test_the_cheapest_that_is_fast_and_good_enough(policy, own, expected):
    assert policy.choose(request(**own), (LARGE, SMALL), 0.0) == Use(expected)


def test_of_an_objective_and_a_deadline_the_sooner_one_counts():
    slow = variant("slow", cost_per_hour=0.1, expected_service_s=0.4)
    for own in ({"slo": Slo(e2e_s=0.2), "deadline_s": 9.0}, {"slo": Slo(e2e_s=9.0), "deadline_s": 0.2}):
        assert chosen(CheapestMeetingSlo(), (slow, SMALL), **own) == "small"


def test_time_that_has_passed_since_the_arrival_is_not_left():
    policy, slow = (
        CheapestMeetingSlo(objective_s=0.5),
        variant("slow", cost_per_hour=0.1, expected_service_s=0.3),
    )
    assert chosen(policy, (slow, SMALL), now_s=0.1) == "slow"
    assert chosen(policy, (slow, SMALL), now_s=0.3) == "small"


def test_where_nobody_will_do_it_is_the_fastest_and_the_decision_says_so():
    late = CheapestMeetingSlo(objective_s=0.05).choose(request(), (LARGE, SMALL), 0.0)
    assert late == Use("small", "none meets the objective: the fastest")
    late_and_good = CheapestMeetingSlo(objective_s=0.05, min_quality=0.8).choose(
        request(), (LARGE, SMALL), 0.0
    )
    assert late_and_good == Use("large", "none meets the objective: the fastest")
    poor = CheapestMeetingSlo(min_quality=0.95).choose(request(), (LARGE, SMALL), 0.0)
    assert poor == Use("small", "none has a quality of 0.95: the fastest")


@pytest.mark.parametrize(
    ("ready", "in_flight", "expected"),
    [(1, 3, "small"), (1, 4, "large"), (4, 15, "small"), (4, 16, "large"), (0, 0, "large")],
)
def test_load_is_reckoned_with(ready, in_flight, expected):
    """0.1 s, four at a time and one after the other, are 0.4 s."""
    policy = CheapestMeetingSlo(objective_s=0.4)
    busy = variant("small", cost_per_hour=1.0, expected_service_s=0.1, ready=ready, in_flight=in_flight)
    fast = variant("large", cost_per_hour=4.0, expected_service_s=0.3)
    assert chosen(policy, (busy, fast)) == expected


def test_what_was_measured_goes_before_what_is_expected_while_it_is_fresh_and_enough():
    policy = CheapestMeetingSlo(objective_s=0.4, max_age_s=5.0)
    fast = variant("large", cost_per_hour=40.0, expected_service_s=0.3)
    measured = variant(
        "small", cost_per_hour=0.1, expected_service_s=9.0, e2e_s=Latencies((0.2,) * 20), as_of_s=10.0
    )

    assert chosen(policy, (measured, fast), 15.0, arrived_s=15.0) == "small"
    assert chosen(policy, (measured, fast), 15.1, arrived_s=15.1) == "large", "too old"
    few = replace(measured, e2e_s=Latencies((0.2,) * 19))
    assert chosen(policy, (few, fast), 15.0, arrived_s=15.0) == "large", "too few"
    tail = replace(measured, e2e_s=Latencies((0.2,) * 17 + (0.6,) * 3))
    assert chosen(policy, (tail, fast), 15.0, arrived_s=15.0) == "large", "its 90th percentile is 0.6 s"


def test_what_nobody_knows_meets_nothing_and_is_not_free():
    unknown = variant("unknown")
    assert chosen(CheapestMeetingSlo(objective_s=1.0), (unknown, LARGE)) == "large"
    assert chosen(CheapestMeetingSlo(), (unknown, LARGE)) == "large"
    assert chosen(CheapestMeetingSlo(min_quality=0.1), (unknown, LARGE)) == "large"
    assert (
        chosen(CheapestMeetingSlo(objective_s=1.0), (unknown, replace(unknown, variant="other"))) == "unknown"
    )


def test_of_equal_costs_the_better_one_is_taken_and_unknown_quality_is_the_least():
    equal = {"cost_per_hour": 1.0, "expected_service_s": 0.1}
    views = (variant("a", **equal), variant("b", **equal, quality=0.0), variant("c", **equal, quality=0.3))
    assert chosen(CheapestMeetingSlo(), views) == "c"
    assert chosen(CheapestMeetingSlo(), views[:2]) == "b"


VIEWS = st.lists(
    st.builds(
        lambda name, price, service, quality, ready, in_flight: variant(
            name, cost_per_hour=price, expected_service_s=service, quality=quality, ready=ready,
            in_flight=in_flight,
        ),
        st.sampled_from("abcdef"), st.sampled_from([None, 0.0, 0.5, 1.0, 4.0]),
        st.sampled_from([0.0625, 0.25, 0.5, 1.0]), st.sampled_from([None, 0.25, 0.5, 0.75]),
        st.integers(0, 3), st.integers(0, 6),
    ),
    min_size=1, max_size=5, unique_by=lambda view: view.variant,
)  # fmt: skip


def expected_of(view) -> float:
    """As the rule is written: as often as there are requests for each ready replica."""
    return view.expected_service_s * max(1.0, (view.in_flight + 1) / max(1, view.ready))


def cost_of(view) -> float:
    return math.inf if view.cost_per_hour is None else view.cost_per_hour * view.expected_service_s


@given(VIEWS)
def test_no_dearer_variant_is_taken_where_a_cheaper_one_meets_everything(shown):
    answer = CheapestMeetingSlo(objective_s=1.0, min_quality=0.5).choose(request(), shown, 0.0)
    by_name = {view.variant: view for view in shown}
    good = [view for view in shown if view.quality is not None and view.quality >= 0.5]
    meeting = [view for view in good if view.ready and expected_of(view) <= 1.0]
    if meeting:
        assert answer.reason is None
        assert by_name[answer.variant] in meeting
        assert cost_of(by_name[answer.variant]) == min(map(cost_of, meeting))
    else:
        assert answer.reason is not None
        among = good or shown
        ready = [view for view in among if view.ready] or among
        assert by_name[answer.variant] in ready
        assert expected_of(by_name[answer.variant]) == min(map(expected_of, ready))


# --- the one that can --------------------------------------------------------------------------------------


def test_a_capability_is_asked_for_by_name_and_what_nobody_can_do_is_refused():
    plain = variant("plain", cost_per_hour=1.0)
    seeing = variant("seeing", cost_per_hour=3.0, capabilities=("vision", "tools"))
    policy = ByCapability()

    assert policy.choose(request(), (seeing, plain), 0.0) == Use("plain")
    both = {"capability": " tools, vision,"}
    assert policy.choose(request(extra=both), (plain, seeing), 0.0) == Use("seeing")
    refused = policy.choose(request(extra={"capability": "audio"}), (plain, seeing), 0.0)
    served = "plain (nothing in particular); seeing (vision, tools)"
    assert refused == Reject(f"no variant can do audio; served are {served}")


@pytest.mark.parametrize("extra", [None, {}, {"capability": None}, {"capability": ""}, {"other": "vision"}])
def test_who_asks_for_nothing_may_go_anywhere(extra):
    assert chosen(ByCapability(), (LARGE, SMALL), extra=extra) == "small"


@given(st.lists(st.sets(st.sampled_from("xyz")), min_size=1, max_size=5), st.sets(st.sampled_from("xyz")))
def test_the_first_of_equal_price_that_can_do_all_of_it(skills, asked):
    views = [variant(f"v{n}", capabilities=tuple(sorted(skill))) for n, skill in enumerate(skills)]
    answer = ByCapability().choose(request(extra={"capability": ",".join(sorted(asked))}), views, 0.0)
    able = [f"v{n}" for n, skill in enumerate(skills) if asked <= skill]
    if able:
        assert answer == Use(able[0])
    else:
        assert isinstance(answer, Reject)


# --- the small one first -----------------------------------------------------------------------------------

HUGE = variant("huge", cost_per_hour=9.0, expected_service_s=0.5)


def answer(name, quality):
    return AnswerView(variant=name, replica="replica/0", e2e_s=1.0, quality=quality)


def test_a_cascade_asks_by_cost_until_an_answer_is_good_enough():
    policy = reset(Cascade(threshold=0.7, max_escalations=2))
    shown = (HUGE, LARGE, SMALL)

    assert policy.choose(request(), shown, 0.0) == Use("small")
    assert policy.after_answer(request(), answer("small", 0.7), shown, 1.0) is None
    after_small = policy.after_answer(request(), answer("small", 0.5), shown, 1.0)
    assert after_small == Escalate("large", "quality 0.500")
    after_large = policy.after_answer(request(), answer("large", 0.5), shown, 1.0)
    assert after_large == Escalate("huge", "quality 0.500")
    assert policy.after_answer(request(), answer("huge", 0.1), shown, 1.0) is None


def test_one_device_for_all_is_no_tie_where_one_takes_longer():
    slow, quick = (
        variant("slow", cost_per_hour=4.0, expected_service_s=1.0),
        variant("quick", cost_per_hour=4.0, expected_service_s=0.1),
    )
    assert reset(Cascade()).choose(request(), (slow, quick), 0.0) == Use("quick")


def test_no_more_escalations_than_allowed():
    policy, shown = reset(Cascade(threshold=0.7)), (SMALL, LARGE, HUGE)

    assert policy.after_answer(request(), answer("small", 0.5), shown, 1.0) is not None
    assert policy.after_answer(request(), answer("large", 0.5), shown, 2.0) is None
    assert reset(Cascade(max_escalations=0)).after_answer(request(), answer("small", 0.0), shown, 1.0) is None


def test_each_step_may_have_a_threshold_and_the_last_one_counts_for_all_that_follow():
    policy, shown = reset(Cascade(threshold=(0.9, 0.6), max_escalations=9)), (SMALL, LARGE, HUGE)

    assert policy.after_answer(request(), answer("small", 0.8), shown, 1.0) is not None
    assert policy.after_answer(request("other"), answer("small", 0.9), shown, 1.0) is None
    assert policy.after_answer(request(), answer("large", 0.5), shown, 2.0) is not None
    assert policy.after_answer(request(), answer("huge", 0.6), shown, 3.0) is None


def test_a_cascade_in_an_order_of_ones_own():
    policy = reset(Cascade(order=("large", "gone", "small"), max_escalations=9))

    assert policy.choose(request(), (HUGE, SMALL, LARGE), 0.0) == Use("large")
    up = policy.after_answer(request(), answer("large", 0.1), (HUGE, SMALL, LARGE), 1.0)
    assert up == Escalate("small", "quality 0.100")
    assert policy.after_answer(request(), answer("small", 0.1), (HUGE, SMALL, LARGE), 2.0) is None
    assert policy.choose(request(), (HUGE,), 0.0) == Use("huge"), "none of the order is served"


def test_a_cascade_goes_up_only():
    """A cheaper variant that was deployed since is not what to ask after a dearer one."""
    policy = reset(Cascade())
    assert policy.choose(request(), (LARGE,), 0.0) == Use("large")
    assert policy.after_answer(request(), answer("large", 0.1), (SMALL, LARGE), 1.0) is None
    up = policy.after_answer(request(), answer("large", 0.1), (SMALL, LARGE, HUGE), 1.0)
    assert up == Escalate("huge", "quality 0.100")


@pytest.mark.parametrize(
    ("when_unknown", "up"), [("accept", None), ("escalate", Escalate("large", "unknown"))]
)
def test_answers_that_nobody_can_rate(when_unknown, up):
    policy = reset(Cascade(when_unknown=when_unknown))
    assert policy.after_answer(request(), answer("small", None), (SMALL, LARGE), 1.0) == up


def test_nothing_is_kept_of_a_request_that_has_ended():
    policy = reset(Cascade())
    policy.after_answer(request(), answer("small", 0.1), (SMALL, LARGE), 1.0)
    assert policy.asked
    policy.on_request_ended(Ending(request=request(), outcome="expired", attempts=2, e2e_s=2.0), 2.0)
    assert not policy.asked


@given(VIEWS, st.integers(0, 4), st.lists(st.sampled_from([None, 0.0, 0.4, 1.0]), min_size=6, max_size=6))
def test_a_cascade_asks_each_once_in_order_and_stops(shown, most, qualities):
    policy = reset(Cascade(threshold=0.5, max_escalations=most, when_unknown="escalate"))
    asked = [policy.choose(request(), shown, 0.0).variant]
    for quality in qualities:
        up = policy.after_answer(request(), answer(asked[-1], quality), shown, 1.0)
        if up is None:
            break
        assert quality is None or quality < 0.5
        asked.append(up.variant)
    by_name = {view.variant: view for view in shown}
    prices = [cost_of(by_name[name]) for name in asked]
    assert prices == sorted(prices)
    assert len(set(asked)) == len(asked) <= most + 1


@pytest.mark.parametrize("threshold", [(), (0.5, 1.5), 1.5])
def test_thresholds_are_qualities_and_there_is_one_at_least(threshold):
    with pytest.raises(PolicyError, match=r"^\$\.variants\.threshold"):
        build(VariantsPolicy, {"policy": "cascade", "threshold": threshold}, "$.variants")


def test_thresholds_may_be_written_in_a_file():
    assert build(VariantsPolicy, {"policy": "cascade", "threshold": [1, 0.5]}) == Cascade(
        threshold=(1.0, 0.5)
    )


# --- the best there is room for ----------------------------------------------------------------------------


def under(load):
    return variant("best", quality=0.9, ready=2, queue_depth=2 * load), variant("rest", quality=0.5)


def test_degrading_has_hysteresis():
    policy = reset(DegradeUnderLoad(degrade_at=4.0, restore_at=1.0))
    loads = (0, 3, 4, 3, 2, 1, 3, 4)
    taken = [chosen(policy, under(load)) for load in loads]
    assert taken == ["best", "best", "rest", "rest", "rest", "best", "best", "rest"]


def test_each_variant_has_a_state_of_its_own_and_so_has_each_version():
    policy = reset(DegradeUnderLoad(degrade_at=4.0, restore_at=1.0))
    best, rest = under(9)
    full = replace(rest, queue_depth=9)
    third = variant("third", quality=0.1)

    assert policy.choose(request(), (best, full, third), 0.0) == Use("third", "degraded under load")
    assert chosen(policy, (best, replace(full, queue_depth=2), third)) == "third"
    assert chosen(policy, (best, replace(full, queue_depth=1), third)) == "rest"
    newer = [replace(view, version="2") for view in (under(2)[0], rest, third)]
    assert chosen(policy, newer) == "best", "it is the old version's that has to recover"
    assert chosen(policy, (under(2)[0], rest, third)) == "rest"


def test_load_may_be_what_is_in_flight():
    busy = variant("best", quality=0.9, ready=2, queue_depth=0, in_flight=8)
    rest = variant("rest", quality=0.5)
    assert chosen(reset(DegradeUnderLoad()), (busy, rest)) == "best"
    assert chosen(reset(DegradeUnderLoad(signal="in_flight")), (busy, rest)) == "rest"


def test_without_ready_replicas():
    policy = reset(DegradeUnderLoad())
    off = variant("off", quality=1.0, ready=0)
    poor = variant("poor", quality=0.1, ready=0)

    assert policy.choose(request(), (off, *under(0)), 0.0) == Use("best")
    assert policy.choose(request(), (off, *under(9), poor), 0.0) == Use("rest", "degraded under load")
    overloaded = (off, under(9)[0], poor)
    assert policy.choose(request(), overloaded, 0.0) == Use("best", "all are overloaded: the last")
    assert policy.choose(request(), (poor, off), 0.0) == Use("off", "none is ready: the best")


def test_the_urgent_are_not_degraded():
    policy = reset(DegradeUnderLoad(protect_priority=1))
    assert policy.choose(request(priority=1), under(9), 0.0) == Use("best")
    assert policy.choose(request(), under(9), 0.0) == Use("rest", "degraded under load")
    assert reset(DegradeUnderLoad(protect_priority=0)).choose(request(), under(9), 0.0) == Use("best")


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=40))
def test_it_goes_down_at_one_load_and_comes_back_at_another(loads):
    policy = reset(DegradeUnderLoad(degrade_at=6.0, restore_at=2.0, signal="queue_depth"))
    down = False
    for load in loads:
        down = load > 2.0 if down else load >= 6.0
        best = variant("best", quality=0.9, ready=1, queue_depth=load)
        assert chosen(policy, (best, variant("rest"))) == ("rest" if down else "best")


def test_thresholds_without_room_between_them_are_refused():
    with pytest.raises(PolicyError, match="restore_at = 5 must be below degrade_at = 5"):
        build(VariantsPolicy, {"policy": "degrade-under-load", "degrade_at": 5, "restore_at": 5})


def test_an_order_with_a_variant_twice_is_refused():
    table = {"policy": "cascade", "order": ["small", "large", "small"]}
    with pytest.raises(PolicyError, match=r"\$\.order: 'small' is there twice; .* name it once"):
        build(VariantsPolicy, table)
