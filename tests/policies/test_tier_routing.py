"""Routing by what a request or a replica is: batches that form, tiers of priority, zones."""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import LeastOutstanding, PolicyError, Request, Route, RoutingPolicy, build
from policies.routing.batch_filling import BatchFilling
from policies.routing.priority_tiers import PriorityTiers
from policies.routing.zone_aware import ZoneAware
from policies.testing import parametrize_with_checks
from policies.views import ReplicaView
from tests.policies.makers import replicas, request, reset

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@parametrize_with_checks(
    [
        BatchFilling,
        lambda: BatchFilling(batch_size=1, max_imbalance=0),
        PriorityTiers,
        lambda: PriorityTiers(high_priority=-5, max_above_mean=0.0),
        ZoneAware,
        lambda: ZoneAware(zone_key="colour", min_cluster_size=1, window_s=0.01),
    ]
)
def test_conformance(check) -> None:
    check()


def number_of(policy: RoutingPolicy, item: Request, views: Sequence[ReplicaView], now_s: float = 0.0) -> int:
    answer = policy.route(item, views, now_s)
    assert isinstance(answer, Route)
    return int(answer.replica.split("/")[-1])


# --- batches ---------------------------------------------------------------------------------------------------


class TestBatchFilling:
    @pytest.mark.parametrize(
        ("counts", "chosen", "reason"),
        [
            ((0, 0, 0), 0, "a new batch"),
            ((1, 3, 2), 1, "fills a batch"),
            ((4, 4, 0), 2, "a new batch"),  # full ones only
            ((7, 3, 0), 1, "fills a batch"),  # of two as full the less loaded
            ((11, 2, 0), 1, "fills a batch"),  # one is too far ahead
        ],
    )
    def test_the_fullest_batch_that_is_not_full(
        self, counts: tuple[int, ...], chosen: int, reason: str
    ) -> None:
        answer = BatchFilling(batch_size=4).route(request(), replicas(*counts), 0.0)
        assert (answer.replica, answer.reason) == (f"replica/{chosen}", reason)

    @given(counts=COUNTS, size=st.integers(1, 9), most=st.integers(0, 20))
    def test_nobody_that_it_may_fill_is_fuller(self, counts: list[int], size: int, most: int) -> None:
        number = number_of(BatchFilling(batch_size=size, max_imbalance=most), request(), replicas(*counts))
        may = [count for count in counts if count - min(counts) <= most]
        assert counts[number] in may
        assert counts[number] % size == max(count % size for count in may)

    @given(COUNTS)
    def test_with_batches_of_one_it_is_least_outstanding(self, counts: list[int]) -> None:
        views = replicas(*counts)
        one, other = BatchFilling(batch_size=1), LeastOutstanding()
        assert number_of(one, request(), views) == number_of(other, request(), views)


# --- tiers -----------------------------------------------------------------------------------------------------


class TestPriorityTiers:
    @given(counts=COUNTS, priority=st.integers(1, 5))
    def test_the_upper_tier_gets_the_least_loaded(self, counts: list[int], priority: int) -> None:
        policy = reset(PriorityTiers())
        assert number_of(policy, request(priority=priority), replicas(*counts)) == counts.index(min(counts))

    @given(counts=COUNTS, priority=st.sampled_from([None, 0, -1]), above=st.sampled_from([0.0, 2.5]))
    def test_the_lower_tier_never_gets_an_overloaded_one(self, counts, priority, above) -> None:
        policy = reset(PriorityTiers(max_above_mean=above))
        most = Fraction(sum(counts), len(counts)) + Fraction(above)
        views = replicas(*counts)
        assert all(counts[number_of(policy, request(priority=priority), views)] <= most for _ in range(10))

    def test_the_lower_tier_is_spread_evenly_over_the_others(self) -> None:
        policy, views = reset(PriorityTiers()), replicas(3, 30, 0, 3)
        counts = Counter(number_of(policy, request(), views) for _ in range(30_000))
        assert counts[1] == 0
        assert all(abs(counts[number] - 10_000) < 330 for number in (0, 2, 3))


# --- zones -----------------------------------------------------------------------------------------------------


def zoned(**sizes: int) -> list[ReplicaView]:
    """So many idle replicas in each zone; "none" are in no zone."""
    zones = [zone for zone, size in sizes.items() for _ in range(size)]
    return [
        ReplicaView(id=f"replica/{n}", zone=None if zone == "none" else zone) for n, zone in enumerate(zones)
    ]


def served(policy: ZoneAware, views: list[ReplicaView], demand: dict[str, int], count: int) -> Counter:
    """(zone of the request, zone of the replica) of so many requests, of zones in these proportions."""
    rng, counts = random.Random(3), Counter()
    for step in range(count):
        [zone] = rng.choices(list(demand), list(demand.values()))
        number = number_of(policy, request(extra={"zone": zone}), views, step / 1000.0)
        counts[zone, views[number].zone] += 1
    return counts


