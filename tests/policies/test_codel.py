"""Controlled delay against its RFC: the drop times of the control law, and the pseudocode packet by packet."""

import math
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import PolicyError, QueueingPolicy
from policies.building import build
from policies.queueing.codel import CoDel
from policies.testing import parametrize_with_checks
from tests.policies.makers import request, reset


@parametrize_with_checks([CoDel, lambda: CoDel(target_s=5.0, interval_s=0.001, spared=0)])
def test_conformance(check):
    check()


@pytest.mark.parametrize("parameter", ["target_s", "interval_s"])
def test_what_is_out_of_bounds_is_named(parameter):
    with pytest.raises(PolicyError, match=rf"\$\.queueing\.{parameter}"):
        build(QueueingPolicy, {"policy": "codel", parameter: 0.0}, "$.queueing")


class AsInTheRfc:
    """Section 5 of RFC 8289, with packets of one unit: what `deque` drops and what it returns."""

    def __init__(self, target_s: float, interval_s: float, most: int) -> None:
        self.target, self.interval, self.most = target_s, interval_s, most
        self.packets: deque[tuple[str, float]] = deque()
        self.first_above, self.drop_next, self.count, self.last_count = 0.0, -math.inf, 0, 0
        self.dropping = False
        self.dropped: list[str] = []

    def take(self, now: float) -> tuple[tuple[str, float] | None, bool]:
        if not self.packets:
            self.first_above = 0.0
            return None, False
        packet = self.packets.popleft()
        if now - packet[1] < self.target or len(self.packets) <= self.most:
            self.first_above = 0.0
        elif self.first_above == 0.0:
            self.first_above = now + self.interval
        elif now >= self.first_above:
            return packet, True
        return packet, False

    def law(self, then: float) -> float:
        return then + self.interval / math.sqrt(self.count)

    def deque(self, now: float) -> str | None:
        packet, may_drop = self.take(now)
        if self.dropping:
            if not may_drop:
                self.dropping = False
            while self.dropping and now >= self.drop_next:
                self.dropped.append(packet[0])
                self.count += 1
                packet, may_drop = self.take(now)
                if may_drop:
                    self.drop_next = self.law(self.drop_next)
                else:
                    self.dropping = False
        elif may_drop:
            self.dropped.append(packet[0])
            packet, may_drop = self.take(now)
            self.dropping = True
            delta = self.count - self.last_count
            self.count = 1
            if delta > 1 and now - self.drop_next < 16 * self.interval:
                self.count = delta
            self.drop_next = self.law(now)
            self.last_count = self.count
        return None if packet is None else packet[0]


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.001, 0.02, 0.03, 0.05, 0.3])), max_size=250)


@settings(max_examples=150)
@given(EVENTS, st.sampled_from([(0.005, 0.1), (0.05, 0.02), (0.1, 0.3)]), st.integers(0, 2))
def test_it_drops_and_takes_what_the_rfc_does(events, times, spared):
    policy = reset(CoDel(target_s=times[0], interval_s=times[1], spared=spared))
    published, now_s, number, dropped = AsInTheRfc(*times, spared), 1.0, 0, []
    for arrivals, gap_s in events:
        for _ in range(arrivals):
            number += 1
            policy.push(request(str(number)), now_s)
            published.packets.append((str(number), now_s))
        now_s += gap_s
        if len(policy):
            for name in policy.drops(now_s):
                assert policy.remove(name)
                dropped.append(name)
            assert policy.pop(now_s).id == published.deque(now_s)
            assert dropped == published.dropped


def drop_times(policy: CoDel, until_s: float, step_s: float = 0.001) -> list[float]:
    """A queue that always stands: at each millisecond one request comes and one leaves."""
    times = []
    for number in range(100):
        policy.push(request(f"first-{number}"), 0.0)
    for step in range(1, round(until_s / step_s)):
        now_s = step * step_s
        for number in range(3):
            policy.push(request(f"{step}-{number}"), now_s)
        for name in policy.drops(now_s):
            policy.remove(name)
            times.append(now_s)
        policy.pop(now_s)
    return times


def test_drops_come_after_the_interval_over_the_square_root_of_their_number():
    """100 ms, then 70.7, 57.7, 50, 44.7, 40.8 ms and so on."""
    times = drop_times(reset(CoDel()), 0.7)
    first = times[0]
    due = [first]
    for count in range(1, len(times)):
        due.append(due[-1] + 0.1 / math.sqrt(count))
    assert first == pytest.approx(0.105, abs=0.0015)  # one interval after the first that had waited target
    assert times == pytest.approx(due, abs=0.00101)
    gaps = [round(later - before, 3) for before, later in pairwise(due[:5])]
    assert gaps == [0.1, 0.071, 0.058, 0.05]


def test_a_queue_that_empties_within_an_interval_loses_nobody():
    policy = reset(CoDel())
    for burst in range(20):
        for number in range(30):
            policy.push(request(f"{burst}-{number}"), burst * 1.0)
        for number in range(30):
            assert policy.drops(burst + 0.003 * number) == []
            policy.pop(burst + 0.003 * number)


def test_one_request_alone_is_never_dropped_however_long_it_waits():
    policy = reset(CoDel(spared=0))
    policy.push(request("a"), 0.0)
    assert [list(policy.drops(now_s)) for now_s in (1.0, 2.0, 50.0)] == [[], [], []]


def test_a_batch_whose_last_request_waited_less_than_target_ends_the_drops():
    policy = reset(CoDel(target_s=1.0, interval_s=1.0, spared=0))
    for number in range(6):
        policy.push(request(str(number)), 0.0)
    policy.push(request("young"), 2.4)
    policy.push(request("younger"), 2.4)
    policy.pop(1.0)
    assert list(policy.drops(2.5)) == ["1"]
    policy.remove("1")
    for _ in range(5):
        policy.pop(2.5)
    assert not policy.dropping
    assert policy.above_until_s is None
