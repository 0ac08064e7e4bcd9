"""How many spares."""

from policies import FixedSize, NoWarmPool, Warm
from tests.policies.makers import pool


def test_no_warm_pool_is_empty() -> None:
    assert NoWarmPool().desired(pool(4, queue_depth=1000), 0.0) == Warm(0)


def test_a_fixed_size_is_kept_whatever_the_load() -> None:
    assert {FixedSize(size=2).desired(pool(ready), 0.0) for ready in range(5)} == {Warm(2)}
