"""The kit on hooks: it drives all that a slot gets, and catches what would never be called, or never passed on."""

from typing import Any

import pytest

from policies import (
    Composed,
    InFlightScorer,
    LeastOutstanding,
    Lru,
    PolicyError,
    RoutingPolicy,
    VllmTokenBudget,
)
from policies._conformance.drive import DRIVERS, answers
from policies.base import HOOKS, Policy
from policies.testing import check_policy, checks_for
from tests.policies.listening import DECIDES, derived, listening


def complaint(make: Any) -> str:
    """What the first check that fails says."""
    with pytest.raises(PolicyError) as caught:
        check_policy(make)
    return str(caught.value)


@pytest.mark.parametrize("slot", DRIVERS)
def test_the_kit_drives_every_hook_of_a_slot_and_no_other(slot: str) -> None:
    policy, heard = listening(slot)

    answers(policy, 1)

    assert {name for name, *_ in heard} == set(DECIDES[slot].hears)


@pytest.mark.parametrize(("slot", "hook"), [(slot, hook) for slot in DRIVERS for hook in DECIDES[slot].hears])
def test_a_policy_that_raises_in_a_hook_is_caught(slot: str, hook: str) -> None:
    def raises(self: Policy, *told: object) -> None:
        raise KeyError("weights")

    broken = derived("Broken", DECIDES[slot], {hook: raises})

    assert complaint(broken) == f"Broken raised KeyError in `{hook}`: 'weights'"


@pytest.mark.parametrize(
    ("slot", "hook"), [(slot, hook) for slot in DRIVERS for hook in HOOKS if hook not in DECIDES[slot].hears]
)
def test_a_hook_that_its_slot_never_gets_is_caught(slot: str, hook: str) -> None:
    deaf = derived("Deaf", DECIDES[slot], {hook: lambda self, *told: None})

    said = complaint(deaf)

    assert said.startswith(
        f"Deaf defines `{hook}`, which a policy of slot {slot!r} never gets; it gets `on_disp"
    )
    assert "`on_completed`" in said


@pytest.mark.parametrize("cls", [Lru, VllmTokenBudget, LeastOutstanding])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_complete", "on_completed"),
        ("on_token", "on_tokens"),
        ("on_batch", "on_batch_completed"),
        ("on_request_end", "on_request_ended"),
    ],
)
def test_a_misspelt_hook_is_caught_in_every_slot(cls: type[Policy], name: str, meant: str) -> None:
    hopeful = derived("Hopeful", cls, {name: lambda self, *told: None})

    assert complaint(hopeful) == f"Hopeful defines `{name}`, which nothing calls; did you mean `{meant}`?"


def test_a_misspelt_hook_of_a_part_is_caught() -> None:
    class Hopeful(InFlightScorer):
        def on_replica(self, replicas: object, now_s: float) -> None: ...

    said = complaint(lambda: Composed(scorers=[(1.0, Hopeful())]))

    assert said == "Hopeful defines `on_replica`, which nothing calls; did you mean `on_replicas`?"


def test_a_parameter_may_be_called_on_something() -> None:
    class Switched(LeastOutstanding):
        on_weekends: bool = True

    check_policy(Switched)


# --- parts -------------------------------------------------------------------------------------------------


class Learns(LeastOutstanding):
    """Cannot decide before it was reset, nor when it has heard what it had heard."""

    def reset(self, rng):
        self.open: set[object] = set()

    def on_dispatched(self, request, replica, now_s):
        self.open.add((request.id, replica))

    def on_completed(self, completion, now_s):
        self.open.discard((completion.request.id, completion.replica))


class Plain(RoutingPolicy):
    """Says nothing of hooks."""

    inner: Learns

    def route(self, request, replicas, now_s):
        return self.inner.route(request, replicas, now_s)


class Deaf(Plain):
    def on_completed(self, completion, now_s):
        self.last_s = now_s


class PassesOn(Plain):
    def reset(self, rng):
        super().reset(rng)
        self.last_s = 0.0

    def on_completed(self, completion, now_s):
        self.last_s = now_s
        super().on_completed(completion, now_s)


class Twice(PassesOn):
    def on_completed(self, completion, now_s):
        super().on_completed(completion, now_s)
        self.inner.on_completed(completion, now_s)


class NeverResets(Plain):
    def reset(self, rng):
        self.inner.open = set()


@pytest.mark.parametrize("owner", [Plain, PassesOn])
def test_an_owner_that_passes_on_what_it_hears_conforms(owner: type[Plain]) -> None:
    check_policy(lambda: owner(inner=Learns()))


@pytest.mark.parametrize(
    ("owner", "says"),
    [
        (
            Deaf,
            "Deaf defines `on_completed` and does not pass it on to its part learns, which defines it too; "
            "call `super().on_completed(...)`",
        ),
        (Twice, "Twice passes `on_completed` on to its part learns more than once"),
        (
            NeverResets,
            "NeverResets defines `reset` and does not pass it on to its part learns, which defines it too; "
            "call `super().reset(...)`",
        ),
    ],
)
def test_an_owner_whose_part_is_deaf_or_hears_twice_is_caught(owner: type[Plain], says: str) -> None:
    checks = dict(checks_for(lambda: owner(inner=Learns())))
    with pytest.raises(PolicyError) as caught:
        checks["parts_hear"]()
    assert str(caught.value) == says
