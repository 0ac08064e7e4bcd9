"""What a component is: typed, named, and fresh in every copy."""

import copy
import pickle
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Composed,
    InFlightScorer,
    PolicyError,
    PowerOfTwoChoices,
    Random,
    RoutingPolicy,
    WeightedRandom,
    build,
)
from policies.base import kebab_case


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("Fifo", "fifo"),
        ("PowerOfTwoChoices", "power-of-two-choices"),
        ("NoWarmPool", "no-warm-pool"),
        ("HTTPEngine", "http-engine"),
        ("OpenAIEngine", "open-ai-engine"),
        ("Top2Choices", "top2-choices"),
    ],
)
def test_names_are_kebab_case(class_name: str, name: str) -> None:
    assert kebab_case(class_name) == name


@given(st.from_regex(r"[A-Z][a-z0-9]{1,8}([A-Z][a-z0-9]{1,8}){0,4}", fullmatch=True))
def test_kebab_case_loses_no_word(class_name: str) -> None:
    words = kebab_case(class_name).split("-")
    assert "".join(word[0].upper() + word[1:] for word in words) == class_name


def test_a_policy_is_encoded_under_its_name() -> None:
    assert (
        msgspec.json.encode(PowerOfTwoChoices(choices=3)) == b'{"policy":"power-of-two-choices","choices":3}'
    )


def test_one_without_its_decision_cannot_be_made() -> None:
    class Undecided(RoutingPolicy):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Undecided()  # type: ignore[abstract]


def test_a_class_with_a_constructor_of_its_own_is_told_what_to_write_instead() -> None:
    with pytest.raises(TypeError, match=r"a parameter is an annotated attribute.*state is set in reset"):

        class Constructed(RoutingPolicy):
            def __init__(self) -> None:
                pass


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))]
)
def test_every_copy_is_fresh(duplicate: object) -> None:
    policy = Composed(scorers=[(1.0, InFlightScorer())])
    policy.reset(random.Random(0))
    twin = duplicate(policy)  # type: ignore[operator]
    assert twin == policy
    assert not vars(twin)
    assert twin.scorers[0][1] is not policy.scorers[0][1]
    assert not vars(twin.picker)


def test_copies_do_not_share_mutable_parameters() -> None:
    policy = WeightedRandom(weights={"replica/0": 1.0})
    assert policy.fresh().weights is not policy.weights


def test_checked_names_the_parameter() -> None:
    with pytest.raises(PolicyError, match=r"^\$\.routing\.choices: Expected `int` >= 1$"):
        build(RoutingPolicy, PowerOfTwoChoices(choices=0), "$.routing")
    assert build(RoutingPolicy, Random()) == Random()
