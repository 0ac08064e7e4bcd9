"""The virtual token counter within continuous batching: whose turn it is, is asked anew at each step."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import MANY_STEPS, StepDraft, run_in_order
from policies.queueing.charging import payer
from policies.views import Completion, KvView, SequenceView

_PRUNE_AT = 1024  # tenants remembered before those are looked for that need not be


class FairTokens(IterationPolicy):
    """Admit next a sequence of the tenant that was served least. O(n) in all sequences.

    Each tenant (where a request names none: its user) has a counter, to which each prompt token adds `prompt_weight`
    when its sequence is admitted, and each output token `output_weight` when it has been generated. The tenant with the
    smallest counter goes next, first in first out within one, as long as its first sequence has room; then nobody is
    admitted in that step. A tenant that comes back after it had nothing waiting is lifted to the smallest counter of
    those that wait; where none waits, to that of the last one to leave. Between two tenants that both have sequences
    waiting all the time, service never differs by more than twice the larger of the longest prompt and of the tokens
    that fit into the cache, weighed. Running sequences go on and lose their places as with `VllmTokenBudget`; one that
    was preempted is not charged for its prompt again.

    `VirtualTokenCounter` orders what waits for a replica in the same way; this orders what waits within one.

    Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2 (which is built into the
    loop of continuous batching; weights 1 and 2 as in its evaluation).
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most."""
    prompt_weight: Annotated[float, Meta(ge=0)] = 1.0
    """Cost of a prompt token."""
    output_weight: Annotated[float, Meta(ge=0)] = 2.0
    """Cost of an output token."""

    def reset(self, rng: random.Random) -> None:
        self.counters: dict[str | None, float] = {}
        self.present: dict[str | None, None] = {}
        """Tenants that had sequences waiting after the last plan, in order."""
        self.last_left: str | None = None
        self.charged: dict[str, int] = {}
        """Output tokens that were charged of each sequence that was admitted and has not ended, by request."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        for sequence in running:
            self._charge_output(sequence.request.id, payer(sequence.request), sequence.generated_tokens)
        draft = StepDraft(kv, running, self.max_step_tokens)
        run_in_order(draft, running)
        queues = self._queues(waiting)
        if not draft.preempted:
            self._admit(draft, queues)
        self._leave(queues)
        # Whose turn it is changes as tokens are generated, which matters where there is a place and a choice.
        undecided = len(queues) > 1 and draft.places < self.max_sequences
        return draft.step(1 if undecided else MANY_STEPS)

    def _queues(self, waiting: Sequence[SequenceView]) -> OrderedDict[str | None, deque[SequenceView]]:
        """What waits, by tenant; those that were not there before are lifted."""
        queues: OrderedDict[str | None, deque[SequenceView]] = OrderedDict()
        for sequence in waiting:
            queues.setdefault(payer(sequence.request), deque()).append(sequence)
        self._leave(queues)  # of some, all that waited may have been cancelled
        for tenant in queues:
            if tenant not in self.present:
                floor = self._floor()
                self.counters[tenant] = max(self.counters.get(tenant, 0.0), floor)
                self.present[tenant] = None
        if len(self.counters) > max(_PRUNE_AT, 2 * (len(self.present) + len(self.charged))):
            self._prune()
        return queues

    def _floor(self) -> float:
        if self.present:
            return min(map(self.counters.__getitem__, self.present))
        return self.counters.get(self.last_left, 0.0)

    def _prune(self) -> None:
        """Forget tenants that would be lifted if they came back: it makes no difference."""
        floor = self._floor()
        kept = {*self.present, self.last_left}
        self.counters = {
            tenant: counter for tenant, counter in self.counters.items() if counter > floor or tenant in kept
        }

    def _admit(self, draft: StepDraft, queues: OrderedDict[str | None, deque[SequenceView]]) -> None:
        while queues and draft.places < self.max_sequences:
            tenant = min(queues, key=lambda tenant: (self.counters[tenant], queues[tenant][0].id))
            sequence = queues[tenant][0]
            if not draft.admit(sequence, whole=True, after_owed=False):
                return
            queues[tenant].popleft()
            if not queues[tenant]:
                del queues[tenant]
            if sequence.request.id not in self.charged:
                self.charged[sequence.request.id] = sequence.generated_tokens
                self.counters[tenant] += self.prompt_weight * sequence.prompt_tokens

    def _leave(self, queues: OrderedDict[str | None, deque[SequenceView]]) -> None:
        """Tenants that have nothing waiting any more."""
        for tenant in [tenant for tenant in self.present if tenant not in queues]:
            del self.present[tenant]
            self.last_left = tenant

    def _charge_output(self, request_id: str, tenant: str | None, tokens: int) -> None:
        new = tokens - self.charged.get(request_id, tokens)
        if new > 0:
            self.charged[request_id] = tokens
            self.counters[tenant] = self.counters.get(tenant, 0.0) + self.output_weight * new

    def on_completed(self, completion: Completion, now_s: float) -> None:
        request = completion.request
        if completion.output_tokens is not None:
            self._charge_output(request.id, payer(request), completion.output_tokens)
        self.charged.pop(request.id, None)
