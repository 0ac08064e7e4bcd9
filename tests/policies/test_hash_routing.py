"""Consistent hashing: who gets a key, what moves when replicas come and go, and how even it is."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import PolicyError, Route, RoutingPolicy, build
from policies.routing.bounded_load_consistent_hash import BoundedLoadConsistentHash
from policies.routing.consistent_hash import ConsistentHash
from policies.routing.places import Places
from policies.routing.ring import Ring, key_of, points_of
from policies.testing import parametrize_with_checks
from policies.views import ReplicaView
from tests.policies.makers import replicas, request, reset

KEYS = [f"session-{number}" for number in range(600)]
SIZES = st.integers(1, 12)


@parametrize_with_checks(
    [
        ConsistentHash,
        lambda: ConsistentHash(key="tenant", virtual_nodes=1),
        BoundedLoadConsistentHash,
        lambda: BoundedLoadConsistentHash(load_factor=1.0, key="id", virtual_nodes=3),
        lambda: BoundedLoadConsistentHash(load_factor=100.0),
    ]
)
def test_conformance(check) -> None:
    check()


def chosen(policy: RoutingPolicy, key: str, views: Sequence[ReplicaView]) -> str:
    answer = policy.route(request("r", session=key), views, 0.0)
    assert isinstance(answer, Route)
    return answer.replica


def homes(policy: RoutingPolicy, views: Sequence[ReplicaView]) -> dict[str, str]:
    policy.on_replicas(views, 0.0)
    return {key: chosen(policy, key, views) for key in KEYS}


class TestKetama:
    """Numbers of uhashring 2.5 from PyPI, `HashRing(nodes, hash_fn="ketama")`, which is compatible with libketama."""

    NODES = [f"replica/{number}" for number in range(5)]
    FIRST = [
        (480379, "replica/1"), (2447421, "replica/3"), (5402807, "replica/4"), (6623523, "replica/0"),
        (6796086, "replica/4"), (9685233, "replica/0"),
    ]  # fmt: skip
    ALL = [1, 3, 1, 0, 0, 1, 2, 2, 4, 2, 2, 1, 0, 1, 4, 3, 2, 4, 1, 3, 4, 1, 2, 4]
    WITHOUT_2 = [1, 3, 1, 0, 0, 1, 3, 0, 4, 0, 1, 1, 0, 1, 4, 3, 4, 4, 1, 3, 4, 1, 3, 4]

    def test_points_and_keys_are_where_libketama_has_them(self) -> None:
        points = sorted((point, node) for node in self.NODES for point in points_of(node, 160))
        assert points[:6] == self.FIRST
        assert len(points) == 800
        views = replicas(*[0] * 5)
        policy = reset(ConsistentHash())
        policy.on_replicas(views, 0.0)
        assert [int(chosen(policy, key, views)[-1]) for key in KEYS[:24]] == self.ALL

    def test_so_they_are_without_one_of_the_servers(self) -> None:
        policy = reset(ConsistentHash())
        policy.on_replicas(replicas(*[0] * 5), 0.0)
        left = [view for view in replicas(*[0] * 5) if view.id != "replica/2"]
        # A retry that may not go there finds what would be there if it had left.
        assert [int(chosen(policy, key, left)[-1]) for key in KEYS[:24]] == self.WITHOUT_2
        policy.on_replicas(left, 0.0)
        assert [int(chosen(policy, key, left)[-1]) for key in KEYS[:24]] == self.WITHOUT_2


class TestConsistentHash:
    @settings(max_examples=25)
    @given(size=st.integers(2, 12), data=st.data())
    def test_one_that_leaves_moves_its_own_keys_and_no_others(self, size: int, data: st.DataObject) -> None:
        policy, views = reset(ConsistentHash()), replicas(*[0] * size)
        before = homes(policy, views)
        gone = views[data.draw(st.integers(0, size - 1))].id
        after = homes(policy, [view for view in views if view.id != gone])
        assert {key for key in KEYS if before[key] != after[key]} == {
            key for key in KEYS if before[key] == gone
        }

    @settings(max_examples=25)
    @given(SIZES)
    def test_one_that_comes_takes_its_share_and_gives_nothing(self, size: int) -> None:
        policy, views = reset(ConsistentHash()), replicas(*[0] * (size + 1))
        before, after = homes(policy, views[:-1]), homes(policy, views)
        moved = [key for key in KEYS if before[key] != after[key]]
        assert {after[key] for key in moved} <= {views[-1].id}
        assert len(moved) <= 1.5 * len(KEYS) / (size + 1)

    @settings(max_examples=20)
    @given(changes=st.lists(st.integers(0, 7), max_size=6), last=st.sets(st.integers(0, 7), min_size=1))
    def test_who_came_and_went_before_does_not_matter(self, changes: list[int], last: set[int]) -> None:
        everybody, policy = replicas(*[0] * 8), reset(ConsistentHash(virtual_nodes=20))
        for number in changes:
            policy.on_replicas([view for view in everybody if view.id != f"replica/{number}"], 0.0)
        views = [everybody[number] for number in sorted(last)]
        assert homes(policy, views) == homes(reset(ConsistentHash(virtual_nodes=20)), views)

    def test_shares_are_even_to_about_one_over_the_root_of_the_points(self) -> None:
        for size in (4, 8, 16):
            shares = Counter()
            ring = sorted((point, n) for n in range(size) for point in points_of(f"replica/{n}", 160))
            for (point, owner), (before, _) in zip(ring, [(ring[-1][0] - 2**32, 0), *ring[:-1]], strict=True):
                shares[owner] += (point - before) * size / 2**32
            assert sum(shares.values()) == pytest.approx(size)
            assert all(abs(share - 1.0) < 4.0 / 160**0.5 for share in shares.values())

    def test_all_replicas_that_it_was_not_told_of_are_met_too(self) -> None:
        policy, views = reset(ConsistentHash()), replicas(0, 0, 0)
        assert {chosen(policy, key, views) for key in KEYS} == {view.id for view in views}
        policy.on_replicas(views[:1], 0.0)
        others = [ReplicaView(id="replica/8"), ReplicaView(id="replica/9")]
        assert {chosen(policy, key, others) for key in KEYS} == {"replica/8", "replica/9"}

    def test_the_key_is_the_session_or_what_is_asked_for_or_the_id(self) -> None:
        item = request("r", session="s", tenant="t", user="u")
        assert [key_of(item, field) for field in ("auto", "session", "tenant", "user", "id")] == [*"sstur"]
        assert key_of(request("r", tenant="t", user="u"), "auto") == "t"
        assert key_of(request("r", user="u"), "auto") == "u"
        assert key_of(request("r"), "auto") == key_of(request("r", session="s"), "tenant") == "r"

    def test_a_ring_keeps_nothing_of_who_left(self) -> None:
        ring = Ring(8)
        ring.add(["a", "b"])
        ring.keep_only(["b"])
        assert ("a" in ring, len(ring), list(ring.walk("x"))) == (False, 1, ["b"])
        ring.keep_only([])
        assert list(ring.walk("x")) == []


class TestBoundedLoad:
    @given(
        counts=st.lists(st.integers(0, 30), min_size=1, max_size=12),
        factor=st.sampled_from([1.0, 1.1, 1.25, 2.0]),
        key=st.sampled_from(KEYS),
    )
    def test_none_gets_more_than_its_bound(self, counts: list[int], factor: float, key: str) -> None:
        policy, views = reset(BoundedLoadConsistentHash(load_factor=factor)), replicas(*counts)
        policy.on_replicas(views, 0.0)
        number = int(chosen(policy, key, views).removeprefix("replica/"))
        bound = ceil(Fraction(str(factor)) * Fraction(sum(counts) + 1, len(counts)))
        assert counts[number] + 1 <= bound

    @settings(max_examples=20)
    @given(size=st.integers(1, 8), keys=st.lists(st.sampled_from(KEYS[:20]), min_size=1, max_size=80))
    def test_the_bound_holds_as_loads_build_up(self, size: int, keys: list[str]) -> None:
        policy, counts = reset(BoundedLoadConsistentHash()), [0] * size
        for number, key in enumerate(keys, 1):
            counts[int(chosen(policy, key, replicas(*counts)).removeprefix("replica/"))] += 1
            assert max(counts) <= ceil(Fraction(5, 4) * Fraction(number, size))

    @given(key=st.sampled_from(KEYS), size=SIZES)
    def test_with_room_everywhere_it_is_consistent_hashing(self, key: str, size: int) -> None:
        views = replicas(*[0] * size)
        assert chosen(reset(BoundedLoadConsistentHash()), key, views) == chosen(
            reset(ConsistentHash()), key, views
        )

    def test_what_is_too_much_goes_to_the_next_on_the_ring(self) -> None:
        policy, views = reset(BoundedLoadConsistentHash()), replicas(*[0] * 5)
        policy.on_replicas(views, 0.0)
        [first, second, *_] = policy.ring.walk("session-0")
        full = [ReplicaView(id=view.id, in_flight=2 * (view.id == first)) for view in views]
        answer = policy.route(request("r", session="session-0"), full, 0.0)
        assert (answer.replica, answer.reason) == (second, "its replica is full")


def test_places_are_found_wherever_they_moved_to() -> None:
    places, views = Places(), replicas(0, 0, 0)
    assert places.find("replica/1", views) is views[1]
    places.learn(views)
    assert places.find("replica/1", views) is views[1]
    assert places.find("replica/2", views[1:]) is views[2]
    assert places.find("replica/0", views[1:]) is None
    assert places.find("replica/9", views) is None


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (ConsistentHash(virtual_nodes=0), r"^\$\.routing\.virtual_nodes: Expected `int` >= 1$"),
        (ConsistentHash(key="colour"), r"^\$\.routing\.key: Invalid enum value 'colour'$"),
        (BoundedLoadConsistentHash(load_factor=0.9), r"^\$\.routing\.load_factor: Expected `float` >= 1.0$"),
    ],
)
def test_parameters_out_of_bounds_are_named(policy: RoutingPolicy, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        build(RoutingPolicy, policy, "$.routing")
