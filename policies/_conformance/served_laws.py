"""What policies of versions and variants must answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from policies._conformance.calls import Ask, Call, ask, fail
from policies._conformance.common import Make, made
from policies._conformance.inputs import random_request
from policies._conformance.served import drive_rollout, drive_variants, versions_named
from policies.base import Policy, PolicyError
from policies.decisions import Escalate, Reject, Serve, Shadow, Use
from policies.views import AnswerView, VariantView, VersionView

Driver = Callable[[Policy, random.Random, Ask], Iterator[Call]]


def _calls(make: Make, driver: Driver) -> Iterator[tuple[Policy, Call]]:
    for seed in (1, 2, 3):
        policy = made(make)
        ask(policy, "reset", random.Random(seed))
        for call in driver(policy, random.Random(f"world {seed}"), ask):
            yield policy, call


def check_rollout_answers(make: Make) -> None:
    """It serves by a version that is served; a shadow is another one."""
    for policy, call in _calls(make, drive_rollout):
        answer, served = call.answer, ", ".join(call.served)
        if not isinstance(answer, Serve | Shadow):
            fail(policy, f"answered {answer!r} to {call.question}; expected Serve or Shadow")
        if answer.version not in call.served:
            fail(policy, f"answered {answer!r} to {call.question}; served are {served}")
        if isinstance(answer, Shadow) and (
            answer.shadow not in call.served or answer.shadow == answer.version
        ):
            fail(
                policy, f"answered {answer!r} to {call.question}; the shadow must be another one of {served}"
            )
        stage: Any = getattr(policy, "stage", None)  # Any: what types say need not be so
        if not isinstance(stage, str):
            fail(policy, f"has the stage {stage!r}; `stage` is text")


def check_rollout_serves_what_there_is(make: Make) -> None:
    """Where one version is served, whichever it is, that serves; before it was told of any request too."""
    named = versions_named(made(make))
    for version in dict.fromkeys((*named, "1", "another")):
        policy: Any = made(make)  # Any: a rollout policy, which is all that this check is given
        ask(policy, "reset", random.Random(1))
        for number in range(20):
            request = random_request(random.Random(number), number, float(number))
            alone = (VersionView(model="m", version=version, ready=number % 2),)
            answer = ask(policy, "choose", request, alone, float(number))
            if not isinstance(answer, Serve) or answer.version != version:
                fail(
                    policy,
                    f"answered {answer!r} where version {version!r} alone is served; expected it to serve",
                )


def check_rollout_is_steered(make: Make) -> None:
    """An operator may promote it and roll it back at any time; what means nothing it refuses, by `PolicyError`."""
    for steps in (("promote", "rollback"), ("rollback", "promote"), ("promote", "promote")):
        policy = made(make)
        ask(policy, "reset", random.Random(1))
        _steer(policy, steps[0], 0.0)
        for number, call in enumerate(drive_rollout(policy, random.Random("steered"), ask)):
            if number in (20, 60, 61):
                for step in steps:
                    _steer(policy, step, call.now_s)


def _steer(policy: Policy, method: str, now_s: float) -> None:
    try:
        ask(policy, method, now_s)
    except PolicyError as refusal:
        if refusal.__cause__ is not None:  # it raised something else, and `ask` says so
            raise
    stage: Any = getattr(policy, "stage", None)  # Any: what types say need not be so
    if not isinstance(stage, str):
        fail(policy, f"has the stage {stage!r} after `{method}`; `stage` is text")


def check_variants_answers(make: Make) -> None:
    """It uses a variant that is served, or refuses; it escalates to one that is served and was not asked before."""
    for policy, call in _calls(make, drive_variants):
        answer, served = call.answer, ", ".join(call.served)
        if call.asked:
            right = answer is None or (
                isinstance(answer, Escalate)
                and answer.variant in call.served
                and answer.variant not in call.asked
            )
            expected = (
                f"expected None, or Escalate to one of {served} that is none of {', '.join(call.asked)}"
            )
        else:
            right = isinstance(answer, Reject) or (isinstance(answer, Use) and answer.variant in call.served)
            expected = f"expected Reject, or Use of one of {served}"
        if not right:
            fail(policy, f"answered {answer!r} to {call.question}; {expected}")


def check_variants_escalate_once(make: Make) -> None:
    """An answer that is never good enough is not followed by others for ever: each variant is asked once."""
    names = ("small", "large", "huge")
    views = tuple(
        VariantView(model="m", variant=name, ready=1, cost_per_hour=price, expected_service_s=0.1)
        for price, name in enumerate(names)
    )
    for quality in (0.0, None):
        policy: Any = made(make)  # Any: a variants policy, which is all that this check is given
        ask(policy, "reset", random.Random(1))
        request = random_request(random.Random(1), 0, 0.0)
        answer = ask(policy, "choose", request, views, 0.0)
        asked: list[str] = []
        while isinstance(answer, Use | Escalate):
            if answer.variant not in names or answer.variant in asked:
                before = ", ".join(asked) or "none"
                fail(
                    policy,
                    f"has {request.id} answered by {answer.variant!r} after {before} of {', '.join(names)}",
                )
            asked.append(answer.variant)
            view = AnswerView(variant=answer.variant, replica="replica/0", e2e_s=1.0, quality=quality)
            answer = ask(policy, "after_answer", request, view, views, 1.0)


SERVED_LAWS: dict[str, dict[str, Callable[[Make], None]]] = {
    "rollout": {
        "answers": check_rollout_answers,
        "serves_what_there_is": check_rollout_serves_what_there_is,
        "is_steered": check_rollout_is_steered,
    },
    "variants": {"answers": check_variants_answers, "escalate_once": check_variants_escalate_once},
}
