"""Who is let in."""

import pytest

from policies import Admit, AdmitAll, FleetView, QueueLimit, Reject
from tests.policies.makers import request

CROWD = FleetView(in_flight=10**6, queue_depth=10**6)


def test_admit_all_admits_into_any_crowd() -> None:
    assert AdmitAll().admit(request(), CROWD, 0.0) == Admit()


@pytest.mark.parametrize(
    ("queue_depth", "in_flight", "answer"),
    [
        (4, 9, Admit()),
        (5, 9, Reject("queue full")),
        (4, 10, Reject("too many in flight")),
        (6, 99, Reject("queue full")),
    ],
)
def test_queue_limit_refuses_at_either_limit(queue_depth: int, in_flight: int, answer: object) -> None:
    fleet = FleetView(queue_depth=queue_depth, in_flight=in_flight)
    assert QueueLimit(max_queue_depth=5, max_in_flight=10).admit(request(), fleet, 0.0) == answer


def test_queue_limit_without_a_limit_in_flight_has_none() -> None:
    assert QueueLimit().admit(request(), FleetView(in_flight=10**9), 0.0) == Admit()
