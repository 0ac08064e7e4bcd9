"""The kit on variants policies: it catches who breaks the contract, and reaches what is rare."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from policies import (
    AnswerView,
    ByCapability,
    Cascade,
    CheapestMeetingSlo,
    DegradeUnderLoad,
    Escalate,
    Policy,
    Reject,
    Request,
    Use,
    VariantsPolicy,
    VariantView,
)
from policies._conformance.drive import answers
from policies.testing import check_policy
from tests.policies.test_conformance_kit import failed_checks

Views = Sequence[VariantView]


def choosing(decide: Callable[[Views], object]) -> type[VariantsPolicy]:
    class Sketch(VariantsPolicy):
        def choose(self, request: Request, variants: Views, now_s: float) -> Any:
            return decide(variants)

    return Sketch


def judging(decide: Callable[[AnswerView, Views], object]) -> type[VariantsPolicy]:
    class Sketch(VariantsPolicy):
        def choose(self, request: Request, variants: Views, now_s: float) -> Use:
            return Use(variants[0].variant)

        def after_answer(self, request: Request, answer: AnswerView, variants: Views, now_s: float) -> Any:
            return decide(answer, variants)

    return Sketch


def test_those_that_the_violators_are_made_of_are_right() -> None:
    check_policy(choosing(lambda variants: Use(variants[-1].variant)))
    check_policy(choosing(lambda variants: Reject("never")))
    check_policy(judging(lambda answer, variants: None))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda variants: None, "expected Reject, or Use of one of"),
        (lambda variants: variants[0].variant, "expected Reject, or Use of one of"),
        (lambda variants: Use("gone"), "answered Use(variant='gone'"),
        (lambda variants: Use("huge"), "answered Use(variant='huge'"),  # when it is not served
        (lambda variants: Escalate(variants[0].variant), "expected Reject, or Use of one of"),
    ],
)
def test_a_wrong_choice_is_caught(answer: Callable[[Views], object], says: str) -> None:
    assert says in failed_checks(choosing(answer))["answers"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda answer, variants: Use("large"), "expected None, or Escalate to one of"),
        (lambda answer, variants: True, "expected None, or Escalate to one of"),
        (lambda answer, variants: Escalate(answer.variant), "that is none of"),
        (lambda answer, variants: Escalate("gone"), "answered Escalate(variant='gone'"),
    ],
)
def test_a_wrong_judgement_is_caught(answer: Callable[[AnswerView, Views], object], says: str) -> None:
    assert says in failed_checks(judging(answer))["answers"]


def test_to_escalate_in_a_circle_is_caught() -> None:
    """It never asks again the variant that has just answered; with three of them it comes back to the first."""

    def onwards(answer: AnswerView, variants: Views) -> Escalate:
        names = [view.variant for view in variants]
        return Escalate(names[(names.index(answer.variant) + 1) % len(names)])

    caught = failed_checks(judging(onwards))["escalate_once"]
    assert "has request-0 answered by 'small' after small, large, huge of small, large, huge" in caught


def kinds(policy: Policy) -> Counter[str]:
    """What it answers in the kit's drives, by decision and reason."""
    found: Counter[str] = Counter()
    for seed in (1, 2, 3):
        for _, answer in answers(policy.fresh(), seed):
            reason = getattr(answer, "reason", None) or ""
            found[f"{type(answer).__name__} {reason.split(' 0.')[0].split('; ')[0]}".strip()] += 1
    return found


@pytest.mark.parametrize(
    ("policy", "rare"),
    [
        (
            CheapestMeetingSlo(objective_s=0.2, min_quality=0.9),
            {"Use", "Use none meets the objective: the fastest", "Use none has a quality of"},
        ),
        (
            ByCapability(),
            {"Use", "Reject no variant can do vision", "Reject no variant can do vision, tools"},
        ),
        (Cascade(when_unknown="escalate"), {"Use", "Escalate unknown", "Escalate quality", "NoneType"}),
        (
            DegradeUnderLoad(),
            {
                "Use",
                "Use degraded under load",
                "Use none is ready: the best",
                "Use all are overloaded: the last",
            },
        ),
    ],
    ids=lambda value: value.name() if isinstance(value, Policy) else "",
)
def test_the_drives_reach_what_is_rare(policy: Policy, rare: set[str]) -> None:
    assert rare <= kinds(policy).keys()
