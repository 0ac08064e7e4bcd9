"""Policies that write down what they are shown, in a file: a replica's are in another process."""

from __future__ import annotations

import json
from pathlib import Path

from policies import Lru, VllmTokenBudget


class RecordingTokenBudget(VllmTokenBudget):
    """Plans as its parent does."""

    path: str = ""

    def plan(self, waiting, running, kv, now_s):
        step = super().plan(waiting, running, kv, now_s)
        shown = [[_shown(one) for one in sequences] for sequences in (waiting, running)]
        _write(self.path, [*shown, kv.free_blocks, repr(step)])
        return step

    def on_completed(self, completion, now_s):
        _write(self.path, ["completed", completion.request.id, completion.failure, completion.output_tokens])

    def on_dispatched(self, request, replica, now_s):
        _write(self.path, ["dispatched", request.id, replica])

    def on_first_token(self, request, replica, now_s):
        _write(self.path, ["first token", request.id, replica])

    def on_tokens(self, request, replica, output_tokens, now_s):
        _write(self.path, ["tokens", request.id, replica, output_tokens])

    def on_step_completed(self, step, now_s):
        _write(self.path, ["step", step.prefill_tokens, step.decodes, step.steps])


class RecordingLru(Lru):
    """Evicts as its parent does."""

    path: str = ""

    def released(self, blocks, now_s):
        super().released(blocks, now_s)
        _write(self.path, ["released", list(blocks)])

    def on_completed(self, completion, now_s):
        _write(self.path, ["completed", completion.request.id])

    def victim(self, now_s):
        block = super().victim(now_s)
        _write(self.path, ["victim", block])
        return block


def _shown(sequence):
    return [
        sequence.request.id, sequence.prompt_tokens, sequence.generated_tokens, sequence.computed_tokens,
        sequence.cached_tokens, sequence.blocks,
    ]  # fmt: skip


def _write(path, event):
    with Path(path).open("a") as file:
        file.write(json.dumps(event) + "\n")


def events(path):
    """What was written, in order."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
