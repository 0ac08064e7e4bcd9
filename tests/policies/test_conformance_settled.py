"""A policy that says it is settled is not asked in idle periods: the kit holds it to what it says."""

import pytest

from policies import Fixed, NoWarmPool, PolicyError, Scale, ScalingPolicy
from policies.base import is_settled
from policies.testing import check_policy


class OnceADay(ScalingPolicy):
    """Goes by the clock, and says that it does not."""

    def desired(self, pool, now_s):
        return Scale(1 if now_s < 1_000.0 else 2)

    def settled(self):
        return True


class Counts(ScalingPolicy):
    """Is not what it was before it was asked, and says that it is."""

    def reset(self, rng):
        self.asked = 0

    def desired(self, pool, now_s):
        self.asked += 1
        return Scale(self.asked % 3)

    def settled(self):
        return True


class Heir(Fixed):
    """Decides for itself, so that what its parent says of settling is not said of it."""

    def desired(self, pool, now_s):
        return Scale(1 if now_s < 1_000.0 else 2)


@pytest.mark.parametrize("cls", [OnceADay, Counts])
def test_a_policy_that_is_not_as_settled_as_it_says_is_caught(cls):
    with pytest.raises(PolicyError, match="it said that it is settled"):
        check_policy(cls)


def test_what_a_parent_says_of_settling_is_not_said_of_one_that_decides_for_itself():
    heir = Heir(replicas=1)
    heir.reset(None)

    assert not is_settled(heir, "desired")
    check_policy(Heir)


@pytest.mark.parametrize("cls", [Fixed, NoWarmPool])
def test_what_is_settled_passes(cls):
    check_policy(cls)
