"""Synthetic traces: arrival laws, lengths, conversations. Each is exactly the law that it names, from a seed.

Arrivals and lengths draw from separate random streams: giving a trace lengths does not move its arrivals.
"""

from traces.synthesis.arrivals import bernoulli_surge, diurnal, from_rates, gamma, mmpp, poisson, surge
from traces.synthesis.conversations import sessions
from traces.synthesis.lengths import Lengths

__all__ = [
    "Lengths",
    "bernoulli_surge",
    "diurnal",
    "from_rates",
    "gamma",
    "mmpp",
    "poisson",
    "sessions",
    "surge",
]
