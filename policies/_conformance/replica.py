"""A replica that serves token by token, small and exact, for driving iteration policies.

It keeps the rules of `Step` to the letter, and fails a policy that breaks one. What happens on it depends on a `Script`
drawn before, and on how many steps have run, never on how often the policy was asked: so whether a policy is asked at
each step, or only when its `repeat` has run out, can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from policies._conformance.calls import Ask, Call, ask, demand, fail
from policies._conformance.kv import FakeKv, FakeSequence
from policies.base import Policy
from policies.decisions import Step, Wait
from policies.views import Completion, StepCompletion
from traces.schema import Request, Slo

MOST_EMPTY = 64
"""Steps in a row that only preempt."""
MOST_WAITS = 1000
"""Waits in a row."""


class Arrival(Struct):
    """A sequence that comes."""

    step: int
    """Before this step."""
    request: Request
    output_tokens: int
    """How many it gets in all; no policy sees it."""
    resumed_tokens: int = 0
    """Of them, those of an earlier attempt."""
    cancelled_step: int | None = None
    """Before which it is taken away, if it is here still."""


class Script(Struct):
    """What happens on one replica."""

    block_tokens: int
    total_blocks: int
    watermark_blocks: int
    host_blocks: int
    step_s: float
    arrivals: list[Arrival]

    @classmethod
    def drawn(cls, rng: random.Random, *, small: bool = False, count: int = 60) -> Script:
        """A random one; `small`: on a cache of few tokens.

        Prompts up to all of the cache, answers that outgrow their blocks, shared beginnings; some are cancelled, some
        resume an earlier attempt.
        """
        block_tokens = rng.choice([1, 4, 16] if small else [4, 16, 256])
        total_blocks = rng.randint(4, 24) if small else rng.randint(6, 64)
        script = cls(
            block_tokens, total_blocks, rng.choice([0, 1, total_blocks // 10, total_blocks // 2]),
            rng.choice([0, total_blocks // 2, 4 * total_blocks]), rng.choice([0.01, 0.01, 1.0]), [],
        )  # fmt: skip
        step = 0
        for number in range(count):
            step += rng.choice([0, 0, 1, 3, rng.randrange(40)])
            script.arrivals.append(script._arrival(rng, number, step))
        return script

    def _arrival(self, rng: random.Random, number: int, step: int) -> Arrival:
        capacity = self.block_tokens * self.total_blocks
        prompt = rng.randint(1, max(1, int(capacity * rng.choice([0.05, 0.3, 0.3, 0.8, 1.0]))))
        chunks = prompt // self.block_tokens
        document, shared = rng.randrange(3), rng.randrange(chunks + 1)
        hashes = [1000 * (document + 1) + n if n < shared else -1000 * number - n - 1 for n in range(chunks)]
        output = rng.choice([1, 2, rng.randint(1, 60), rng.randint(1, 60)])
        request = Request(
            id=f"request-{number}",
            arrived_s=self.step_s * step,
            prompt_tokens=prompt,
            blocks=tuple(hashes) if rng.random() < 0.7 else None,
            block_tokens=self.block_tokens,
            priority=rng.choice([None, 0, 1]),
            deadline_s=rng.choice([None, rng.uniform(0.1, 100.0)]),
            slo=rng.choice([None, Slo(e2e_s=rng.uniform(0.1, 100.0)), Slo(ttft_s=rng.random())]),
        )
        resumed = rng.randrange(output) if rng.random() < 0.1 else 0
        cancelled = step + rng.randrange(80) if rng.random() < 0.1 else None
        return Arrival(step, request, output, resumed, cancelled)


class FakeReplica:
    """Runs a script under a policy."""

    def __init__(self, policy: Policy, script: Script, ask: Ask = ask, *, stepwise: bool = False) -> None:
        self.policy = policy
        self.script = script
        self.ask = ask
        self.stepwise = stepwise
        """Ask at each step, whatever `repeat` says."""
        self.kv = FakeKv(
            script.block_tokens, script.total_blocks, script.watermark_blocks, script.host_blocks
        )
        self.waiting: list[FakeSequence] = []
        self.running: list[FakeSequence] = []
        self.step = 0
        self.plans = 0
        self.plans_without_output = 0
        self.log: list[tuple[object, ...]] = []
        """Every step that ran: its number, prefills, decodes, preempted, and whether they were to be swapped out."""
        self.ended: list[str] = []
        self._output = {arrival.request.id: arrival.output_tokens for arrival in script.arrivals}
        self._resumed = {arrival.request.id: arrival.resumed_tokens for arrival in script.arrivals}
        self._first_token_s: dict[int, float] = {}
        """When each sequence had it."""
        self._to_come = list(reversed(script.arrivals))
        self._cancels = sorted(
            (arrival.cancelled_step, number)
            for number, arrival in enumerate(script.arrivals)
            if arrival.cancelled_step is not None
        )
        self._cancels.reverse()
        self._came = 0
        self._idle_s = 0.0
        self._waits = 0
        self._empty = 0

    @property
    def now_s(self) -> float:
        """Every step takes as long."""
        return self.script.step_s * self.step + self._idle_s

    def calls(self) -> Iterator[Call]:
        """Ask, check and run, until all have come and ended."""
        while True:
            self._events()
            if not self.waiting and not self.running:
                if not self._to_come:
                    return
                self.step = self._to_come[-1].step
                continue
            question = self._question()
            self.plans += 1
            self.plans_without_output += 1
            answer = self.ask(
                self.policy, "plan", list(self.waiting), list(self.running), self.kv, self.now_s
            )
            self.kv.settle(self.waiting + self.running)
            yield Call(question, answer, self.now_s)
            if type(answer) is Step:
                self._waits = 0
                self._run(question, answer)
            else:
                self._wait(question, answer)

    def _question(self) -> str:
        kv = self.kv
        free = f"{kv.free_blocks} of {kv.total_blocks} blocks of {kv.block_tokens} free"
        shown = [[one.label() for one in part] for part in (self.waiting, self.running)]
        return (
            f"plan(waiting [{', '.join(shown[0])}], running [{', '.join(shown[1])}], {free}, {self.now_s!r})"
        )

    # --- what happens ------------------------------------------------------------------------------------------

    def _next_event(self) -> int | None:
        due = [self._to_come[-1].step] if self._to_come else []
        due += [self._cancels[-1][0]] if self._cancels else []
        return min(due, default=None)

    def _events(self) -> None:
        while self._to_come and self._to_come[-1].step <= self.step:
            self._arrive(self._to_come.pop())
        while self._cancels and self._cancels[-1][0] <= self.step:
            number = self._cancels.pop()[1]
            for sequence in self.waiting + self.running:
                if sequence.id == number:
                    self._end(sequence, completed=False)

    def _arrive(self, arrival: Arrival) -> None:
        sequence = FakeSequence(self._came, arrival.request, self.now_s, arrival.resumed_tokens)
        self._came += 1
        if self._can_be_served(sequence):
            self.waiting.append(sequence)
            self.ask(self.policy, "on_dispatched", sequence.request, "replica/0", self.now_s)

    def _can_be_served(self, sequence: FakeSequence) -> bool:
        return -(-sequence.total_tokens // self.kv.block_tokens) <= self.kv.total_blocks

    def _end(self, sequence: FakeSequence, *, completed: bool) -> None:
        self.kv.release(sequence)
        for part in (self.waiting, self.running):
            if sequence in part:
                part.remove(sequence)
        self.ended.append(sequence.request.id)
        first_s = self._first_token_s.get(sequence.id)
        done = Completion(
            request=sequence.request, replica="replica/0", attempt=1, failure=None if completed else "withdrawn",
            output_tokens=sequence.generated_tokens, resumed_tokens=self._resumed[sequence.request.id],
            service_s=self.now_s - sequence.queued_s, e2e_s=self.now_s - sequence.queued_s,
            ttft_s=None if first_s is None else first_s - sequence.queued_s,
        )  # fmt: skip
        self.ask(self.policy, "on_completed", done, self.now_s)

    def _wait(self, question: str, answer: Any) -> None:  # Any: the policy's
        self._demand(type(answer) is Wait, question, answer, "expected Step or Wait")
        self._give_back()
        until_s = answer.until_s
        self._demand(
            until_s is not None, question, answer,
            "with everything that waits small enough for the cache it would wait for ever: run what runs, or admit one "
            "when nothing does, or name `until_s`",
        )  # fmt: skip
        later = isinstance(until_s, float | int) and self.now_s < until_s < float("inf")
        self._demand(later, question, answer, "`until_s` must be a time after `now_s`")
        self._waits += 1
        self._demand(
            self._waits <= MOST_WAITS, question, answer, f"that is the wait number {self._waits} in a row"
        )
        self._idle_s += until_s - self.now_s

    # --- steps -------------------------------------------------------------------------------------------------

    def _run(self, question: str, step: Step) -> None:
        """Check the step and apply it, as often as it is to be repeated and nothing happens."""

        def require(holds: bool, expected: str) -> None:
            self._demand(holds, question, step, expected)

        named, decodes = self._named(step, require)
        self._preempt(step, named)
        if not step.prefill and not decodes:
            self._give_back()
            require(bool(step.preempt), "it plans nothing; say Wait, or plan something")
            self._empty += 1
            require(self._empty <= MOST_EMPTY, f"it only preempts, {self._empty} times in a row")
            return
        self._empty = 0
        for sequence in decodes:
            self._extend(sequence, 1, require)
        prefills: dict[int, tuple[FakeSequence, int]] = {}
        for admits in (False, True):  # first those that run grow
            for id, tokens in step.prefill:
                if (named[id] in self.waiting) is admits:
                    prefills[id] = named[id], self._prefill(named[id], tokens, require)
        admitted = [named[id] for id, _ in step.prefill if named[id] in self.waiting]
        self.waiting = [one for one in self.waiting if one not in admitted]
        self.running += admitted
        self._give_back()
        require(
            all(one.running for one in self.running),
            "`preempt` must name all that lost their blocks in the plan",
        )
        decode = sorted(sequence.id for sequence in decodes)
        entry = tuple(sorted(step.prefill)), tuple(decode), step.preempt, step.swap and bool(step.preempt)
        began_s, first = self.now_s, self.step
        computed = [prefills[id] for id, _ in step.prefill]
        nobody_ended = self._ran([*computed, *((sequence, 1) for sequence in decodes)], entry)
        if nobody_ended and not self.stepwise:
            self._repeat(decodes, step.repeat - 1, entry)
        ran = StepCompletion(
            replica="replica/0", prefill_tokens=sum(tokens for _, tokens in computed), decodes=len(decodes),
            service_s=self.now_s - began_s, steps=self.step - first,
        )  # fmt: skip
        self.ask(self.policy, "on_step_completed", ran, self.now_s)

    def _give_back(self) -> None:
        """What the policy took while it planned, and did not plan."""
        for sequence in self.waiting:
            if sequence.running:
                self.kv.release(sequence)

    def _prefill(self, sequence: FakeSequence, tokens: Any, require: Any) -> int:
        """Give it the blocks, and one that waits what the cache has of it now; answers the tokens that it computes."""
        id = sequence.id
        most = sequence.total_tokens if sequence in self.waiting else sequence.remaining_tokens
        expected = f"`prefill` of sequence {id} must be 1 to {most} tokens, what remains"
        require(type(tokens) is int and 1 <= tokens <= most, expected)
        if not sequence.running:
            self.kv.admit(sequence)
            require(
                self.kv.free_blocks >= 0,
                "what it admits had in the cache, or in host memory, takes more than is free",
            )
        tokens = min(tokens, sequence.remaining_tokens)
        self._extend(sequence, tokens, require)
        return int(tokens)

    def _named(self, step: Step, require: Any) -> tuple[dict[int, FakeSequence], list[FakeSequence]]:
        """The sequences by id, and those that decode; Any: takes a truth and what was expected."""
        here = {sequence.id: sequence for sequence in self.waiting + self.running}
        parts: list[Any] = [
            step.prefill,
            step.decode or (),
            step.preempt,
        ]  # Any: what types say need not be so
        require(
            all(type(part) is tuple for part in parts), "`prefill`, `decode` and `preempt` must be tuples"
        )
        ids = [id for id, _ in step.prefill] + list(step.decode or ()) + list(step.preempt)
        require(all(id in here for id in ids), "it must name sequences that are here, by `id`")
        require(len(set(ids)) == len(ids), "it must name each sequence at most once")
        require(
            all(here[id] in self.running for id in step.preempt), "`preempt` must name sequences that run"
        )
        if step.decode is None:
            taken = {id for id, _ in step.prefill} | set(step.preempt)
            decodes = [one for one in self.running if one.remaining_tokens == 1 and one.id not in taken]
        else:
            decodes = [here[id] for id in step.decode]
            right = all(one in self.running and one.remaining_tokens == 1 for one in decodes)
            require(right, "`decode` must name sequences that run and have 1 token remaining")
        require(type(step.repeat) is int and step.repeat >= 1, "`repeat` must be a whole number, 1 or more")
        alone = not step.prefill and not step.preempt
        require(alone or step.repeat == 1, "`repeat` above 1 is for steps that only decode")
        return here, decodes

    def _preempt(self, step: Step, named: dict[int, FakeSequence]) -> None:
        lost = [named[id] for id in step.preempt]
        for sequence in lost:
            if sequence.running and not (step.swap and self.kv.swap_out(sequence)):
                self.kv.release(sequence)
            sequence.preemptions += 1
            self.running.remove(sequence)
        self.waiting[:0] = lost

    def _extend(self, sequence: FakeSequence, tokens: int, require: Any) -> None:
        need = self.kv.blocks_for(sequence, tokens)
        require(
            need <= self.kv.free_blocks,
            f"{tokens} tokens of sequence {sequence.id} take {need} more blocks, and {self.kv.free_blocks} are left",
        )
        self.kv.extend(sequence, tokens)

    def _ran(self, computed: list[tuple[FakeSequence, int]], entry: tuple[object, ...]) -> bool:
        """The step ran: sequences get their tokens, and some end; True when none did."""
        self.log.append((self.step, *entry))
        self.step += 1
        nobody = True
        for sequence, tokens in sorted(computed, key=lambda item: item[0].id):
            sequence.computed_tokens += tokens
            if sequence.remaining_tokens:
                continue
            sequence.generated_tokens += 1
            self.plans_without_output = 0
            self._tell_of_token(sequence)
            completed = sequence.generated_tokens >= self._output[sequence.request.id]
            if completed or not self._can_be_served(sequence):
                self._end(sequence, completed=completed)
                nobody = False
        return nobody

    def _tell_of_token(self, sequence: FakeSequence) -> None:
        request, tokens = sequence.request, sequence.generated_tokens
        if sequence.id not in self._first_token_s:
            self._first_token_s[sequence.id] = self.now_s
            self.ask(self.policy, "on_first_token", request, "replica/0", self.now_s)
        self.ask(self.policy, "on_tokens", request, "replica/0", tokens, self.now_s)

    def _repeat(self, decodes: list[FakeSequence], times: int, entry: tuple[object, ...]) -> None:
        """The same again, until something comes or ends or there are no blocks."""
        due = self._next_event()
        kv = self.kv
        while times > 0 and (due is None or self.step < due):
            if sum(kv.blocks_for(sequence, 1) for sequence in decodes) > kv.free_blocks:
                return
            for sequence in decodes:
                kv.extend(sequence, 1)
            if not self._ran([(sequence, 1) for sequence in decodes], entry):
                return
            times -= 1

    def _demand(self, holds: bool, question: str, answer: object, expected: str) -> None:
        demand(self.policy, holds, question, answer, expected)

    def check_progress(self) -> None:
        """Fail a policy that goes on and on without an output token."""
        here = sum(sequence.total_tokens for sequence in self.waiting + self.running)
        if self.plans_without_output > 4 * here + MOST_EMPTY + MOST_WAITS:
            fail(
                self.policy,
                f"planned {self.plans_without_output} times without one output token: {self._question()}",
            )
