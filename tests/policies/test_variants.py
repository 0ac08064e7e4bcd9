"""Variants: the cheapest that will do, the one that can, the small one first, the best there is room for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    AnswerView,
    ByCapability,
    Cascade,
    CheapestMeetingSlo,
    DegradeUnderLoad,
    Escalate,
    Latencies,
    PolicyError,
    Reject,
    Use,
    VariantView,
    build,
)
from policies.base import VariantsPolicy
from tests.policies.makers import request, reset
from traces import Slo


def variant(name, **fields):
    return VariantView(**{"model": "m", "variant": name, "ready": 1, **fields})


SMALL = variant("small", cost_per_hour=1.0, expected_service_s=0.1, quality=0.6)
LARGE = variant("large", cost_per_hour=4.0, expected_service_s=0.5, quality=0.9)


@pytest.mark.parametrize(
    ("policy", "own", "chosen"),
    [
        (CheapestMeetingSlo(), {}, "small"),
        (CheapestMeetingSlo(min_quality=0.8), {}, "large"),
        (
            CheapestMeetingSlo(min_quality=0.8, objective_s=0.2),
            {},
            "large",
        ),  # none meets it: the fastest that is good
        (CheapestMeetingSlo(objective_s=0.05), {"slo": Slo(e2e_s=1.0)}, "small"),
        (CheapestMeetingSlo(), {"deadline_s": 0.3}, "small"),
    ],
)
def test_the_cheapest_that_is_fast_and_good_enough(policy, own, chosen):
    assert policy.choose(request(**own), (LARGE, SMALL), 0.0).variant == chosen


def test_load_is_reckoned_with_and_what_was_measured_goes_before_what_is_expected():
    policy = CheapestMeetingSlo(objective_s=0.4)
    busy = variant("small", cost_per_hour=1.0, expected_service_s=0.1, in_flight=4)
    fast = variant("large", cost_per_hour=4.0, expected_service_s=0.3)
    assert policy.choose(request(), (busy, fast), 0.0).variant == "large", "0.1 s, five at a time, are 0.5 s"

    measured = variant("small", cost_per_hour=0.1, expected_service_s=9.0, e2e_s=Latencies((0.2,) * 20))
    assert policy.choose(request(), (measured, fast), 0.0).variant == "small"


def test_what_nobody_knows_meets_nothing_and_is_not_free():
    unknown = variant("unknown")
    assert CheapestMeetingSlo(objective_s=1.0).choose(request(), (unknown, LARGE), 0.0).variant == "large"
    assert CheapestMeetingSlo().choose(request(), (unknown, LARGE), 0.0).variant == "large"


views = st.builds(
    lambda name, price, service, quality, ready: variant(
        name, cost_per_hour=price, expected_service_s=service, quality=quality, ready=ready
    ),
    st.sampled_from("abcdef"), st.floats(0.1, 10.0), st.floats(0.01, 2.0), st.floats(0.0, 1.0), st.integers(0, 3),
)  # fmt: skip


@given(st.lists(views, min_size=1, max_size=5, unique_by=lambda view: view.variant))
def test_no_dearer_variant_is_taken_where_a_cheaper_one_meets_everything(shown):
    policy = CheapestMeetingSlo(objective_s=1.0, min_quality=0.5)
    answer = policy.choose(request(), shown, 0.0)
    costs = {
        view.variant: view.cost_per_hour * view.expected_service_s
        for view in shown
        if view.ready and view.quality >= 0.5 and view.expected_service_s <= 1.0
    }
    if costs:
        assert costs[answer.variant] == min(costs.values())


def test_a_capability_is_asked_for_by_name_and_what_nobody_can_do_is_refused():
    plain = variant("plain", cost_per_hour=1.0)
    seeing = variant("seeing", cost_per_hour=3.0, capabilities=("vision", "tools"))
    policy = ByCapability()

    assert policy.choose(request(), (seeing, plain), 0.0) == Use("plain")
    assert policy.choose(request(extra={"capability": "tools, vision"}), (plain, seeing), 0.0) == Use(
        "seeing"
    )
    refused = policy.choose(request(extra={"capability": "audio"}), (plain, seeing), 0.0)
    assert refused == Reject("no variant can do audio; served are tools, vision")


def answer(name, quality):
    return AnswerView(variant=name, replica="replica/0", e2e_s=1.0, quality=quality)


def test_a_cascade_asks_by_price_until_an_answer_is_good_enough():
    huge = variant("huge", cost_per_hour=9.0)
    policy = reset(Cascade(threshold=0.7, max_escalations=2))
    shown = (huge, LARGE, SMALL)

    assert policy.choose(request(), shown, 0.0) == Use("small")
    assert policy.after_answer(request(), answer("small", 0.8), shown, 1.0) is None
    assert policy.after_answer(request(), answer("small", 0.5), shown, 1.0) == Escalate(
        "large", "quality 0.500"
    )
    assert policy.after_answer(request(), answer("large", 0.5), shown, 1.0) == Escalate(
        "huge", "quality 0.500"
    )
    assert policy.after_answer(request(), answer("huge", 0.1), shown, 1.0) is None


def test_a_cascade_in_an_order_of_ones_own_and_answers_nobody_can_rate():
    policy = reset(Cascade(order=("large", "small"), when_unknown="escalate"))

    assert policy.choose(request(), (SMALL, LARGE), 0.0) == Use("large")
    assert policy.after_answer(request(), answer("large", None), (SMALL, LARGE), 1.0) == Escalate(
        "small", "unknown"
    )
    assert reset(Cascade()).after_answer(request(), answer("small", None), (SMALL, LARGE), 1.0) is None


def under(load):
    return variant("best", quality=0.9, ready=2, queue_depth=2 * load), variant("rest", quality=0.5)


def test_degrading_has_hysteresis():
    policy = reset(DegradeUnderLoad(degrade_at=4.0, restore_at=1.0))
    chosen = [policy.choose(request(), under(load), 0.0).variant for load in (0, 3, 4, 3, 2, 1, 3, 4)]
    assert chosen == ["best", "best", "rest", "rest", "rest", "best", "best", "rest"]


def test_the_urgent_are_not_degraded():
    policy = reset(DegradeUnderLoad(protect_priority=1))
    assert policy.choose(request(priority=1), under(9), 0.0) == Use("best")
    assert policy.choose(request(), under(9), 0.0) == Use("rest", "degraded under load")


def test_thresholds_without_room_between_them_are_refused():
    with pytest.raises(PolicyError, match="restore_at = 5 must be below degrade_at = 5"):
        build(VariantsPolicy, {"policy": "degrade-under-load", "degrade_at": 5, "restore_at": 5})
