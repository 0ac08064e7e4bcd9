"""The conformance kit: does a policy keep its contract?

    from policies.testing import check_policy

    check_policy(MyPolicy)                       # PolicyError: what is wrong, and the likely cause
    check_policy(lambda: MyPolicy(choices=3))    # any factory of fresh ones

It needs no test framework. With pytest, `parametrize_with_checks` makes each check a test of its own. Inputs
are random, from fixed seeds: the same policy gets the same verdict every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from policies._conformance.common import AT_REST, IN_USE, SLOW, Make, check_can_be_made, made
from policies._conformance.laws import LAWS
from policies.base import PolicyError

if TYPE_CHECKING:
    import pytest

__all__ = ["check_policy", "checks_for", "parametrize_with_checks"]


def checks_for(make: Make, *, slow: bool = False) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check for the policies that `make` makes: (name, check). A check raises `PolicyError` or returns.

    `make` is a class, or a function without arguments that makes a new policy each time. `slow` adds checks
    that start processes.
    """
    yield "can_be_made", partial(check_can_be_made, make)
    try:
        laws = LAWS[made(make).slot]
    except (PolicyError, KeyError):
        return  # the first check says why
    for name, check in {**AT_REST, **laws, **IN_USE, **(SLOW if slow else {})}.items():
        yield name, partial(check, make)


def check_policy(make: Make, *, slow: bool = False) -> None:
    """Run every check; raises `PolicyError` for the first that fails."""
    for _, check in checks_for(make, slow=slow):
        check()


def parametrize_with_checks(makes: Iterable[Make], *, slow: bool = False) -> pytest.MarkDecorator:
    """Make each check of each policy a pytest case.

    @parametrize_with_checks([MyPolicy, lambda: MyPolicy(choices=3)])
    def test_conformance(check):
        check()
    """
    import pytest

    cases = [
        pytest.param(check, id=f"{_label(make)}-{name}")
        for make in makes
        for name, check in checks_for(make, slow=slow)
    ]
    return pytest.mark.parametrize("check", cases)


def _label(make: Make) -> str:
    try:
        return make().name()
    except Exception:  # what is wrong, its checks will tell
        return getattr(make, "__name__", "policy")
