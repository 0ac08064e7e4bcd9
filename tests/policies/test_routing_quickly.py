"""Routing policies that look at every replica do so without a call for each: they decide as the plain rule does.

The rules below are what the policies' docstrings say, written for the reader. Candidates are others at each choice, as
after a retry, and views are new or the same ones brought up to date.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import force_setattr

from policies import (
    BusyScorer,
    CheapestMeetingDelay,
    Composed,
    ExpectedDelayScorer,
    InFlightScorer,
    KvCost,
    KvUtilizationScorer,
    LeastTokens,
    LeastWorkOracle,
    MaxScorePicker,
    NeverQueue,
    PrefixAffinity,
    PrefixScorer,
    RoutingPolicy,
    Scorer,
    ShortestExpectedDelay,
)
from policies.routing.delays import delay, service_times
from policies.routing.preble import Preble
from policies.routing.prefix_tree import PrefixTree
from policies.routing.queue_scorer import QueueScorer
from policies.views import Completion, ReplicaView, TokenSignals
from tests.policies.makers import request, reset
from tests.policies.test_llm_routing import path
from traces.schema import Request

SEEDS = st.integers(0, 2**32)
Views = Sequence[ReplicaView]


class Fleet:
    """A few replicas that come and go, with requests in flight, and the policy that chooses among them."""

    def __init__(self, policy: RoutingPolicy, seed: int) -> None:
        self.policy, self.rng, self.now_s = reset(policy), random.Random(seed), 0.0
        self.speeds = self.rng.choice([(0.1,), (0.1, 0.2), (0.1, 0.2, None), (None,)])
        self.sizes = self.rng.choice([(0,), (3, 8), (3, 8, 0)])
        self.views = tuple(self.view(number) for number in range(self.rng.choice([1, 2, 5, 9])))
        self.flying: list[tuple[Request, ReplicaView, bool]] = []
        policy.on_replicas(self.views, 0.0)

    def view(self, number: int) -> ReplicaView:
        return ReplicaView(
            id=f"replica/{number}", expected_service_s=self.speeds[number % len(self.speeds)],
            weight=(0.0, 1.0, 2.0, 1.0)[number % 4], cost_per_hour=(4.0, 1.0, None, 2.0)[number % 4],
        )  # fmt: skip

    def report(self, view: ReplicaView) -> None:
        rng, total = self.rng, self.sizes[int(view.id[8:]) % len(self.sizes)]
        signals = TokenSignals(
            waiting=rng.randrange(4), used_blocks=rng.randint(0, total), total_blocks=total
        )
        force_setattr(view, "tokens", signals)
        force_setattr(view, "busy_fraction", rng.choice([None, 0.0, 0.5, 1.0, 1.2]))
        force_setattr(view, "gpu_utilization", rng.choice([None, None, 0.25]))

    def request(self, number: int) -> Request:
        rng = self.rng
        blocks = path([rng.randrange(3) for _ in range(rng.randint(1, 6))]) if rng.random() < 0.8 else None
        return request(
            f"r{number}", arrived_s=self.now_s, blocks=blocks, block_tokens=rng.choice([None, 16, 32]),
            prompt_tokens=rng.choice([None, 20, 96]), work=rng.choice([None, 2.0]), tenant=rng.choice([None, "a"]),
        )  # fmt: skip

    def choices(self, count: int = 40):
        """Each time a request and the candidates for it; what was chosen is for the caller to ask."""
        rng = self.rng
        for number in range(count):
            self.now_s += rng.choice([0.0, 0.1, 5.0])
            self.change(number)
            item = self.request(number)
            some = tuple(view for view in self.views if rng.random() < 0.7)
            candidates = self.views if rng.random() < 0.6 or not some else some
            yield item, candidates
            self.send(item, rng.choice(candidates))
            while self.flying and rng.random() < 0.5:
                self.goes_on(rng.randrange(len(self.flying)))

    def change(self, number: int) -> None:
        for view in self.views:
            if self.rng.random() < 0.3:
                self.report(view)
        if self.rng.random() < 0.1:
            left = [view for view in self.views if self.rng.random() < 0.7]
            self.views = (*left, self.view(100 + number))
            self.policy.on_replicas(self.views, self.now_s)

    def send(self, item: Request, view: ReplicaView) -> None:
        force_setattr(view, "in_flight", view.in_flight + 1)
        self.flying.append((item, view, False))
        self.policy.on_dispatched(item, view.id, self.now_s)

    def goes_on(self, index: int) -> None:
        item, view, had = self.flying.pop(index)
        if not had and self.rng.random() < 0.6:
            self.flying.append((item, view, True))
            self.policy.on_first_token(item, view.id, self.now_s)
            return
        force_setattr(view, "in_flight", view.in_flight - 1)
        ended = Completion(
            request=item, replica=view.id, attempt=1, failure=self.rng.choice([None, "engine-error"]),
            output_tokens=self.rng.randrange(300),
        )  # fmt: skip
        self.policy.on_completed(ended, self.now_s)


def chooses(
    fleet: Fleet, rule: Any
) -> None:  # Any: a rule says by what candidates are ordered, the first best
    for item, candidates in fleet.choices():
        ranks = [rule(view, candidates, item) for view in candidates]
        expected = candidates[ranks.index(min(ranks))].id
        assert fleet.policy.route(item, candidates, fleet.now_s).replica == expected


# --- by what views say -----------------------------------------------------------------------------------------


def delays(candidates: Views, concurrency: int) -> dict[str, float]:
    times = service_times(candidates)
    return {
        view.id: delay(time, view.in_flight, concurrency)
        for view, time in zip(candidates, times, strict=True)
    }


@given(seed=SEEDS, concurrency=st.integers(1, 3))
def test_the_shortest_expected_delay(seed: int, concurrency: int) -> None:
    fleet = Fleet(ShortestExpectedDelay(concurrency=concurrency), seed)
    chooses(fleet, lambda view, all_, item: (delays(all_, concurrency)[view.id], view.in_flight))


@given(seed=SEEDS, concurrency=st.integers(1, 3))
def test_never_queue(seed: int, concurrency: int) -> None:
    def rule(view: ReplicaView, candidates: Views, item: Request) -> tuple[Any, ...]:
        times = dict(zip([one.id for one in candidates], service_times(candidates), strict=True))
        if view.in_flight < concurrency and times[view.id] < math.inf:
            return False, times[view.id], view.in_flight
        return True, delays(candidates, concurrency)[view.id], view.in_flight

    chooses(Fleet(NeverQueue(concurrency=concurrency), seed), rule)


@given(seed=SEEDS, concurrency=st.integers(1, 3))
def test_the_cheapest_that_meets_the_objective(seed: int, concurrency: int) -> None:
    fleet = Fleet(CheapestMeetingDelay(objective_s=0.5, concurrency=concurrency), seed)

    def rule(view: ReplicaView, candidates: Views, item: Request) -> tuple[Any, ...]:
        time_s, price = view.expected_service_s, view.cost_per_hour
        delay_s = math.inf if time_s is None else delay(time_s, view.in_flight, concurrency)
        if time_s is not None and delay_s <= 0.25:
            return False, price is None, 0.0 if price is None else price * time_s, delay_s, view.in_flight
        return True, delays(candidates, concurrency)[view.id], view.in_flight

    chooses(fleet, rule)


# --- by what hooks tell ----------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_the_fewest_tokens(seed: int) -> None:
    policy = LeastTokens()

    def rule(view: ReplicaView, candidates: Views, item: Request) -> float:
        here = [one for one, where, _ in fleet.flying if where.id == view.id]
        notes = [note for one in here for note in policy.attempts.of(one.id, view.id)]
        return sum((1.0 if note.prefilling else 2.0) * note.tokens for note in notes)

    fleet = Fleet(policy, seed)
    chooses(fleet, rule)


@given(seed=SEEDS)
def test_the_least_true_work(seed: int) -> None:
    fleet = Fleet(LeastWorkOracle(), seed)

    def rule(view: ReplicaView, candidates: Views, item: Request) -> float:
        return sum(one.work or 1.0 for one, where, _ in fleet.flying if where.id == view.id)

    chooses(fleet, rule)


# --- by prefixes -----------------------------------------------------------------------------------------------


@given(seed=SEEDS, threshold=st.sampled_from([0.0, 0.3, 0.9]), most=st.sampled_from([3, 2**20]))
def test_prefix_affinity(seed: int, threshold: float, most: int) -> None:
    policy = PrefixAffinity(
        cache_threshold=threshold, balance_abs_threshold=4, balance_rel_threshold=1.0, max_tree_blocks=most
    )

    def rule(view: ReplicaView, candidates: Views, item: Request) -> tuple[float, ...]:
        loads, blocks = [one.in_flight for one in candidates], item.blocks or ()
        if max(loads) - min(loads) > 4 or not blocks:
            return (view.in_flight,)
        depths = policy.tree.depths(blocks, [one.id for one in candidates])
        if max(depths) > threshold * len(blocks):
            return -policy.tree.depths(blocks, [view.id])[0], view.in_flight
        return policy.tree.size(view.id), view.in_flight

    chooses(Fleet(policy, seed), rule)


@given(seed=SEEDS, weight=st.sampled_from([0.3, 1.0, 7.0]), ttl_s=st.sampled_from([None, 10.0]))
def test_the_kv_cost(seed: int, weight: float, ttl_s: float | None) -> None:
    policy = KvCost(overlap_weight=weight, ttl_s=ttl_s)

    def rule(view: ReplicaView, candidates: Views, item: Request) -> tuple[float, int]:
        policy.tree.expire(fleet.now_s)
        tokens, blocks = item.block_tokens or 16, item.blocks or ()
        prompt = item.prompt_tokens
        if prompt is None:
            prompt = len(blocks) * tokens if blocks else 512
        count = len(blocks) if blocks else math.ceil(prompt / tokens)
        mine = [one.blocks or () for one, where, _ in fleet.flying if where.id == view.id]
        active = {block for one in mine for block in one}
        shared = next((depth for depth, block in enumerate(blocks) if block not in active), len(blocks))
        new = max(0, prompt - policy.tree.depths(blocks, [view.id])[0] * tokens)
        prefill_blocks = (policy.prefill_tokens.get(view.id, 0) + new) / tokens
        return (
            weight * prefill_blocks + (policy.active.size(view.id) + count - shared),
            policy.tree.size(view.id),
        )

    fleet = Fleet(policy, seed)
    chooses(fleet, rule)


@given(seed=SEEDS, most=st.sampled_from([3, 12_400]), factor=st.sampled_from([None, 1.5]))
def test_preble(seed: int, most: int, factor: float | None) -> None:
    policy = Preble(max_tree_blocks=most, rebalance_factor=factor, default_output_tokens=2)

    def rule(view: ReplicaView, candidates: Views, item: Request) -> tuple[float, int]:
        tokens, blocks = item.block_tokens or 16, item.blocks or ()
        prompt = item.prompt_tokens
        if prompt is None:
            prompt = len(blocks) * tokens if blocks else 512
        ids = [one.id for one in candidates]
        loads = dict(zip(ids, policy.loads_s(ids), strict=True))
        depths = dict(zip(ids, policy.tree.depths(blocks, ids), strict=True))
        longest, load = max(depths.values()), loads[view.id]
        matched = min(longest * tokens, prompt)
        if matched > prompt - matched:
            busy = {one.id: one.in_flight for one in candidates}
            _, _, place = min(
                (loads[one], busy[one], place) for place, one in enumerate(ids) if depths[one] == longest
            )
            unit = max(min(loads.values()), prompt * 0.000182)
            if factor is None or loads[ids[place]] <= factor * unit:
                return (0.0 if view.id == ids[place] else 1.0), 0
            return load, view.in_flight
        new = len(blocks) - depths[view.id]
        victims = policy.tree.victims(view.id, new)
        evicted = 0.0
        if victims and policy.window:
            evicted = sum(policy.uses.get(block, 0) for block in victims) * tokens / len(policy.window)
        return load + (max(0, prompt - depths[view.id] * tokens) + evicted) * 0.000182, view.in_flight

    fleet = Fleet(policy, seed)
    for item, candidates in fleet.choices():
        policy._forget(fleet.now_s)
        block_tokens = item.block_tokens or 16
        for view in candidates:  # the sizes of caches, as the policy itself is about to learn them
            if view.tokens is not None and view.tokens.total_blocks:
                policy.tree._limits[view.id] = max(1, view.tokens.total_blocks * 16 // block_tokens)
        ranks = [rule(view, candidates, item) for view in candidates]
        assert policy.route(item, candidates, fleet.now_s).replica == candidates[ranks.index(min(ranks))].id


@given(seed=SEEDS)
def test_every_size_of_a_cache_is_learnt_as_soon_as_it_is_shown(seed: int) -> None:
    class Learning(RoutingPolicy):
        def route(self, request: Request, replicas: Views, now_s: float) -> Any:
            raise NotImplementedError

    tree, fleet = PrefixTree(100), Fleet(Learning(), seed)
    for item, candidates in fleet.choices():
        hashed = item.block_tokens or 16
        tree.learn_limits(candidates, 16, hashed)
        for view in candidates:
            tree.insert(view.id, tuple(range(60)), 0.0)
            told = 0 if view.tokens is None else view.tokens.total_blocks
            if told:
                assert tree.size(view.id) == min(60, max(1, told * 16 // hashed))
        tree.keep_only({view.id for view in fleet.views})


# --- scores ----------------------------------------------------------------------------------------------------


def of_busy(scorer: Any, view: ReplicaView, candidates: Views, item: Request) -> float:
    busy = view.busy_fraction if view.gpu_utilization is None else view.gpu_utilization
    return scorer.unknown if busy is None else min(1.0, max(0.0, 1.0 - busy))


def of_delay(scorer: Any, view: ReplicaView, candidates: Views, item: Request) -> float:
    each = delays(candidates, scorer.concurrency)
    shortest = min(each.values())
    return 1.0 if each[view.id] == shortest else shortest / each[view.id]


def of_in_flight(scorer: Any, view: ReplicaView, candidates: Views, item: Request) -> float:
    counts = [one.in_flight for one in candidates]
    spread = max(counts) - min(counts)
    return (max(counts) - view.in_flight) / spread if spread else 1.0


def of_kv(scorer: Any, view: ReplicaView, candidates: Views, item: Request) -> float:
    if view.tokens is None or not view.tokens.total_blocks:
        return scorer.unknown
    return 1.0 - view.tokens.kv_utilization


def of_prefix(scorer: Any, view: ReplicaView, candidates: Views, item: Request) -> float:
    blocks = (item.blocks or ())[: scorer.max_prefix_blocks]
    return scorer.tree.depths(blocks, [view.id])[0] / len(blocks) if blocks else 0.0


def of_queue(scorer: Any, view: ReplicaView, candidates: Views, item: Request) -> float:
    counts = [one.tokens.waiting for one in candidates if one.tokens is not None]
    if view.tokens is None:
        return scorer.unknown
    spread = max(counts) - min(counts)
    return (max(counts) - view.tokens.waiting) / spread if spread else 1.0


RULES: dict[Any, Any] = {  # Any: a scorer, and what it says of one replica
    BusyScorer: of_busy, ExpectedDelayScorer: of_delay, InFlightScorer: of_in_flight,
    KvUtilizationScorer: of_kv, PrefixScorer: of_prefix, QueueScorer: of_queue,
}  # fmt: skip


@given(
    seed=SEEDS,
    parts=st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0, 3.0]), st.sampled_from([*RULES])), max_size=3),
)
def test_composed_adds_up_what_each_scorer_says_of_each_replica(
    seed: int, parts: list[tuple[float, type[Scorer]]]
) -> None:
    policy = Composed(scorers=[(weight, cls()) for weight, cls in parts], picker=MaxScorePicker(ties="first"))
    fleet = Fleet(policy, seed)
    for item, candidates in fleet.choices():
        totals = dict.fromkeys([view.id for view in candidates], 0.0)
        for weight, scorer in policy.scorers:
            for view in candidates:
                totals[view.id] += weight * RULES[type(scorer)](scorer, view, candidates, item)
        answer = policy.route(item, candidates, fleet.now_s)
        assert (answer.scores, answer.replica) == (totals, max(totals, key=lambda name: totals[name]))
