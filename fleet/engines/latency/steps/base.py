"""Step latency models: how long one step of continuous batching takes on a device that is not here.

The one thing to know: a model is a function of the step's shape alone, and `span_s` is the sum of `step_s` over steps
that only decode, in closed form. Both runtimes and every policy see the same function.
"""

from __future__ import annotations

from abc import abstractmethod

from msgspec import Struct

from policies.base import Component, kebab_case


class StepShape(Struct, frozen=True, gc=False):
    """How much of what a step computes."""

    prefills: tuple[tuple[int, int], ...] = ()
    """For each sequence that prefills: tokens computed now, and tokens of it computed before."""
    decodes: int = 0
    """Sequences that compute one token."""
    decode_context_tokens: int = 0
    """Sum over the decoding sequences of the tokens computed before."""
    longest_context_tokens: int = 0
    """The longest of those."""
    outputs: int = 0
    """Sequences that get an output token in this step."""
    moved_blocks: int = 0
    """Blocks copied between device and host before it."""

    def after(self, steps: int) -> StepShape:
        """The shape after so many steps that only decode: every context is longer by as many tokens."""
        return StepShape(
            (), self.decodes, self.decode_context_tokens + steps * self.decodes, self.longest_context_tokens + steps,
            self.outputs, 0,
        )  # fmt: skip


ORDINARY_PROMPT_TOKENS, ORDINARY_OUTPUT_TOKENS = 512, 128
"""What is taken for an ordinary request where one must be taken for all."""


def step_latency_name(class_name: str) -> str:
    """`RooflineSteps` -> `roofline`: its name in TOML, where the field says that it is a step latency."""
    return kebab_case(class_name.removesuffix("Steps"))


class StepLatency(Component, kw_only=True, tag_field="latency", tag=step_latency_name):
    """Base of all step latency models. A new one defines `step_s`, and `span_s` where a closed form is known."""

    slot = "step_latency"

    def expected_service_s(self) -> float:
        """Seconds that an ordinary request takes alone: its prompt in one step, then a token at a time."""
        prefill = StepShape(((ORDINARY_PROMPT_TOKENS, 0),), 0, 0, 0, 1, 0)
        decode = StepShape((), 1, ORDINARY_PROMPT_TOKENS, ORDINARY_PROMPT_TOKENS, 1, 0)
        return self.step_s(prefill) + self.span_s(decode, ORDINARY_OUTPUT_TOKENS - 1)

    @abstractmethod
    def step_s(self, shape: StepShape) -> float:
        """Seconds that one step of this shape takes. Never falls when anything in `shape` grows."""

    def span_s(self, shape: StepShape, steps: int) -> float:
        """Seconds of `steps` steps in a row that only decode, the first of this `shape`.

        The sum of `step_s` of `shape.after(0)`, `shape.after(1)`, …, to 1e-9 relative. 0.0 for no steps.
        """
        return sum(self.step_s(shape.after(step)) for step in range(steps))