class TestZoneAware:
    def told(self, views: list[ReplicaView], **parameters: object) -> ZoneAware:
        policy = reset(ZoneAware(**parameters))
        policy.on_replicas(views, 0.0)
        return policy

    def test_a_zone_with_replicas_for_its_share_keeps_all_of_it(self) -> None:
        views = zoned(a=4, b=4)
        counts = served(self.told(views), views, {"a": 1, "b": 1}, 4000)
        # Counted shares are off by chance, and so a few go elsewhere.
        assert counts["a", "a"] + counts["b", "b"] > 0.95 * 4000

    def test_what_is_beyond_its_share_is_spread_by_what_others_have_to_spare(self) -> None:
        """Envoy's rule: a has 1/3 of the replicas and 60 % of the requests, b and c have 5/15 and 3/15 to spare."""
        views = zoned(a=5, b=6, c=4)
        counts = served(self.told(views), views, {"a": 60, "b": 20, "c": 20}, 20_000)
        of_a = sum(count for (zone, _), count in counts.items() if zone == "a")
        assert counts["a", "a"] / of_a == pytest.approx((1 / 3) / 0.6, abs=0.02)
        spare_b, spare_c = 6 / 15 - 0.2, 4 / 15 - 0.2
        assert counts["a", "b"] / of_a == pytest.approx(
            (1 - (1 / 3) / 0.6) * spare_b / (spare_b + spare_c), abs=0.02
        )
        # While few have been counted, shares are off by chance.
        assert counts["b", "b"] + counts["c", "c"] >= sum(counts.values()) - of_a - 20
        loads = Counter(to for _, to in counts.elements())
        sizes = {"a": 5, "b": 6, "c": 4}
        assert all(loads[zone] / 20_000 == pytest.approx(size / 15, abs=0.01) for zone, size in sizes.items())

    def test_a_zone_without_replicas_goes_where_there_is_room(self) -> None:
        views = zoned(b=3, c=3)
        counts = served(self.told(views), views, {"a": 1}, 6000)
        assert counts["a", "b"] == pytest.approx(3000, abs=160)
        assert sum(counts.values()) == 6000

    def test_in_a_zone_it_is_the_less_loaded_of_two_different_ones(self) -> None:
        views = [ReplicaView(id=f"replica/{n}", zone="ab"[n >= 2], in_flight=n) for n in range(6)]
        policy = self.told(views)
        item = request(extra={"zone": "a"})
        assert {number_of(policy, item, views) for _ in range(30)} >= {0}
        policy.demand["b"] = (1e9, 0.0)  # b asks for all there is
        assert {number_of(policy, item, views) for _ in range(50)} == {0}

    @pytest.mark.parametrize(
        ("item", "reason"),
        [
            (request(), "no zone"),
            (request(extra={"region": "a"}), "no zone"),
            (request(extra={"zone": 7}), "no zone"),
            (request(extra={"zone": "a"}), "too few replicas"),
        ],
    )
    def test_unknown_zones_and_small_fleets_go_anywhere(self, item: Request, reason: str) -> None:
        views = zoned(a=2, b=3)
        policy = self.told(views)
        assert policy.route(item, views, 0.0).reason == reason
        assert {number_of(policy, item, views) for _ in range(200)} == set(range(5))

    def test_replicas_that_do_not_say_where_they_are_are_no_zone(self) -> None:
        views = zoned(none=8)
        assert self.told(views).route(request(extra={"zone": "a"}), views, 0.0).reason == "unknown zone"

    def test_other_replicas_than_it_was_told_of_are_looked_at(self) -> None:
        policy = self.told(zoned(a=4, b=4))
        others = zoned(c=8)
        assert {number_of(policy, request(extra={"zone": "c"}), others) for _ in range(300)} == set(range(8))
        fewer = zoned(a=4, b=4)[1:7]
        assert policy.route(request(extra={"zone": "a"}), fewer, 0.0).replica in {view.id for view in fewer}

    def test_what_zones_asked_for_is_forgotten_and_bounded(self) -> None:
        policy, views = self.told(zoned(a=8), window_s=1.0), zoned(a=8)
        for number in range(2000):
            policy.route(request(extra={"zone": f"z{number}"}), views, 0.0)
        assert len(policy.demand) == 1024
        policy.on_replicas(views, 100.0)
        assert policy.demand == {}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (BatchFilling(batch_size=0), r"^\$\.routing\.batch_size: Expected `int` >= 1$"),
        (PriorityTiers(max_above_mean=-1.0), r"^\$\.routing\.max_above_mean: Expected `float` >= 0.0$"),
        (ZoneAware(min_cluster_size=0), r"^\$\.routing\.min_cluster_size: Expected `int` >= 1$"),
    ],
)
def test_parameters_out_of_bounds_are_named(policy: RoutingPolicy, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        build(RoutingPolicy, policy, "$.routing")
