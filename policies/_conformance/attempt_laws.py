"""What is demanded of those that add, limit and forbid attempts: hedge, breaker, and a retry policy's limit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from policies._conformance.calls import LONGEST_S, Call, ask, demand, fail, is_time
from policies._conformance.common import Make, made
from policies._conformance.drive import answers, drive
from policies._conformance.inputs import random_request
from policies.base import Policy
from policies.decisions import Hedge, Hold, Reject
from policies.views import AttemptView, Completion, FailureKind, ReplicaView, Role
from traces.schema import Request

SEEDS = (1, 2, 3)


def _calls(make: Make) -> Iterator[tuple[Policy, Call]]:
    for seed in SEEDS:
        policy = made(make)
        for call in drive(policy, seed):
            yield policy, call


def _demand(policy: Policy, call: Call, holds: bool, expected: str) -> None:
    demand(policy, holds, call.question, call.answer, expected)


# --- hedge -------------------------------------------------------------------------------------------------


def check_hedge_answers(make: Make) -> None:
    """None, or a hedge in a number of seconds, 0 or more; what it excludes are ids; its budget is a share, or None."""
    for policy, call in _calls(make):
        answer: Any = call.answer  # Any: what types say need not be so
        _demand(policy, call, answer is None or type(answer) is Hedge, "expected Hedge or None")
        if answer is not None:
            expected = "`after_s` must be a finite number of seconds, 0 or more"
            _demand(policy, call, is_time(answer.after_s), expected)
            ids = isinstance(answer.exclude, tuple) and all(isinstance(name, str) for name in answer.exclude)
            _demand(policy, call, ids, "`exclude` must be a tuple of replica ids")
            _demand(policy, call, type(answer.tied) is bool, "`tied` must be True or False")
    _check_budget(made(make))


def _check_budget(policy: Any) -> None:  # Any: a hedge policy, which is all that this check is given
    budget = policy.budget_ratio
    demand(
        policy, budget is None or is_time(budget), "budget_ratio", budget,
        "expected attempts added over requests let in, a finite number that is 0 or more; or None",
    )  # fmt: skip


def check_hedge_stops(make: Make) -> None:
    """One request does not get attempts without end, be nothing heard of any of them.

    It is asked first after it has heard of a thousand requests that were answered well.
    """
    policy, now_s = made(make), 0.0
    ask(policy, "reset", random.Random(1))
    for number in range(1000):
        request = random_request(random.Random(number), number, now_s)
        _sent(policy, request, "replica/0", now_s)
        now_s += 0.01 + 0.001 * (number % 10)
        _ended(policy, request, "replica/0", None, now_s)
    request = random_request(random.Random(1), 1000, now_s)
    attempts: list[AttemptView] = []
    role: Role = "primary"
    for number in range(101):
        name = f"replica/{number}"
        _sent(policy, request, name, now_s)
        attempts.append(AttemptView(role=role, replica=name, pool="default", sent_s=now_s))
        answer = ask(policy, "after_s", request, list(attempts), now_s)
        if not isinstance(answer, Hedge) or not is_time(answer.after_s):
            return
        role = "tied" if answer.tied else "hedge"
        now_s += max(0.001, answer.after_s)
    fail(policy, "never stops adding: it gave one request 100 more attempts; count those that it was shown")


# --- breaker -----------------------------------------------------------------------------------------------


def check_breaker_answers(make: Make) -> None:
    """It allows a replica or does not; where it allows none it holds, refuses, or leaves it to routing."""
    for policy, call in _calls(make):
        if call.request is None:
            _demand(policy, call, type(call.answer) is bool, "expected True or False")
            continue
        kinds = (type(None), Hold, Reject)
        _demand(policy, call, type(call.answer) in kinds, "expected Hold, Reject or None")
        if isinstance(call.answer, Hold):
            ahead = is_time(call.answer.until_s) and call.answer.until_s > call.now_s
            _demand(policy, call, ahead, "`until_s` must be a time after `now_s`")


def check_breaker_asking_changes_nothing(make: Make) -> None:
    """To be asked changes nothing: it is asked of every candidate at every choice, whichever is chosen."""

    def twice(policy: Policy, method: str, *arguments: object) -> object:
        answer = ask(policy, method, *arguments)
        if method == "allows" and (again := ask(policy, method, *arguments)) is not answer:
            view: Any = arguments[0]
            fail(policy, f"answered {answer!r} and then {again!r} when asked of {view.id} twice in a row; "
                         "count attempts in `on_dispatched`")  # fmt: skip
        return answer

    policy = made(make)
    for (question, once), (_, also) in zip(answers(policy, 1), answers(made(make), 1, twice), strict=False):
        demand(
            policy, once == also, question, also,
            f"it answers {once!r} when it is asked of each replica once, and not twice; count in `on_dispatched`",
        )  # fmt: skip


def check_breaker_recovers(make: Make) -> None:
    """A replica that failed and is well again is allowed in the end, or it would be lost for ever.

    It fails until it is not allowed, a thousand times at most; then every attempt that it is allowed goes well, and
    time passes in longer and longer steps.
    """
    policy, now_s = made(make), 0.0
    ask(policy, "reset", random.Random(1))
    views = tuple(ReplicaView(id=f"replica/{number}") for number in range(8))
    ask(policy, "on_replicas", views, now_s)
    ill, number = views[0], 0
    while number < 1000 and ask(policy, "allows", ill, now_s):
        for view in views:
            _served(policy, number, view.id, "engine-error" if view is ill else None, now_s)
            number += 1
        now_s += 0.1
    well, step_s = 0, 0.1
    while well < 1000 and now_s < LONGEST_S / 10.0:
        if ask(policy, "allows", ill, now_s):
            well += 1
            _served(policy, number := number + 1, ill.id, None, now_s)
            now_s += 0.1
        else:
            well, step_s = 0, 1.1 * step_s
            now_s += step_s
    if not ask(policy, "allows", ill, now_s):
        fail(
            policy, f"still does not allow a replica {now_s:.0f} s after it has failed; nothing failed since"
        )


# --- retry -------------------------------------------------------------------------------------------------


def check_retry_limits(make: Make) -> None:
    """An attempt may take as long as it likes, or a number of seconds above 0."""
    for policy, call in _calls(make):
        if call.failure is None:
            limit_s = call.answer
            right = limit_s is None or (is_time(limit_s) and limit_s != 0)
            _demand(policy, call, right, "expected a finite number of seconds above 0, or None")


# --- what came of attempts ---------------------------------------------------------------------------------


def _served(policy: Policy, number: int, replica: str, failure: FailureKind | None, now_s: float) -> None:
    request = random_request(random.Random(number), number, now_s)
    _sent(policy, request, replica, now_s)
    _ended(policy, request, replica, failure, now_s + 0.01)


def _sent(policy: Policy, request: Request, replica: str, now_s: float) -> None:
    ask(policy, "on_dispatched", request, replica, now_s)


def _ended(policy: Policy, request: Request, replica: str, failure: FailureKind | None, now_s: float) -> None:
    ask(
        policy,
        "on_completed",
        Completion(request=request, replica=replica, attempt=1, failure=failure),
        now_s,
    )


HEDGE_LAWS: dict[str, Callable[[Make], None]] = {"answers": check_hedge_answers, "stops": check_hedge_stops}
BREAKER_LAWS: dict[str, Callable[[Make], None]] = {
    "answers": check_breaker_answers,
    "asking_changes_nothing": check_breaker_asking_changes_nothing,
    "recovers": check_breaker_recovers,
}
