"""Tiny language models with random weights, and a replica without an actor to run them."""

import random

import numpy as np

from fleet.messages import Payload, StepRan, Work
from fleet.tokens.scheduler import StepScheduler
from fleet.tokens.sequence import SequenceState
from policies.base import IterationPolicy
from policies.decisions import Step
from policies.eviction.lru import Lru
from traces.schema import Request

VOCABULARY = 400


def tiny_llama(seed=0, eos_token_id=None, max_position_embeddings=512):
    """Two layers, 400 tokens; whatever the seed, its answers have no two equal tokens in a row for long."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=max_position_embeddings, bos_token_id=1,
        eos_token_id=eos_token_id, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def sliding_mistral():
    """A model that this engine cannot serve."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16,
    )  # fmt: skip
    return MistralForCausalLM(config)


def greedy_answer(model, prompt, tokens):
    """What the model says without any cache: everything is computed anew for every token."""
    import torch

    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def lru(**parameters):
    policy = Lru(**parameters)
    policy.reset(random.Random(0))
    return policy


class Scripted(IterationPolicy):
    """Answers the step that it was given."""

    def reset(self, rng):
        self.step = None

    def plan(self, waiting, running, kv, now_s):
        return self.step


class StepwiseReplica:
    """The scheduler, the cache and the engine, driven step by step. Checks the books after every step."""

    def __init__(self, engine, ctx):
        self.engine, self.ctx = engine, ctx
        self.policy = Scripted()
        self.policy.reset(random.Random(0))
        self.cache = engine.open_cache(lru())
        self.scheduler = StepScheduler(self.policy, self.cache, forget=engine.forget)
        self.answers = {}
        self._numbers = 0

    def submit(self, prompt=None, output_tokens=None, *, resume=(), request=None, text=None):
        self._numbers += 1
        payload = None
        if prompt is not None:
            payload = Payload(tensor=np.array(prompt))
        if text is not None:
            payload = Payload(data=text.encode())
        if request is None:
            request = Request(f"request-{self._numbers}", 0.0, prompt_tokens=len(prompt))
        work = Work(request, 1, output_tokens, payload, resume=tuple(resume))
        sequence = SequenceState(self._numbers, work, self._numbers, 0.0)
        self.answers[sequence.id] = list(resume)
        self.scheduler.add(sequence)
        return sequence

    def start(self, prefill=(), decode=(), preempt=()):
        """Plan a step and hand it to the engine."""
        self.policy.step = Step(
            prefill=tuple((sequence.id, tokens) for sequence, tokens in prefill),
            decode=None if decode is None else tuple(sequence.id for sequence in decode),
            preempt=tuple(sequence.id for sequence in preempt),
        )
        self.engine.run_step(self.scheduler.plan(0.0))

    def finish(self):
        ran: StepRan = self.ctx.receive()
        if ran.error is not None:
            self.scheduler.failed(0.0)
        else:
            output = self.scheduler.ran(ran.steps, 0.0)
            tokens = dict(ran.tokens)
            assert {sequence.id for sequence in output} <= tokens.keys()
            for sequence in output:
                self.answers[sequence.id] += tokens[sequence.id]
                if sequence.id in ran.ended:
                    self.scheduler.ended(sequence, 0.0)
        self.scheduler.check()
        return ran

    def step(self, prefill=(), decode=(), preempt=()):
        self.start(prefill, decode, preempt)
        return self.finish()

    def run_to_end(self, sequence):
        """Decode everything until this sequence has ended, and answer what it said."""
        for _ in range(1_000):
            if sequence.id not in self.scheduler.by_id:
                return self.answers[sequence.id]
            self.step(decode=None)
        raise AssertionError("it does not end")

    def answer(self, sequence):
        """Prefill it at once, and decode to the end."""
        self.step(prefill=[(sequence, sequence.total_tokens - self.cache.cached_tokens(sequence))])
        return self.run_to_end(sequence)
