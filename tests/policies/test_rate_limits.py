"""Token buckets: nobody is let in with more than a burst and a rate allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import FleetSpec, simulate
from policies import AdmissionPolicy, Admit, Ending, FleetView, NoBatching, PolicyError, Reject
from policies.admission.token_bucket import Tier, TokenBucket
from policies.building import build
from policies.decisions import Delay
from policies.testing import parametrize_with_checks
from tests.policies.makers import request, reset
from tests.simulation.building import engine
from traces import poisson

FLEET = FleetView(ready_replicas=1)


@parametrize_with_checks(
    [
        TokenBucket,
        lambda: TokenBucket(default=Tier(requests_per_s=0.5, burst_requests=1.0), over_rate="delay"),
        lambda: TokenBucket(
            default=Tier(tokens_per_s=3.0, burst_tokens=2000.0), tiers={"gold": Tier()}, output_tokens=0.0,
            tier_of={"tenant-1": "gold"}, over_rate="delay", max_delay_s=1e4,
        ),
    ]
)  # fmt: skip
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"default": {"requests_per_s": 0.0}}, r"\$\.admission\.default\.requests_per_s"),
        ({"tiers": {"gold": {"burst_tokens": -1.0}}}, r"\$\.admission\.tiers"),
        ({"max_delay_s": 0.0}, r"\$\.admission\.max_delay_s"),
        ({"over_rate": "drop"}, r"\$\.admission\.over_rate"),
        ({"tier_of": {"a": "gold"}}, r"\$\.admission\.tier_of\['a'\]: 'gold' is no tier; there are: none"),
    ],
)
def test_what_is_out_of_bounds_is_named(fields, path):
    with pytest.raises(PolicyError, match=path):
        build(AdmissionPolicy, {"policy": "token-bucket", **fields}, "$.admission")


def asks(policy: TokenBucket, name: str, now_s: float, **fields):
    return policy.admit(request(name, arrived_s=now_s, **fields), FLEET, now_s)


def ends(
    policy: TokenBucket, name: str, now_s: float, outcome="completed", output_tokens=None, **fields
) -> None:
    ended = Ending(
        request=request(name, **fields), outcome=outcome, attempts=1, e2e_s=1.0, output_tokens=output_tokens
    )
    policy.on_request_ended(ended, now_s)


def only(**tier) -> dict:
    return {"default": Tier(**tier), "output_tokens": 0.0}


# --- the envelope ----------------------------------------------------------------------------------------------

ARRIVALS = st.lists(
    st.tuples(st.sampled_from("ab"), st.floats(0.0, 1.5), st.integers(0, 100)), min_size=1, max_size=80
)
RATES = st.tuples(st.floats(0.2, 5.0), st.floats(1.0, 5.0), st.floats(5.0, 100.0), st.floats(50.0, 200.0))


def let_in(policy: TokenBucket, arrivals) -> list[tuple[float, str, int]]:
    """When which tenant was let in, with how many tokens; whoever is told to come back does."""
    now_s, due, log = 0.0, [], []

    def ask(asked) -> None:
        answer = policy.admit(asked, FLEET, now_s)
        if isinstance(answer, Delay):
            assert answer.until_s > now_s
            due.append((answer.until_s, asked))
        elif isinstance(answer, Admit):
            log.append((now_s, asked.tenant, asked.prompt_tokens))

    def wait_until(until_s: float) -> None:
        nonlocal now_s
        while due and min(due, key=lambda item: item[0])[0] <= until_s:
            first = min(due, key=lambda item: item[0])
            due.remove(first)
            now_s = first[0]
            ask(first[1])
        now_s = until_s

    for number, (tenant, gap_s, tokens) in enumerate(arrivals):
        wait_until(now_s + gap_s)
        ask(request(str(number), arrived_s=now_s, tenant=tenant, prompt_tokens=tokens))
    wait_until(now_s + 1e4)
    assert not due
    assert not policy.promised
    return log


@given(ARRIVALS, RATES, st.sampled_from(["delay", "reject"]))
def test_within_any_time_a_tenant_is_let_in_with_at_most_a_burst_and_its_rate(arrivals, rates, over_rate):
    requests_per_s, burst_requests, tokens_per_s, burst_tokens = rates
    tier = only(requests_per_s=requests_per_s, burst_requests=burst_requests, tokens_per_s=tokens_per_s,
                burst_tokens=burst_tokens)  # fmt: skip
    log = let_in(reset(TokenBucket(**tier, over_rate=over_rate)), arrivals)
    for tenant in "ab":
        mine = [(at_s, tokens) for at_s, who, tokens in log if who == tenant]
        for first, (since_s, _) in enumerate(mine):
            total = 0
            for count, (at_s, tokens) in enumerate(mine[first:], 1):
                total += tokens
                assert count <= burst_requests + requests_per_s * (at_s - since_s) + 1e-6
                assert total <= burst_tokens + tokens_per_s * (at_s - since_s) + 1e-6


def test_a_bucket_that_others_wait_for_does_not_fill_beyond_its_burst_meanwhile():
    """Found by the property above: what waits for a request takes its tokens when it is let in, and not before."""
    policy = reset(
        TokenBucket(
            **only(requests_per_s=4.0, burst_requests=1.0, tokens_per_s=4.0, burst_tokens=50.0),
            over_rate="delay",
        )
    )
    answers = [
        asks(policy, name, 0.0, prompt_tokens=tokens) for name, tokens in (("a", 0), ("b", 2), ("c", 50))
    ]
    assert answers == [Admit(), Delay(0.25, "over its rate"), Delay(0.75, "over its rate")]


@given(ARRIVALS, RATES)
def test_who_is_delayed_is_let_in_in_the_order_of_arrival_and_within_the_longest_delay(arrivals, rates):
    policy = reset(TokenBucket(**only(requests_per_s=rates[0]), over_rate="delay", max_delay_s=3.0))
    arrived = {"a": [], "b": []}
    now_s = 0.0
    for tenant, gap_s, _ in arrivals:
        now_s += gap_s
        arrived[tenant].append(now_s)
    for tenant in "ab":
        times = [at_s for at_s, who, _ in let_in(reset(policy), arrivals) if who == tenant]
        assert times == sorted(times)
        assert len(times) <= len(arrived[tenant])


def test_a_long_run_is_let_in_at_its_rate():
    spec = FleetSpec(engine=engine(0.001), batching=NoBatching(), replicas=1)
    for over_rate in ("delay", "reject"):
        admission = TokenBucket(default=Tier(requests_per_s=20.0, burst_requests=5.0), over_rate=over_rate)
        run = simulate(poisson(60.0, 30.0, seed=2), spec.replace(admission=admission))
        expected = 20.0 * (30.0 + (10.0 if over_rate == "delay" else 0.0)) + 5.0
        assert run.summary.completed == pytest.approx(expected, rel=0.02)
        assert run.summary.completed + run.summary.rejected == run.summary.submitted


# --- what is charged -------------------------------------------------------------------------------------------


class TestTokenBucket:
    def test_over_the_rate_it_refuses_or_delays(self):
        for over_rate, answer in (
            ("reject", Reject("over its rate")),
            ("delay", Delay(1.5, "over its rate")),
        ):
            policy = reset(TokenBucket(**only(requests_per_s=2.0, burst_requests=1.0), over_rate=over_rate))
            assert asks(policy, "a", 1.0) == Admit()
            assert asks(policy, "b", 1.0) == answer

    def test_those_delayed_come_one_after_the_other(self):
        policy = reset(TokenBucket(**only(requests_per_s=2.0, burst_requests=1.0), over_rate="delay"))
        asks(policy, "a", 0.0)
        assert [asks(policy, name, 0.0).until_s for name in "bcd"] == [0.5, 1.0, 1.5]
        assert asks(policy, "c", 0.7) == Delay(1.0)
        assert [type(asks(policy, name, at_s)) for name, at_s in (("b", 0.5), ("c", 1.0), ("d", 1.5))] == [
            Admit, Admit, Admit,
        ]  # fmt: skip

    def test_beyond_the_longest_delay_or_its_deadline_it_is_refused_and_takes_nothing(self):
        policy = reset(
            TokenBucket(**only(requests_per_s=1.0, burst_requests=1.0), over_rate="delay", max_delay_s=2.0)
        )
        asks(policy, "a", 0.0)
        assert asks(policy, "b", 0.0, deadline_s=1.0) == Reject("over its rate")
        assert [asks(policy, name, 0.0) for name in "cd"] == [
            Delay(1.0, "over its rate"), Delay(2.0, "over its rate"),
        ]  # fmt: skip
        assert asks(policy, "e", 0.0) == Reject("over its rate")

    def test_more_than_a_bucket_holds_is_refused_at_once(self):
        policy = reset(TokenBucket(**only(tokens_per_s=10.0, burst_tokens=100.0), over_rate="delay"))
        assert asks(policy, "a", 0.0, prompt_tokens=101) == Reject("larger than its bucket")
        assert asks(policy, "b", 0.0, prompt_tokens=100) == Admit()

    def test_what_an_answer_had_is_settled_and_learned(self):
        tier = Tier(tokens_per_s=1.0, burst_tokens=1000.0)
        policy = reset(TokenBucket(default=tier, output_tokens=100.0))
        assert asks(policy, "a", 0.0, prompt_tokens=50) == Admit()
        assert policy.buckets[None].tokens == 850.0
        ends(policy, "a", 0.0, output_tokens=40)
        assert policy.buckets[None].tokens == 910.0
        asks(policy, "b", 0.0)
        assert policy.buckets[None].tokens == 870.0  # as long as the last one

    def test_an_answer_that_was_longer_leaves_a_debt(self):
        policy = reset(TokenBucket(default=Tier(tokens_per_s=10.0, burst_tokens=100.0), output_tokens=50.0))
        asks(policy, "a", 0.0)
        ends(policy, "a", 0.0, output_tokens=200)
        assert policy.buckets[None].tokens == -100.0
        policy.means.add(None, 0.0)
        assert asks(policy, "b", 9.0) == Reject("over its rate")

    @pytest.mark.parametrize(
        ("outcome", "output_tokens", "left"),
        [
            ("completed", None, 100.0),
            ("failed", None, 50.0),
            ("cancelled", 10, 90.0),
            ("expired", None, 50.0),
        ],
    )
    def test_what_nobody_counts_is_given_back_and_what_nobody_knows_is_not(
        self, outcome, output_tokens, left
    ):
        policy = reset(TokenBucket(default=Tier(tokens_per_s=1.0, burst_tokens=100.0), output_tokens=50.0))
        asks(policy, "a", 0.0)
        ends(policy, "a", 0.0, outcome=outcome, output_tokens=output_tokens)
        assert policy.buckets[None].tokens == left
        assert not policy.expected

    def test_tiers_have_rates_of_their_own(self):
        policy = reset(
            TokenBucket(
                default=Tier(requests_per_s=1.0, burst_requests=1.0),
                tiers={"gold": Tier(requests_per_s=1.0, burst_requests=3.0), "free": Tier()},
                tier_of={"g": "gold", "f": "free"},
            )
        )
        admitted = {
            tenant: sum(isinstance(asks(policy, f"{tenant}{n}", 0.0, tenant=tenant), Admit) for n in range(9))
            for tenant in ("g", "f", "other", "another")
        }
        assert admitted == {"g": 3, "f": 9, "other": 1, "another": 1}

    def test_a_rate_by_the_second_has_a_burst_of_a_second_and_one_of_tokens_of_a_minute(self):
        policy = reset(TokenBucket(**only(requests_per_s=7.0, tokens_per_s=2.0)))
        assert asks(policy, "a", 0.0, prompt_tokens=120) == Admit()
        assert policy.buckets[None].requests == 6.0
        assert policy.buckets[None].tokens == 0.0
        assert reset(TokenBucket(**only(requests_per_s=0.1))).admit(request(), FLEET, 0.0) == Admit()

    def test_tenants_that_are_made_up_and_promises_that_nobody_keeps_do_not_pile_up(self):
        policy = reset(TokenBucket(**only(requests_per_s=1.0), over_rate="delay", max_delay_s=2.0))
        for number in range(10_000):
            now_s = number * 0.01
            for turn in range(2):
                asks(policy, f"{number}-{turn}", now_s, tenant=f"t{number}")
            ends(policy, f"{number}-0", now_s, tenant=f"t{number}")
        assert len(policy.buckets) <= 1_025
        assert len(policy.promised) <= 500
        assert not policy.expected
