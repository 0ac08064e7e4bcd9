"""Variants policies in a fleet: what they see of quality, what a cascade comes to, and whom load sends where."""

import numpy as np
import pytest

from fleet import EmulatedEngine, simulate
from policies import ByCapability, Cascade, CheapestMeetingSlo, DegradeUnderLoad, FixedVariant
from tests.simulation.building import arrivals, column, decisions, engine, entry, fleet, play, trace_of
from traces import poisson

SMALL, LARGE = 0.73, 0.86
"""Mean qualities of the two variants: the share of MMLU that Llama 3.1 of 8B and of 70B parameters gets right, without
examples and with a chain of thought (Grattafiori et al., "The Llama 3 Herd of Models", 2024)."""


def sizes(variants, *, small=0.1, large=0.4, **changes):
    """A small variant and a large one, of one replica each unless told otherwise."""
    pools = {
        "s": {"variant": "small", "engine": engine(small), "cost_per_hour": 1.0, "quality": SMALL},
        "l": {"variant": "large", "engine": engine(large), "cost_per_hour": 4.0, "quality": LARGE},
    }
    for name, more in changes.items():
        pools[name].update(more)
    return fleet(pools=pools, models={"default": {"variants": variants}})


def share(run, variant):
    served = run.records["variant"].to_pylist()
    return served.count(variant) / len(served)


# --- how old it is ---------------------------------------------------------------------------------------------


def test_what_is_known_is_as_old_as_the_last_request_that_it_is_of():
    """Nobody looks between the requests at 0.3 and at 100: what is found then is of what ended at 0.4."""
    ages = []

    class Looking(FixedVariant):
        def choose(self, request, variants, now_s):
            ages.append((variants[0].e2e_s.count, round(now_s - variants[0].as_of_s, 3)))
            return super().choose(request, variants, now_s)

    spec = sizes(Looking(variant="small"))
    play(arrivals(0.0, 0.3, 100.0, 200.0), spec)
    assert ages == [(0, 0.0), (0, 0.3), (2, 99.6), (1, 99.9)]


# --- how good variants are -------------------------------------------------------------------------------------


class Strict(EmulatedEngine):
    """Every answer is worth 0.2."""

    def judge(self, work, result):
        return 0.2


def qualities_shown(requests, **pool):
    """What a policy was shown of its variant's quality at each of so many requests, 2 s apart: each ends a window."""
    shown = []

    class Looking(FixedVariant):
        def choose(self, request, variants, now_s):
            shown.append(variants[0].quality)
            return super().choose(request, variants, now_s)

    pools = {"p": {"engine": engine(0.01), **pool}}
    spec = fleet(pools=pools, models={"default": {"variants": Looking()}})
    play(arrivals(*(2.0 * n for n in range(requests))), spec, seed=3)
    return shown


def test_a_few_answers_do_not_overturn_what_a_pool_says():
    """The mean of a window alone, which has one answer here, may be anything from 0 to 1."""
    shown = qualities_shown(40, quality=SMALL)
    assert shown[0] == SMALL
    assert len(set(shown)) == 40, "each answer counts"
    assert all(abs(quality - SMALL) < 0.08 for quality in shown)


def test_what_a_pool_says_counts_as_50_answers_among_the_last_500():
    strict = Strict(latency=engine(0.01).latency)
    shown = qualities_shown(560, engine=strict, quality=0.9)
    expected = [(50 * 0.9 + min(n, 500) * 0.2) / (50 + min(n, 500)) for n in range(560)]
    assert shown == pytest.approx(expected)


def test_of_a_pool_that_says_nothing_answers_alone_tell():
    assert qualities_shown(3) == [None, None, None]
    shown = qualities_shown(3, engine=Strict(latency=engine(0.01).latency))
    assert shown == [None, pytest.approx(0.2), pytest.approx(0.2)]


# --- a cascade -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_a_cascade_escalates_as_often_and_answers_as_well_as_its_qualities_say(threshold):
    """An answer's quality is u^a with u uniform and a = 1/q - 1, the same u for all: so u alone decides who escalates.

    The share is P(u^a < threshold) of the small one; the mean is the integral of the small one's above it, and of the
    large one's below.
    """
    trace = poisson(rate_per_s=0.5, duration_s=4000, seed=1)
    run = simulate(trace, sizes(Cascade(threshold=threshold)), seed=2)

    small, large = 1.0 / SMALL - 1.0, 1.0 / LARGE - 1.0
    below = threshold ** (1.0 / small)
    mean = (1.0 - below ** (1.0 + small)) / (1.0 + small) + below ** (1.0 + large) / (1.0 + large)
    count = len(run.records)
    assert abs(share(run, "large") - below) < 3.0 * np.sqrt(below * (1.0 - below) / count)
    assert run.manifest.counters["escalations"] == share(run, "large") * count
    spread = run.records["quality"].to_numpy().std() / np.sqrt(count)
    assert abs(run.summary.quality_mean - mean) < 3.0 * spread


