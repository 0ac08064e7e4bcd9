"""How likely a request has to wait, by the number of servers: Erlang's formulas, and their limit for many."""

from __future__ import annotations

import math


def erlang_b(servers: int, load: float) -> float:
    """The probability that all of `servers` are busy where nobody waits, at an offered `load` in servers. O(servers).

    Source: Erlang 1917; the recursion of Jagerman, "Some Properties of the Erlang Loss Function", 1974.
    """
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """The probability that a request waits in an M/M/c queue. 1 where the servers cannot carry the load; O(servers)."""
    if load <= 0.0:
        return 0.0 if servers else 1.0
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1.0 - blocked))


def servers_for(load: float, wait_probability: float, most: int) -> int:
    """The fewest servers with which a request waits with at most this probability, or `most`. O(servers)."""
    if load <= 0.0:
        return 0
    blocked = 1.0
    for servers in range(1, most):
        blocked = load * blocked / (servers + load * blocked)
        if servers * blocked <= wait_probability * (servers - load * (1.0 - blocked)):
            return servers
    return most


def halfin_whitt(beta: float) -> float:
    """The probability of waiting with `R + beta · sqrt(R)` servers, in the limit of many.

    Source: Halfin and Whitt, "Heavy-Traffic Limits for Queues with Many Exponential Servers", 1981.
    """
    if beta <= 0.0:
        return 1.0
    below = 0.5 * math.erfc(-beta / math.sqrt(2.0))
    density = math.exp(-0.5 * beta * beta) / math.sqrt(2.0 * math.pi)
    return density / (density + beta * below)


def beta_for(wait_probability: float) -> float:
    """The `beta` with which that is the probability of waiting: the inverse of `halfin_whitt`, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if halfin_whitt(middle) > wait_probability:
            low = middle
        else:
            high = middle
    return high
