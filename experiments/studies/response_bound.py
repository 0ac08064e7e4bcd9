"""A bound on what any router can reach: no routing of these requests to so many servers has a lower mean response time.

The one thing to know: it bounds *schedules*, and so every policy. Whoever sends each request to one of n servers of
speed 1, knowing all sizes and all arrivals to come, whoever orders the queues, preempts, or moves work about, is not
below it. Nor need anybody reach it.

Let y_j(t) be the speed at which request j is worked on at time t: y_j = 0 before its arrival r_j, y_j ≤ 1 (it is on one
server at a time), Σ_j y_j ≤ n, and ∫ y_j = p_j, its size. C_j is when it ends. Three bounds on the sum of the response
times C_j - r_j hold, and so does the largest of them:

1. *Own size.* y_j ≤ 1, so C_j - r_j ≥ p_j.
2. *One fast server.* A server of speed n can work on each j at the speed y_j, and so can end each request when this
   schedule does. Of all schedules of one server, shortest remaining processing time has the least sum of response times
   (Schrage, "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline", Operations Research 16,
   1968). So the sum of its response times is no more than this one's.
3. *Mean busy times.* Let M_j = ∫ t y_j(t) dt / p_j, when j is worked on, on average. Since y_j ≤ 1, M_j is latest when
   all of j is done in the last p_j before C_j: C_j ≥ M_j + p_j / 2. And Σ M_j is least where the fast server always
   works on the smallest request that is there, preempting larger ones: were a larger one k worked on at s and a smaller
   j, there at s, at t > s, then to exchange dt of their work would change the sum by (t - s)(1/p_k - 1/p_j) dt < 0. So
   Σ C_j ≥ Σ (M_j of that server + p_j / 2). (The argument of Eastman, Even and Isaacs, "Bounds for the Optimal
   Scheduling of n Jobs on m Processors", Management Science 11, 1964, with arrivals as in Goemans et al., "Single
   Machine Scheduling with Release Dates", SIAM Journal on Discrete Mathematics 15, 2002.)

With one server 2 is what shortest remaining processing time itself comes to, and no bound can be better.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from msgspec import Struct


class ResponseBound(Struct, frozen=True, kw_only=True):
    """Mean response times that no schedule is below, each for its own reason."""

    own_size_s: float
    fast_server_s: float
    busy_times_s: float

    @property
    def mean_s(self) -> float:
        """The largest of them, which holds too."""
        return max(self.own_size_s, self.fast_server_s, self.busy_times_s)


def response_bound(arrived_s: Sequence[float], sizes_s: Sequence[float], servers: int) -> ResponseBound:
    """What no schedule of these requests on so many servers of speed 1 is below. O(n log n).

    `sizes_s` are the seconds that each request takes a server alone. Raises `ValueError` for no requests.
    """
    if not len(sizes_s):
        raise ValueError("there is no mean response time of no requests")
    count = len(sizes_s)
    came = math.fsum(arrived_s)
    work = math.fsum(sizes_s)
    ended, _ = fast_server(arrived_s, sizes_s, servers, by_rest=True)
    _, busy = fast_server(arrived_s, sizes_s, servers, by_rest=False)
    return ResponseBound(
        own_size_s=work / count,
        fast_server_s=(math.fsum(ended) - came) / count,
        busy_times_s=(math.fsum(busy) + work / 2.0 - came) / count,
    )


def fast_server(
    arrived_s: Sequence[float], sizes_s: Sequence[float], speed: float, *, by_rest: bool
) -> tuple[list[float], list[float]]:
    """When each request ends on one preemptive server of this speed, and its mean busy time.

    `by_rest`: the least work that is left goes first (SRPT); else the smallest request.
    """
    order = sorted(range(len(sizes_s)), key=lambda number: arrived_s[number])
    ended = [0.0] * len(order)
    moment = [0.0] * len(order)
    """Time × work done then, summed."""
    waiting: list[tuple[float, int, float]] = []
    """Rank, request, seconds of the server that it still takes."""
    now_s = 0.0
    for place in range(len(order) + 1):
        until_s = arrived_s[order[place]] if place < len(order) else math.inf
        while waiting and now_s < until_s:
            rank, number, rest_s = waiting[0]
            spent_s = min(rest_s, until_s - now_s)
            moment[number] += spent_s * (now_s + spent_s / 2.0)
            if spent_s == rest_s:
                heapq.heappop(waiting)
                now_s = ended[number] = now_s + rest_s
                continue
            rest_s -= spent_s
            heapq.heapreplace(waiting, (rest_s if by_rest else rank, number, rest_s))
            now_s = until_s
        if place < len(order):
            now_s = until_s
            size_s = sizes_s[order[place]] / speed
            heapq.heappush(waiting, (size_s, order[place], size_s))
    busy = [
        of_one / (size_s / speed) if size_s else end
        for of_one, size_s, end in zip(moment, sizes_s, ended, strict=True)
    ]
    return ended, busy