def test_a_cascade_is_never_worse_than_the_small_one_and_never_asks_the_large_one_for_nothing():
    trace = poisson(rate_per_s=0.5, duration_s=400, seed=1)
    runs = {
        name: play(trace, sizes(policy), seed=2)
        for name, policy in (
            ("cascade", Cascade(threshold=0.6)),
            ("small", FixedVariant(variant="small")),
            ("large", FixedVariant(variant="large")),
        )
    }
    quality = {name: column(run, "quality") for name, run in runs.items()}
    for request, variant in column(runs["cascade"], "variant").items():
        expected = quality["large" if quality["small"][request] < 0.6 else "small"][request]
        assert quality["cascade"][request] == expected >= quality["small"][request]
        assert (variant == "large") == (quality["small"][request] < 0.6)


# --- under load ------------------------------------------------------------------------------------------------

BURST = arrivals(*(0.01 * n for n in range(30)), *(40.0 + n for n in range(10)))
"""Thirty requests at once, and then one a second, long after the last of them is done."""


@pytest.mark.parametrize("signal", ["queue_depth", "in_flight"])
def test_a_burst_is_degraded_and_what_comes_after_it_is_not(signal):
    run = play(BURST, sizes(DegradeUnderLoad(signal=signal, degrade_at=4.0, restore_at=1.0)))

    served = list(column(run, "variant").values())
    assert served[:4] == ["large"] * 4
    assert served[5:30].count("small") > 15
    assert served[30:] == ["large"] * 10
    reasons = {row["reason"] for row in decisions(run, "variants")}
    assert reasons == {"degraded under load", "all are overloaded: the last"}


def test_without_load_it_is_always_the_best_whatever_a_few_answers_were_like():
    run = play(
        poisson(rate_per_s=0.5, duration_s=1000, seed=1), sizes(DegradeUnderLoad(degrade_at=50.0)), seed=2
    )
    assert share(run, "large") == 1.0


def test_the_cheapest_is_left_while_it_is_too_slow_and_taken_again():
    policy = CheapestMeetingSlo(objective_s=0.55)
    run = play(BURST, sizes(policy))

    served = list(column(run, "variant").values())
    assert served[:5] == ["small"] * 5, "0.1 s each, one after the other: the fifth takes about 0.5 s"
    assert served[5] == "large"
    assert served[31:] == ["small"] * 9, "the first after the pause goes by what was measured last"
    assert {row["reason"] for row in decisions(run, "variants")} == {"none meets the objective: the fastest"}


def test_what_no_variant_can_do_is_refused_and_the_record_says_what_is_served():
    trace = trace_of(
        entry("sees", 0.0, extra={"capability": "vision"}), entry("sings", 1.0, extra={"capability": "song"})
    )
    run = play(trace, sizes(ByCapability(), l={"capabilities": ("vision",)}))

    assert column(run, "variant")["sees"] == "large"
    assert column(run, "outcome") == {"sees": "completed", "sings": "rejected"}
    served = "served are small (nothing in particular); large (vision)"
    assert column(run, "detail")["sings"] == f"no variant can do song; {served}"


# --- two versions at once --------------------------------------------------------------------------------------


def test_a_view_says_which_version_its_variant_is_of():
    shown = []

    class Versions(FixedVariant):
        def choose(self, request, variants, now_s):
            shown.append([(view.version, view.variant) for view in variants])
            return super().choose(request, variants, now_s)

    pools = {
        f"{variant}-{version}": {"model": "m", "version": version, "variant": variant, "engine": engine(0.1)}
        for version in ("1", "2")
        for variant in ("small", "large")
    }
    spec = fleet(pools=pools, models={"m": {"variants": Versions()}})
    play(trace_of(entry("a", 0.0, model="m@1"), entry("b", 1.0, model="m@2")), spec)

    assert shown == [[("1", "small"), ("1", "large")], [("2", "small"), ("2", "large")]]
