"""The time of a step from measured prompt and token times."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from fleet.engines.latency.steps.base import StepShape
from fleet.engines.latency.tables.prompt_tokens import Run, medians


class PromptTokenSteps:
    """Steps from runs of equal prompts; `prompt_token_table` says what these are.

    - A step that only prefills takes the prompt time of so many tokens *in all*, of one prompt or of several. Where
      both were measured the median lies between them (they differ by up to 17 % on the H100, by up to 42 % on the
      A100). The table has no chunk that follows on others: tokens computed before cost nothing here. By the operations
      that is 2 % too little for each 1,000 of them with a model of the shape of Llama 2 70B.
    - A step that only decodes takes the token time of so many sequences, which were measured with prompts of one size,
      and what the *longest* context adds to it: the token time of one sequence after a prompt as long, less that after
      one of the size that the batches had. The longest rather than the sum, because what a long prompt adds does not
      shrink with more devices (on the A100 3.6, 3.6 and 3.5 ms from 128 to 8,192 tokens on two, four and eight): one
      sequence's context is walked in order by a part of a device, and is no traffic that all of them share. What the
      traffic of many long contexts would add beyond that of the measured batches, the table does not say.
    - A step that does both was not measured. It takes the sum, less the least token time: that is one pass over the
      weights with all its launches, which both times contain and the step needs once. So it lies between the longer of
      the two, as if decoding were free, and their sum, as if the weights were read twice. (Splitwise's own simulator
      takes 1.1 times the prompt time of all tokens.)

    Between measured points times are linear. Where a measurement falls as the work grows, the larger value before it is
    kept; below the size of the batches' prompts, the smaller after it. Below the smallest size the smallest holds;
    beyond the largest the last slope goes on.
    """

    block_move_s: float | None = None
    """Not measured."""

    def __init__(self, runs: Sequence[Run]) -> None:
        prompt_s = medians(runs, lambda run: run.prompt_tokens * run.sequences, lambda run: run.prompt_s)
        prompt_tokens = _of_most(runs)
        batch = [run for run in runs if run.prompt_tokens == prompt_tokens]
        token_s = medians(batch, lambda run: run.sequences, lambda run: run.token_s)
        for times_s, what in ((prompt_s, "numbers of prompt tokens"), (token_s, "batch sizes")):
            if len(times_s) < 2:
                raise ValueError(f"a table of prompt and token times needs two {what}; it has {[*times_s]}")
        alone = [run for run in runs if run.sequences == min(token_s)]
        context_s = medians(alone, lambda run: run.prompt_tokens, lambda run: run.token_s)
        self._prompt_s = _Line(list(prompt_s), list(accumulate(prompt_s.values(), max)))
        self._token_s = _Line(list(token_s), list(accumulate(token_s.values(), max)))
        self._longest_s = _Line(list(context_s), _added(context_s, prompt_tokens))
        # Both times are as small as this where there is next to nothing to compute.
        least_token_s = self._token_s.at(0) + self._longest_s.at(0)
        self._pass_s = min(least_token_s, self._prompt_s.at(0))

    def step_s(self, shape: StepShape) -> float:
        """See `StepLatency`."""
        if not shape.prefills:
            return self._decode_s(shape) if shape.decodes else 0.0
        prompt_s = self._prompt_s.at(sum([count for count, _ in shape.prefills]))
        if not shape.decodes:
            return prompt_s
        # Added last: the difference is never negative, so that no rounding makes the step shorter than its prefill.
        return prompt_s + (self._decode_s(shape) - self._pass_s)

    def span_s(self, shape: StepShape, steps: int) -> float:
        """See `StepLatency`: only the longest context matters, and it grows by one token a step."""
        if not shape.decodes:
            return 0.0
        return steps * self._token_s.at(shape.decodes) + self._longest_s.sum_from(
            shape.longest_context_tokens, steps
        )

    def _decode_s(self, shape: StepShape) -> float:
        return self._token_s.at(shape.decodes) + self._longest_s.at(shape.longest_context_tokens)


def _of_most(runs: Sequence[Run]) -> int:
    """The size of the prompts of which most batch sizes were measured; of several, the smallest."""
    sizes = sorted({(run.prompt_tokens, run.sequences) for run in runs})
    return Counter(prompt for prompt, _ in sizes).most_common(1)[0][0]


def _added(time_s: dict[int, float], at: int) -> list[float]:
    """By how much each differs from the one `at` that size, never falling: exactly nothing there."""
    below = [min(0.0, time_s[size] - time_s[at]) for size in reversed(time_s) if size <= at]
    above = [max(0.0, time_s[size] - time_s[at]) for size in time_s if size > at]
    return [*reversed(list(accumulate(below, min))), *accumulate(above, max)]


class _Line:
    """Straight between its points, level before the first, going on beyond the last; a single point is level."""

    def __init__(self, knots: list[int], values: list[float]) -> None:
        self._knots, self._values = knots, values

    def at(self, x: int) -> float:
        knots, values = self._knots, self._values
        i = min(bisect_left(knots, x), len(knots) - 1)
        if i == 0:
            return values[0]
        share = (x - knots[i - 1]) / (knots[i] - knots[i - 1])
        return values[i - 1] + share * (values[i] - values[i - 1])

    def sum_from(self, x: int, steps: int) -> float:
        """Of `at(x)`, `at(x + 1)`, …: an arithmetic series from each knot to the next."""
        total, end = 0.0, x + steps
        for knot in (*self._knots[bisect_left(self._knots, x) : -1], end - 1):
            last = min(knot, end - 1)
            if last >= x:
                total += (last - x + 1) * (self.at(x) + self.at(last)) / 2.0
                x = last + 1
        return total
