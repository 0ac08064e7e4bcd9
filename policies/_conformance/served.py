"""Driving policies of versions and variants: what they are shown, and what becomes of the requests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, TypeVar

from msgspec.structs import replace

from policies._conformance.calls import Ask, Call
from policies._conformance.inputs import later, maybe, random_request
from policies._conformance.life import Attempt, Life
from policies.base import Policy, VariantsPolicy
from policies.decisions import Escalate, Serve, Shadow, Use
from policies.views import AnswerView, Completion, Latencies, ServedView, VariantView, VersionView
from traces.schema import Request

STEPS = 127
_CAPABILITIES = ((), ("vision",), ("vision", "tools"))
_ASKED = ("vision", "vision, tools", "audio")
V = TypeVar("V", bound=ServedView)


class Rated(Life):
    """Attempts whose answers are rated now and then; a variants policy that judges answers is asked before the end."""

    def __init__(self, policy: Policy, rng: random.Random, ask: Ask) -> None:
        super().__init__(policy, rng, ask)
        self.answered: list[tuple[Attempt, Completion]] = []
        """Good answers that a variants policy has yet to be asked about."""
        self.judges = isinstance(policy, VariantsPolicy) and (
            type(policy).after_answer is not VariantsPolicy.after_answer
        )

    def shadowed(self, request: Request, replica: str, now_s: float, version: str) -> None:
        """A version answers a copy of it too, and ends before the next request comes: nobody waits for it."""
        self._tell("on_dispatched", request, replica, now_s)
        done = Completion(
            request=request, replica=replica, attempt=1, service_s=0.1, e2e_s=now_s - request.arrived_s, role="shadow",
            version=version, failure=None if self.rng.random() < 0.8 else "withdrawn", quality=self.quality(),
        )  # fmt: skip
        self._tell("on_completed", done, now_s)

    def quality(self) -> float | None:
        return maybe(self.rng, self.rng.random())

    def holds_back(self, attempt: Attempt, done: Completion) -> bool:
        if self.judges and done.failure is None:
            self.answered.append((attempt, done))
            return True
        return False


def _view(kind: type[V], rng: random.Random, now_s: float, **own: Any) -> V:  # Any: fields of the kind
    ended = rng.choice([0, 0, 3, 40])
    values = Latencies(tuple(rng.expovariate(5.0) for _ in range(ended)))
    return kind(
        model="m", ready=rng.choice([0, 1, 4]), in_flight=rng.randrange(50),
        queue_depth=rng.choice([0, rng.randrange(40)]), completions=rng.randrange(1000), failures=rng.randrange(10),
        e2e_s=values, ttft_s=values, error_fraction=rng.random() if ended else None,
        attainment=maybe(rng, rng.random()), quality=maybe(rng, rng.random()),
        cost_per_hour=maybe(rng, rng.uniform(0.0, 10.0)), expected_service_s=maybe(rng, rng.expovariate(5.0)),
        as_of_s=max(0.0, now_s - rng.random()), **own,
    )  # fmt: skip


def _some(rng: random.Random, names: list[str]) -> list[str]:
    """Usually all of them; else some, as when one is deployed or retired."""
    if rng.random() < 0.8:
        return names
    return [name for name in names if rng.random() < 0.6] or [rng.choice(names)]


def drive_rollout(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    """Requests that are served by the versions that it names, and end, as a router would tell of them.

    Versions are gone for a while, and come back without a replica that is ready. Some requests are refused after it has
    chosen, so that it hears no more of them; some pin a version, so that it hears of them and was not asked; and what
    waits for a version that goes is asked about again.
    """
    now_s, life, versions = 0.0, Rated(policy, rng, ask), Versions(versions_named(policy) or ["1", "2"], rng)
    waiting: dict[str, Request] = {}
    for number in range(3 * STEPS):
        now_s = later(rng, now_s)
        life.goes_on(now_s)
        versions.change()
        request = random_request(rng, number, now_s)
        request = replace(request, user=maybe(rng, f"user-{rng.randrange(40)}"), model=maybe(rng, "m"))
        if rng.random() < 0.05:
            pinned = rng.choice(versions.served)
            life.dispatched([replace(request, model=f"m@{pinned}")], "replica/0", now_s, pinned)
            continue
        again = list(waiting.values()) if rng.random() < 0.1 else []
        waiting = {} if again else waiting
        for asked in (*again, request):
            served, views = tuple(versions.served), versions.views(life, waiting, now_s)
            answer = ask(policy, "choose", asked, views, now_s)
            yield Call(f"choose({asked.id}, {list(served)}, {now_s!r})", answer, now_s, asked, served=served)
            if not isinstance(answer, Serve | Shadow) or answer.version not in served or rng.random() < 0.05:
                continue  # the last: a variants policy refuses it
            if rng.random() < 0.1:
                waiting[asked.id] = asked
                continue
            replica = f"replica/{rng.randrange(3)}"
            life.dispatched([asked], replica, now_s, answer.version)
            if isinstance(answer, Shadow):
                life.shadowed(asked, "replica/3", now_s, answer.shadow)


class Versions:
    """Those that are served, in the order in which they came; never none."""

    def __init__(self, names: list[str], rng: random.Random) -> None:
        self.rng = rng
        self.names = names
        self.served = list(names)
        self.ready = dict.fromkeys(names, 1)

    def change(self) -> None:
        """Seldom one goes, comes back, or has another number of ready replicas."""
        rng = self.rng
        name = rng.choice(self.names)
        if rng.random() < 0.2:
            self.ready[name] = rng.choice([0, 1, 4])
        if name not in self.served:
            if rng.random() < 0.1:
                self.served.append(name)
                self.ready[name] = 0
        elif len(self.served) > 1 and rng.random() < 0.02:
            self.served.remove(name)

    def views(self, life: Life, waiting: dict[str, Request], now_s: float) -> tuple[VersionView, ...]:
        """What a policy is shown of them; each may have all that waits."""
        in_flight = {name: life.served_by(name) + len(waiting) for name in self.served}
        return tuple(
            replace(
                _view(VersionView, self.rng, now_s, version=name),
                ready=self.ready[name],
                in_flight=in_flight[name],
            )
            for name in self.served
        )


def drive_variants(policy: Policy, rng: random.Random, ask: Ask) -> Iterator[Call]:
    """Requests that are served by the variants that it names; it is asked about each good answer, where it judges."""
    now_s, life = 0.0, Rated(policy, rng, ask)
    names = versions_named(policy) or ["small", "large", "huge"]
    asked: dict[str, tuple[str, ...]] = {}
    for number in range(STEPS):
        now_s = later(rng, now_s)
        life.goes_on(now_s)
        served = _some(rng, names)
        views = tuple(
            _view(VariantView, rng, now_s, variant=name, capabilities=rng.choice(_CAPABILITIES))
            for name in served
        )
        while life.answered:
            attempt, done = life.answered.pop()
            before = (*asked.get(done.request.id, ()), done.variant)
            view = AnswerView(
                variant=done.variant,
                replica=done.replica,
                e2e_s=now_s - done.request.arrived_s,
                quality=done.quality,
            )
            answer = ask(policy, "after_answer", done.request, view, views, now_s)
            question = f"after_answer({done.request.id}, {view}, {served}, {now_s!r})"
            yield Call(question, answer, now_s, done.request, served=tuple(served), asked=before)
            if isinstance(answer, Escalate) and answer.variant in served and answer.variant not in before:
                asked[done.request.id] = before
                life.dispatched([done.request], attempt.batch.replica, now_s, "1", answer.variant)
            else:
                life.request_ended(done, now_s)
        request = random_request(rng, number, now_s)
        if rng.random() < 0.3:
            request = replace(request, extra={"capability": rng.choice(_ASKED)})
        answer = ask(policy, "choose", request, views, now_s)
        yield Call(f"choose({request.id}, {served}, {now_s!r})", answer, now_s, request, served=tuple(served))
        if isinstance(answer, Use) and answer.variant in served:
            life.dispatched([request], f"replica/{rng.randrange(3)}", now_s, "1", answer.variant)


def versions_named(policy: Policy) -> list[str]:
    """The versions or variants that its parameters name, so that what it is shown concerns it."""
    fields = ("stable", "version", "blue", "green", "a", "b", "variant")
    values = (getattr(policy, field, None) for field in fields)
    names = [value for value in values if isinstance(value, str)]
    names.extend(getattr(policy, "order", ()))
    return list(dict.fromkeys(names)) if len(set(names)) > 1 else []
