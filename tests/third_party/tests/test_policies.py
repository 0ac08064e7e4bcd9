"""The whole test of a distribution: its policies keep the contract, as they are and far from their defaults."""

from fleetlab_example.at_least import AtLeast
from fleetlab_example.by_arrivals import ByArrivals
from fleetlab_example.load_balancing_with_memory import LoadBalancingWithMemory

from policies.testing import parametrize_with_checks


@parametrize_with_checks(
    [
        LoadBalancingWithMemory,
        AtLeast,
        ByArrivals,
        lambda: LoadBalancingWithMemory(choices=5),
        lambda: AtLeast(least=1, most=1, patience_s=0.0),
        lambda: ByArrivals(per_replica_s=0.1),
    ]
)
def test_they_keep_the_contract(check):
    check()
