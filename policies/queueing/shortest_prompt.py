"""Shortest prompt first: shortest job first with what is known of a job when it arrives."""

from __future__ import annotations

import math

from policies.queueing.keyed import KeyedQueue
from traces.schema import Request


class ShortestPrompt(KeyedQueue):
    """The shortest prompt goes first, first in first out among equals. O(log n).

    Without prompt tokens a request's `work` takes their place; with neither it goes last. Long prompts may
    wait for ever under overload.

    Source: Schrage, Miller, "The Queue M/G/1 with the Shortest Remaining Processing Time Discipline",
    Operations Research 14(4), 1966 (here without preemption, on prompt length).
    """

    def key(self, request: Request, now_s: float) -> float:
        if request.prompt_tokens is not None:
            return request.prompt_tokens
        return math.inf if request.work is None else request.work
