"""Drive an eviction policy the way a cache does, beside a model of its candidates."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from policies._conformance.calls import Ask, Call, demand
from policies._conformance.inputs import later, random_request
from policies._conformance.life import Life

EVENTS = 254
BLOCKS = 64


def drive_eviction(policy: Any, rng: random.Random, ask: Ask) -> Iterator[Call]:
    """Release, reuse, share and evict at random. In turns of 30 the candidates become many and few, down to none.

    Now and then blocks without content become free, and are taken.
    """
    now_s, candidates = (
        0.0,
        list[int](),
    )  # a list, and not a set: what is drawn from it must not depend on hashing
    held, life = list(range(BLOCKS)), Life(policy, rng, ask)
    empty = 0
    for number in range(EVENTS):
        now_s, chance = later(rng, now_s), rng.random()
        life.goes_on(now_s)
        if chance < 0.3:
            life.dispatched([random_request(rng, number, now_s)], "replica/0", now_s)
        filling = number // 30 % 2 == 0
        if number % 5 == 0:
            empty += (more := rng.randint(1, 9))
            ask(policy, "emptied", more, now_s)
        elif number % 5 == 3 and empty:
            question = f"empties({(most := rng.randint(1, empty))}, {now_s!r})"
            taken = ask(policy, "empties", most, now_s)
            right = type(taken) is int and (0 if candidates else 1) <= taken <= most
            expected = f"there are {empty} blocks without content, and {len(candidates)} candidates"
            demand(policy, right, question, taken, expected)
            empty -= taken
            yield Call(question, taken, now_s)
        answer: object
        if held and chance < (0.6 if filling else 0.15):
            blocks = rng.sample(held, rng.randint(1, min(6, len(held))))
            held = [block for block in held if block not in blocks]
            candidates += blocks
            question, answer = f"released({blocks})", ask(policy, "released", tuple(blocks), now_s)
        elif held and chance > 0.9:
            block = rng.choice(held)
            question, answer = f"shared({block})", ask(policy, "shared", block, now_s)
        elif candidates and chance < 0.7:
            block = candidates.pop(rng.randrange(len(candidates)))
            held.append(block)
            question, answer = f"reused({block})", ask(policy, "reused", block, now_s)
        elif candidates:
            question = f"victim({now_s!r})"
            answer = ask(policy, "victim", now_s)
            known = type(answer) is int and answer in candidates
            demand(policy, known, question, answer, f"expected one of the candidates, {sorted(candidates)}")
            candidates = [block for block in candidates if block != answer]
            held += (
                [answer] if isinstance(answer, int) else []
            )  # its room is taken by a block that somebody holds
        else:
            continue
        length = ask(policy, "__len__")
        expected = f"there are {len(candidates)} candidates"
        demand(policy, length == len(candidates), f"len() after {question}", length, expected)
        yield Call(question, answer, now_s)
