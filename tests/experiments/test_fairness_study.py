"""What the studies of sharing are made of: formulas against values by hand, and what a run is said to have served."""

import pyarrow as pa
import pytest

from experiments.studies.fairness import (
    CAPACITY_PER_S,
    gap_bound,
    load_at,
    max_min_shares,
    served_tokens,
    spec_of,
    traffic,
)
from experiments.studies.online_and_batch import BATCH, Tally, watched
from fleet import simulate
from policies import Fifo, OnlineFirst
from tests.policies.makers import request, reset
from traces import Lengths, poisson


@pytest.mark.parametrize(
    ("demands", "total", "shares"),
    [
        ([1.0, 2.0, 10.0], 9.0, [1.0, 2.0, 6.0]),
        ([8.0, 2.0, 6.0, 4.0], 16.0, [5.0, 2.0, 5.0, 4.0]),
        ([3.0, 3.0], 4.0, [2.0, 2.0]),
        ([1.0, 2.0], 9.0, [1.0, 2.0]),
    ],
)
def test_max_min_shares_meet_small_demands_and_share_the_rest_alike(demands, total, shares):
    assert max_min_shares(demands, total) == pytest.approx(shares)


def test_the_bound_is_twice_the_larger_of_a_prompt_and_a_full_batch_weighed():
    assert gap_bound(longest_prompt=300, cache_tokens=100) == 600.0
    assert gap_bound(longest_prompt=100, cache_tokens=16_000) == 64_000.0


def test_tenants_ask_for_what_the_setting_says_and_the_polite_for_the_same_at_each():
    assert load_at((1.0,)) == pytest.approx(0.5)
    assert load_at((12.0, 6.0)) == pytest.approx(2.1)
    one, many = (traffic((times,), 60.0, 3).table for times in (1.0, 20.0))
    per_s = CAPACITY_PER_S * 0.1
    late = [at for at, who in zip(*(many[name].to_pylist() for name in ("arrived_s", "tenant")), strict=True)
            if who == "greedy" and at >= 20.0]  # fmt: skip
    assert len(late) == pytest.approx(20.0 * per_s * 60.0, rel=0.1)
    polite = [table.filter(pa.compute.not_equal(table["tenant"], "greedy")) for table in (one, many)]
    assert polite[0]["arrived_s"].equals(polite[1]["arrived_s"])
    assert polite[0]["output_tokens"].equals(polite[1]["output_tokens"])


def test_the_capacity_is_what_a_replica_with_plenty_to_do_serves():
    lengths = {"prompt_tokens": Lengths.lognormal(136, 1.0), "output_tokens": Lengths.lognormal(256, 0.8)}
    run = simulate(poisson(100.0, 8.0, 0, **lengths), spec_of("fifo"))
    assert run.summary.throughput_per_s == pytest.approx(CAPACITY_PER_S, rel=0.12)


def test_served_tokens_are_prompts_at_the_first_token_and_answers_evenly_after_it():
    lengths = {"prompt_tokens": Lengths.constant(100), "output_tokens": Lengths.constant(51)}
    trace = poisson(5.0, 0.5, 1, **lengths).first(requests=1).assign(tenant="a")
    run = simulate(trace, spec_of("fifo"))
    row = run.records.to_pylist()[0]
    first_s = row["arrived_s"] + row["ttft_s"]
    middle_s = (first_s + row["ended_s"]) / 2.0
    served = served_tokens(run, "a", [first_s - 0.001, first_s, middle_s, row["ended_s"], 99.0])
    assert served.tolist() == pytest.approx(
        [0.0, 100.0 + 2.0, 100.0 + 2.0 * 26, 100.0 + 2.0 * 51, 100.0 + 2.0 * 51]
    )


def test_what_goes_beyond_the_bound_of_online_first_is_counted():
    """Two batch requests before an online one: one more than the bound lets where none of its kind is before it."""
    beyond = {}
    for policy in (Fifo(), OnlineFirst(), OnlineFirst(batch_share=0.5)):
        tallies: list[Tally] = []
        queue = reset(watched(policy, tallies))
        for number in range(3):
            queue.push(request(f"b{number}", kind=BATCH), 0.0)
        queue.push(request("o"), 0.0)
        while len(queue):
            queue.pop(0.0)
        (tally,) = tallies
        beyond[policy.name(), getattr(policy, "batch_share", None)] = tally.beyond
    assert beyond == {("fifo", None): 1, ("online-first", 0.0): 0, ("online-first", 0.5): 0}
